"""A folder of built frames: what `rl-system videos build` writes and `environment.videos` may name.

    OUT/manifest.json         what was built from what, with the hash of every file
    OUT/400/bear.npy          frames of 400 x 400; one folder per size
    OUT/building.json         the manifest of a build that was interrupted

It needs its source no more and can be copied to other machines. When it is opened, every file must
be there with the size that the manifest says. When a video is first used, its file is hashed, once
per machine (a seal in the automatic cache remembers it, see `frame_files.verify_once`), and if the
source is on this machine, it must not have changed. `check_built` hashes everything.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from actors.environments.videos.clips import (
    FRAMES_VERSION,
    Clip,
    VideoFolderError,
    clip_from,
    describe_clip,
    shrink,
)
from actors.environments.videos.frame_cache import cache_folder, cached_frames
from actors.environments.videos.frame_files import (
    FrameFile,
    FrameFileError,
    hash_file,
    map_frames,
    verify_once,
)
from actors.environments.videos.splits import first_videos, group_by_split, read_split_file

MANIFEST = "manifest.json"
UNFINISHED = "building.json"
FORMAT = f"rl-system background frames {FRAMES_VERSION}"
_RESIZE = "800 x 800 bilinear, then area means"


@dataclass(frozen=True)
class BuiltVideo:
    """One video of a built folder."""

    name: str
    split: str
    stamp: str  # of its source, see `Clip.stamp`
    digest: str  # of its source's content
    clip: Clip
    files: dict[int, FrameFile]  # by size


@dataclass(frozen=True)
class Manifest:
    """What a built folder holds."""

    source: str  # the folder it was built from, or "procedural"
    split_file: str | None
    max_frames: int | None
    sizes: tuple[int, ...]  # ascending; every video of a finished build has them all
    videos: tuple[BuiltVideo, ...]  # in the order of their splits

    def command(self, folder: Path) -> str:
        """Returns the command that builds this again."""
        words = ["rl-system", "videos", "build", self.source, str(folder)]
        words += ["--size", ",".join(map(str, self.sizes))]
        words += ["--split-file", self.split_file] if self.split_file else []
        words += ["--max-frames", str(self.max_frames)] if self.max_frames else []
        return shlex.join(words)

    def write(self, path: Path) -> None:
        """Writes it beside and renames.

        Raises:
            OSError: it cannot be written.
        """
        value = {
            "format": FORMAT,
            "source": self.source,
            "split_file": self.split_file,
            "max_frames": self.max_frames,
            "resize": _RESIZE,
            "sizes": self.sizes,
            "videos": [
                {
                    "name": video.name,
                    "split": video.split,
                    "source_stamp": video.stamp,
                    "source_sha256": video.digest,
                    "source": describe_clip(video.clip),
                    "files": {
                        str(size): {"frames": file.frames, "bytes": file.bytes}
                        | {"sha256": file.sha256}
                        for size, file in sorted(video.files.items())
                    },
                }
                for video in self.videos
            ],
        }
        beside = path.with_name(path.name + ".part")
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """Reads a manifest; None if there is none, or a file of that name that is none of ours.

        Raises:
            VideoFolderError: it is damaged, or of another version.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise VideoFolderError(
                f"{path} cannot be read ({error}): delete the folder and build it again with "
                "`rl-system videos build`."
            ) from error
        mark = value.get("format") if isinstance(value, dict) else None
        if not isinstance(mark, str) or not mark.startswith("rl-system"):
            return None
        if mark != FORMAT:
            raise VideoFolderError(
                f"{path} has the format {mark!r}, this version reads {FORMAT!r}: delete the folder "
                "and build it again with `rl-system videos build`."
            )
        try:
            return cls._parse(value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise VideoFolderError(
                f"{path} is damaged ({type(error).__name__}: {error}): delete the folder and build "
                "it again with `rl-system videos build`."
            ) from error

    @classmethod
    def _parse(cls, value: dict[str, Any]) -> Manifest:
        videos = tuple(
            BuiltVideo(
                _safe(entry["name"]),
                entry["split"],
                entry["source_stamp"],
                entry["source_sha256"],
                clip_from(entry["name"], entry["source"]),
                {int(size): FrameFile(**file) for size, file in entry["files"].items()},
            )
            for entry in value["videos"]
        )
        sizes = tuple(sorted(int(size) for size in value["sizes"]))
        return cls(value["source"], value["split_file"], value["max_frames"], sizes, videos)


class BuiltVideos:
    """The videos of one split of a built folder at one size; a `videos.VideoSource`.

    Sizes that the folder does not hold are derived from the next larger one, by area means, into
    the automatic cache.

    Raises:
        VideoFolderError: too few videos, no size large enough, a file that is missing or has
            another size than the manifest says, or a split file that does not fit.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        split: str,
        num_videos: int | None,
        size: int,
        split_file: str | None,
    ) -> None:
        layout = {video.name: video.split for video in manifest.videos}
        splits = (
            group_by_split(layout)
            if split_file is None
            else read_split_file(Path(split_file), layout)
        )
        self.names = first_videos(splits[split], num_videos, str(folder), split)
        self._folder = folder
        self._manifest = manifest
        self._size = size
        self._opened: dict[int, np.ndarray] = {}
        enough = [stored for stored in manifest.sizes if stored >= size]
        if not enough:
            sizes = ",".join(map(str, (*manifest.sizes, size)))
            raise VideoFolderError(
                f"{folder} holds frames of {', '.join(map(str, manifest.sizes))} "
                f"pixels, and {size} are needed: add them with `rl-system videos build "
                f"{manifest.source} {folder} --size {sizes}`."
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


def open_manifest(folder: Path) -> Manifest | None:
    """Returns the manifest of a built folder, None if `folder` is none.

    Raises:
        VideoFolderError: its build was not finished, or the manifest is damaged.
    """
    manifest = Manifest.read(folder / MANIFEST)
    if manifest is None:
        unfinished = Manifest.read(folder / UNFINISHED)
        if unfinished is not None:
            raise VideoFolderError(
                f"The frames in {folder} are not all built. Go on with "
                f"`{unfinished.command(folder)}`."
            )
    elif not manifest.sizes or any(set(manifest.sizes) - set(v.files) for v in manifest.videos):
        raise VideoFolderError(
            f"{folder / MANIFEST} is damaged (videos without frames): build the folder again with "
            f"`rl-system videos build {manifest.source} {folder}`."
        )
    return manifest


def check_built(folder: Path) -> Iterator[tuple[Path, int]]:
    """Hashes every file of a built folder and compares sources that are here.

    Yields each file when it has been checked, with its size in bytes.

    Raises:
        VideoFolderError: `folder` is no built folder, a file is missing or damaged, or a source has
            changed.
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


def frames_path(folder: Path, name: str, size: int) -> Path:
    """Returns where a built folder keeps the frames of one video."""
    return folder / str(size) / f"{name}.npy"


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


def _safe(name: str) -> str:
    """Returns the name of a video if it stays below its folder."""
    place = PurePosixPath(name)
    if not name or place.is_absolute() or ".." in place.parts or "\\" in name:
        raise ValueError(f"the name {name!r} leads out of the folder")
    return name
