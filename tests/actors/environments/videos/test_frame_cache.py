from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.environments.videos.clips import VideoFolderError
from actors.environments.videos.frame_cache import cache_folder, cached_frames

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Source:
    """Gives frames and counts how often it was asked."""

    def __init__(self, frames: np.ndarray = FRAMES) -> None:
        self.frames = frames
        self.asked = 0

    def __call__(self) -> Iterator[np.ndarray]:
        self.asked += 1
        return iter(self.frames)


def files() -> list[Path]:
    return sorted(cache_folder().glob("*.npy"))


# Opens the frames in another process and prints their sum, and "made" if it had to make them.
_OPEN = """
import logging, sys, time
import numpy as np
from actors.environments.videos import frame_cache
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
def make():
    time.sleep(0.5)
    return (np.full((16, 16, 3), index, np.uint8) for index in range(4))
print("sum", int(frame_cache.cached_frames("clip", "source", "stamp", 16, make).sum()))
"""


def run_code(code: str, count: int = 1) -> list[str]:
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    return [process.communicate(timeout=60)[0] for process in processes]


def test_frames_are_made_once_and_then_mapped() -> None:
    source = Source()
    first = cached_frames("clip", "/a", "1", 16, source)
    again = cached_frames("clip", "/a", "1", 16, source)
    np.testing.assert_array_equal(first, FRAMES)
    assert source.asked == 1 and np.shares_memory(first, again) and len(files()) == 1
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_other_names_places_and_sizes_are_other_files() -> None:
    small = Source(FRAMES[:, ::2, ::2])
    cached_frames("clip", "/a", "1", 16, Source())
    cached_frames("clip", "/b", "1", 16, Source())
    cached_frames("clip/with spaces * and ?", "/a", "1", 16, Source())
    cached_frames("clip", "/a", "1", 8, small)
    assert len(files()) == 4 and all(" " not in path.name for path in files())


def test_frames_of_a_source_that_changed_are_made_anew_and_the_old_ones_removed() -> None:
    before = cached_frames("clip", "/a", "1", 16, Source())
    after = cached_frames("clip", "/a", "2", 16, Source(FRAMES[::-1]))
    np.testing.assert_array_equal(before, FRAMES)  # who has mapped them keeps them
    np.testing.assert_array_equal(after, FRAMES[::-1])
    assert len(files()) == 1 and len(list(cache_folder().glob("*.json"))) == 1


@pytest.mark.parametrize("damage", ["cut", "flipped", "no seal", "gone"])
def test_a_damaged_file_is_made_anew(damage: str) -> None:
    cached_frames("clip", "/a", "1", 16, Source())
    (path,) = files()
    data = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(data[:1000])
    elif damage == "flipped":
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "no seal":
        path.with_suffix(".json").unlink()
    else:
        path.unlink()
    source = Source()
    np.testing.assert_array_equal(cached_frames("clip", "/a", "1", 16, source), FRAMES)
    assert source.asked == 1


def test_a_file_that_was_only_copied_is_not_made_anew() -> None:
    cached_frames("clip", "/a", "1", 16, Source())
    files()[0].touch()
    source = Source()
    np.testing.assert_array_equal(cached_frames("clip", "/a", "1", 16, source), FRAMES)
    assert source.asked == 0


def test_processes_that_need_the_same_frames_make_them_once() -> None:
    outputs = run_code(_OPEN, count=4)
    assert [output.splitlines()[-1] for output in outputs] == [f"sum {6 * 16 * 16 * 3}"] * 4
    assert sum("made 4 frames" in output for output in outputs) == 1


def test_a_folder_that_cannot_be_written_is_done_without_and_warned_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    source = Source()
    with caplog.at_level(logging.WARNING):
        one = cached_frames("a", "/a", "1", 16, source)
        again = cached_frames("a", "/a", "1", 16, source)
        cached_frames("b", "/a", "1", 16, source)
    np.testing.assert_array_equal(one, FRAMES)
    assert np.shares_memory(one, again) and source.asked == 2 and not one.flags.writeable
    assert [record.message for record in caplog.records if "cannot be kept" in record.message] == [
        caplog.records[0].message
    ]
    assert "XDG_CACHE_HOME" in caplog.records[0].message


def test_a_disk_that_is_full_leaves_frames_in_memory_and_no_torn_file() -> None:
    # A limit on the size of files makes writing fail as a full disk does.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
    (output,) = run_code(limit + _OPEN.replace("level=logging.INFO", "level=logging.WARNING"))
    assert "cannot be kept" in output and f"sum {6 * 16 * 16 * 3}" in output
    assert files() == [] and list(cache_folder().glob("*.part")) == []


def test_what_a_killed_process_left_unfinished_is_removed_after_a_while() -> None:
    import os

    cached_frames("clip", "/a", "1", 16, Source())
    (path,) = files()
    old, young = (path.with_name(f"{path.name}.{name}.part") for name in ("old", "young"))
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (1, 1))
    cached_frames("clip", "/a", "2", 16, Source())
    assert not old.exists() and young.exists()


def test_an_error_of_the_source_is_passed_on_and_nothing_is_stored() -> None:
    def make() -> Iterator[np.ndarray]:
        yield FRAMES[0]
        raise VideoFolderError("a.jpg cannot be read")

    with pytest.raises(VideoFolderError, match=r"a\.jpg"):
        cached_frames("clip", "/a", "1", 16, make)
    assert files() == [] and list(cache_folder().glob("*.part")) == []
