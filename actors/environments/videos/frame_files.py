"""One video at one size as one .npy file: written beside and renamed, hashed, mapped read-only.

A file is uint8 (frames, size, size, 3) in RGB, which `numpy.load(path, mmap_mode="r")` opens. All
processes of a machine that map it share the pages that hold it in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from actors.environments.videos.messages import reason

PART_SUFFIX = ".part"  # of a file that is still being written


class FrameFileError(ValueError):
    """A file of frames is missing, cut off, or is no file of frames; the message names it."""


@dataclass(frozen=True)
class FrameFile:
    """What is known about a finished file."""

    frames: int
    bytes: int
    sha256: str


class FrameWriter:
    """Writes a video frame by frame, in memory for one frame; `finish` gives the file its name.

    Left without `finish`, the unfinished file is removed:

        with FrameWriter(path, size) as writer:
            for frame in frames:
                writer.add(frame)
            record = writer.finish()

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._frames = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        unique = f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PART_SUFFIX}"
        self._beside = path.with_name(unique)
        self._file = open(self._beside, "xb")  # noqa: SIM115  (closed by finish or __exit__)
        self._write_header()

    def add(self, frame: np.ndarray) -> None:
        """Appends one frame, uint8 (size, size, 3)."""
        if frame.shape != (self._size, self._size, 3) or frame.dtype != np.uint8:
            raise ValueError(f"A frame is {frame.dtype} {frame.shape}, not uint8 of {self._size}.")
        self._file.write(np.ascontiguousarray(frame).data)
        self._frames += 1

    def finish(self) -> FrameFile:
        """Completes the file, gives it its name and returns what to remember about it."""
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        record = FrameFile(self._frames, self._beside.stat().st_size, hash_file(self._beside))
        os.replace(self._beside, self._path)
        return record

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
        except OSError:
            if kind is None:
                raise
        finally:
            self._beside.unlink(missing_ok=True)

    def _write_header(self) -> None:
        # Version 1 pads the header so that the first axis may grow without moving what follows.
        shape = (self._frames, self._size, self._size, 3)
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )


def map_frames(path: Path) -> np.ndarray:
    """Maps a file read-only: uint8 (frames, size, size, 3) whose pages all processes share.

    Raises:
        FrameFileError: it is missing, shorter than its header says, or holds something else.
    """
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FrameFileError(f"{path} cannot be mapped as frames: {reason(error)}.") from error
    if not isinstance(mapped, np.ndarray) or mapped.dtype != np.uint8 or mapped.ndim != 4:
        raise FrameFileError(f"{path} holds no frames: expected uint8 (frames, size, size, 3).")
    # The plain array view of the map: indexing a memmap object costs microseconds each time.
    return np.asarray(mapped)


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Seal:
    """That a file had this hash when it had this size and time of change.

    Hashing every file in every process would read gigabytes at each start. A seal lets a machine do
    it once: while size and time are the same, so is the content.
    """

    sha256: str
    bytes: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path, sha256: str) -> Seal:
        """Returns the seal of a file as it is now."""
        status = path.stat()
        return cls(sha256, status.st_size, status.st_mtime_ns)

    @classmethod
    def read(cls, path: Path) -> Seal | None:
        """Returns the seal stored at `path`, None if there is none that can be read."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Stores the seal at `path`, beside and renamed.

        Raises:
            OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.{os.getpid()}{PART_SUFFIX}")
        beside.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(beside, path)

    def fits(self, path: Path) -> bool:
        """Whether the file at `path` still has the size and the time of change."""
        try:
            return self == Seal.of(path, self.sha256)
        except OSError:
            return False


def verify_once(path: Path, sha256: str, seal_path: Path) -> bool:
    """Whether a file has the hash; reads it only if the seal at `seal_path` does not vouch for it.

    Where no seal can be written the file is read each time.
    """
    seal = Seal.read(seal_path)
    if seal is not None and seal.sha256 == sha256 and seal.fits(path):
        return True
    try:
        now = Seal.of(path, sha256)
        if hash_file(path) != sha256:
            return False
    except OSError:
        return False
    with suppress(OSError):
        now.write(seal_path)
    return True
