"""Building frames once, for many machines: what `rl-system videos build` does.

Videos are decoded by several processes, each file is written beside and renamed, and what is
finished is kept: a build that was stopped goes on, and a build of a source that has changed makes
only what has changed. The format is that of `manifest`.
"""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import cv2

from actors.environments.videos.clips import (
    PUBLISHED_SIZE,
    Clip,
    VideoFolderError,
    read_pictures,
    to_square,
)
from actors.environments.videos.earlier_build import (
    LOCK,
    Changes,
    EarlierBuild,
    check_place,
    frame_limit,
    read_earlier_build,
)
from actors.environments.videos.file_lock import LockTimeout, file_lock
from actors.environments.videos.folders import expand_path
from actors.environments.videos.frame_files import PART_SUFFIX, FrameFile, FrameWriter, hash_file
from actors.environments.videos.manifest import (
    MANIFEST,
    UNFINISHED,
    BuiltVideo,
    Manifest,
    frames_path,
)
from actors.environments.videos.messages import reason, way_out
from actors.environments.videos.splits import SPLITS, find_source

_SAVE_SHARE = 0.05  # of the time at most goes into writing down what is finished
_SAMPLE = 40  # videos that are looked at to estimate the size of all
_LOCK_TIMEOUT_S = 600.0


Task = tuple[Path, str, Clip, tuple[int, ...], int | None]  # arguments of `_make_video`


@dataclass(frozen=True)
class Progress:
    """What a build reports after each video."""

    done: int  # videos that are finished, kept ones included
    total: int
    kept: int  # of those, finished by an earlier build
    skipped: int  # videos that could not be read
    name: str  # of the last one
    bytes: int  # of all finished files


@dataclass(frozen=True)
class BuildResult:
    """What a finished build holds."""

    manifest: Manifest
    progress: Progress
    skipped: tuple[str, ...]  # messages about videos that could not be read
    changes: Changes  # of the videos that the folder had before


def estimate_bytes(clips: Iterable[Clip], sizes: Iterable[int], max_frames: int | None) -> int:
    """Returns about how many bytes the frames of clips take, from a sample of them."""
    every = list(clips)
    counts = []
    for clip in every[:: max(1, len(every) // _SAMPLE)]:
        try:
            counts.append(_limited(clip.num_pictures(), frame_limit(clip, max_frames)))
        except (VideoFolderError, OSError):
            continue  # told when it is decoded
    per_frame = sum(3 * size * size for size in sizes)
    return round(sum(counts) / max(1, len(counts)) * len(every) * per_frame)


def build_videos(
    source: str,
    folder: Path,
    sizes: Iterable[int],
    *,
    split_file: str | None = None,
    max_frames: int | None = None,
    jobs: int = 1,
    skip_unreadable: bool = False,
    announce: Callable[[dict[str, tuple[Clip, ...]], Changes], None] = lambda splits, changes: None,
    report: Callable[[Progress], None] = lambda progress: None,
    lock_timeout_s: float = _LOCK_TIMEOUT_S,
) -> BuildResult:
    """Builds the frames of all videos of a source.

    Args:
        source: "procedural" or what `folders.find_clips` reads.
        folder: where to; new, empty, or a build of the same source, which is brought up to date.
            Sizes that it has already are kept beside the new ones.
        sizes: height and width of the frames, each 8 to 800 pixels.
        split_file: see `splits.read_split_file`; only the videos it names are built.
        max_frames: the first so many of each video; None: 300 of video files, all of others.
        jobs: processes that decode.
        skip_unreadable: leave out videos that cannot be read, instead of stopping at the first.
        announce: called once with the clips of each split and what changes of an earlier build,
            when all has been checked and before anything is made.
        report: called after each video.
        lock_timeout_s: how long to wait for another build of the same folder.

    Raises:
        VideoFolderError: something is missing, unreadable, not ours to overwrite, or too large for
            the disk. What is finished is kept.
        KeyboardInterrupt, or what else a signal raises: what is finished is kept.
    """
    wanted = tuple(sorted(set(sizes)))
    if not wanted or wanted[0] < 8 or wanted[-1] > PUBLISHED_SIZE:
        raise VideoFolderError(
            f"The sizes of frames are {', '.join(map(str, wanted)) or 'none'}; each must be 8 to "
            f"{PUBLISHED_SIZE} pixels (--size 400,800)."
        )
    if source != "procedural":
        source = str(expand_path(source, "the source of a build").resolve())
    if split_file is not None:
        split_file = str(expand_path(split_file, "--split-file").resolve())
    folder = folder.expanduser().resolve()
    splits = find_source(source, split_file)
    target = Manifest(source, split_file, max_frames, wanted, ())
    videos = {clip.name: (split, clip) for split in SPLITS for clip in splits[split]}
    try:
        check_place(source, folder)
        changes = read_earlier_build(source, folder).changes(target, videos)
    except OSError as error:
        raise VideoFolderError(
            f"{folder} cannot be read ({reason(error)}): {way_out(error)}."
        ) from error
    announce(splits, changes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / LOCK, lock_timeout_s, f"building {folder}"):
            # Again: another process may have built here while this one waited.
            earlier = read_earlier_build(source, folder)
            if earlier.latest is not None:
                target = replace(target, sizes=tuple(sorted({*wanted, *earlier.latest.sizes})))
            return _Build(folder, target, splits, skip_unreadable, report).run(earlier, jobs)
    except LockTimeout as error:
        raise VideoFolderError(str(error)) from error
    except OSError as error:
        raise VideoFolderError(
            f"Frames cannot be written to {folder} ({reason(error)}). What is finished is kept: "
            f"{way_out(error)}, and run the same command again."
        ) from error


class _Build:
    """One run of a build, inside the folder's lock."""

    def __init__(
        self,
        folder: Path,
        target: Manifest,
        splits: dict[str, tuple[Clip, ...]],
        skip_unreadable: bool,
        report: Callable[[Progress], None],
    ) -> None:
        self._folder = folder
        self._target = target
        self._clips = [(split, clip) for split in SPLITS for clip in splits[split]]
        self._skip_unreadable = skip_unreadable
        self._report = report
        self._finished: dict[str, BuiltVideo] = {}
        self._skipped: dict[str, str] = {}  # why, by name
        self._complete = self._kept = self._bytes = 0
        # Nothing is saved before everything kept is known: it would be forgotten.
        self._saved_at, self._save_took_s = float("inf"), 0.0

    def run(self, earlier: EarlierBuild, jobs: int) -> BuildResult:
        _remove_parts(self._folder)
        before = earlier.latest
        old = {video.name: video for video in before.videos} if before else {}
        todo: list[tuple[str, Clip, tuple[int, ...]]] = []
        for split, clip in self._clips:
            kept = self._keep(old.get(clip.name), split, clip, before)
            sizes = tuple(size for size in self._target.sizes if size not in kept.files)
            if sizes:
                todo.append((split, clip, sizes))
            if kept.files:
                self._finished[clip.name] = kept
            if not sizes:
                self._kept += 1
                self._count(kept)
        _check_disk(self._folder, todo, self._target.max_frames)
        try:
            # From here on the folder says that it is unfinished, whatever happens.
            self._save()
            if todo:
                self._make(todo, jobs)
        except BaseException:
            self._save()
            raise
        manifest = self._manifest()
        if not manifest.videos:
            raise VideoFolderError(
                f"None of the videos can be read: {next(iter(self._skipped.values()))}"
            )
        manifest.write(self._folder / MANIFEST)
        (self._folder / UNFINISHED).unlink(missing_ok=True)
        _remove_others(self._folder, manifest)
        last = manifest.videos[-1].name
        videos = {video.name: (video.split, video.clip) for video in manifest.videos}
        changes = earlier.changes(manifest, videos)
        return BuildResult(manifest, self._progress(last), tuple(self._skipped.values()), changes)

    def _keep(
        self, old: BuiltVideo | None, split: str, clip: Clip, before: Manifest | None
    ) -> BuiltVideo:
        """Returns the video with the files of an earlier build that are still right."""
        stamp = _identify(clip.stamp, clip)
        fresh = BuiltVideo(clip.name, split, stamp, "", clip, {})
        if old is None or before is None:
            return fresh
        limits = frame_limit(clip, before.max_frames), frame_limit(clip, self._target.max_frames)
        if limits[0] != limits[1]:
            return fresh
        if stamp != old.stamp and _identify(clip.digest, clip) != old.digest:
            return fresh
        files = {}
        for size, file in old.files.items():
            path = frames_path(self._folder, clip.name, size)
            if path.is_file() and hash_file(path) == file.sha256:
                files[size] = file
        return replace(fresh, digest=old.digest, files=files)

    def _make(self, todo: list[tuple[str, Clip, tuple[int, ...]]], jobs: int) -> None:
        limit = self._target.max_frames
        tasks = ((self._folder, split, clip, sizes, limit) for split, clip, sizes in todo)
        if jobs <= 1:
            for folder, split, clip, sizes, max_frames in tasks:
                try:
                    made = _make_video(folder, split, clip, sizes, max_frames)
                except VideoFolderError as error:
                    self._skip(clip.name, error)
                    continue
                self._finish(made)
            return
        try:
            self._make_in_pool(tasks, jobs)
        except BrokenProcessPool as error:  # of a result, or of the next submission
            raise VideoFolderError(
                "A process that decodes was killed, perhaps because memory ran out. What is "
                "finished is kept: run the same command again with fewer --jobs."
            ) from error

    def _make_in_pool(self, tasks: Iterator[Task], jobs: int) -> None:
        # Spawned, because OpenCV's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker) as pool:
            running: dict[Future[BuiltVideo], str] = {}
            try:
                while True:
                    for task in islice(tasks, 2 * jobs - len(running)):
                        running[pool.submit(_make_video, *task)] = task[2].name
                    if not running:
                        break
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._collect(future, running.pop(future))
            except BaseException:
                for future in running:
                    future.cancel()
                wait(running)  # those under way are finished, and counted
                for future in running:
                    if not future.cancelled() and future.exception() is None:
                        self._finish(future.result())
                raise

    def _collect(self, future: Future[BuiltVideo], name: str) -> None:
        try:
            made = future.result()
        except VideoFolderError as error:
            self._skip(name, error)
        else:
            self._finish(made)

    def _finish(self, made: BuiltVideo) -> None:
        kept = self._finished.get(made.name)
        files = {**kept.files, **made.files} if kept else made.files
        self._finished[made.name] = replace(made, files=files)
        self._count(self._finished[made.name])

    def _count(self, video: BuiltVideo) -> None:
        self._complete += 1
        self._bytes += sum(file.bytes for file in video.files.values())
        self._tell(video.name)

    def _skip(self, name: str, error: VideoFolderError) -> None:
        if not self._skip_unreadable:
            raise VideoFolderError(
                f"{error} Or leave out videos that cannot be read: --skip-unreadable."
            ) from error
        self._finished.pop(name, None)
        self._skipped[name] = str(error)
        self._tell(name)

    def _tell(self, name: str) -> None:
        self._report(self._progress(name))
        if (time.monotonic() - self._saved_at) * _SAVE_SHARE > self._save_took_s:
            self._save()

    def _progress(self, name: str) -> Progress:
        return Progress(
            self._complete, len(self._clips), self._kept, len(self._skipped), name, self._bytes
        )

    def _manifest(self) -> Manifest:
        names = [clip.name for _, clip in self._clips if clip.name in self._finished]
        videos = tuple(self._finished[name] for name in names)
        return replace(self._target, videos=videos, skipped=tuple(self._skipped))

    def _save(self) -> None:
        start = time.monotonic()
        self._manifest().write(self._folder / UNFINISHED)
        self._saved_at = time.monotonic()
        self._save_took_s = self._saved_at - start


def _make_video(
    folder: Path, split: str, clip: Clip, sizes: tuple[int, ...], max_frames: int | None
) -> BuiltVideo:
    """Decodes one video once and writes it in every size."""
    stamp = _identify(clip.stamp, clip)
    files: dict[int, FrameFile] = {}
    with ExitStack() as stack:
        writers = {
            size: stack.enter_context(FrameWriter(frames_path(folder, clip.name, size), size))
            for size in sizes
        }
        for picture in read_pictures(clip, frame_limit(clip, max_frames)):
            for size, writer in writers.items():
                writer.add(to_square(picture, size))
        for size, writer in writers.items():
            files[size] = writer.finish()
    return BuiltVideo(clip.name, split, stamp, _identify(clip.digest, clip), clip, files)


def _identify(ask: Callable[[], str], clip: Clip) -> str:
    """Returns a clip's stamp or digest; a source that has gone is the source's error."""
    try:
        return ask()
    except OSError as error:
        raise VideoFolderError(f"The video {clip.name} cannot be read: {error}.") from error


def _start_worker() -> None:
    # Ctrl-C reaches every process of the terminal: the parent alone decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def _limited(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)


def _check_disk(
    folder: Path, todo: list[tuple[str, Clip, tuple[int, ...]]], max_frames: int | None
) -> None:
    if not todo:
        return
    needed = 0
    for sizes in {sizes for _, _, sizes in todo}:
        needed += estimate_bytes(
            [clip for _, clip, wanted in todo if wanted == sizes], sizes, max_frames
        )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise VideoFolderError(
            f"The frames need about {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB "
            "free: make room, use fewer sizes or videos (--size, --split-file), or shorter ones "
            "(--max-frames)."
        )


def _files(folder: Path) -> Iterator[Path]:
    for size_folder in folder.iterdir():
        if size_folder.name.isdigit() and size_folder.is_dir():
            yield from (path for path in size_folder.rglob("*") if path.is_file())


def _remove_parts(folder: Path) -> None:
    """Removes what a process that was killed left unfinished."""
    for path in list(_files(folder)):
        if path.suffix == PART_SUFFIX:
            path.unlink(missing_ok=True)


def _remove_others(folder: Path, manifest: Manifest) -> None:
    """Removes files of videos that the source has no more."""
    mine = {
        frames_path(folder, video.name, size) for video in manifest.videos for size in video.files
    }
    for path in list(_files(folder)):
        if path not in mine:
            path.unlink(missing_ok=True)
