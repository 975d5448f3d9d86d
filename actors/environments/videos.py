"""Where background frames come from: procedural videos, or a folder of videos such as DAVIS 2017.

Frames are decoded or made once at the size of the texture and kept as one file per video in the
user's cache folder (`$XDG_CACHE_HOME/rl-system/videos`), from where every actor of a machine maps
them: they are held in memory once, and a reset reads nothing but a pointer.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image

from actors.environments import procedural, published

PUBLISHED_SIZE = (
    800  # pixels; frames become squares of this size first, as the published package does
)
_IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp"))
_IN_PROCESS: dict[str, np.ndarray] = {}


class VideoFolderError(ValueError):
    """A folder of videos is missing or holds too few; the message says what is expected."""


class VideoSource(Protocol):
    """An ordered set of background videos at one texture size."""

    names: tuple[str, ...]

    def frames(self, index: int) -> np.ndarray:
        """Returns video `index`, read-only uint8 of shape (frames, size, size, 3), RGB."""
        ...


def open_videos(videos: str, split: str, num_videos: int | None, size: int) -> VideoSource:
    """Opens the videos of one split.

    Args:
        videos: "procedural" or a folder (see `FolderVideos`).
        split: "train" or "held_out"; no video is in both.
        num_videos: use the first n by the split's order, None for all.
        size: height and width of the frames in pixels.

    Raises:
        VideoFolderError: the folder is missing, or holds fewer than `num_videos` videos of this
        split.
    """
    if videos == "procedural":
        return ProceduralVideos(split, num_videos, size)
    return FolderVideos(Path(videos), split, num_videos, size)


class ProceduralVideos:
    """The videos of `procedural`: 60 to train on, 30 held out."""

    def __init__(self, split: str, num_videos: int | None, size: int) -> None:
        self.names = _first(procedural.names(split), num_videos, "the procedural videos", split)
        self._size = size

    def frames(self, index: int) -> np.ndarray:
        """Returns video `index`, read-only uint8 of shape (frames, size, size, 3), RGB."""
        name = self.names[index]
        key = f"{name}-v{procedural.VERSION}-{self._size}"
        return _cached(key, lambda: procedural.make_video(name, self._size))


class FolderVideos:
    """A folder with one sub-folder of pictures per video.

    `folder` is the root of DAVIS (its `JPEGImages/480p` is used) or holds the videos itself. Where
    it has videos of DAVIS 2017, those are split by the published lists of 60 and 30 names. Other
    folders are split by a hash of each name, two thirds to train on. Pictures are ordered by file
    name; other files are ignored.
    """

    def __init__(self, folder: Path, split: str, num_videos: int | None, size: int) -> None:
        self._folder = _find_videos(folder)
        self._size = size
        found = sorted(
            path.name for path in self._folder.iterdir() if path.is_dir() and _pictures(path)
        )
        if not found:
            raise VideoFolderError(
                f"{self._folder} holds no video: expected one sub-folder of .jpg or .png pictures "
                "per video, as in DAVIS/JPEGImages/480p. Set environment.videos to such a "
                "folder, or to procedural."
            )
        self.names = _first(_split(found, split), num_videos, str(self._folder), split)
        self._opened: dict[int, np.ndarray] = {}

    def frames(self, index: int) -> np.ndarray:
        """Returns video `index`, read-only uint8 of shape (frames, size, size, 3), RGB."""
        if index not in self._opened:
            self._opened[index] = self._open(index)
        return self._opened[index]

    def _open(self, index: int) -> np.ndarray:
        video = (self._folder / self.names[index]).resolve()
        pictures = _pictures(video)
        content = hashlib.sha256(f"{video}|{self._size}".encode())
        for picture in pictures:
            status = picture.stat()
            content.update(f"{picture.name}|{status.st_size}|{status.st_mtime_ns}".encode())
        key = f"{video.name}-{content.hexdigest()[:16]}-{self._size}"
        return _cached(key, lambda: np.stack([_decode(path, self._size) for path in pictures]))


def _find_videos(folder: Path) -> Path:
    if not folder.is_dir():
        raise VideoFolderError(
            f"The folder of background videos {folder} does not exist. Set environment.videos to "
            "the root of DAVIS, a folder with one sub-folder of pictures per video, or procedural."
        )
    inside = folder / "JPEGImages" / "480p"
    return inside if inside.is_dir() else folder


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES)


def _split(found: list[str], split: str) -> tuple[str, ...]:
    known = {"train": published.TRAIN_VIDEOS, "held_out": published.HELD_OUT_VIDEOS}
    if any(name in found for names in known.values() for name in names):
        return tuple(name for name in known[split] if name in found)
    held_out = {name for name in found if hashlib.sha256(name.encode()).digest()[0] % 3 == 0}
    return tuple(name for name in found if (name in held_out) == (split == "held_out"))


def _first(names: tuple[str, ...], count: int | None, where: str, split: str) -> tuple[str, ...]:
    if count is not None and count > len(names):
        raise VideoFolderError(
            f"{where} has {len(names)} {split} videos and {count} are asked for: "
            f"set environment.num_videos to at most {len(names)}, or give another folder."
        )
    if not names and count != 0:
        raise VideoFolderError(f"{where} has no {split} video: give another folder, or procedural.")
    return names if count is None else names[:count]


def _decode(path: Path, size: int) -> np.ndarray:
    """Reads one picture as a square, uint8 (size, size, 3), by way of the published 800 x 800."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape[:2] != (PUBLISHED_SIZE, PUBLISHED_SIZE):
        pixels = cv2.resize(
            pixels, (PUBLISHED_SIZE, PUBLISHED_SIZE), interpolation=cv2.INTER_LINEAR
        )
    if size != PUBLISHED_SIZE:
        pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    return pixels


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "rl-system" / "videos"


def _cached(key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns the frames of `key` from this process, else the cache folder, else `make`."""
    if key in _IN_PROCESS:
        return _IN_PROCESS[key]
    path = _cache_folder() / f"{key}.npy"
    frames = _map(path)
    if frames is None:
        frames = make()
        if _write(path, frames):
            mapped = _map(path)
            frames = frames if mapped is None else mapped
    frames.setflags(write=False)
    _IN_PROCESS[key] = frames
    return frames


def _map(path: Path) -> np.ndarray | None:
    try:
        # The plain array view of the map: indexing a memmap object costs microseconds each time.
        return np.asarray(np.load(path, mmap_mode="r"))
    except (OSError, ValueError, EOFError):
        return None


def _write(path: Path, frames: np.ndarray) -> bool:
    """Writes beside and renames: no other actor maps half a file. False if it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, frames)
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError:
        return False
    return True
