"""This system's replay service under the traffic of the benchmarks.

Writers and reader are Ray actors, as in a run. They are started once and serve several services.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray

from actors.stream import ChunkStream
from benchmarks.peers import traffic
from benchmarks.peers.traffic import BATCH, CHUNK, FIELDS, LENGTH
from benchmarks.peers.worker_process import TREE
from benchmarks.replay_stores import ANSWER_TIMEOUT_S, Asking, Report, Store
from replay import Field, ReplaySettings, Schema, Workload
from replay.service import ReplayService

OBJECT_STORE_BYTES = 1 << 30
SCHEMA = Schema(tuple(Field(name, shape, dtype) for name, (shape, dtype) in FIELDS.items()))


class RayProcesses:
    """A Ray cluster of this machine, with processes that write to and read from `OurStore`s.

    Args:
        writers: how many may write at once.
        path: of the frames.
    """

    def __init__(self, writers: int, path: Path) -> None:
        mine = psutil.Process()
        others = set(mine.children())
        variables = {"PYTHONPATH": str(TREE)}
        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": variables},
        )
        self._roots = set(mine.children()) - others  # Ray's own, which start all others
        # Ray's GCS keeps an event of every call otherwise, and grows by it.
        free = {"num_cpus": 0, "enable_task_events": False}
        self.writers: list[Any] = [
            ray.remote(_Writer).options(**free).remote(index, str(path)) for index in range(writers)
        ]
        self.reader: Any = ray.remote(_Reader).options(**free).remote()

    def processes(self) -> list[psutil.Process]:
        """All processes of the cluster, the replay shards included."""
        found = list(self._roots)
        for root in self._roots:
            found += root.children(recursive=True)
        return found

    def close(self) -> None:
        """Ends the cluster."""
        ray.shutdown()


class OurStore(Store):
    """This system's replay service.

    Args:
        processes: write and read.
        capacity: in steps.
        shards: processes that hold them.
    """

    ways = ("ours",)
    _numbers = itertools.count()

    def __init__(self, processes: RayProcesses, capacity: int, shards: int) -> None:
        self._ray = processes
        self._settings = ReplaySettings(
            shards=shards, capacity_agent_steps=capacity, minimum_agent_steps=1, sampler="windows"
        )
        self.service: ReplayService | None = None

    def fill(self, agent_steps: int) -> None:
        """Makes a new service."""
        self.close()
        work = Workload(
            batch_length=LENGTH,
            batch_size=BATCH,
            writers=len(self._ray.writers),
            chunk_length=CHUNK,
        )
        prefix = f"bench-{os.getpid()}-{next(self._numbers)}"
        self.service = ReplayService.create(prefix, SCHEMA, self._settings, work)
        self._store(agent_steps)

    def close(self) -> None:
        """Ends the service."""
        if self.service is not None:
            prefix, ends = self.service.prefix, [*self._ray.writers, self._ray.reader]
            ray.get([end.leave.remote(prefix) for end in ends], timeout=ANSWER_TIMEOUT_S)
            self.service.stop()
            self.service = None

    def _write(self, writer: int, **limit: float) -> Asking:
        return self._ask(self._ray.writers[writer].write, **limit)

    def _read(self, seconds: float, way: str) -> Asking:
        return self._ask(self._ray.reader.read, seconds=seconds)

    def _ask(self, method: Any, **limit: float) -> Asking:
        assert self.service is not None, "fill the store first"
        prefix = self.service.prefix

        def ask(start_at: float) -> Callable[[], Report]:
            call = method.remote(prefix, start_at=start_at, **limit)
            return lambda: ray.get(call, timeout=ANSWER_TIMEOUT_S)

        return ask

    def _processes(self) -> list[psutil.Process]:
        return self._ray.processes()


class _Writer:
    """A process with one writer per service; steps go the way that an actor's do."""

    def __init__(self, index: int, path: str) -> None:
        self._index, self._steps = index, traffic.Steps(path, index)
        self._writers: dict[str, tuple[Any, Iterator[int]]] = {}

    def write(
        self,
        prefix: str,
        start_at: float,
        seconds: float | None = None,
        agent_steps: int | None = None,
    ) -> Report:
        if prefix not in self._writers:
            writer = ReplayService.connect(prefix).writer(f"actor-{self._index}", self._index)
            stream = ChunkStream(writer.write, SCHEMA, f"actor-{self._index}", CHUNK)
            self._writers[prefix] = writer, self._stream(stream)
        writer, written = self._writers[prefix]
        return traffic.write(lambda: next(written), writer.flush, start_at, seconds, agent_steps)

    def leave(self, prefix: str) -> None:
        if prefix in self._writers:
            self._writers.pop(prefix)[0].close()

    def _stream(self, stream: ChunkStream) -> Iterator[int]:
        for number in itertools.count():
            stream.begin(number)
            for index, step in enumerate(self._steps.episode()):
                stream.append(**step)
                if (index + 1) % CHUNK == 0:
                    yield CHUNK


class _Reader:
    """A process with one reader per service and one batch that all are read into."""

    def __init__(self) -> None:
        self._batch = {
            name: np.zeros((LENGTH, BATCH, *shape), dtype)
            for name, (shape, dtype) in FIELDS.items()
        }
        self._readers: dict[str, Any] = {}

    def read(self, prefix: str, start_at: float, seconds: float) -> Report:
        if prefix not in self._readers:
            self._readers[prefix] = ReplayService.connect(prefix).reader(BATCH, LENGTH)
        reader = self._readers[prefix]
        return traffic.read(lambda: reader.read(out=self._batch), start_at, seconds)

    def leave(self, prefix: str) -> None:
        if prefix in self._readers:
            self._readers.pop(prefix).close()
