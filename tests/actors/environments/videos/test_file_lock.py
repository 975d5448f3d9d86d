from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.environments.videos.file_lock import LockTimeout, file_lock

_HOLD = """
import sys, time
from pathlib import Path
from actors.environments.videos.file_lock import file_lock
with file_lock(Path(sys.argv[1]), 5.0, "holding"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen]]:
    path = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path), "60"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.wait()


def test_a_lock_held_by_another_process_is_waited_for_no_longer_than_told(holder) -> None:
    path, _ = holder
    start = time.monotonic()
    with (
        pytest.raises(LockTimeout, match=r"making frames for more than 0 s and holds .*lock"),
        file_lock(path, 0.3, "making frames"),
    ):
        pass
    assert 0.25 < time.monotonic() - start < 5


def test_the_lock_of_a_process_that_was_killed_is_free(holder) -> None:
    path, process = holder
    killer = threading.Timer(0.3, process.kill)
    killer.start()
    start = time.monotonic()
    with file_lock(path, 30.0, "waiting"):
        assert 0.2 < time.monotonic() - start < 10


def test_a_waiter_that_gave_up_does_not_keep_the_lock_later(holder) -> None:
    path, process = holder
    with pytest.raises(LockTimeout), file_lock(path, 0.1, "waiting"):
        pass
    process.kill()
    process.wait()
    for _ in range(3):
        with file_lock(path, 5.0, "again"):
            pass


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with file_lock(tmp_path / "lock", 20.0, "counting"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert most == 1 and not any(thread.is_alive() for thread in threads)


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), file_lock(tmp_path / "no" / "lock", 1.0, "x"):
        pass
