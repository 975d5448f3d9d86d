"""Updates in processes of their own, since what a process does with freed memory holds for all of
it: the plain reference in one that is as it comes, ours in one that is as a learner's.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import torch

from benchmarks.learner_subject import Size, Subject, Variant
from learners.allocator import keep_freed_memory


@dataclass
class _Held:
    """What one of these processes has made."""

    subjects: dict[str, Subject] = field(default_factory=dict)


_held = _Held()


class SubjectProcess:
    """A process that holds updates and times them.

    Args:
        threads: Of torch.
        keeps_memory: Whether it keeps freed memory, as a learner's process on a CPU does.
    """

    def __init__(self, threads: int, keeps_memory: bool) -> None:
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), _begin, (threads, keeps_memory)
        )

    def add(self, name: str, variant: Variant, size: Size) -> None:
        """Makes an update there."""
        self._pool.submit(_add, name, variant, size).result()

    def run(self, name: str, times: int) -> tuple[float, float]:
        """Makes it some times; returns seconds of wall-clock and of CPU time, of all threads."""
        return self._pool.submit(_run, name, times).result()

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()


class Repeatable(Protocol):
    """An update, or another piece of work."""

    def run(self, times: int, /) -> None:
        """Does it some times and waits until the device is done."""


def timed_run(subject: Repeatable, times: int) -> tuple[float, float]:
    """Does something some times here; returns seconds of wall-clock and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    subject.run(times)
    return time.perf_counter() - wall, time.process_time() - cpu


def _begin(threads: int, keeps_memory: bool) -> None:
    torch.set_num_threads(threads)
    if keeps_memory:
        keep_freed_memory()


def _add(name: str, variant: Variant, size: Size) -> None:
    _held.subjects[name] = Subject(variant, size)


def _run(name: str, times: int) -> tuple[float, float]:
    return timed_run(_held.subjects[name], times)
