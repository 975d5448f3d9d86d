"""What lies in a folder of videos: the layouts of the public data sets, and any other tree.

| layout | what may be given |
|---|---|
| DAVIS 2017 | the folder around `DAVIS`, `DAVIS`, or its `JPEGImages/480p` |
| ILSVRC2015 VID | the folder around `ILSVRC2015`, that, `Data` or `Data/VID` |
| Kinetics | the folder around `train`, `val` and `test`, or one of `<class>/<id>.mp4` |
| CVRL's arrays | a .npy file, or a folder of them (`..._train.npy`, `..._valid.npy`) |
| anything else | a tree of folders of pictures, of video files, or of both |

A video's name is its path below the folder that is read, without the suffix. That folder is the one
given, or the data set's own folder inside it if nothing else there holds videos. No video is left
out because of how its folder is called, but for two things of DAVIS: `Annotations` (masks), and
all but one of the resolutions in `JPEGImages`.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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

FolderClip = PictureFolder | VideoFile | ArrayClip

_LOG = logging.getLogger(__name__)
# Folders that data sets put around their videos, from the outside inwards.
_AROUND = frozenset(("DAVIS", "JPEGImages", "480p", "ILSVRC2015", "Data", "VID"))
_MASKS = frozenset(("Annotations", "Annotations_unsupervised"))
_PICTURES = "JPEGImages"  # of DAVIS: one folder for each resolution, with the same videos
_RESOLUTION = re.compile(r"(\d+)p|full-resolution", re.IGNORECASE)
_PREFERRED = "480p"  # what the Distracting Control Suite shows
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


def expand_path(text: str, setting: str) -> Path:
    """Returns the path that a setting names, `~` expanded.

    Raises:
        VideoFolderError: it is empty, or names the home of an unknown user.
    """
    if not text.strip():
        raise VideoFolderError(f"{setting} is empty: give a path, or leave it out.")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise VideoFolderError(f"{setting}={text}: {error} Give the full path.") from error


def find_clips(source: Path) -> list[FolderClip]:
    """Returns the videos of a folder or a .npy file, sorted by name.

    Links are followed, hidden folders are left out, and so is every file that is neither a picture,
    a video nor an array. Where video files lie beside loose pictures, those are taken as their
    thumbnails. Only directories are read. Videos have splits if some are in a folder (or an array)
    named `train` and some in one named `val`, `test` or the like.

    Raises:
        VideoFolderError: there is no such folder, it cannot be read, it holds no video, or one
            whose name cannot be used.
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
    try:
        folder = _inner(source)
        clips = sorted(_walk(folder, folder, set()), key=lambda clip: clip.name)
    except OSError as error:
        raise VideoFolderError(f"{source} cannot be read: {error}.") from error
    if not clips:
        raise VideoFolderError(
            f"{folder} holds no video: {_EXPECTED}. Set environment.videos to such a folder, or to "
            "procedural."
        )
    _check_names(clips, folder)
    if {clip.split for clip in clips} >= set(_SPLIT_FOLDERS.values()):
        return clips
    # One such name alone is a class ("test") or a part of the data, and says nothing.
    return [replace(clip, split=None) for clip in clips]


def one_video_hint(clips: Sequence[Clip], source: Path) -> str:
    """Returns a sentence for messages about too few videos, "" where it says nothing new.

    It tells that all of `clips` is one video, whose pictures lie in `source` itself.
    """
    if len(clips) != 1 or not isinstance(clips[0], PictureFolder) or clips[0].folder != source:
        return ""
    above = Path(os.path.abspath(source)).parent
    return (
        f" {source} was read as one video, because pictures lie in it; the folder above it, "
        f"{above}, is probably meant."
    )


@dataclass(frozen=True)
class _Listing:
    """What lies directly in a folder, sorted; hidden things, masks and the like left out."""

    folders: list[str]
    files: list[str]  # videos and arrays
    pictures: bool  # whether there are any


def _list(folder: Path) -> _Listing:
    folders: list[str] = []
    files: list[str] = []
    pictures = False
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # Folders first: they may be called like files ("a.mp4/0.jpg").
            if entry.is_dir():
                if not entry.name.startswith("__") and entry.name not in _MASKS:
                    folders.append(entry.name)
            elif is_picture(entry.name):
                pictures = pictures or entry.is_file()
            elif entry.is_file() and (is_video_file(entry.name) or entry.name.endswith(".npy")):
                files.append(entry.name)
    if folder.name == _PICTURES:
        folders = _one_resolution(folder, folders)
    return _Listing(sorted(folders), sorted(files), pictures)


def _one_resolution(folder: Path, names: list[str]) -> list[str]:
    """Leaves one of the folders of resolutions: 480p, else the highest, that holds videos."""
    resolutions = [name for name in names if _RESOLUTION.fullmatch(name)]
    if len(resolutions) < 2:
        return names

    def rank(name: str) -> tuple[bool, float]:
        digits = name[:-1]
        return name == _PREFERRED, float(digits) if digits.isdigit() else float("inf")

    order = sorted(resolutions, key=rank, reverse=True)
    chosen = next((name for name in order if _holds_video(folder / name)), order[0])
    return [name for name in names if name not in resolutions or name == chosen]


def _inner(source: Path) -> Path:
    """Returns the folder of a data set's videos inside `source`, or `source` itself.

    It goes inwards only where nothing else would be left out. Loose pictures are no video there.
    """
    folder, seen = source, set()
    while True:
        seen.add(os.path.realpath(folder))
        listing = _list(folder)
        inside = [
            name
            for name in listing.folders
            if name in _AROUND or (folder.name == _PICTURES and _RESOLUTION.fullmatch(name))
        ]
        if len(inside) != 1 or os.path.realpath(folder / inside[0]) in seen:
            return folder
        others = listing.files + [
            name for name in listing.folders if name != inside[0] and _holds_video(folder / name)
        ]
        if others:
            _LOG.warning(
                "%s holds %s and other videos (%s): all are used, under their paths below %s. Give "
                "%s to use it alone.",
                folder,
                inside[0],
                others[0],
                folder,
                folder / inside[0],
            )
            return folder
        folder = folder / inside[0]


def _holds_video(folder: Path) -> bool:
    return next(_walk(folder, folder, set()), None) is not None


def _walk(root: Path, folder: Path, seen: set[str]) -> Iterator[FolderClip]:
    real = os.path.realpath(folder)
    if real in seen:  # a link back up
        return
    seen.add(real)
    listing = _list(folder)
    place = folder.relative_to(root)
    split = _SPLIT_FOLDERS.get(place.parts[0].lower()) if place.parts else None
    if listing.pictures and not listing.files:
        name = place.as_posix() if place.parts else root.name
        # A folder called "train" that holds pictures is a video of a train.
        yield PictureFolder(name, folder, split if len(place.parts) > 1 else None)
    for file in listing.files:
        path = folder / file
        name = (place / path.stem).as_posix()
        if path.suffix == ".npy":
            yield from _array_clips(path, name, split or _split_of_stem(path.stem))
        else:
            yield VideoFile(name, path, split)
    for inside in listing.folders:
        yield from _walk(root, folder / inside, seen)


def _array_clips(path: Path, name: str, split: str | None) -> Iterator[ArrayClip]:
    array = open_array(path)
    if array.ndim == 4:
        yield ArrayClip(name, path, None, split)
        return
    for index in range(len(array)):
        yield ArrayClip(f"{name}-{index:05d}", path, index, split)


def _split_of_stem(stem: str) -> str | None:
    """`natural_train` is to train on, `natural_valid` is held out."""
    return _SPLIT_FOLDERS.get(stem.lower().replace("-", "_").rsplit("_", 1)[-1])


def _check_names(clips: list[FolderClip], folder: Path) -> None:
    for before, clip in itertools.pairwise(clips):
        if before.name == clip.name:
            raise VideoFolderError(
                f"{folder} holds two videos called {clip.name}, which differ in their suffixes "
                "alone: remove or rename one."
            )
    for clip in clips:
        try:
            clip.name.encode()
        except UnicodeEncodeError as error:
            raise VideoFolderError(
                f"{folder} holds a video whose name is not UTF-8, {clip.name!r}: rename it."
            ) from error
