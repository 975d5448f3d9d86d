"""Calls answered by a program that another Python runs, over its pipes and with a deadline each."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
import weakref
from pathlib import Path
from typing import IO, Any

from actors.environments.robosuite_process.messages import PREFIX, decode, encode

CLOSE_TIMEOUT_S = 5.0  # for the program to end by itself before it is killed

_LAST_LINES = 12
_READ_BYTES = 1 << 20


class ProcessFailed(RuntimeError):
    """The program ended, refused a call or gave no answer in time; the message says which.

    Attributes:
        kind: the class of the program's own exception, "" if it raised none.
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class ServerProcess:
    """A process that answers one call at a time.

    It ends when this object is closed or collected, and when this process ends, however that
    happens: its requests then reach their end. After a `ProcessFailed` that is not the program's
    own exception, the process is gone and every call raises the same again.

    Args:
        python: the Python to run.
        program: a script or a folder with a `__main__.py`, run isolated from this Python's paths.
        arguments: given to it as one JSON text.
        variables: its environment variables.
    """

    def __init__(
        self, python: Path, program: Path, arguments: dict[str, Any], variables: dict[str, str]
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            [str(python), "-I", str(program), json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=variables,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests = self._process.stdin.fileno()
        self._replies = self._process.stdout.fileno()
        os.set_blocking(self._requests, False)
        self._received = bytearray()
        self._failure: str | None = None
        self._end = weakref.finalize(self, _end, self._process, self._errors)

    @property
    def process_id(self) -> int:
        """Of the process."""
        return self._process.pid

    def call(self, name: str, *arguments: Any, timeout_s: float) -> dict[str, Any]:
        """Sends a request and returns its reply.

        Raises:
            ProcessFailed: see the class.
        """
        if self._failure is not None:
            raise ProcessFailed(self._failure)
        deadline = time.monotonic() + timeout_s
        unsent = memoryview(encode({"call": name, "arguments": arguments}))
        while unsent:
            self._wait(self._requests, select.POLLOUT, name, deadline, timeout_s)
            try:
                unsent = unsent[os.write(self._requests, unsent) :]
            except BrokenPipeError:
                self._fail(f"ended{self._exit()} before it was asked to {name}")
        return self._receive(name, deadline, timeout_s)

    def receive(self, name: str, timeout_s: float) -> dict[str, Any]:
        """Waits for a message that answers no request: a program's greeting, named for errors."""
        return self._receive(name, time.monotonic() + timeout_s, timeout_s)

    def close(self) -> None:
        """Ends the process and waits for that; closing twice is fine."""
        self._failure = self._failure or "This environment is closed: make another."
        self._end()

    def _receive(self, name: str, deadline: float, timeout_s: float) -> dict[str, Any]:
        head, body = (
            self._read(count, name, deadline, timeout_s)
            for count in PREFIX.unpack(self._read(PREFIX.size, name, deadline, timeout_s))
        )
        reply = decode(head, body)
        if "error" in reply:
            raise ProcessFailed(
                f"The simulator's process could not {name}:\n{reply['error']}", reply["kind"]
            )
        return reply

    def _read(self, count: int, name: str, deadline: float, timeout_s: float) -> bytes:
        while len(self._received) < count:
            self._wait(self._replies, select.POLLIN, name, deadline, timeout_s)
            data = os.read(self._replies, _READ_BYTES)
            if not data:
                self._fail(f"ended{self._exit()} before it answered `{name}`")
            self._received += data
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def _wait(self, pipe: int, event: int, name: str, deadline: float, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1e3):
            self._fail(f"did not answer `{name}` within {timeout_s:g} s and was ended")

    def _exit(self) -> str:
        try:
            code = self._process.wait(timeout=CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return ""
        return f" by signal {-code}" if code < 0 else f" with exit code {code}"

    def _fail(self, what: str) -> None:
        """Ends the process and raises what happened, with the last lines that it printed."""
        self._process.kill()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        printed = "It printed last:\n" + "\n".join(lines) if lines else "It printed nothing."
        self._failure = (
            f"The simulator's process {self.process_id} {what}. {printed}\n"
            "Make another environment to go on."
        )
        self._end()
        raise ProcessFailed(self._failure)


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    try:
        process.wait(timeout=CLOSE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    errors.close()
