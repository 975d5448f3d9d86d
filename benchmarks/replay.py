"""Inserts and samples of the replay service, beside Reverb, RLlib's buffer and a copy of memory.

    rl-system bench replay [--json] [--seconds 300]

Writers stream episodes of 100 x 100 pixels from 1, 2 and 8 processes; a reader process gets batches
of 32 sequences of 32 steps. All stores hold the same number of steps, are full or a tenth full, and
are measured in turn, round after round; who begins changes with every round. An insert counts when
it is acknowledged.
RLlib's buffer is in the process that writes and reads it, so that nothing is delivered anywhere,
and has but one writer. `memory_copy` is NumPy's copy of the same windows by one thread.

Ratios are medians over rounds, by the wall clock, above 1: ours is faster. `insert_vs_reverb`,
`sample_vs_reverb` and those of RLlib are the least over all numbers of writers and both fills, of
Reverb's two ways to read the better one; `sample_vs_memcpy` is at the full store, in bytes per
second; `sample_full_vs_tenth` is our rate at the full store over that at the tenth. With the suffix
`_cpu` the same by CPU time, clients included. A ratio whose peer is not installed is null. The last
line with --json is one object of machine, figures and ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from actors.environments.backend import GraphicsUnavailable
from actors.environments.catalog import make_environment
from actors.environments.settings import EnvironmentSettings
from benchmarks.peers.traffic import BATCH_BYTES, FRAME, STEP_BYTES
from benchmarks.replay_ours import OurStore, RayProcesses
from benchmarks.replay_peers import REVERB_PYTHON, ReverbProcesses, ReverbStore, RllibStore
from benchmarks.replay_stores import MemoryCopy, Rate, Store
from benchmarks.rounds import interleave, spread
from rl_system.cli import EXIT_USER_ERROR
from rl_system.machine import describe_machine, memory_bytes, versions

RATIOS = ("insert_vs_reverb", "sample_vs_reverb", "sample_vs_memcpy", "sample_full_vs_tenth")
PEERS = ("reverb", "rllib")
FRAMES = 1024  # different ones
FILLS = ("full", "tenth")
COPIED_STEPS = 32_768  # of the memory that copies are made from: far more than caches hold
PROCESS_BYTES = 200 << 20  # of a writer or reader
_SETTLE_S = 2.0  # of the first reading of a full store: its memory is mapped then
_MEASURED_S = {False: 0.8, True: 0.2}  # of one measurement, by --quick


class TooLittleMemory(Exception):
    """What is to be measured does not fit; the message says what to lower."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.quick:
        options.capacity = min(options.capacity, 4096)
        options.writers = [count for count in options.writers if count <= 2] or [1]
        options.seconds = min(options.seconds, 1.0)
    peers = [peer for peer in PEERS if peer in options.peers]
    if "reverb" in peers and not REVERB_PYTHON.exists():
        print("Reverb is not installed: make bench-peers", file=sys.stderr)
        peers.remove("reverb")
    try:
        _check_memory(options, peers)
        with tempfile.TemporaryDirectory(prefix="rl-system-bench-") as scratch:
            frames = _write_frames(Path(scratch, "frames.npy"), options.frames)
            result = Measurement(options, peers, frames).run()
    except (TooLittleMemory, GraphicsUnavailable) as error:
        print(f"rl-system bench replay: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    _print(result)
    if options.json:
        print(json.dumps(result))
    return 0


def _check_memory(options: argparse.Namespace, peers: Sequence[str]) -> None:
    """Finds out before minutes go by whether a full and a tenth store of each kind fit."""
    # Our service wants room for a full store, although a tenth is all that it will hold.
    steps = options.capacity * (2 + 1.1 * len(peers)) + min(options.capacity, COPIED_STEPS)
    processes = (2 + max(2, *options.writers)) * (1 + len(peers))
    needed = int(steps) * STEP_BYTES + processes * PROCESS_BYTES
    available = memory_bytes()[1]
    if needed > available:
        raise TooLittleMemory(
            f"Stores of {options.capacity} steps need {needed / 2**30:.1f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are available: lower --capacity or name fewer --peers."
        )


def _write_frames(path: Path, kind: str) -> Path:
    """Writes different frames, uint8 (FRAMES, *FRAME): what an agent sees, or noise."""
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (FRAMES, *FRAME), dtype=np.uint8)
    if kind == "environment":
        settings = EnvironmentSettings(
            name="dcs/cheetah-run", difficulty="medium", image_size=FRAME[0]
        )
        environment = make_environment(settings, seed=3)
        step = environment.reset()
        for frame in frames:
            frame[:] = step.observation
            action = generator.uniform(-1.0, 1.0, 6)
            step = environment.reset() if step.last() else environment.step(action)
        environment.close()
    np.save(path, frames)
    return path


class Measurement:
    """All stores, and what they did in each round.

    Args:
        options: of the command line.
        peers: to be measured.
        frames: file of them.
    """

    def __init__(self, options: argparse.Namespace, peers: Sequence[str], frames: Path) -> None:
        self._options, self._peers, self._frames = options, peers, frames
        self._seconds = _MEASURED_S[options.quick]
        # measurement, such as "insert_full_8" -> store -> a rate of every round
        self._rates: defaultdict[str, defaultdict[str, list[Rate]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self._rounds = 0
        self._reverb_versions: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """Fills all stores, measures, and returns the object of machine, figures and ratios."""
        with ExitStack() as opened:
            full, tenth = self._open(opened)
            copy = MemoryCopy(self._frames, min(self._options.capacity, COPIED_STEPS))
            self._fill(full, tenth)
            self._rounds = interleave(
                {"all": lambda: self._round(full, tenth, copy)}, self._options.seconds
            )
        return {
            "machine": describe_machine() | {"versions": versions()},
            "figures": self._figures(),
            "ratios": self._ratios(),
        }

    def _open(self, opened: ExitStack) -> tuple[dict[str, Store], dict[str, Store]]:
        """Starts all processes and returns the stores to be full, and those to be a tenth full."""
        options, most = self._options, max(2, *self._options.writers)
        ray_processes = RayProcesses(most, self._frames)
        opened.callback(ray_processes.close)
        make: dict[str, Callable[[], Store]] = {
            "ours": lambda: OurStore(ray_processes, options.capacity, options.shards)
        }
        if "reverb" in self._peers:
            clients = ReverbProcesses(most, self._frames)
            opened.callback(clients.close)
            make["reverb"] = lambda: ReverbStore(
                clients, options.capacity, options.stride, options.reverb_chunk
            )
        if "rllib" in self._peers:
            make["rllib"] = lambda: RllibStore(self._frames, options.capacity)
        stores: list[dict[str, Store]] = []
        for _ in FILLS:
            stores.append({})
            for name, one in make.items():
                store = stores[-1][name] = one()
                opened.callback(store.close)
                if isinstance(store, ReverbStore):
                    self._reverb_versions = store.versions()
        return stores[0], stores[1]

    def _fill(self, full: dict[str, Store], tenth: dict[str, Store]) -> None:
        for name, store in full.items():
            self._say(f"{name}: storing {self._options.capacity} steps ...")
            store.fill(self._options.capacity)
            for way in store.ways:
                store.sample(self._seconds if self._options.quick else _SETTLE_S, way)
        for store in tenth.values():
            store.fill(self._options.capacity // 10)

    def _round(self, full: dict[str, Store], tenth: dict[str, Store], copy: MemoryCopy) -> None:
        """Measures everything once."""
        self._say(f"round {self._rounds + 1}")
        names = list(full) if self._rounds % 2 else list(reversed(full))
        self._rounds += 1
        for fill, stores in (("full", full), ("tenth", tenth)):
            for name in names:
                for way in stores[name].ways:
                    self._note(f"sample_{fill}", way, stores[name].sample(self._seconds, way))
        self._note("sample_full", "memory_copy", copy.sample(self._seconds))
        for writers in self._options.writers:
            for name in names:
                if writers == 1 or not full[name].one_process:
                    rate = full[name].insert(writers, self._seconds)
                    self._note(f"insert_full_{writers}", name, rate)
        for name in names:
            if not full[name].one_process:
                inserted, sampled = full[name].insert_and_sample(self._seconds)
                self._note("insert_while_sampling", name, inserted)
                self._note("sample_while_inserting", full[name].ways[0], sampled)
        for writers in self._options.writers:
            for name in names:
                if writers == 1 or not tenth[name].one_process:
                    rate = tenth[name].insert(writers, self._seconds)
                    self._note(f"insert_tenth_{writers}", name, rate)
                    tenth[name].fill(self._options.capacity // 10)

    def _note(self, measurement: str, store: str, rate: Rate) -> None:
        self._rates[measurement][store].append(rate)

    def _figures(self) -> dict[str, Any]:
        options = self._options
        return {
            "capacity_steps": options.capacity,
            "frames": options.frames,
            "step_bytes": STEP_BYTES,
            "batch_bytes": BATCH_BYTES,
            "shards": options.shards,
            "reverb": self._reverb_versions
            | {"stride": options.stride, "chunk": options.reverb_chunk},
            "seconds": options.seconds,
            "rounds": self._rounds,
            "rates": {
                measurement: {name: _summary(measurement, rates) for name, rates in stores.items()}
                for measurement, stores in sorted(self._rates.items())
            },
            "ratios": {name: _spreads(clocks) for name, clocks in self._by_round().items()},
        }

    def _by_round(self) -> dict[str, dict[str, list[float]]]:
        """Returns our rate over the others', by name, clock and round."""
        found: dict[str, dict[str, list[float]]] = {}
        for measurement, stores in sorted(self._rates.items()):
            ours = stores["ours"]
            for peer in ("reverb", "rllib", "memory_copy"):
                names = [name for name in stores if name.startswith(peer)]
                if names:
                    best = max(names, key=lambda name: statistics.median(_walls(stores[name])))
                    found[f"{measurement}_vs_{peer}"] = _quotients(ours, stores[best])
        for kind in ("sample", *(f"insert_{count}" for count in self._options.writers)):
            part, _, count = kind.partition("_")
            full, tenth = (
                self._rates["_".join(filter(None, (part, fill, count)))]["ours"] for fill in FILLS
            )
            found[f"{kind}_at_full_vs_tenth"] = _quotients(full, tenth)
        return found

    def _ratios(self) -> dict[str, float | None]:
        """One number per name and clock."""
        by_round = self._by_round()
        found: dict[str, float | None] = dict.fromkeys(RATIOS)
        for clock, suffix in (("wall", ""), ("cpu", "_cpu")):
            medians = {name: statistics.median(each[clock]) for name, each in by_round.items()}
            for peer in self._peers:
                for part in ("insert", "sample"):
                    among = [
                        value
                        for name, value in medians.items()
                        if name.startswith((f"{part}_full", f"{part}_tenth"))
                        and name.endswith(f"vs_{peer}")
                    ]
                    found[f"{part}_vs_{peer}{suffix}"] = round(min(among), 3)
            found[f"sample_vs_memcpy{suffix}"] = round(medians["sample_full_vs_memory_copy"], 3)
            found[f"sample_full_vs_tenth{suffix}"] = round(medians["sample_at_full_vs_tenth"], 3)
        return found

    def _say(self, what: str) -> None:
        print(what, file=sys.stderr, flush=True)


def _walls(rates: Sequence[Rate]) -> list[float]:
    return [rate.per_s for rate in rates]


def _quotients(ours: Sequence[Rate], theirs: Sequence[Rate]) -> dict[str, list[float]]:
    pairs = list(zip(ours, theirs, strict=True))
    return {
        "wall": [a.per_s / b.per_s for a, b in pairs],
        "cpu": [a.per_cpu_s / b.per_cpu_s for a, b in pairs],
    }


def _spreads(clocks: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {clock: spread(values) for clock, values in clocks.items()}


def _summary(measurement: str, rates: Sequence[Rate]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "per_s": spread(_walls(rates)),
        "per_cpu_s": spread([rate.per_cpu_s for rate in rates]),
    }
    if measurement.startswith("sample"):
        bytes_per_s = statistics.median(_walls(rates)) * BATCH_BYTES
        summary["gib_per_s"] = round(bytes_per_s / 2**30, 3)
    return summary


def _print(result: dict[str, Any]) -> None:
    """Prints the figures as tables in Markdown."""
    figures = result["figures"]
    print(
        f"{figures['capacity_steps']:,} steps of {figures['step_bytes']:,} bytes, frames: "
        f"{figures['frames']}; {figures['rounds']} rounds.\nMedians (quartiles); inserted steps "
        "per second, sampled batches per second; behind x: ours over theirs, by the wall clock and "
        "by CPU time."
    )
    columns = ("ours", "reverb", "reverb_dataset", "reverb_client", "rllib", "memory_copy")
    for part in ("insert", "sample"):
        rows = {m: rates for m, rates in figures["rates"].items() if m.startswith(part)}
        shown = [column for column in columns if any(column in rates for rates in rows.values())]
        print(f"\n| {part} | {' | '.join(shown).replace('_', ' ')} | ours over |")
        print("|---" * (len(shown) + 2) + "|")
        for measurement, rates in rows.items():
            cells = [_cell(rates.get(column)) for column in shown]
            over = [
                f"{name.rpartition('_vs_')[2]} x{ratio['wall']['median']:.3g} "
                f"({ratio['wall']['q1']:.3g}-{ratio['wall']['q3']:.3g}), "
                f"CPU x{ratio['cpu']['median']:.3g}"
                for name, ratio in figures["ratios"].items()
                if name.startswith(f"{measurement}_vs_")
            ]
            print(f"| {measurement.replace('_', ' ')} | {' | '.join(cells)} | {'; '.join(over)} |")
    print()
    for name, value in result["ratios"].items():
        missing = "null (not measured; Reverb is installed by make bench-peers)"
        print(f"{name}: {missing if value is None else value}")


def _cell(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "-"
    rate = {name: f"{float(f'{value:.3g}'):,g}" for name, value in summary["per_s"].items()}
    text = f"{rate['median']} ({rate['q1']}-{rate['q3']})"
    return text + (f", {summary['gib_per_s']:.2f} GiB/s" if "gib_per_s" in summary else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rl-system bench replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="for all rounds; setting up is extra"
    )
    parser.add_argument("--capacity", type=int, default=100_000, help="steps of a full store")
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 2, 8], metavar="N")
    parser.add_argument("--shards", type=int, default=1, help="processes that hold our steps")
    parser.add_argument(
        "--frames",
        choices=("environment", "noise"),
        default="environment",
        help="what is stored; Reverb always compresses",
    )
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--stride", type=int, default=16, help="steps between the windows that Reverb is given"
    )
    parser.add_argument("--reverb-chunk", type=int, default=16, help="steps of Reverb's chunks")
    parser.add_argument(
        "--quick", action="store_true", help="a small store and few, short rounds: a trial"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
