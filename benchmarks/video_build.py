"""How long background frames take to build, and to open from where they lie.

    python -m benchmarks.video_build [--videos 60] [--jobs 2] [--source FOLDER] [--json]

Without --source, videos of 70 JPEG pictures, 854 x 480, are drawn first, as DAVIS 2017 has them.

| figure | what is timed |
|---|---|
| build_s | `rl-system videos build` into an empty folder, with --jobs processes |
| rebuild_s | the same again, which hashes every file and keeps it |
| from_pictures_ms | first use of a video of the source on this machine: decoded into the cache |
| from_built_ms | first use of a built video on this machine: its file is hashed |
| from_cache_ms | first use in another process, of a video that is in the cache |
| from_seal_ms | the same of a built video, whose seal vouches for it |
| again_us | every further use in the same process |
| list_s | opening a tree of --files empty video files, as every new environment does |

Times are wall clock; those of first uses are medians over videos (--uses). Files were just written:
they come from the page cache, not from the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actors.environments.videos import VideoSource, open_videos
from actors.environments.videos.builder import build_videos
from actors.environments.videos.folders import find_clips
from benchmarks import moving_pictures
from rl_system.machine import describe_machine, versions

TIMEOUT_S = 600.0
# Run in another process: nothing of the video is mapped there. Prints milliseconds of every video.
_FIRST_USES = """
import json, sys, time
from actors.environments.videos import open_videos
folder, size, uses = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
source = open_videos(folder, "train", uses, size)
times = []
for index in range(uses):
    start = time.perf_counter()
    source.frames(index)
    times.append(1e3 * (time.perf_counter() - start))
print(json.dumps(times))
"""


def timed(work: Callable[[], object]) -> float:
    """Returns the wall clock seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def first_uses_ms(folder: Path, size: int, uses: int) -> float:
    """Returns the median time of first uses in a process of their own, milliseconds."""
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_USES, str(folder), str(size), str(uses)],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    return statistics.median(json.loads(done.stdout))


def further_uses_us(source: VideoSource, uses: int) -> float:
    """Returns the mean time of a use after the first, microseconds."""
    for index in range(uses):
        source.frames(index)
    calls = [index % uses for index in range(10_000)]
    return 1e6 * timed(lambda: [source.frames(index) for index in calls]) / len(calls)


def write_names(folder: Path, files: int) -> Path:
    """Fills `folder` with that many empty video files in classes of 500, and returns it."""
    for index in range(files):
        place = folder / f"class-{index // 500:03d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{index:06d}.mp4").touch()
    return folder


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Returns the figures, by the names of the table above, and what was measured on."""
    source = options.source or moving_pictures.write(scratch / "videos", options.videos)
    built, size, uses = scratch / "built", options.size, options.uses

    def build() -> None:
        build_videos(str(source), built, [size], jobs=options.jobs)

    figures: dict[str, Any] = {"size": size, "jobs": options.jobs, "files": options.files}
    figures["build_s"] = timed(build)
    figures["rebuild_s"] = timed(build)
    frames = list(built.rglob("*.npy"))
    figures["videos"] = len(frames)
    figures["bytes"] = sum(path.stat().st_size for path in frames)
    figures["from_pictures_ms"] = first_uses_ms(source, size, uses)
    figures["from_cache_ms"] = first_uses_ms(source, size, uses)
    figures["from_built_ms"] = first_uses_ms(built, size, uses)
    figures["from_seal_ms"] = first_uses_ms(built, size, uses)
    figures["again_us"] = further_uses_us(open_videos(str(built), "train", uses, size), uses)
    names = write_names(scratch / "names", options.files)
    figures["list_s"] = statistics.median(timed(lambda: find_clips(names)) for _ in range(3))
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=60, metavar="N", help="to draw")
    parser.add_argument("--source", type=Path, metavar="FOLDER", help="DAVIS; without: drawn")
    parser.add_argument("--size", type=int, default=400, metavar="PIXELS", help="of the frames")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes that decode")
    parser.add_argument("--uses", type=int, default=20, metavar="N", help="videos to open")
    parser.add_argument("--files", type=int, default=20_000, metavar="N", help="to list")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args(arguments)
    if options.source is None and options.videos < options.uses:
        parser.error(f"--uses {options.uses} of --videos {options.videos}: give fewer uses")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch, "cache"))
        figures = measure(options, Path(scratch))
    print(f"{figures['videos']} videos, {figures['bytes'] / 1e9:.2f} GB at {options.size} pixels")
    for name, value in figures.items():
        if isinstance(value, float):
            print(f"| {name} | {value:.3g} |")
    if options.json:
        machine = describe_machine() | {"versions": versions()}
        rounded = {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in figures.items()
        }
        print(json.dumps({"machine": machine, "figures": rounded, "ratios": {}}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
