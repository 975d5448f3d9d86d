"""`rl-system videos`: fetch a data set, build frames once, check them, look at them.

Imports what it needs when it runs, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_system.errors import UserError

if TYPE_CHECKING:
    from actors.environments.videos.builder import Progress
    from actors.environments.videos.clips import Clip
    from actors.environments.videos.earlier_build import Changes

DEFAULT_SIZE = 400  # what environment.quality=paper draws
URL_VARIABLE = "RL_SYSTEM_DAVIS_URL"
_REPORT_EVERY_S = 10.0  # where the progress line cannot be overwritten
_LONGEST_S = 86_400.0  # a time-out above it is a mistake, and too long for sockets
_MARGIN = 8  # characters of a terminal's line left free


class VideosError(UserError):
    """Videos could not be fetched, built, checked or shown; the message says what to do."""


def add_parser(commands: Any) -> None:
    """Adds the subcommand to the parser of the command line."""
    parser = commands.add_parser(
        "videos",
        help="fetch, build, check and show background videos",
        description="Background videos: fetch the public data set, build their frames once for all "
        "machines, check built frames, or draw a contact sheet.",
        epilog="Example:  rl-system videos build /data/DAVIS /data/frames --size 400,800",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    _add_build(actions)
    _add_check(actions)
    _add_fetch(actions)
    _add_show(actions)


def _add_build(actions: Any) -> None:
    parser = _action(
        actions,
        "build",
        _build,
        "make the frames of a source once, for environment.videos=OUT",
        "rl-system videos build /data/DAVIS /data/frames --jobs 8",
        "What is finished is kept: after Ctrl-C, an error or a change of the source, the same "
        "command makes only what is missing. OUT needs its source no more and can be copied.",
    )
    parser.add_argument(
        "source", metavar="SRC", help="DAVIS, ILSVRC-VID, Kinetics, any tree, .npy, or procedural"
    )
    parser.add_argument("output", metavar="OUT", help="a new folder, or an earlier build of SRC")
    parser.add_argument(
        "--size",
        type=_sizes,
        default=(DEFAULT_SIZE,),
        metavar="PIXELS[,PIXELS]",
        help=f"sizes to store; smaller ones are derived from them (without: {DEFAULT_SIZE}, for "
        "environment.quality=paper and fast; exact needs 800)",
    )
    parser.add_argument(
        "--split-file",
        metavar="FILE",
        help="lines name,train or name,held_out; without: by the layout of SRC",
    )
    parser.add_argument(
        "--max-frames",
        type=_positive,
        metavar="N",
        help="first frames of each video (without: 300 of video files, all of others)",
    )
    parser.add_argument(
        "--jobs", type=_positive, metavar="N", help="processes that decode (without: one per CPU)"
    )
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave out videos that cannot be read"
    )


def _add_check(actions: Any) -> None:
    parser = _action(
        actions,
        "check",
        _check,
        "compare every file of a built folder with its hash",
        "rl-system videos check /data/frames",
        "Sources that are on this machine are compared, too: videos that have changed or are new "
        "are told.",
    )
    parser.add_argument("folder", metavar="OUT", help="a folder that `build` has made")


def _add_fetch(actions: Any) -> None:
    parser = _action(
        actions,
        "fetch",
        _fetch,
        "download a public data set, verify and unpack it",
        "rl-system videos fetch davis /data",
        "DAVIS 2017, 480p, training and validation (0.83 GB to download). A download that broke "
        "off is resumed. The archive's SHA-256, its members' checksums and the presence of all 90 "
        "videos are verified.",
    )
    parser.add_argument("name", choices=("davis",), help="which data set")
    parser.add_argument(
        "directory",
        nargs="?",
        metavar="DIR",
        help="where DAVIS is put (without: data in the folder of the automatic cache)",
    )
    parser.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE),
        help=f"another address of the archive (also {URL_VARIABLE})",
    )
    parser.add_argument(
        "--sha256",
        metavar="HASH",
        help="of another archive that you trust; `any` takes what is there and prints its hash",
    )
    parser.add_argument("--keep-archive", action="store_true", help="do not delete the zip file")
    parser.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="SECONDS", help="silence of the server"
    )


def _add_show(actions: Any) -> None:
    parser = _action(
        actions,
        "show",
        _show,
        "draw a contact sheet of background videos",
        "rl-system videos show /data/DAVIS --split held_out --output davis.png",
        "Each row is one video: its name, its number of frames, and some of them.",
    )
    parser.add_argument("source", metavar="SOURCE", help="what environment.videos may be")
    parser.add_argument("--split", choices=("train", "held_out"), default="train")
    parser.add_argument("--split-file", metavar="FILE", help="as environment.videos_split")
    parser.add_argument("--output", default="videos.png", metavar="FILE.png")
    parser.add_argument("--num-videos", type=_positive, metavar="N", help="first n (without: 30)")
    parser.add_argument("--frames", type=_positive, default=6, metavar="N", help="of each video")
    parser.add_argument("--size", type=_positive, default=96, metavar="PIXELS", help="of a frame")


def _build(options: argparse.Namespace, command: list[str]) -> int:
    from actors.environments.videos.builder import build_videos, estimate_bytes
    from actors.environments.videos.clips import MAX_FILE_FRAMES
    from actors.environments.videos.messages import counted
    from rl_system.interrupt import Interrupt
    from rl_system.machine import cpus

    line = _Line()
    start = time.monotonic()

    def announce(splits: dict[str, tuple[Clip, ...]], changes: Changes) -> None:
        clips = [clip for names in splits.values() for clip in names]
        estimate = estimate_bytes(clips, options.size, options.max_frames)
        counts = ", ".join(f"{len(names)} {split}" for split, names in splits.items())
        noun = "video" if len(clips) == 1 else "videos"
        print(
            f"{options.source}: {counts} {noun}; about {estimate / 1e9:.2f} GB on disk, which is "
            "also the memory that all processes of a node share while every video is in use."
        )
        if options.max_frames is None and any(clip.max_frames for clip in clips):
            print(f"The first {MAX_FILE_FRAMES} frames of each video file are used (--max-frames).")
        if changes:
            print(f"{options.output} will not be as before: {changes}.")

    def report(progress: Progress) -> None:
        made = progress.done - progress.kept
        left = progress.total - progress.done - progress.skipped
        rate = made / max(1e-6, time.monotonic() - start)
        text = f"{progress.done}/{progress.total} videos  {progress.bytes / 1e9:.2f} GB"
        if made:
            text += f"  {left / rate:.0f} s left"
        line.show(f"{text}  {progress.name}", last=not left)

    with Interrupt(), line:
        result = build_videos(
            options.source,
            Path(options.output),
            options.size,
            split_file=options.split_file,
            max_frames=options.max_frames,
            jobs=options.jobs or cpus(),
            skip_unreadable=options.skip_unreadable,
            announce=announce,
            report=report,
        )
    for message in result.skipped:
        print(f"left out: {message}", file=sys.stderr)
    progress = result.progress
    print(
        f"{counted(progress.done, 'video')} ({progress.kept} kept), {progress.bytes / 1e9:.2f} GB, "
        f"sizes {', '.join(map(str, result.manifest.sizes))}, in {time.monotonic() - start:.0f} s"
        f"{f'; {result.changes}' if result.changes else ''}. Use them with environment.videos="
        f"{Path(options.output).expanduser().resolve()}"
    )
    return 0


def _check(options: argparse.Namespace, command: list[str]) -> int:
    from actors.environments.videos.built import check_built
    from actors.environments.videos.messages import counted

    files = total = 0
    with _Line() as line:
        for path, size in check_built(Path(options.folder).expanduser()):
            files, total = files + 1, total + size
            line.show(f"{counted(files, 'file')}  {total / 1e9:.2f} GB  {path.name}")
    print(
        f"{options.folder}: {counted(files, 'file')}, {total / 1e9:.2f} GB, all as its manifest "
        "says."
    )
    return 0


def _fetch(options: argparse.Namespace, command: list[str]) -> int:
    from actors.environments.videos import davis
    from actors.environments.videos.archives import ArchiveError, DownloadError, fetch_davis
    from actors.environments.videos.frame_cache import cache_folder
    from rl_system.interrupt import Interrupt

    directory = options.directory or cache_folder().parent / "data"
    expected = options.sha256 or davis.ARCHIVE_SHA256
    url = options.url or davis.URL
    line = _Line()

    def report(stage: str, done: int, total: int | None) -> None:
        if stage == "connect":
            line.show(f"connecting to {urllib.parse.urlsplit(url).netloc} ...")
            return
        share = f"/{total / 1e6:.0f}" if total else ""
        line.show(f"{stage}  {done / 1e6:.0f}{share} MB", last=done == total)

    try:
        with Interrupt(), line:
            fetched = fetch_davis(
                Path(directory).expanduser(),
                url=url,
                sha256=None if expected == "any" else expected,
                keep_archive=options.keep_archive,
                timeout_s=options.timeout,
                report=report,
            )
    except (ArchiveError, DownloadError) as error:
        raise VideosError(str(error)) from error
    if fetched.already:
        print(f"{fetched.folder} is there already, with all 90 videos.")
    if fetched.sha256 is not None:
        known = "" if fetched.sha256 == davis.ARCHIVE_SHA256 else "not "
        print(f"SHA-256 of its archive: {fetched.sha256} ({known}the published one)")
    print(f"Use it with environment.videos={fetched.folder.resolve()}")
    return 0


def _show(options: argparse.Namespace, command: list[str]) -> int:
    import numpy as np

    from actors.environments.videos import open_videos
    from actors.environments.videos.messages import counted
    from rl_system.contact_sheet import Row, write_contact_sheet

    _check_output(Path(options.output))
    source = open_videos(
        options.source,
        options.split,
        None,
        options.size,
        split_file=options.split_file,
        incomplete=True,
    )
    shown = min(len(source.names), options.num_videos or 30)
    rows = []
    with _Line() as line:
        for index in range(shown):
            frames = source.frames(index)
            picked = np.linspace(0, len(frames) - 1, options.frames).round().astype(int)
            caption = f"{source.names[index]}  ({counted(len(frames), 'frame')})"
            rows.append(Row(caption, [frames[place] for place in picked]))
            line.show(f"{index + 1}/{shown} videos  {source.names[index]}")
    try:
        path = write_contact_sheet(rows, options.output, columns=-(-shown // 15))
    except OSError as error:
        raise VideosError(
            f"{options.output} cannot be written ({error}): give another --output."
        ) from error
    every = counted(len(source.names), f"{options.split} video")
    print(f"Contact sheet of {shown} of {every}: {path}")
    return 0


def _check_output(output: Path) -> None:
    """Checks where a contact sheet goes before videos are decoded for it."""
    if output.suffix.lower() != ".png":
        raise VideosError(f"{output} does not end in .png, as contact sheets do: change --output.")
    # One folder may be missing and is made; more are a path that was mistyped.
    if not output.parent.exists() and not output.parent.parent.exists():
        raise VideosError(
            f"{output} lies in {output.parent.parent}, which does not exist: make that folder or "
            "give another --output."
        )


class _Line:
    """A progress line on the error stream: overwritten on a terminal, else now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown_at = float("-inf")
        self._open = False

    def show(self, text: str, last: bool = False) -> None:
        """Shows the text, unless another one was shown just now; the last one always."""
        now = time.monotonic()
        if now - self._shown_at < (0.1 if self._terminal else _REPORT_EVERY_S) and not last:
            return
        self._shown_at = now
        # Names of videos may hold line ends and escape sequences.
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
        if self._terminal:
            width = max(20, os.get_terminal_size(sys.stderr.fileno()).columns - _MARGIN)
            print(f"\r{text[:width]}\033[K", end="", file=sys.stderr, flush=True)
            self._open = True
        else:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._open:
            print(file=sys.stderr)


def _action(
    actions: Any, name: str, run: Any, summary: str, example: str, note: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {note}",
        epilog=f"Example:  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def run_for_user(options: argparse.Namespace, command: list[str]) -> int:
        from actors.environments.videos.clips import VideoFolderError

        try:
            return int(run(options, command))
        except VideoFolderError as error:
            raise VideosError(str(error)) from error

    parser.set_defaults(run=run_for_user)
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of sizes such as 400,800") from error


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from error
    if not 0.0 < seconds <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text} seconds; it must be above 0, up to one day")
    return seconds
