"""What lies in a folder of videos: the layouts of the public data sets, and any other tree.

| layout | what may be given |
|---|---|
| DAVIS 2017 | the folder around `DAVIS`, `DAVIS`, or its `JPEGImages/480p` |
| ILSVRC2015 VID | the folder around `ILSVRC2015`, that, `Data` or `Data/VID` |
| Kinetics | the folder around `train`, `val` and `test`, or one of `<class>/<id>.mp4` |
| CVRL's arrays | a .npy file, or a folder of them (`..._train.npy`, `..._valid.npy`) |
| anything else | a tree of folders of pictures, of video files, or of both |

A video's name is its path below the folder that is read, without the suffix.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from actors.environments.videos.clips import (
    FILE_SUFFIXES,
    ArrayClip,
    Clip,
    PictureFolder,
    VideoFile,
    VideoFolderError,
    is_picture,
    is_video_file,
    open_array,
)

# Where the videos of a data set lie below its root; the first that exists is read.
_INSIDE = (
    "JPEGImages/480p",
    "JPEGImages/Full-Resolution",
    "DAVIS/JPEGImages/480p",
    "DAVIS/JPEGImages/Full-Resolution",
    "480p",
    "Data/VID",
    "ILSVRC2015/Data/VID",
    "VID",
)
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "held_out",
    "valid": "held_out",
    "validation": "held_out",
    "test": "held_out",
    "held_out": "held_out",
}
_EXPECTED = (
    "expected one sub-folder of pictures per video, as in DAVIS/JPEGImages/480p, or video files "
    f"({', '.join(sorted(FILE_SUFFIXES))}), or .npy arrays"
)


def find_clips(source: Path) -> list[Clip]:
    """Returns the videos of a folder or a .npy file, sorted by name.

    Links are followed, hidden folders are left out, and so is every file that is neither a picture,
    a video nor an array. Where video files lie beside loose pictures, those are taken as their
    thumbnails. Only directories are read.

    Raises:
        VideoFolderError: there is no such folder, it cannot be read, or it holds no video.
    """
    if not source.exists():
        raise VideoFolderError(
            f"The folder of background videos {source} does not exist. Set environment.videos to "
            "the root of DAVIS, a folder with one sub-folder of pictures per video, a folder of "
            "video files, or procedural; `rl-system videos fetch davis` downloads DAVIS."
        )
    if source.is_file():
        if source.suffix == ".npy":
            return list(_array_clips(source, source.stem, None))
        raise VideoFolderError(
            f"{source} is a file: give the folder that it lies in, or a .npy array of videos."
        )
    folder = next((source / part for part in _INSIDE if (source / part).is_dir()), source)
    try:
        clips = sorted(_walk(folder, folder, set()), key=lambda clip: clip.name)
    except OSError as error:
        raise VideoFolderError(f"{folder} cannot be read: {error}.") from error
    if not clips:
        raise VideoFolderError(
            f"{folder} holds no video: {_EXPECTED}. Set environment.videos to such a folder, or to "
            "procedural."
        )
    _check_names(clips, folder)
    return clips


def _walk(root: Path, folder: Path, seen: set[str]) -> Iterator[Clip]:
    real = os.path.realpath(folder)
    if real in seen:  # a link back up
        return
    seen.add(real)
    folders: list[str] = []
    files: list[str] = []
    pictures = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_picture(entry.name):
                pictures = pictures or entry.is_file()
            elif entry.name.startswith((".", "__")):
                continue
            elif is_video_file(entry.name) or entry.name.endswith(".npy"):
                if entry.is_file():
                    files.append(entry.name)
            elif entry.is_dir():
                folders.append(entry.name)
    place = folder.relative_to(root)
    split = _SPLIT_FOLDERS.get(place.parts[0].lower()) if place.parts else None
    if pictures and not files:
        name = place.as_posix() if place.parts else root.name
        # A folder called "train" that holds pictures is a video of a train.
        yield PictureFolder(name, folder, split if len(place.parts) > 1 else None)
    for file in sorted(files):
        path = folder / file
        name = (place / path.stem).as_posix()
        if path.suffix == ".npy":
            yield from _array_clips(path, name, split or _split_of_stem(path.stem))
        else:
            yield VideoFile(name, path, split)
    for inside in sorted(folders):
        yield from _walk(root, folder / inside, seen)


def _array_clips(path: Path, name: str, split: str | None) -> Iterator[Clip]:
    array = open_array(path)
    if array.ndim == 4:
        yield ArrayClip(name, path, None, split)
        return
    for index in range(len(array)):
        yield ArrayClip(f"{name}-{index:05d}", path, index, split)


def _split_of_stem(stem: str) -> str | None:
    """`natural_train` is to train on, `natural_valid` is held out."""
    return _SPLIT_FOLDERS.get(stem.lower().replace("-", "_").rsplit("_", 1)[-1])


def _check_names(clips: list[Clip], folder: Path) -> None:
    for before, clip in itertools.pairwise(clips):
        if before.name == clip.name:
            raise VideoFolderError(
                f"{folder} holds two videos called {clip.name} (with different suffixes): remove "
                "or rename one."
            )
