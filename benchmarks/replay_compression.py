"""What compressing replay costs and saves: `PackedStore` beside `Ring`, in the same memory.

    python -m benchmarks.replay_compression [--seconds 40] [--agent-steps 10000] [--json]

Three kinds of 100 x 100 x 3 pictures: `clean` and `medium` are what cheetah-run shows without
distractions and at level medium (procedural videos) under random actions; `noise` is random bytes.
Both stores get the bytes that `--agent-steps` uncompressed steps take, and are full before anything
is timed, so that inserts also remove. Inserts are chunks of 32 agent steps; batches are 32
windows of 32 agent steps, drawn uniformly, copied into arrays that are used again. One process, one
thread; both stores take turns, round after round. Rates are per second of CPU time, which other
work on the machine distorts less than the clock on the wall.

`memory` is what a process really grows by (resident pages, freed ones that the allocator keeps
included) after a store was filled three times over, in a process of its own.

`differences` is what other orders of the bytes would bring before zstd: as they are, each picture
less the one before, each pixel less its left neighbour. Reading includes undoing it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from benchmarks.rounds import Timing, interleave, ratios
from replay.packed import PackedStore
from replay.ring import Ring
from replay.schema import Chunk, ChunkKey, step_schema
from replay.table import Table
from rl_system.machine import describe_machine, versions

SIZE = 100
SCHEMA = step_schema((SIZE, SIZE, 3), 6)
CHUNK = 32
EPISODE_CHUNKS = 8
LENGTH, BATCH = 32, 32
KINDS = ("clean", "medium", "noise")
STORES = ("ring", "packed")
FRAMES = 1000  # of each kind; episodes are cut from them again and again
INSERTS_PER_ROUND, BATCHES_PER_ROUND = 64, 8


def frames(kind: str) -> np.ndarray:
    """Returns uint8 (FRAMES, SIZE, SIZE, 3)."""
    generator = np.random.default_rng(0)
    if kind == "noise":
        return generator.integers(0, 256, (FRAMES, SIZE, SIZE, 3), np.uint8)
    from actors.environments.catalog import make_environment
    from actors.environments.settings import EnvironmentSettings

    difficulty = "none" if kind == "clean" else kind
    environment = make_environment(
        EnvironmentSettings(name="dcs/cheetah-run", difficulty=difficulty, image_size=SIZE), 0
    )
    seen = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
    step = environment.reset()
    for i in range(FRAMES):
        seen[i] = step.observation
        step = environment.reset() if step.last() else environment.step(generator.uniform(-1, 1, 6))
    environment.close()
    return seen


def make_store(name: str, agent_steps: int) -> Ring | PackedStore:
    """Makes a store of the bytes that so many uncompressed agent steps take."""
    ring = Ring(SCHEMA, agent_steps)
    return ring if name == "ring" else PackedStore(SCHEMA, ring.bytes_capacity)


def chunks(pictures: np.ndarray) -> Iterator[Chunk]:
    """Yields the chunks of one episode after the other, without end; pictures are views."""
    generator = np.random.default_rng(1)
    for number in count():
        begin = int(generator.integers(0, FRAMES - CHUNK * EPISODE_CHUNKS))
        for i in range(EPISODE_CHUNKS):
            first, within = begin + i * CHUNK, np.arange(CHUNK) + i * CHUNK
            steps = {
                "observation": pictures[first : first + CHUNK],
                "action": generator.uniform(-1, 1, (CHUNK, 6)).astype(np.float32),
                "reward": generator.uniform(0, 1, CHUNK).astype(np.float32),
                "discount": np.ones(CHUNK, np.float32),
                "is_first": within == 0,
                "is_last": within == CHUNK * EPISODE_CHUNKS - 1,
            }
            yield Chunk(ChunkKey("actor", number, i * CHUNK), steps)


class Filled:
    """A full table, an endless stream of chunks into it, and batches out of it."""

    def __init__(self, store: str, pictures: np.ndarray, agent_steps: int) -> None:
        self.table = Table(make_store(store, agent_steps))
        self.inserts, self.batches = Timing(), Timing()
        self._chunks = chunks(pictures)
        self._generator = np.random.default_rng(2)
        self._out = SCHEMA.empty(LENGTH, BATCH)
        self.turn_over(1)

    def turn_over(self, times: int) -> None:
        """Inserts until `times` as many steps were removed as there is room for."""
        while self.table.removed_agent_steps < max(1, times * self.table.agent_steps):
            self.table.insert(next(self._chunks))

    def round(self) -> None:
        """Times some inserts, then some batches."""
        for _ in range(INSERTS_PER_ROUND):
            chunk = next(self._chunks)
            self.inserts.time(partial(self.table.insert, chunk))
        # The one that grows may still be shorter than a window.
        segments = [segment for segment in self.table if segment.length >= LENGTH]
        for _ in range(BATCHES_PER_ROUND):
            drawn = [segments[i] for i in self._generator.integers(0, len(segments), BATCH)]
            ordinals = np.array([segment.ordinal for segment in drawn])
            ends = np.array([segment.length for segment in drawn]) - LENGTH + 1
            starts = self._generator.integers(0, ends)
            self.batches.time(partial(self.table.gather, ordinals, starts, LENGTH, self._out))

    def summary(self) -> dict[str, Any]:
        """Returns what a chunk and a batch cost, rates, and bytes per agent step."""
        store, inserts, batches = self.table.store, self.inserts.summary(), self.batches.summary()
        return {
            "insert_chunk": inserts,
            "batch": batches,
            "insert_agent_steps_per_cpu_s": round(CHUNK * 1e3 / inserts["cpu_ms"]["median"]),
            "batches_per_cpu_s": round(1e3 / batches["cpu_ms"]["median"], 1),
            "agent_steps": store.agent_steps,
            "bytes_per_agent_step": round(store.bytes_resident / store.agent_steps),
        }


def resident_bytes() -> int:
    """Bytes of memory that this process has in use, shared memory included."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def answer_memory(store: str, pictures: np.ndarray, agent_steps: int, answers: Any) -> None:
    """Puts what the process grew by, and what the store says that it takes, in bytes."""
    pictures.max()  # touched, so not part of the growth
    before = resident_bytes()
    filled = Filled(store, pictures, agent_steps)
    filled.turn_over(3)
    answers.put((resident_bytes() - before, filled.table.store.bytes_resident))


def memory(store: str, pictures: np.ndarray, agent_steps: int) -> dict[str, float]:
    """Returns megabytes, measured in a process of its own."""
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=answer_memory, args=(store, pictures, agent_steps, answers))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"The process that measures {store} ended with {process.exitcode}.")
    grown, said = answers.get()
    return {"grown_mb": round(grown / 1e6, 1), "counted_mb": round(said / 1e6, 1)}


def _left_neighbour_undone(steps: np.ndarray) -> np.ndarray:
    return np.add.accumulate(steps, axis=2, dtype=np.uint8)


def _picture_before_undone(steps: np.ndarray) -> np.ndarray:
    return np.add.accumulate(steps, axis=0, dtype=np.uint8)


def _less_left_neighbour(steps: np.ndarray) -> np.ndarray:
    changed = steps.copy()
    changed[:, :, 1:] -= steps[:, :, :-1]
    return changed


def _less_picture_before(steps: np.ndarray) -> np.ndarray:
    changed = steps.copy()
    changed[1:] -= steps[:-1]
    return changed


ORDERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "as they are": (lambda steps: steps, lambda steps: steps),
    "less the picture before": (_less_picture_before, _picture_before_undone),
    "less the left neighbour": (_less_left_neighbour, _left_neighbour_undone),
}


def differences(pictures: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns ratio and CPU milliseconds per chunk, by order of the bytes."""
    compressor, decompressor = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()
    parts = [pictures[i : i + CHUNK] for i in range(0, FRAMES - CHUNK + 1, CHUNK)]
    found = {}
    for name, (change, undo) in ORDERS.items():
        writes, reads, nbytes = Timing(), Timing(), 0
        for part in parts:
            made: list[bytes] = []
            writes.time(lambda: made.append(compressor.compress(change(part).data)))  # noqa: B023
            read: list[np.ndarray] = []

            def restore() -> None:
                flat = np.frombuffer(decompressor.decompress(made[0]), np.uint8)  # noqa: B023
                read.append(undo(flat.reshape(part.shape)))  # noqa: B023

            reads.time(restore)
            assert np.array_equal(read[0], part)
            nbytes += len(made[0])
        found[name] = {
            "ratio": round(sum(part.nbytes for part in parts) / nbytes, 2),
            "write_ms": round(statistics.median(writes.cpu_ms), 2),
            "read_ms": round(statistics.median(reads.cpu_ms), 2),
        }
    return found


def measure(kind: str, agent_steps: int, seconds: float) -> dict[str, Any]:
    """Returns the figures of one kind of pictures."""
    pictures = frames(kind)
    filled = {store: Filled(store, pictures, agent_steps) for store in STORES}
    rounds = interleave({store: one.round for store, one in filled.items()}, seconds)
    found: dict[str, Any] = {store: one.summary() for store, one in filled.items()}
    ring, packed = (filled[store] for store in STORES)
    found["ratios"] = {
        "insert": statistics.median(ratios(ring.inserts, packed.inserts)["cpu"]),
        "sample": statistics.median(ratios(ring.batches, packed.batches)["cpu"]),
        "bytes": found["ring"]["bytes_per_agent_step"] / found["packed"]["bytes_per_agent_step"],
    }
    del filled, ring, packed
    for store in STORES:
        found[store] |= memory(store, pictures, agent_steps)
    return found | {"rounds": rounds, "differences": differences(pictures)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="for each kind of pictures")
    parser.add_argument("--agent-steps", type=int, default=10_000, help="that fit uncompressed")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args(arguments)
    figures = {kind: measure(kind, options.agent_steps, options.seconds) for kind in KINDS}
    print("| pictures | store | inserted steps/s | batches/s | bytes per step | steps held |"
          " MB counted | MB grown |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    for kind, found in figures.items():
        for store in STORES:
            row = found[store]
            print(
                f"| {kind} | {store} | {row['insert_agent_steps_per_cpu_s']:,} | "
                f"{row['batches_per_cpu_s']:,} | {row['bytes_per_agent_step']:,} | "
                f"{row['agent_steps']:,} | {row['counted_mb']:,.0f} | {row['grown_mb']:,.0f} |"
            )
    print(
        "\n| pictures | order of the bytes | ratio | write a chunk, CPU ms | read a chunk, CPU ms |"
    )
    print("|---|---|---|---|---|")
    for kind, found in figures.items():
        for order, row in found["differences"].items():
            print(f"| {kind} | {order} | {row['ratio']} | {row['write_ms']} | {row['read_ms']} |")
    summary = {
        f"{kind}_{name}": float(f"{ratio:.4g}")
        for kind, found in figures.items()
        for name, ratio in found.pop("ratios").items()
    }
    if options.json:
        machine = describe_machine() | {
            "versions": versions() | {"zstandard": zstandard.__version__}
        }
        print(json.dumps({"machine": machine, "figures": figures, "ratios": summary}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
