"""Where background frames come from: procedural videos, a folder of videos, or built frames.

Frames are made once at the size of the texture and kept in files, from where every actor of a
machine maps them: they are held in memory once, and a reset reads nothing but a pointer. The files
lie in the automatic cache (`frame_cache`), or in a folder that `rl-system videos build` has made
(`built`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from actors.environments.videos.built import BuiltVideos
from actors.environments.videos.clips import (
    FRAMES_VERSION,
    PUBLISHED_SIZE,
    Clip,
    VideoFolderError,
    square_frames,
)
from actors.environments.videos.folders import expand_path, one_video_hint
from actors.environments.videos.frame_cache import cached_frames
from actors.environments.videos.manifest import open_manifest
from actors.environments.videos.splits import (
    check_published,
    check_split,
    find_source,
    first_videos,
)

__all__ = ["ClipVideos", "VideoFolderError", "VideoSource", "open_videos"]


class VideoSource(Protocol):
    """An ordered set of background videos at one texture size."""

    names: tuple[str, ...]

    def frames(self, index: int) -> np.ndarray:
        """Returns video `index`, read-only uint8 of shape (frames, size, size, 3), RGB."""
        ...


def open_videos(
    videos: str,
    split: str,
    num_videos: int | None,
    size: int,
    *,
    split_file: str | None = None,
    incomplete: bool = False,
) -> VideoSource:
    """Opens the videos of one split.

    Args:
        videos: "procedural", a folder of videos or a .npy array in one of the layouts of
            `folders`, or a folder that `rl-system videos build` has made.
        split: "train" or "held_out"; no video is in both (see `splits`).
        num_videos: use the first n by the split's order, None for all.
        size: height and width of the frames, 1 to 800 pixels.
        split_file: text file of lines `name,train` or `name,held_out`; None: by the layout.
        incomplete: of DAVIS, take what is there. Without, its published list must be complete, up
            to `num_videos`, unless a split file says what is used.

    Raises:
        VideoFolderError: the folder is missing, holds fewer than `num_videos` videos of this
            split, lacks videos of DAVIS, is damaged, or the split file does not fit. Frames that
            cannot be read raise it when they are first used.
    """
    check_split(split)
    if not 1 <= size <= PUBLISHED_SIZE:
        raise VideoFolderError(
            f"Background frames of {size} pixels are asked for; 1 to {PUBLISHED_SIZE} are possible."
        )
    if videos != "procedural":
        folder = expand_path(videos, "environment.videos")
        manifest = open_manifest(folder) if folder.is_dir() else None
        if manifest is not None:
            return BuiltVideos(folder, manifest, split, num_videos, size, split_file, incomplete)
    found = find_source(videos, split_file)
    where = "the set of procedural videos" if videos == "procedural" else videos
    if split_file is None and not incomplete:
        every = {clip.name for clips in found.values() for clip in clips}
        check_published(every, num_videos, where, split)
    clips = found[split]
    names = tuple(clip.name for clip in clips)
    every_clip = [clip for each in found.values() for clip in each]
    hint = one_video_hint(every_clip, Path(videos).expanduser())
    names = first_videos(names, num_videos, where, split, hint)
    return ClipVideos(clips[: len(names)], size)


class ClipVideos:
    """Clips whose frames are made at first use and kept in the automatic cache.

    Files that change while a process has the video open are not looked at again.
    """

    def __init__(self, clips: tuple[Clip, ...], size: int) -> None:
        self.names = tuple(clip.name for clip in clips)
        self._clips = clips
        self._size = size
        self._opened: dict[int, np.ndarray] = {}

    def frames(self, index: int) -> np.ndarray:
        """Returns video `index`, read-only uint8 of shape (frames, size, size, 3), RGB.

        Raises:
            VideoFolderError: a picture of it cannot be read, or the folder has gone.
        """
        if index not in self._opened:
            self._opened[index] = self._open(self._clips[index])
        return self._opened[index]

    def _open(self, clip: Clip) -> np.ndarray:
        try:
            stamp = f"{FRAMES_VERSION}|{clip.max_frames}|{clip.stamp()}"
        except OSError as error:
            raise VideoFolderError(f"The video {clip.name} cannot be read: {error}.") from error

        def make() -> Iterator[np.ndarray]:
            return square_frames(clip, self._size, clip.max_frames)

        return cached_frames(clip.name, clip.place, stamp, self._size, make)
