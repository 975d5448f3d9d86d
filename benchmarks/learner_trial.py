"""A few updates in a process of their own: what they lead to, and the memory that they take."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.learner_subject import Size, Subject, Variant
from learners.allocator import keep_freed_memory

UPDATES = {"cpu": 3, "cuda": 6}  # on a GPU the first ones are not recorded yet


@dataclass(frozen=True)
class Trial:
    """What one variant did.

    Attributes:
        start: All parameters before, float32 (P,).
        end: All parameters after the updates.
        gflop: Of one update, counted by torch: a multiplication and an addition are two.
        process_mib: The most memory that the process has held, libraries included; on a GPU only
            what torch allocated there. None where the process was not its own.
        update_mib: How much of it came with the updates.
    """

    start: Tensor
    end: Tensor
    gflop: float
    process_mib: float | None
    update_mib: float | None


def try_apart(variant: Variant, size: Size, threads: int) -> Trial:
    """Returns `try_here` of a new process, with its memory.

    Raises:
        concurrent.futures.process.BrokenProcessPool: the process died, as it does where memory is
            too little.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_in_new_process, variant, size, threads).result()


def try_here(variant: Variant, size: Size) -> Trial:
    """Makes the updates in this process, whose memory says nothing about them."""
    return replace(_try(variant, size), process_mib=None, update_mib=None)


def _in_new_process(variant: Variant, size: Size, threads: int) -> Trial:
    torch.set_num_threads(threads)
    if variant.device == "cpu" and variant.keeps_memory:
        keep_freed_memory()
    return _try(variant, size)


def _try(variant: Variant, size: Size) -> Trial:
    subject = Subject(variant, size)
    start, before = subject.parameters(), _most_mib(variant.device)
    subject.run(UPDATES[variant.device])
    end, most = subject.parameters(), _most_mib(variant.device)
    # Compiled and recorded work hides from the counter; there is as much of it without either.
    plain = replace(variant, compile="off", graph=False)
    counted = subject if variant == plain else Subject(plain, size)
    with FlopCounterMode(display=False) as counter:
        counted.run(1)
    return Trial(start, end, counter.get_total_flops() / 1e9, most, most - before)


def _most_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not getrusage: on Linux a new process begins with the most memory of the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**10
