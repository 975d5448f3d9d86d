from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from actors.environments.videos.frame_files import (
    FrameFileError,
    FrameWriter,
    Seal,
    hash_file,
    map_frames,
    verify_once,
)

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def write(path: Path, frames: np.ndarray = FRAMES):
    with FrameWriter(path, frames.shape[1]) as writer:
        for frame in frames:
            writer.add(frame)
        return writer.finish()


def test_a_file_holds_the_frames_and_is_a_plain_npy_file(tmp_path: Path) -> None:
    record = write(tmp_path / "deep" / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "deep" / "a.npy"), FRAMES)
    np.testing.assert_array_equal(map_frames(tmp_path / "deep" / "a.npy"), FRAMES)
    assert record.frames == 5
    assert record.bytes == (tmp_path / "deep" / "a.npy").stat().st_size


def test_the_recorded_hash_is_what_sha256sum_prints(tmp_path: Path) -> None:
    record = write(tmp_path / "a.npy")
    printed = subprocess.run(
        ["sha256sum", tmp_path / "a.npy"], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split()[0] == record.sha256 == hash_file(tmp_path / "a.npy")


def test_mapped_frames_cannot_be_written_and_take_no_private_memory(tmp_path: Path) -> None:
    write(tmp_path / "a.npy")
    frames = map_frames(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="read-only"):
        frames[0] = 0
    assert not isinstance(frames, np.memmap) and isinstance(frames.base, np.memmap)


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), FrameWriter(tmp_path / "a.npy", 8) as writer:
        writer.add(FRAMES[0])
        assert len(os.listdir(tmp_path)) == 1
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_finished_file_replaces_the_old_one_which_stays_with_those_who_mapped_it(
    tmp_path: Path,
) -> None:
    write(tmp_path / "a.npy")
    before = map_frames(tmp_path / "a.npy")
    write(tmp_path / "a.npy", FRAMES[::-1])
    np.testing.assert_array_equal(before, FRAMES)
    np.testing.assert_array_equal(map_frames(tmp_path / "a.npy"), FRAMES[::-1])


def test_frames_of_another_shape_are_refused(tmp_path: Path) -> None:
    with FrameWriter(tmp_path / "a.npy", 8) as writer, pytest.raises(ValueError, match="uint8 of"):
        writer.add(FRAMES[0][:4])


@pytest.mark.parametrize("kind", ["missing", "cut", "text", "float"])
def test_a_file_that_holds_no_frames_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npy"
    if kind == "cut":
        write(path)
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "text":
        path.write_text("hello")
    elif kind == "float":
        np.save(path, np.zeros(3))
    with pytest.raises(FrameFileError, match=r"a\.npy"):
        map_frames(path)


def test_a_file_is_hashed_once_until_its_size_or_time_changes(tmp_path: Path) -> None:
    path, seal = tmp_path / "a.npy", tmp_path / "seals" / "a"
    record = write(path)
    assert verify_once(path, record.sha256, seal)
    # The same size and time: the seal vouches, so this damage is not looked for.
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0" if FRAMES[-1, -1, -1, -1] else b"\1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert verify_once(path, record.sha256, seal)
    path.touch()
    assert not verify_once(path, record.sha256, seal)


def test_a_seal_of_another_hash_or_a_torn_one_vouches_for_nothing(tmp_path: Path) -> None:
    path, seal = tmp_path / "a.npy", tmp_path / "seal"
    record = write(path)
    Seal.of(path, "0" * 64).write(seal)
    assert verify_once(path, record.sha256, seal)
    assert not verify_once(path, "0" * 64, seal)
    seal.write_text('{"sha256":')
    assert Seal.read(seal) is None
    assert verify_once(path, record.sha256, seal)


def test_a_missing_file_is_not_verified_and_seals_need_no_writable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    record = write(tmp_path / "a.npy")
    assert verify_once(tmp_path / "a.npy", record.sha256, tmp_path / "file" / "seal")
    assert not verify_once(tmp_path / "b.npy", record.sha256, tmp_path / "seal")
