"""What a build finds in its folder: an earlier one, and what the new one changes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from actors.environments.videos.clips import Clip, VideoFolderError
from actors.environments.videos.frame_files import PART_SUFFIX
from actors.environments.videos.manifest import (
    MANIFEST,
    UNFINISHED,
    BuiltVideo,
    DamagedManifest,
    Manifest,
)
from actors.environments.videos.messages import counted

LOCK = ".lock"  # in a built folder: held while it is built


@dataclass(frozen=True)
class Changes:
    """What a build changes of the videos that its folder had before."""

    resplit: tuple[str, ...] = ()  # names of videos whose split changes
    removed: tuple[str, ...] = ()
    recut: tuple[str, ...] = ()  # made anew because another number of frames is asked for
    options: tuple[str, ...] = ()  # those that differ from the recorded ones

    def __bool__(self) -> bool:
        """Whether any video is concerned."""
        return bool(self.resplit or self.removed or self.recut)

    def __str__(self) -> str:
        """Returns a clause such as "split changed for 2 videos; 1 video removed"."""
        parts = []
        if self.resplit:
            parts.append(f"split changed for {counted(len(self.resplit), 'video')}")
        if self.removed:
            parts.append(f"{counted(len(self.removed), 'video')} removed")
        if self.recut:
            parts.append(
                f"{counted(len(self.recut), 'video')} made anew with another number of frames"
            )
        because = (
            f" (options differ from the recorded ones: {', '.join(self.options)})"
            if self.options
            else ""
        )
        return "; ".join(parts) + because


@dataclass(frozen=True)
class EarlierBuild:
    """The manifests of a folder that was built in before; both are None in an empty one."""

    unfinished: Manifest | None = None
    finished: Manifest | None = None

    @property
    def latest(self) -> Manifest | None:
        """What says which files are right: the unfinished build, if there is one."""
        return self.unfinished or self.finished

    def changes(self, target: Manifest, videos: Mapping[str, tuple[str, Clip]]) -> Changes:
        """Returns how a build differs from what the folder held.

        What was finished counts, even if another build has been interrupted since: its videos are
        those that somebody may have used.

        Args:
            target: the new build; its videos are not looked at.
            videos: the split and the clip of every video of the new build, by name.
        """
        recorded = self.finished or self.unfinished
        if recorded is None:
            return Changes()
        old: dict[str, BuiltVideo] = {}
        for manifest in (self.unfinished, self.finished):
            old |= {video.name: video for video in manifest.videos} if manifest else {}
        both = [video for video in old.values() if video.name in videos]
        return Changes(
            tuple(video.name for video in both if video.split != videos[video.name][0]),
            tuple(name for name in old if name not in videos),
            tuple(
                video.name
                for video in both
                if frame_limit(videos[video.name][1], recorded.max_frames)
                != frame_limit(videos[video.name][1], target.max_frames)
            ),
            tuple(
                f"{option} {now or 'none'} instead of {was or 'none'}"
                for option, now, was in (
                    ("--split-file", target.split_file, recorded.split_file),
                    ("--max-frames", target.max_frames, recorded.max_frames),
                )
                if now != was
            ),
        )


def frame_limit(clip: Clip, max_frames: int | None) -> int | None:
    """Returns how many frames of a clip are built, None for all."""
    return clip.max_frames if max_frames is None else max_frames


def check_place(source: str, folder: Path) -> None:
    """Checks that a folder may be built in, as far as its path tells.

    Raises:
        VideoFolderError: it is a file, or lies in the source or around it.
    """
    if folder.is_file():
        raise VideoFolderError(f"{folder} is a file: give a new or an empty folder to build in.")
    if source == "procedural":
        return
    place = Path(source)
    if folder == place or place in folder.parents or folder in place.parents:
        raise VideoFolderError(
            f"{folder} and the source {place} lie in each other: give a folder outside the source."
        )


def read_earlier_build(source: str, folder: Path) -> EarlierBuild:
    """Returns what is in a folder already. A damaged manifest counts as none.

    Raises:
        VideoFolderError: it holds other things, or was built from another source.
        OSError: it cannot be read.
    """
    if not folder.exists():
        return EarlierBuild()
    damaged = False
    found: dict[str, Manifest | None] = {}
    # In this order: a build that ends meanwhile writes the second before it removes the first.
    for name in (UNFINISHED, MANIFEST):
        try:
            found[name] = Manifest.read(folder / name)
        except DamagedManifest:
            damaged = True  # nothing is known about the files beside it: all are made anew
    earlier = EarlierBuild(found.get(UNFINISHED), found.get(MANIFEST))
    latest = earlier.latest
    if latest is None:
        # The last one is there for a moment when another process begins.
        ours = (LOCK, UNFINISHED, UNFINISHED + PART_SUFFIX)
        if not damaged and any(entry.name not in ours for entry in folder.iterdir()):
            raise VideoFolderError(
                f"{folder} holds other things: give a new or an empty folder to build in."
            )
    elif latest.source != source:
        raise VideoFolderError(
            f"{folder} was built from {latest.source}, not from {source}: give another folder."
        )
    return earlier
