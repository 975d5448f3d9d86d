"""How much memory environments with background videos take, beside the published package.

    python -m benchmarks.video_memory [--processes 1 8] [--videos FOLDER] [--json]

Every process holds one environment (cheetah-run, all three distractions at level hard, dynamic, 60
videos) and resets it some times. All show the same folder: 60 videos of 70 JPEG frames, 854 x 480,
as DAVIS 2017 has. Then all are measured at the same moment, from /proc/self/smaps_rollup:

- private: anonymous memory, which belongs to one process alone;
- mapped: pages of files in this process, libraries included; all processes share one copy, and the
  system takes them back when it needs the memory;
- share: the proportional set size, which divides shared pages among those who map them; its sum
  over all processes is what the node holds;
- peak: the largest resident size the process ever had.

`clean` is our environment without distractions; `ours` has read every byte of all 60 videos, which
is the most it can hold; `package` holds one video at a time, as it does.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmarks import moving_pictures
from rl_system.machine import describe_machine, versions

KINDS = ("clean", "ours", "package")
NUM_VIDEOS = 60
RESETS = 5
_TIMEOUT_S = 600.0


def memory() -> dict[str, float]:
    """Returns private, mapped, share and peak of this process in megabytes."""
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0]) * 1024 / 1e6
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    return {
        "private": fields["Anonymous"],
        "mapped": fields["Rss"] - fields["Anonymous"],
        "share": fields["Pss"],
        "peak": peak,
    }


def answer(kind: str, videos: str, quality: str, seed: int, ready: Barrier, answers: Queue) -> None:
    """Runs `hold` in a process of its own; a failure is answered, too, and ends all others."""
    try:
        hold(kind, videos, quality, seed, ready, answers)
    except Exception as error:
        ready.abort()
        answers.put(f"{type(error).__name__}: {error}")


def hold(kind: str, videos: str, quality: str, seed: int, ready: Barrier, answers: Queue) -> None:
    """Makes one environment, resets it, waits for all others, and answers with its memory."""
    import numpy as np

    environment: object
    if kind == "package":
        from benchmarks.peers.distracting_suite import PackageEnvironment

        seeds = dict.fromkeys(("task", "background", "camera", "color"), seed)
        package = environment = PackageEnvironment(
            "cheetah", "run", Path(videos), seeds, action_repeat=4, image_size=100,
            difficulty="hard",
        )  # fmt: skip
        for _ in range(RESETS):
            package.reset()
            package.step(np.zeros(6))
    else:
        from actors.environments.catalog import make_environment
        from actors.environments.rendering import quality_for
        from actors.environments.settings import EnvironmentSettings
        from actors.environments.videos import open_videos

        settings = EnvironmentSettings(
            name="dcs/cheetah-run", difficulty="none" if kind == "clean" else "hard",
            videos=videos, num_videos=NUM_VIDEOS, quality=quality,
        )  # fmt: skip
        ours = environment = make_environment(settings, seed)
        for _ in range(RESETS):
            ours.reset()
            ours.step(np.zeros(6))
        if kind == "ours":
            size = quality_for(quality, settings.image_size).sky_size
            source = open_videos(videos, "train", NUM_VIDEOS, size)
            for index in range(len(source.names)):
                source.frames(index).max()
    ready.wait(_TIMEOUT_S)
    answers.put(memory())
    ready.wait(_TIMEOUT_S)  # nobody leaves before all have measured
    del environment


def measure(kind: str, processes: int, videos: str, quality: str) -> dict[str, float]:
    """Returns medians over the processes, and the sum of their shares as `node`; megabytes."""
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(processes), context.Queue()
    running = [
        context.Process(target=answer, args=(kind, videos, quality, seed, ready, answers))
        for seed in range(processes)
    ]
    for process in running:
        process.start()
    try:
        found = [answers.get(timeout=_TIMEOUT_S) for _ in running]
    finally:
        for process in running:
            process.join(timeout=60)
            process.kill()
    failures = [one for one in found if isinstance(one, str)]
    if failures:
        raise RuntimeError(f"{kind}: {failures[0]}")
    result = {name: statistics.median(one[name] for one in found) for name in found[0]}
    return result | {"node": sum(one["share"] for one in found)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 8], metavar="N")
    parser.add_argument("--videos", type=Path, metavar="FOLDER", help="DAVIS; without: drawn")
    parser.add_argument("--quality", choices=("exact", "paper", "fast"), default="paper")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args(arguments)
    os.environ.setdefault("LP_NUM_THREADS", "0")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch, "cache"))
        videos = options.videos or moving_pictures.write(Path(scratch, "videos"), NUM_VIDEOS)
        measure("ours", 1, str(videos), options.quality)  # makes the frames
        figures = {
            f"{kind}/{count}": measure(kind, count, str(videos), options.quality)
            for count in options.processes
            for kind in KINDS
        }
    print("| environments | kind | private MB | mapped MB | share MB | peak MB | node MB |")
    print("|---|---|---|---|---|---|---|")
    for name, values in figures.items():
        kind, count = name.split("/")
        cells = " | ".join(
            f"{values[column]:.0f}" for column in ("private", "mapped", "share", "peak", "node")
        )
        print(f"| {count} | {kind} | {cells} |")
    ratios = {}
    for count in options.processes:
        clean, ours, package = (figures[f"{kind}/{count}"] for kind in KINDS)
        added = {
            f"{memory_kind}_{kind}": measured[memory_kind] - clean[memory_kind]
            for kind, measured in (("ours", ours), ("package", package))
            for memory_kind in ("private", "node")
        }
        figures[f"added/{count}"] = added
        for memory_kind in ("private", "node"):
            ratios[f"{memory_kind}_{count}"] = (
                added[f"{memory_kind}_package"] / added[f"{memory_kind}_ours"]
            )
        print(
            f"What backgrounds add with {count}: per environment {added['private_ours']:.1f} MB "
            f"private (package {added['private_package']:.1f}), per node "
            f"{added['node_ours']:.0f} MB (package {added['node_package']:.0f})."
        )
    if options.json:
        machine = describe_machine() | {"versions": versions()}
        print(json.dumps({"machine": machine, "figures": figures, "ratios": ratios}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
