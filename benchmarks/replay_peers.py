"""Other people's replay stores under the traffic of the benchmarks, in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.worker_process import TREE, WorkerProcess
from benchmarks.replay_stores import ANSWER_TIMEOUT_S, LEAD_S, Asking, Report, Store

REVERB_PYTHON = TREE / ".venv-reverb" / "bin" / "python"


class ReverbProcesses:
    """Reverb's clients: arguments as of `RayProcesses`."""

    def __init__(self, writers: int, path: Path) -> None:
        self.writers = [_reverb("writer") for _ in range(writers)]
        self.reader = _reverb("reader")
        self.reader.ask("start")
        for seed, writer in enumerate(self.writers):
            writer.ask("start", path=str(path), seed=seed)
        for process in (*self.writers, self.reader):
            process.answer(ANSWER_TIMEOUT_S)

    def close(self) -> None:
        """Ends them."""
        for process in (*self.writers, self.reader):
            process.close()


class ReverbStore(Store):
    """A Reverb server; see `benchmarks.peers.reverb_replay`.

    Args:
        processes: write and read.
        capacity: in steps.
        stride: steps between the beginnings of two windows.
        chunk: steps that are sent and compressed together.
    """

    ways = ("reverb_dataset", "reverb_client")

    def __init__(self, processes: ReverbProcesses, capacity: int, stride: int, chunk: int) -> None:
        self._clients = processes
        self._layout = {"stride": stride, "chunk": chunk}
        self.server = _reverb("server")
        port = self.server.call("start", ANSWER_TIMEOUT_S, capacity=capacity, stride=stride)
        self._address = f"localhost:{port}"

    def versions(self) -> dict[str, str]:
        """Returns the versions of what runs it."""
        return self.server.call("versions")

    def fill(self, agent_steps: int) -> None:
        """Empties the table, then writes."""
        self.server.call("clear")
        self._store(agent_steps)

    def close(self) -> None:
        """Ends the server."""
        self.server.close()

    def _write(self, writer: int, **limit: float) -> Asking:
        process = self._clients.writers[writer]
        return _asker(process, "write", address=self._address, **self._layout, **limit)

    def _read(self, seconds: float, way: str) -> Asking:
        way = way.removeprefix("reverb_")
        reader = self._clients.reader
        return _asker(reader, "read", address=self._address, way=way, seconds=seconds)

    def _processes(self) -> list[psutil.Process]:
        processes = (*self._clients.writers, self._clients.reader, self.server)
        return [psutil.Process(process.process_id) for process in processes]


class RllibStore(Store):
    """RLlib's buffer in a process of its own; there is but one writer."""

    ways = ("rllib",)
    one_process = True

    def __init__(self, path: Path, capacity: int) -> None:
        self._process = WorkerProcess(sys.executable, "benchmarks.peers.rllib_replay")
        self._process.call("start", ANSWER_TIMEOUT_S, path=str(path), capacity=capacity)

    def fill(self, agent_steps: int) -> None:
        """Makes a new buffer."""
        self._process.call("clear")
        self._run([self._write(0, agent_steps=agent_steps)], LEAD_S)

    def close(self) -> None:
        """Ends the process."""
        self._process.close()

    def _write(self, writer: int, **limit: float) -> Asking:
        assert writer == 0, "it has no other"
        return _asker(self._process, "write", **limit)

    def _read(self, seconds: float, way: str) -> Asking:
        return _asker(self._process, "read", seconds=seconds)

    def _processes(self) -> list[psutil.Process]:
        return [psutil.Process(self._process.process_id)]


def _reverb(role: str) -> WorkerProcess:
    return WorkerProcess(REVERB_PYTHON, "benchmarks.peers.reverb_replay", [role])


def _asker(process: WorkerProcess, method: str, **arguments: Any) -> Asking:
    def ask(start_at: float) -> Callable[[], Report]:
        process.ask(method, start_at=start_at, **arguments)
        return lambda: process.answer(ANSWER_TIMEOUT_S)

    return ask
