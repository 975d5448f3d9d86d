"""One video where it comes from: a folder of pictures, a video file, part of an array, or a seed.

A clip gives its pictures in order, each as it is stored. `square_frames` makes them background
frames in the published way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from PIL import Image

from actors.environments.videos import procedural
from actors.environments.videos.messages import reason

# Pixels; pictures become squares of this size first, as in the published package.
PUBLISHED_SIZE = 800
PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")
)
FILE_SUFFIXES = frozenset((".mp4", ".m4v", ".avi", ".webm", ".mkv", ".mov", ".mpg", ".mpeg"))
MAX_FILE_FRAMES = 300  # of a video file unless told otherwise: 12 s, 144 MB at 400 pixels
FRAMES_VERSION = 2  # raise it when the same pictures become other frames: cached ones are made anew
_DEEPEST = 65535  # white of a picture of 16 bits
_KIND_NAMES = {"f": "floats", "i": "integers", "u": "integers"}
# A container may announce a few frames more than it has; more than this are missing.
_ANNOUNCED_SHARE = 0.9


class VideoFolderError(ValueError):
    """Background videos are missing, too few or unreadable; the message says what is expected."""


class Clip(Protocol):
    """One video in its source. Clips are plain values and can be sent to other processes."""

    @property
    def name(self) -> str:
        """The video's name, unique in its source: its path without the suffix."""
        ...

    @property
    def split(self) -> str | None:
        """The split that the layout of its source gives it, None where it gives none."""
        ...

    @property
    def max_frames(self) -> int | None:
        """How many frames are used unless told otherwise, None for all."""
        ...

    @property
    def place(self) -> str:
        """Where it is found: the same for the same video in every process of a machine."""
        ...

    def stamp(self) -> str:
        """Returns what changes when the source does, from directory entries alone.

        Raises:
            OSError: the source is gone.
        """
        ...

    def digest(self) -> str:
        """Returns the SHA-256 of the source's content."""
        ...

    def num_pictures(self) -> int:
        """Returns how many pictures there are, as announced without decoding them."""
        ...

    def pictures(self) -> Iterator[np.ndarray]:
        """Yields the pictures in order, uint8 (height, width, 3) in RGB.

        Raises:
            VideoFolderError: one cannot be read; the message names the file.
        """
        ...


@dataclass(frozen=True)
class PictureFolder:
    """A folder of pictures in the order of their names; other files in it are ignored.

    The order is that of plain strings, as in the published package: numbers in names must be padded
    with zeros ("2.jpg" comes after "10.jpg").
    """

    name: str
    folder: Path
    split: str | None = None
    max_frames: int | None = None

    @property
    def place(self) -> str:
        """Returns the folder."""
        return str(self.folder.resolve())

    def stamp(self) -> str:
        """Returns a hash of the files' names, sizes and times of change."""
        return _stamp(self._files())

    def digest(self) -> str:
        """Returns a hash of the files' names and content."""
        return _digest(self._files())

    def num_pictures(self) -> int:
        """Returns how many files there are."""
        return len(self._files())

    def pictures(self) -> Iterator[np.ndarray]:
        """Reads the files one after another."""
        for path in self._files():
            yield _read_picture(path)

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if is_picture(path.name))


@dataclass(frozen=True)
class VideoFile:
    """A video file that OpenCV decodes."""

    name: str
    path: Path
    split: str | None = None
    max_frames: int | None = MAX_FILE_FRAMES

    @property
    def place(self) -> str:
        """Returns the file."""
        return str(self.path.resolve())

    def stamp(self) -> str:
        """Returns a hash of the file's name, size and time of change."""
        return _stamp([self.path])

    def digest(self) -> str:
        """Returns a hash of the file's name and content."""
        return _digest([self.path])

    def num_pictures(self) -> int:
        """Returns how many frames the container announces."""
        capture = self._open()
        try:
            return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        finally:
            capture.release()

    def pictures(self) -> Iterator[np.ndarray]:
        """Decodes the file from its beginning."""
        capture = self._open()
        try:
            announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            decoded = 0
            while True:
                there, picture = capture.read()
                if not there:
                    break
                decoded += 1
                yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            if decoded < max(1.0, _ANNOUNCED_SHARE * announced):
                raise VideoFolderError(
                    f"{self.path} is cut off or damaged: {decoded} of {announced} frames can be "
                    "decoded. Replace or remove it."
                )
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            capture.release()
            raise VideoFolderError(
                f"{self.path} cannot be decoded as a video. Replace or remove it."
            )
        return capture


@dataclass(frozen=True)
class ArrayClip:
    """One video of a .npy array: uint8 (videos, frames, height, width, 3), or (..., 3, height,
    width) as CVRL's files have it; `index` is None where the array is one video."""

    name: str
    path: Path
    index: int | None
    split: str | None = None
    max_frames: int | None = None

    @property
    def place(self) -> str:
        """Returns the file."""
        return str(self.path.resolve())

    def stamp(self) -> str:
        """Returns a hash of the file's name, size and time of change, and the index."""
        return _stamp([self.path]) + f"/{self.index}"

    def digest(self) -> str:
        """Returns a hash of this video's frames."""
        return hashlib.sha256(np.ascontiguousarray(self._frames()).data).hexdigest()

    def num_pictures(self) -> int:
        """Returns the number of frames."""
        return len(self._frames())

    def pictures(self) -> Iterator[np.ndarray]:
        """Copies the frames one after another."""
        for frame in self._frames():
            yield np.ascontiguousarray(frame)

    def _frames(self) -> np.ndarray:
        array = open_array(self.path)
        return array if self.index is None else array[self.index]


@dataclass(frozen=True)
class ProceduralClip:
    """A video that is drawn from its name (see `procedural`)."""

    name: str
    split: str | None = None
    max_frames: int | None = None

    @property
    def place(self) -> str:
        """Returns `procedural`."""
        return "procedural"

    def stamp(self) -> str:
        """Returns the version of the generator."""
        return f"procedural-{procedural.VERSION}-{procedural.NUM_FRAMES}"

    def digest(self) -> str:
        """Returns a hash of the version and the name."""
        return hashlib.sha256(f"{self.stamp()}|{self.name}".encode()).hexdigest()

    def num_pictures(self) -> int:
        """Returns the number of frames."""
        return procedural.NUM_FRAMES

    def pictures(self) -> Iterator[np.ndarray]:
        """Draws the frames one after another."""
        return procedural.draw_frames(self.name)


_KINDS = {
    "pictures": PictureFolder,
    "file": VideoFile,
    "array": ArrayClip,
    "procedural": ProceduralClip,
}


def describe_clip(clip: Clip) -> dict[str, Any]:
    """Returns where a clip is found, as plain values for `clip_from`."""
    kind = next(name for name, one in _KINDS.items() if isinstance(clip, one))
    return {"kind": kind} | {
        field: str(value) if isinstance(value, Path) else value
        for field, value in vars(clip).items()
        if field in ("folder", "path", "index")
    }


def clip_from(name: str, description: Mapping[str, Any]) -> Clip:
    """Returns the clip of that name that was described.

    Raises:
        KeyError, TypeError: this is no description of a clip.
    """
    values = dict(description)
    kind = _KINDS[values.pop("kind")]
    for field in ("folder", "path"):
        if field in values:
            values[field] = Path(values[field])
    return kind(name, **values)


def square_frames(clip: Clip, size: int, max_frames: int | None) -> Iterator[np.ndarray]:
    """Yields the frames of a clip as squares, uint8 (size, size, 3), the first `max_frames`.

    Raises:
        VideoFolderError: as `read_pictures`.
    """
    return (to_square(picture, size) for picture in read_pictures(clip, max_frames))


def read_pictures(clip: Clip, max_frames: int | None) -> Iterator[np.ndarray]:
    """Yields the first `max_frames` pictures of a clip, uint8 (height, width, 3) in RGB.

    Raises:
        VideoFolderError: one cannot be read, there is none, or the source has gone.
    """
    count = 0
    try:
        for picture in islice(clip.pictures(), max_frames):
            count += 1
            yield picture
    except OSError as error:
        raise VideoFolderError(f"The video {clip.name} cannot be read: {error}.") from error
    if not count:
        raise VideoFolderError(f"The video {clip.name} has no frame. Replace or remove it.")


def to_square(picture: np.ndarray, size: int) -> np.ndarray:
    """Squeezes one picture, uint8 (height, width, 3), into a square by way of the published one.

    That is 800 x 800 by bilinear interpolation; smaller squares are area means of it. A picture
    that is a square of this size already stays as it is.
    """
    if picture.shape[:2] == (size, size):
        return picture
    if picture.shape[:2] != (PUBLISHED_SIZE, PUBLISHED_SIZE):
        picture = cv2.resize(
            picture, (PUBLISHED_SIZE, PUBLISHED_SIZE), interpolation=cv2.INTER_LINEAR
        )
    return shrink(picture, size)


def shrink(picture: np.ndarray, size: int) -> np.ndarray:
    """Reduces a square picture to `size` by area means."""
    if picture.shape[0] == size:
        return picture
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)


def open_array(path: Path) -> np.ndarray:
    """Maps a .npy file of videos, channels last: (videos, frames, height, width, 3) or one video.

    Raises:
        VideoFolderError: it cannot be read, or has another shape or type.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise VideoFolderError(
            f"{path} cannot be read as an array of videos: {reason(error)}. Save it again with "
            "numpy.save, as uint8 (a pickle must be loaded and saved so first)."
        ) from error
    if array.dtype == np.uint8 and array.ndim in (4, 5) and array.size:
        if array.shape[-1] == 3:
            return array
        if array.shape[-3] == 3:
            return np.moveaxis(array, -3, -1)
    raise VideoFolderError(
        f"{path} holds {array.dtype} {array.shape}; expected uint8 (videos, frames, 3, height, "
        "width) or (videos, frames, height, width, 3)."
    )


def is_picture(file_name: str) -> bool:
    """Whether a file of that name is taken as a picture; hidden files are not."""
    return Path(file_name).suffix.lower() in PICTURE_SUFFIXES and not file_name.startswith(".")


def is_video_file(file_name: str) -> bool:
    """Whether a file of that name is taken as a video; hidden files are not."""
    return Path(file_name).suffix.lower() in FILE_SUFFIXES and not file_name.startswith(".")


def _read_picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode == "F" or image.mode.startswith("I"):
                return _from_deep(path, np.asarray(image))
            return np.asarray(image.convert("RGB"))
    except VideoFolderError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoFolderError(
            f"{path} cannot be read as a picture ({error}). Replace or remove it."
        ) from error


def _from_deep(path: Path, values: np.ndarray) -> np.ndarray:
    """Scales one grey picture of 16 bits, (height, width), to uint8 (height, width, 3)."""
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > _DEEPEST:
        raise VideoFolderError(
            f"{path} is a picture of {8 * values.itemsize}-bit {_KIND_NAMES[values.dtype.kind]}, "
            "whose white is unknown: save it again with 8 or 16 bits."
        )
    grey = ((values.astype(np.uint32) * 255 + _DEEPEST // 2) // _DEEPEST).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _stamp(files: Iterable[Path]) -> str:
    stamp = hashlib.sha256()
    for path in files:
        status = path.stat()
        stamp.update(f"{path.name}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return stamp.hexdigest()


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}|{path.stat().st_size}\n".encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
