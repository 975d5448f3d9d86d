"""A learner's process keeps its memory from update to update."""

from __future__ import annotations

import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys, threading
import numpy as np
from learners.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    print(keep_freed_memory())
faults = []
def rounds():
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        arrays = [np.ones(80 << 20, np.uint8) for _ in range(2)]  # above all limits of glibc
        del arrays
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=rounds)
thread.start()
thread.join()
print(faults[-1])
rounds()
print(faults[-1])
"""


def faults(how: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, how], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's options")
def test_what_is_freed_is_used_again_without_new_pages() -> None:
    plain, _ = faults("plain")
    kept, in_a_thread, again = faults("kept")
    if kept != "True":
        pytest.skip("this C library has no such options")
    assert int(plain) > 300  # huge pages or not, the memory came anew
    assert int(again) < 60 and int(in_a_thread) < 60
