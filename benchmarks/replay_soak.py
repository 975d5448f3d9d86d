"""Does a replay service stay within its memory for as long as it runs?

    python -m benchmarks.replay_soak [--minutes 10] [--json]

A full service, first with a learner that is too slow for its actors, then with an actor that is too
slow for its learner; the limiter holds back whoever is ahead. Every few seconds the memory of each
process of the cluster is taken from /proc/PID/smaps_rollup: its proportional set size of anonymous
and shared memory, in which what several processes map is divided among them. Pages of files do not
count: libraries, whose share in a process depends on what else runs here. Beside it: bytes in Ray's
object store, and bytes that it has spilled to the disk.

Flat is a process whose memory, by a straight line through the second half of a phase, would grow by
less than `--tolerance-mb` in the whole phase; so must the sum over all processes. Processes that
Ray starts or ends in that time count in the sum alone. Exit status 1 if something is not flat, or
something was spilled.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from benchmarks.peers.traffic import CHUNK, FRAME, STEP_BYTES
from benchmarks.replay_ours import OurStore, RayProcesses
from benchmarks.replay_stores import ANSWER_TIMEOUT_S
from rl_system.machine import describe_machine, versions

WRITERS = 2
FRAMES = 256
SAMPLES_PER_INSERT = 2.0
BAND_AGENT_STEPS = 4096.0
BURST_S = 1.0  # of somebody who is not slow
SUM = "all processes"


class Pace(NamedTuple):
    """Who is slow: seconds between two batches of the learner, and two chunks of each actor."""

    learner_s: float
    actor_s: float


# A batch is worth 512 inserted steps here, 16 chunks.
PHASES = {"slow_learner": Pace(learner_s=1.0, actor_s=0.0), "slow_actor": Pace(0.0, 0.25)}


class Sample(NamedTuple):
    """One look at the cluster: MB by process, of the object store, and spilled so far."""

    at_s: float
    process_mb: Mapping[str, float]
    object_store_mb: float
    spilled_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rl-system-soak-") as scratch, ExitStack() as opened:
        frames = Path(scratch, "frames.npy")
        np.save(frames, np.random.default_rng(0).integers(0, 256, (FRAMES, *FRAME), np.uint8))
        processes = RayProcesses(WRITERS, frames)
        opened.callback(processes.close)
        store = OurStore(processes, options.capacity, options.shards)
        opened.callback(store.close)
        store.fill(options.capacity)
        phases = {
            name: soak(store, processes, pace, options.minutes * 60 / len(PHASES), options.every)
            for name, pace in PHASES.items()
        }
        counts = store.service.stats() if store.service else {}
    figures = {name: judge(samples, options.tolerance_mb) for name, samples in phases.items()}
    passed = all(figure["passed"] for figure in figures.values())
    _print(figures)
    if options.json:
        settings = {
            "capacity_mb": round(options.capacity * STEP_BYTES / 1e6),
            "minutes": options.minutes,
            "tolerance_mb": options.tolerance_mb,
            "samples_per_insert": SAMPLES_PER_INSERT,
            "inserted_agent_steps": counts.get("inserted_agent_steps"),
            "sampled_agent_steps": counts.get("sampled_agent_steps"),
        }
        machine = describe_machine() | {"versions": versions()}
        print(json.dumps({"machine": machine, "figures": settings | figures, "ratios": {}}))
    return 0 if passed else 1


def soak(
    store: OurStore, processes: RayProcesses, pace: Pace, seconds: float, every_s: float
) -> list[Sample]:
    """Lets learner and actors run at their pace, and looks at the memory every so often."""
    assert store.service is not None
    prefix = store.service.prefix

    def act(writer: Any) -> Callable[[], Any]:
        if pace.actor_s:
            return lambda: writer.write.remote(prefix, start_at=0.0, agent_steps=CHUNK)
        return lambda: writer.write.remote(prefix, start_at=0.0, seconds=BURST_S)

    def learn() -> Any:
        burst_s = 0.0 if pace.learner_s else BURST_S
        return processes.reader.read.remote(prefix, start_at=0.0, seconds=burst_s)

    # What to call, how long to pause before it is called again.
    workers = [(act(writer), pace.actor_s) for writer in processes.writers]
    workers.append((learn, 2 * pace.learner_s))  # a call draws two batches, at the least
    store.service.limit(samples_per_insert=SAMPLES_PER_INSERT, band_agent_steps=BAND_AGENT_STEPS)
    begin = time.monotonic()
    pending = {call(): (call, pause_s) for call, pause_s in workers}
    resting: list[tuple[float, Callable[[], Any], float]] = []
    samples: list[Sample] = []
    while (now := time.monotonic()) < begin + seconds:
        for worker in [one for one in resting if one[0] <= now]:
            resting.remove(worker)
            pending[worker[1]()] = worker[1:]
        if now >= begin + every_s * len(samples):
            samples.append(look(processes, now - begin))
        done, _ = ray.wait(list(pending), timeout=0.05) if pending else ([], None)
        for call in done:
            ray.get(call)
            again, pause_s = pending.pop(call)
            resting.append((time.monotonic() + pause_s, again, pause_s))
        if not pending:
            time.sleep(0.02)
    store.service.limit(samples_per_insert=None)  # lets go whoever is held back
    ray.get(list(pending), timeout=ANSWER_TIMEOUT_S)
    return samples


def look(processes: RayProcesses, at_s: float) -> Sample:
    """Measures all processes of the cluster and its object store now."""
    found = {}
    for process in processes.processes():
        try:
            found[f"{_name(process)} {process.pid}"] = proportional_set_mb(process.pid)
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue  # has just ended
    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    stats = get_memory_info_reply(state).store_stats
    return Sample(at_s, found, stats.object_store_bytes_used / 1e6, stats.spilled_bytes_total / 1e6)


def proportional_set_mb(process_id: int) -> float:
    """Proportional set size of a process without pages of files, in megabytes."""
    total = 0
    for line in Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
            total += int(line.split()[1])
    return total * 1024 / 1e6


def judge(samples: Sequence[Sample], tolerance_mb: float) -> dict[str, Any]:
    """Returns, for every process that lived through the phase, what its memory did."""
    times = np.array([sample.at_s for sample in samples])
    series: defaultdict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for name, mb in sample.process_mb.items():
            series[name].append(mb)
    lived = {name: values for name, values in series.items() if len(values) == len(samples)}
    lived[SUM] = [sum(sample.process_mb.values()) for sample in samples]
    rows = {name: _line(times, np.array(values), tolerance_mb) for name, values in lived.items()}
    spilled_mb = samples[-1].spilled_mb
    return {
        "passed": spilled_mb == 0 and all(row["flat"] for row in rows.values()),
        "samples": len(samples),
        "spilled_mb": spilled_mb,
        "object_store_mb_maximum": round(max(sample.object_store_mb for sample in samples), 1),
        "processes": rows,
    }


def _line(times: np.ndarray, values: np.ndarray, tolerance_mb: float) -> dict[str, Any]:
    late = times >= times[-1] / 2
    slope = float(np.polyfit(times[late], values[late], 1)[0]) if late.sum() > 1 else 0.0
    return {
        "first_mb": round(float(values[0]), 1),
        "last_mb": round(float(values[-1]), 1),
        "maximum_mb": round(float(values.max()), 1),
        "slope_mb_per_minute": round(slope * 60, 3),
        "flat": slope * float(times[-1]) < tolerance_mb,
    }


def _name(process: psutil.Process) -> str:
    """`ray::ShardServer.insert` and `/path/raylet --options` by their first word's last part."""
    command = process.cmdline()
    word = command[0].split()[0] if command and command[0] else process.name()
    if word.startswith("ray::"):
        return word.partition("::")[2].partition(".")[0]
    scripts = [part for part in command[1:4] if part.endswith(".py")]
    return Path(scripts[0] if scripts else word).name


def _print(figures: Mapping[str, dict[str, Any]]) -> None:
    for phase, figure in figures.items():
        print(
            f"\n{phase}: {'flat' if figure['passed'] else 'NOT FLAT'}; object store at most "
            f"{figure['object_store_mb_maximum']} MB, {figure['spilled_mb']:g} MB spilled\n"
        )
        print(
            "| process | first MB | last MB | maximum MB | slope MB/minute |\n|---|---|---|---|---|"
        )
        for name, row in figure["processes"].items():
            print(
                f"| {name} | {row['first_mb']:.1f} | {row['last_mb']:.1f} | "
                f"{row['maximum_mb']:.1f} | {row['slope_mb_per_minute']:.2f} |"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of both phases together")
    parser.add_argument("--every", type=float, default=3.0, metavar="SECONDS", help="between looks")
    parser.add_argument("--capacity", type=int, default=20_000, help="steps of the service")
    parser.add_argument("--shards", type=int, default=2, help="processes that hold them")
    parser.add_argument("--tolerance-mb", type=float, default=10.0, help="growth in a phase")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
