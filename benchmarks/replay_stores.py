"""What every replay store under measurement can do, and the limit of them all: a copy of memory."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.peers import traffic
from benchmarks.peers.traffic import BATCH, BATCH_BYTES, LENGTH

LEAD_S = 0.3  # from a call to the moment at which all its processes begin
WARM_S = 0.4  # more, for a reader: what was fetched ahead is used up, new memory is mapped
ANSWER_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Rate:
    """So many steps or batches in so many seconds.

    Attributes:
        cpu_s: CPU time of all processes of the store, its clients included, in that time.
    """

    amount: float
    seconds: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Rate by the wall clock."""
        return self.amount / self.seconds

    @property
    def per_cpu_s(self) -> float:
        """Rate by CPU time."""
        return self.amount / max(self.cpu_s, 1e-6)


Report = dict[str, float]  # what traffic.write and traffic.read return
# Asks a process to begin at a moment of the system's clock; gives what waits for its report.
Asking = Callable[[float], Callable[[], Report]]


class Store(ABC):
    """A replay store of `capacity` steps, its writers and its reader.

    Attributes:
        ways: names of the ways in which a reader can ask, the usual one first.
        one_process: whether whoever writes also reads, and nobody else.
    """

    ways: tuple[str, ...]
    one_process = False

    def insert(self, writers: int, seconds: float) -> Rate:
        """Steps that `writers` processes store."""
        return self._run([self._write(i, seconds=seconds) for i in range(writers)], LEAD_S)[0]

    def sample(self, seconds: float, way: str = "") -> Rate:
        """Batches that a reader gets, in the usual way if none is named."""
        return self._run([self._read(seconds, way or self.ways[0])], LEAD_S + WARM_S)[0]

    def insert_and_sample(self, seconds: float) -> tuple[Rate, Rate]:
        """One writer and the reader at the same time; the CPU time of each is that of both."""
        inserted, sampled = self._run(
            [self._write(0, seconds=seconds), self._read(seconds, self.ways[0])],
            LEAD_S + WARM_S,
            apart=True,
        )
        return inserted, sampled

    @abstractmethod
    def fill(self, agent_steps: int) -> None:
        """Empties the store, then stores so many steps."""

    @abstractmethod
    def close(self) -> None:
        """Frees the store; the processes stay."""

    @abstractmethod
    def _write(self, writer: int, **limit: float) -> Asking:
        """Has a writer go on for a `limit` of `seconds` or `agent_steps`."""

    @abstractmethod
    def _read(self, seconds: float, way: str) -> Asking:
        """Has the reader go on for some seconds."""

    @abstractmethod
    def _processes(self) -> list[psutil.Process]:
        """All processes whose CPU time counts."""

    def _run(
        self,
        works: Sequence[Asking],
        lead_s: float,
        apart: bool = False,
    ) -> list[Rate]:
        """Does all works from the same moment on; returns their sum, or each by itself."""
        start_at = time.time() + lead_s
        waits = [work(start_at) for work in works]
        time.sleep(max(0.0, start_at - time.time()))
        before = _cpu_s(self._processes())
        reports = [wait() for wait in waits]
        cpu_s = _cpu_s(self._processes()) - before
        groups = [[report] for report in reports] if apart else [reports]
        return [
            Rate(
                sum(report["amount"] for report in group),
                max(report["end"] for report in group) - min(report["begin"] for report in group),
                cpu_s,
            )
            for group in groups
        ]

    def _store(self, agent_steps: int) -> None:
        """Stores so many steps from two writers."""
        share = agent_steps // 2
        self._run([self._write(i, agent_steps=share) for i in range(2)], LEAD_S)


class MemoryCopy:
    """Batches of random windows, copied one after the other by a single thread of this process.

    The limit of every store that gives a batch to another process, and nothing but the frames.

    Args:
        path: of the frames that fill the memory.
        capacity: of the memory, in steps.
    """

    def __init__(self, path: Path, capacity: int) -> None:
        frames = np.load(path)
        self._source = np.empty((capacity, *frames.shape[1:]), frames.dtype)
        for start in range(0, capacity, len(frames)):
            self._source[start : start + len(frames)] = frames[: capacity - start]
        self._batch = np.zeros((LENGTH, BATCH, *frames.shape[1:]), frames.dtype)
        self._generator = np.random.default_rng(0)

    def sample(self, seconds: float) -> Rate:
        """As `Store.sample`."""
        cpu_s = time.process_time()
        report = traffic.read(self._copy, time.time(), seconds)
        return Rate(
            report["amount"] * self._batch.nbytes / BATCH_BYTES,
            report["end"] - report["begin"],
            time.process_time() - cpu_s,
        )

    def _copy(self) -> None:
        starts = self._generator.integers(len(self._source) - LENGTH + 1, size=BATCH)
        for b, start in enumerate(starts.tolist()):
            np.copyto(self._batch[:, b], self._source[start : start + LENGTH])


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    """User and system time of those that still run."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
