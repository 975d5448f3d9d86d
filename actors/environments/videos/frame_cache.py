"""The automatic cache: frames made once on a machine, and mapped by every process that needs them.

It lies in `$XDG_CACHE_HOME/rl-system/videos` (else `~/.cache/...`). A file's name holds a hash of
what it was made from, so frames of a source that has changed are made anew and the old ones
removed. Where the folder cannot be written or the disk is full, frames stay in the memory of each
process, with a warning. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from actors.environments.videos.file_lock import LockTimeout, file_lock
from actors.environments.videos.frame_files import (
    PART_SUFFIX,
    FrameFileError,
    FrameWriter,
    Seal,
    map_frames,
    verify_once,
)

_LOG = logging.getLogger(__name__)
_LOCK_TIMEOUT_S = 300.0  # a process that waits longer for another one makes the frames itself
_LOCKS = 64  # lock files that all names share
_OLD_PART_S = 3600.0  # an unfinished file not touched for so long was left by a dead process
_MAPPED: dict[Path, np.ndarray] = {}  # what this process has opened
_IN_MEMORY: dict[Path, np.ndarray] = {}  # what it could not store
_WARNED: set[Path] = set()  # cache folders that it has complained about


def cache_folder() -> Path:
    """Returns the folder of the automatic cache, which need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "rl-system" / "videos"


def cached_frames(
    name: str, source: str, stamp: str, size: int, make: Callable[[], Iterable[np.ndarray]]
) -> np.ndarray:
    """Returns the frames of one video, uint8 (frames, size, size, 3), read-only.

    Args:
        name: the video's name, for people who look into the folder.
        source: what identifies the video, for example its path: frames of the same source, name and
            size replace each other.
        stamp: what changes when the frames would be others.
        size: height and width.
        make: gives the frames one by one; called by one process of the machine while others wait.
            An OSError of it would be taken for one of the cache: it must raise something else.
    """
    identity = hashlib.sha256(f"{source}|{name}".encode()).hexdigest()[:12]
    version = hashlib.sha256(stamp.encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[-80:].lstrip(".")
    family = f"{readable}-{identity}-{size}-"
    path = cache_folder() / f"{family}{version}.npy"
    if path in _IN_MEMORY:
        return _IN_MEMORY[path]
    frames = _open(path)
    if frames is None:
        frames = _make_once(path, family, size, make)
    return frames


def _open(path: Path) -> np.ndarray | None:
    """Maps a file whose content is known to be whole, else returns None.

    The seal was written with the file. A file whose size or time of change is another (a restored
    or torn one) is read and compared with the seal's hash first.
    """
    seal_path = _seal_path(path)
    seal = Seal.read(seal_path)
    if seal is None or not seal.fits(path):
        if seal is None or not verify_once(path, seal.sha256, seal_path):
            return None
        _MAPPED.pop(path, None)
    if path not in _MAPPED:
        try:
            _MAPPED[path] = map_frames(path)
        except FrameFileError:
            return None
    return _MAPPED[path]


def _make_once(
    path: Path, family: str, size: int, make: Callable[[], Iterable[np.ndarray]]
) -> np.ndarray:
    slot = int(hashlib.sha256(path.name.encode()).hexdigest(), 16) % _LOCKS
    lock = path.parent / "locks" / f"{slot:02d}"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            with file_lock(lock, _LOCK_TIMEOUT_S, f"making {path.name}"):
                # Another process may have made it while this one waited.
                frames = _open(path)
                if frames is None:
                    _remove_leftovers(path, family)
                    frames = _store(path, size, make)
        except LockTimeout as error:
            _LOG.warning("%s This process makes the frames itself.", error)
            frames = _store(path, size, make)
    except OSError as error:
        if path.parent not in _WARNED:
            _WARNED.add(path.parent)
            _LOG.warning(
                "Background frames cannot be kept in %s (%s): each process holds its own in "
                "memory. Free some space, or set XDG_CACHE_HOME to a folder that can be written.",
                path.parent,
                error,
            )
        frames = np.stack(list(make()))
        frames.setflags(write=False)
        _IN_MEMORY[path] = frames
    return frames


def _store(path: Path, size: int, make: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    start = time.monotonic()
    with FrameWriter(path, size) as writer:
        for frame in make():
            writer.add(frame)
        record = writer.finish()
    Seal.of(path, record.sha256).write(_seal_path(path))
    _LOG.info("made %d frames of %s in %.1f s", record.frames, path.name, time.monotonic() - start)
    _MAPPED[path] = map_frames(path)
    return _MAPPED[path]


def _remove_leftovers(path: Path, family: str) -> None:
    """Removes frames made from what the source was before, and files of processes that died.

    Processes that have mapped them keep them.
    """
    for old in path.parent.glob(f"{family}*"):
        if old.suffix == PART_SUFFIX:
            if time.time() - old.stat().st_mtime < _OLD_PART_S:
                continue
        elif old.name.startswith(path.stem):
            continue
        old.unlink(missing_ok=True)


def _seal_path(path: Path) -> Path:
    return path.with_suffix(".json")
