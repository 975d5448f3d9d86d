"""A folder of built frames: what `rl-system videos build` writes and `environment.videos` may name.

    OUT/manifest.json         what was built from what, with the hash of every file
    OUT/400/bear.npy          frames of 400 x 400; one folder per size
    OUT/building.json         the manifest of a build that was interrupted

It needs its source no more and can be copied to other machines. When it is opened, every file must
be there with the size that the manifest says. When a video is first used, its file is hashed, once
per machine (a seal in the automatic cache remembers it, see `frame_files.verify_once`), and if the
source is on this machine, it must not have changed. `check_built` hashes everything, and looks for
videos that the source has gained.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np

from actors.environments.videos.clips import VideoFolderError, shrink
from actors.environments.videos.folders import expand_path, one_video_hint
from actors.environments.videos.frame_cache import cache_folder, cached_frames
from actors.environments.videos.frame_files import (
    FrameFileError,
    hash_file,
    map_frames,
    verify_once,
)
from actors.environments.videos.manifest import (
    MANIFEST,
    BuiltVideo,
    Manifest,
    frames_path,
    open_manifest,
)
from actors.environments.videos.splits import (
    check_published,
    find_source,
    first_videos,
    group_by_split,
    read_split_file,
)


class BuiltVideos:
    """The videos of one split of a built folder at one size; a `videos.VideoSource`.

    Sizes that the folder does not hold are derived from the next larger one, by area means, into
    the automatic cache.

    Raises:
        VideoFolderError: too few videos, no size large enough, a file that is missing or has
            another size than the manifest says, or a split file that does not fit. Without a split
            file, given now or when it was built, DAVIS must be complete, see `check_published`.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        split: str,
        num_videos: int | None,
        size: int,
        split_file: str | None,
        incomplete: bool = False,
    ) -> None:
        layout = {video.name: video.split for video in manifest.videos}
        if split_file is not None:
            path = expand_path(split_file, "environment.videos_split")
            splits = read_split_file(path, layout, str(folder))
        else:
            splits = group_by_split(layout)
            if manifest.split_file is None and not incomplete:
                again = manifest.command(folder)
                check_published(layout, num_videos, str(folder), split, again)
        hint = one_video_hint([v.clip for v in manifest.videos], Path(manifest.source))
        self.names = first_videos(splits[split], num_videos, str(folder), split, hint)
        self._folder = folder
        self._manifest = manifest
        self._size = size
        self._opened: dict[int, np.ndarray] = {}
        enough = [stored for stored in manifest.sizes if stored >= size]
        if not enough:
            raise VideoFolderError(
                f"{folder} holds frames of {', '.join(map(str, manifest.sizes))} "
                f"pixels, and {size} are needed: add them with "
                f"`{manifest.command(folder, (size,))}`."
            )
        self._stored = enough[0]
        by_name = {video.name: video for video in manifest.videos}
        self._videos = [by_name[name] for name in self.names]
        for video in self._videos:
            _check_size(folder, manifest, video, self._stored)

    def frames(self, index: int) -> np.ndarray:
        """Returns video `index`, read-only uint8 of shape (frames, size, size, 3), RGB.

        Raises:
            VideoFolderError: its file is damaged, or its source has changed since it was built.
        """
        if index not in self._opened:
            self._opened[index] = self._open(self._videos[index])
        return self._opened[index]

    def _open(self, video: BuiltVideo) -> np.ndarray:
        path = frames_path(self._folder, video.name, self._stored)
        expected = video.files[self._stored].sha256
        check_source(self._folder, self._manifest, video)
        seal = cache_folder() / "checked" / f"{sha256(str(path.resolve()).encode()).hexdigest()}"
        if not verify_once(path, expected, seal):
            raise _damaged(path, self._folder, self._manifest)
        try:
            frames = map_frames(path)
        except FrameFileError as error:
            raise _damaged(path, self._folder, self._manifest) from error
        if self._size == self._stored:
            return frames

        def smaller() -> Iterator[np.ndarray]:
            return (shrink(frame, self._size) for frame in frames)

        return cached_frames(video.name, str(path.resolve()), expected, self._size, smaller)


def check_built(folder: Path) -> Iterator[tuple[Path, int]]:
    """Hashes every file of a built folder and compares sources that are here.

    Yields each file when it has been checked, with its size in bytes.

    Raises:
        VideoFolderError: `folder` is no built folder, a file is missing or damaged, or a source has
            changed or gained videos.
    """
    manifest = open_manifest(folder)
    if manifest is None:
        raise VideoFolderError(
            f"{folder} holds no built frames (no {MANIFEST}): make some with `rl-system videos "
            f"build SOURCE {folder}`."
        )
    for video in manifest.videos:
        check_source(folder, manifest, video)
        for size, file in video.files.items():
            _check_size(folder, manifest, video, size)
            path = frames_path(folder, video.name, size)
            if hash_file(path) != file.sha256:
                raise _damaged(path, folder, manifest)
            yield path, file.bytes
    _check_gained(folder, manifest)


def check_source(folder: Path, manifest: Manifest, video: BuiltVideo) -> None:
    """Raises VideoFolderError if the source of a video is here and is not what it was.

    New times of change alone (a copy, a fresh download) are none: then the content decides.
    """
    try:
        if video.clip.stamp() == video.stamp or video.clip.digest() == video.digest:
            return
    except OSError:
        return  # the source is not on this machine
    raise VideoFolderError(
        f"The video {video.name} of {manifest.source} has changed since its frames in {folder} "
        f"were built: bring them up to date with `{manifest.command(folder)}`."
    )


def _check_gained(folder: Path, manifest: Manifest) -> None:
    """Raises VideoFolderError if the source is here and has videos that are not built."""
    try:
        splits = find_source(manifest.source, manifest.split_file)
    except VideoFolderError:
        return  # the source, or its split file, is not on this machine
    known = {video.name for video in manifest.videos} | set(manifest.skipped)
    gained = [clip.name for clips in splits.values() for clip in clips if clip.name not in known]
    if gained:
        raise VideoFolderError(
            f"{manifest.source} has videos that are not in {folder} ({len(gained)}, the first is "
            f"{gained[0]}): bring it up to date with `{manifest.command(folder)}`."
        )


def _check_size(folder: Path, manifest: Manifest, video: BuiltVideo, size: int) -> None:
    path = frames_path(folder, video.name, size)
    try:
        found: int | None = path.stat().st_size
    except OSError:
        found = None
    if found != video.files[size].bytes:
        state = "is missing" if found is None else f"has {found} bytes"
        raise VideoFolderError(
            f"{path} {state}; {MANIFEST} says {video.files[size].bytes} bytes. Copy the folder "
            f"again, or build the file anew with `{manifest.command(folder)}`."
        )


def _damaged(path: Path, folder: Path, manifest: Manifest) -> VideoFolderError:
    return VideoFolderError(
        f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}. Copy the folder again, or "
        f"build the file anew with `{manifest.command(folder)}`."
    )
