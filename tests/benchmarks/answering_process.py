"""A process for tests of `benchmarks.peers.worker_process`."""

from __future__ import annotations

import time

from benchmarks.peers.worker_process import serve


class Target:
    def add(self, a: int, b: int) -> int:
        print("this goes to standard error")
        return a + b

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def fail(self, words: str) -> None:
        raise ValueError(words)


if __name__ == "__main__":
    serve(Target())
