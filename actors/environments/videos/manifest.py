"""The manifest of a folder of built frames: what was made from what, and the hash of every file.

Files of other programs may be called manifest.json, too: ours is known by its `format`, or by the
frames beside it if it is damaged.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from actors.environments.videos.clips import (
    FRAMES_VERSION,
    Clip,
    VideoFolderError,
    clip_from,
    describe_clip,
)
from actors.environments.videos.frame_files import FrameFile, FrameFileError, map_frames
from actors.environments.videos.messages import reason

MANIFEST = "manifest.json"
UNFINISHED = "building.json"
_MARK = "rl-system background frames"
FORMAT = f"{_MARK} {FRAMES_VERSION}"
_ENCODED = frozenset('\\%:*?"<>|')  # in names of files
_RESIZE = "800 x 800 bilinear, then area means"


class DamagedManifest(VideoFolderError):
    """A manifest of ours is damaged or of another version; building again replaces it."""


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
    skipped: tuple[str, ...] = ()  # names of videos that could not be read

    def command(self, folder: Path, more_sizes: tuple[int, ...] = ()) -> str:
        """Returns the command that builds this again, with its recorded options.

        Args:
            folder: where it is.
            more_sizes: sizes to add.
        """
        sizes = (*self.sizes, *more_sizes)
        return _command(
            self.source, folder, sizes, self.split_file, self.max_frames, bool(self.skipped)
        )

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
            "skipped": self.skipped,
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
            DamagedManifest: it is ours, but cannot be read, is damaged, or of another version.
        """
        text = ""
        try:
            text = path.read_bytes().decode("utf-8", "replace")
            value = json.loads(text)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if _MARK in text or _holds_frames(path.parent):
                raise _damaged_manifest(path, {}, f"cannot be read ({reason(error)})") from error
            return None
        mark = value.get("format") if isinstance(value, dict) else None
        if not isinstance(mark, str) or not mark.startswith(_MARK):
            return None
        if mark != FORMAT:
            state = f"has the format {mark!r}, and this version reads {FORMAT!r}"
            raise _damaged_manifest(path, value, state)
        try:
            return cls._parse(value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            state = f"is damaged ({type(error).__name__}: {error})"
            raise _damaged_manifest(path, value, state) from error

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
        if not isinstance(value["source"], str):
            raise TypeError("its source is no path")
        return cls(
            value["source"],
            value["split_file"],
            value["max_frames"],
            sizes,
            videos,
            tuple(value["skipped"]),
        )


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
            f"`{manifest.command(folder)}`."
        )
    return manifest


def frames_path(folder: Path, name: str, size: int) -> Path:
    """Returns where a built folder keeps the frames of one video.

    Characters of its name that not every file system or terminal takes are written as %5C and the
    like.
    """
    written = "".join(
        letter
        if letter.isprintable() and letter not in _ENCODED
        else "".join(f"%{byte:02X}" for byte in letter.encode())
        for letter in name
    )
    # A folder of that kind could not lie beside the file of a video with the same name.
    *folders, last = written.split("/")
    inside = [f"{part[:-4]}%2Enpy" if part.endswith(".npy") else part for part in folders]
    return folder / str(size) / "/".join((*inside, f"{last}.npy"))


def _command(
    source: str,
    folder: Path,
    sizes: Iterable[int],
    split_file: str | None,
    max_frames: int | None,
    skip_unreadable: bool,
) -> str:
    """Returns a command of `rl-system videos build`, quoted for a shell."""
    words = ["rl-system", "videos", "build", source, str(folder)]
    listed = ",".join(map(str, sorted(set(sizes))))
    words += ["--size", listed] if listed else []
    words += ["--split-file", split_file] if split_file else []
    words += ["--max-frames", str(max_frames)] if max_frames else []
    words += ["--skip-unreadable"] if skip_unreadable else []
    return shlex.join(words)


def _damaged_manifest(path: Path, value: Mapping[str, Any], state: str) -> DamagedManifest:
    """Returns the error, with those recorded options that can still be read from `value`."""
    source, sizes = value.get("source"), value.get("sizes")
    split_file, max_frames = value.get("split_file"), value.get("max_frames")
    command = _command(
        source if isinstance(source, str) else "SOURCE",
        path.parent,
        [size for size in sizes if isinstance(size, int)] if isinstance(sizes, list) else (),
        split_file if isinstance(split_file, str) else None,
        max_frames if isinstance(max_frames, int) else None,
        bool(value.get("skipped")),
    )
    lost = "" if value else ", and the options that it was built with"
    return DamagedManifest(
        f"{path} {state}. Make it anew, in the same folder or another one, with `{command}`{lost}."
    )


def _holds_frames(folder: Path) -> bool:
    """Whether a folder holds frames in a folder named by their size, and nothing but such."""
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return False
    sizes = [path for path in entries if not path.name.startswith((MANIFEST, UNFINISHED))]
    files = [next(path.rglob("*.npy"), None) if path.is_dir() else None for path in sizes]
    return bool(sizes) and all(
        path.name.isdigit() and file is not None and _is_frames(file, int(path.name))
        for path, file in zip(sizes, files, strict=True)
    )


def _is_frames(path: Path, size: int) -> bool:
    try:
        return map_frames(path).shape[1:] == (size, size, 3)
    except FrameFileError:
        return False


def _safe(name: str) -> str:
    """Returns the name of a video if it stays below its folder."""
    place = PurePosixPath(name)
    name.encode()  # a ValueError, too
    if not name or place.is_absolute() or ".." in place.parts:
        raise ValueError(f"the name {name!r} leads out of the folder")
    return name
