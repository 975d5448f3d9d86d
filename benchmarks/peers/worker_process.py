"""A process that answers calls, a line of JSON each, whatever Python it runs.

`WorkerProcess` is the caller's end, `serve` the other one, which imports nothing but the standard
library.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[2]
CLOSE_TIMEOUT_S = 5.0
_LAST_LINES = 12


class WorkerFailed(RuntimeError):
    """A process ended, raised, or did not answer in time; the message says which."""


class WorkerProcess:
    """Runs a module of this tree and calls the object that it serves.

    Args:
        python: the Python to run.
        module: its name; it ends in a call of `serve`.
        arguments: of its command line.
    """

    def __init__(self, python: str | Path, module: str, arguments: Sequence[str] = ()) -> None:
        self.name = " ".join((module.rpartition(".")[2], *arguments))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            [str(python), "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=TREE,
            env=os.environ | {"PYTHONPATH": str(TREE), "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout.fileno()
        self._received = b""

    @property
    def process_id(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, method: str, **arguments: Any) -> None:
        """Sends a call; `answer` waits for what it returns."""
        try:
            self._requests.write(json.dumps([method, arguments]).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError:
            raise self._failed("ended") from None

    def answer(self, timeout_s: float) -> Any:
        """Returns the answer to the oldest call that has none yet.

        Raises:
            WorkerFailed: see the class.
        """
        poll, deadline = select.poll(), time.monotonic() + timeout_s
        poll.register(self._replies, select.POLLIN)
        while b"\n" not in self._received:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1e3):
                raise self._failed(f"did not answer within {timeout_s:g} s")
            data = os.read(self._replies, 1 << 16)
            if not data:
                raise self._failed("ended")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerFailed(f"{self.name}: {reply['error']}")
        return reply["value"]

    def call(self, method: str, timeout_s: float = 60.0, **arguments: Any) -> Any:
        """Calls and waits."""
        self.ask(method, **arguments)
        return self.answer(timeout_s)

    def close(self) -> None:
        """Ends the process; closing twice is fine."""
        with suppress(BrokenPipeError):  # it ended with a call unread
            self._requests.close()
        try:
            self._process.wait(timeout=CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._replies) if self._replies >= 0 else None
        self._replies = -1
        self._errors.close()

    def _failed(self, what: str) -> WorkerFailed:
        self._process.kill()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        return WorkerFailed("\n".join([f"{self.name} {what}. It printed last:", *lines]))


def serve(target: Any) -> None:
    """Answers calls of `target`'s methods until standard input is closed.

    What anything else prints goes to standard error.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        method, arguments = json.loads(line)
        try:
            reply = {"value": getattr(target, method)(**arguments)}
        except Exception as error:
            reply = {"error": f"{method}: {type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
