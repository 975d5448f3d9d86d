"""Files of steps that are written once and shared by all snapshots that hold these steps.

A block holds whole runs of steps. Its file is the schema's fields behind one another, each the raw
bytes of its (steps, ...) array in C order; its name is made of its hash, so two files of one name
have one content.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from replay.errors import SnapshotError
from replay.schema import Batch, Schema
from replay.snapshot import write_synced

BLOCK_BYTES = 64 << 20  # at most, unless a single step is larger
SMALL_BYTES = BLOCK_BYTES // 8  # below it a block counts as small
SMALL_BLOCKS = 16  # so many small ones are written anew as one


class Run(NamedTuple):
    """Steps [begin, end) of segment `ordinal`."""

    ordinal: int
    begin: int
    end: int

    @property
    def agent_steps(self) -> int:
        """Its number of steps."""
        return self.end - self.begin


class Block(NamedTuple):
    """A file of `runs`, in this order, some of which may belong to segments that are gone."""

    name: str
    nbytes: int
    sha256: str
    runs: tuple[Run, ...]

    @property
    def agent_steps(self) -> int:
        """All steps of the file."""
        return sum(run.agent_steps for run in self.runs)

    @property
    def entry(self) -> dict[str, Any]:
        """Its entry in a manifest's parts."""
        return {"bytes": self.nbytes, "sha256": self.sha256}

    def live_agent_steps(self, lengths: Mapping[int, int]) -> int:
        """Steps of segments among `lengths` (ordinal -> stored steps)."""
        return sum(run.agent_steps for run in self.runs if run.ordinal in lengths)

    def to_json(self) -> list[Any]:
        """Name and runs as plain lists; size and hash are among a manifest's parts."""
        return [self.name, [list(run) for run in self.runs]]

    @classmethod
    def from_json(cls, block: Sequence[Any], parts: Mapping[str, Mapping[str, Any]]) -> Block:
        """The inverse of `to_json`."""
        name, runs = block
        entry = parts[name]
        return cls(name, entry["bytes"], entry["sha256"], tuple(Run(*run) for run in runs))


class Written(NamedTuple):
    """Blocks that lie in the directory of a finished snapshot."""

    folder: Path
    blocks: tuple[Block, ...]


def agent_steps_per_block(schema: Schema) -> int:
    """Steps that a block holds at most."""
    return max(1, BLOCK_BYTES // max(1, schema.bytes_per_step))


def write_block(folder: Path, schema: Schema, runs: Iterable[Run], steps: Batch) -> Block:
    """Writes the (N, ...) arrays `steps`, which are those of `runs` in order, and syncs them."""
    pieces = [_bytes_of(steps[field.name]) for field in schema.fields]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    sha256 = digest.hexdigest()
    name = f"{sha256[:32]}.steps"
    if not (folder / name).exists():
        write_synced(folder / name, pieces)
    return Block(name, sum(map(len, pieces)), sha256, tuple(runs))


class BlockReader:
    """Reads runs of segments back from the blocks of one snapshot."""

    def __init__(self, folder: Path, schema: Schema, blocks: Iterable[Block]) -> None:
        """`blocks` are files of `folder`, checked before."""
        self._folder = folder
        self._schema = schema
        self._places: defaultdict[int, list[_Place]] = defaultdict(list)
        for block in blocks:
            agent_steps, first = block.agent_steps, 0
            for run in block.runs:
                self._places[run.ordinal].append(_Place(run, block.name, agent_steps, first))
                first += run.agent_steps
        for places in self._places.values():
            places.sort()

    def runs_of(self, ordinal: int) -> list[tuple[Run, str]]:
        """The runs of a segment, from its first step on, each with the name of its block."""
        return [(place.run, place.name) for place in self._places[ordinal]]

    def read(self, ordinal: int, begin: int, end: int) -> Batch:
        """Steps [begin, end) of a segment, new (end - begin, ...) arrays. Raises `SnapshotError`
        naming the file if the disk does not give them.
        """
        steps = self._schema.empty(end - begin)
        for place in self._places[ordinal]:
            low, high = max(begin, place.run.begin), min(end, place.run.end)
            if low < high:
                part = {name: array[low - begin : high - begin] for name, array in steps.items()}
                self._read_into(part, place, place.first + low - place.run.begin)
        return steps

    def _read_into(self, steps: Batch, place: _Place, first: int) -> None:
        path, field_begins = self._folder / place.name, 0
        try:
            with path.open("rb", buffering=0) as file:
                for field in self._schema.fields:
                    file.seek(field_begins + first * field.nbytes)
                    wanted = _bytes_of(steps[field.name])
                    while wanted and (got := file.readinto(wanted)):
                        wanted = wanted[got:]
                    if wanted:
                        raise OSError("it ends too early")
                    field_begins += place.agent_steps * field.nbytes
        except OSError as error:
            raise SnapshotError(f"{path} cannot be read ({error}).") from None


class _Place(NamedTuple):
    """Where a run lies: from step `first` on of the block `name`, which has `agent_steps`."""

    run: Run
    name: str
    agent_steps: int
    first: int


def kept_blocks(blocks: Iterable[Block], lengths: Mapping[int, int]) -> list[Block]:
    """Which of the blocks written before the next snapshot shares.

    A block less than half of which is still stored is not kept, so that a snapshot takes at most
    about twice the disk space of its steps; nor are many small ones, so that their number stays
    low. `lengths` (ordinal -> stored steps) is what the snapshot holds.
    """
    kept = [
        block
        for block in blocks
        if 2 * block.live_agent_steps(lengths) >= block.agent_steps > 0
        and all(run.end <= lengths.get(run.ordinal, run.end) for run in block.runs)
    ]
    small = [block for block in kept if block.nbytes < SMALL_BYTES]
    # If nothing has to be written, the same content is to give the same files.
    if len(small) >= SMALL_BLOCKS and missing_runs(kept, lengths):
        return [block for block in kept if block.nbytes >= SMALL_BYTES]
    return kept


def missing_runs(blocks: Iterable[Block], lengths: Mapping[int, int]) -> list[Run]:
    """The steps of `lengths` that lie in none of the blocks, as runs as long as possible."""
    held: defaultdict[int, list[Run]] = defaultdict(list)
    for block in blocks:
        for run in block.runs:
            held[run.ordinal].append(run)
    missing = []
    for ordinal, length in lengths.items():
        begin = 0
        for run in sorted(held[ordinal]):
            if begin < run.begin:
                missing.append(Run(ordinal, begin, run.begin))
            begin = run.end
        if begin < length:
            missing.append(Run(ordinal, begin, length))
    return missing


def divided(runs: Iterable[Run], agent_steps: int) -> Iterator[list[Run]]:
    """The same steps in lists of at most `agent_steps` steps each."""
    part: list[Run] = []
    room = agent_steps
    for ordinal, begin, end in runs:
        while begin < end:
            run = Run(ordinal, begin, min(end, begin + room))
            part.append(run)
            begin, room = run.end, room - run.agent_steps
            if not room:
                yield part
                part, room = [], agent_steps
    if part:
        yield part


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
