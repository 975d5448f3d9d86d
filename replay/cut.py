"""One moment of a table, written to disk while the table goes on changing."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from replay.blocks import (
    Block,
    Run,
    Written,
    agent_steps_per_block,
    divided,
    kept_blocks,
    missing_runs,
    write_block,
)
from replay.errors import SnapshotError
from replay.progress import Progress
from replay.schema import Batch
from replay.snapshot import SnapshotWriter, find_snapshot
from replay.table import Segment, Table

SLICE_BYTES = 2 << 20  # copied at a time between two turns of the table's owner
SLICE_RUNS = 128  # likewise, where episodes are short

PerSegment = Mapping[int, np.ndarray]  # ordinal -> 1-D array


class TableCut:
    """Saves a table as it is when this object is made.

    Stored steps never change, so the cut is only a list of segments and their lengths. Steps that
    the snapshot before has on disk are linked from there; the others are written in blocks, oldest
    first:

        cut.begin()  # touches only the disk: another thread may do it
        for block in cut:
            for _ in block:  # copies a few MB; the table may be used in between
                ...
            block.write()  # touches only the disk
        cut.commit()  # likewise
        cut.close()

    A segment that must leave the table before its turn is copied aside first, which costs memory
    (`bytes_aside`) for what is inserted faster than the disk takes it.
    """

    def __init__(
        self,
        table: Table,
        path: str | os.PathLike[str],
        content: dict[str, Any],
        *,
        arrays: Mapping[str, PerSegment] | None = None,
        before: Written | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Cuts now.

        `content` (plain values) and `arrays` (for each name, one array per segment) come back from
        `TableRestore`. `before` is what an earlier snapshot of this table has written.
        """
        self.schema = table.schema
        self.path = Path(path).absolute()
        self.progress = progress or Progress()
        self._table = table
        self._before = before
        self._lengths = {segment.ordinal: segment.length for segment in table}
        # Of segments whose steps are not all on disk or copied: which steps that may concern.
        self._waiting = {o: Run(o, 0, length) for o, length in self._lengths.items()}
        self._writer: SnapshotWriter | None = None
        self._blocks: list[Block] = []
        self._aside: dict[int, tuple[int, Batch]] = {}  # first step and steps of a segment
        self._buffer: Batch = {}
        self._content = {
            "schema": self.schema.to_json(),
            "table": table.state(),
            "segments": [
                [s.ordinal, s.actor, s.episode, s.start, s.length, s.finished] for s in table
            ],
            "arrays": {
                name: [[ordinal, len(array)] for ordinal, array in values.items()]
                for name, values in (arrays or {}).items()
            },
            "owner": content,
        }
        self._arrays = arrays or {}
        table.listeners.append(self)

    @property
    def written(self) -> Written:
        """The blocks of this snapshot, once it is committed."""
        return Written(self.path, tuple(self._blocks))

    @property
    def writer(self) -> SnapshotWriter:
        """The directory being written, after `begin`."""
        if self._writer is None:
            raise SnapshotError("TableCut.begin comes before the first block.")
        return self._writer

    @property
    def bytes_aside(self) -> int:
        """Bytes of the steps that left the table and are not written yet."""
        steps = sum(len(kept["is_last"]) for _, kept in self._aside.values())
        return steps * self.schema.bytes_per_step

    def begin(self) -> None:
        """Makes the directory and links into it what is on disk already. Touches only the disk."""
        self._writer = SnapshotWriter(self.path)
        if self._before is not None:
            folder = find_snapshot(self._before.folder)
            for block in kept_blocks(self._before.blocks, self._lengths):
                try:
                    self._writer.link(block.name, folder / block.name, block.entry)
                except OSError:  # gone or cut short meanwhile: the table has the steps as well
                    continue
                self._blocks.append(block)

    def __iter__(self) -> Iterator[BlockInProgress]:
        """The blocks to be written, each to be dealt with before the next is asked for."""
        missing = missing_runs(self._blocks, self._lengths)
        self._wait_only_for(missing)
        agent_steps = sum(run.agent_steps for run in missing)
        self.progress.begin("writing", agent_steps * self.schema.bytes_per_step)
        for runs in divided(missing, agent_steps_per_block(self.schema)):
            yield BlockInProgress(self, runs)

    def commit(self) -> None:
        """Ends the save after all blocks were written. Touches only the disk."""
        for name, values in self._arrays.items():
            file = io.BytesIO()
            np.save(file, np.concatenate([*values.values(), np.empty(0)]), allow_pickle=False)
            self.writer.part(array_file(name)).write(file.getbuffer())
        for block in self._blocks:
            self.writer.adopt(block.name, block.entry)
        blocks = [block.to_json() for block in self._blocks]
        self.writer.commit(self._content | {"blocks": blocks})

    def close(self) -> None:
        """Stops following the table, and removes what was written unless it was committed."""
        if self in self._table.listeners:
            self._table.listeners.remove(self)
        self._buffer.clear()
        self._aside.clear()
        if self._writer is not None:
            self._writer.discard()

    def grown(self, segment: Segment) -> None:
        """Steps after the cut are not part of it."""

    def removed(self, segment: Segment) -> None:
        """Copies aside what has not been copied yet."""
        waiting = self._waiting.get(segment.ordinal)
        if waiting is not None:
            self._aside[segment.ordinal] = waiting.begin, self._table.read(*waiting)

    def buffer(self, agent_steps: int) -> Batch:
        """Arrays for that many steps, the same memory for every block."""
        if not self._buffer or len(self._buffer["is_last"]) < agent_steps:
            self._buffer = self.schema.empty(agent_steps)
        return {name: array[:agent_steps] for name, array in self._buffer.items()}

    def copy(self, run: Run, out: Batch) -> None:
        """Copies a run into the (steps, ...) arrays `out`: from the table, or from aside. Runs of a
        segment are asked for in order.
        """
        ordinal, begin, end = run
        if ordinal in self._aside:
            first, steps = self._aside[ordinal]
            for name, array in steps.items():
                out[name][...] = array[begin - first : end - first]
        else:
            window = {name: array[:, None] for name, array in out.items()}
            self._table.gather(np.array([ordinal]), np.array([begin]), end - begin, window)
        if end == self._waiting[ordinal].end:
            del self._waiting[ordinal]
            self._aside.pop(ordinal, None)
        else:
            self._waiting[ordinal] = self._waiting[ordinal]._replace(begin=end)

    def add(self, block: Block) -> None:
        """Takes in a block that was written."""
        self._blocks.append(block)

    def _wait_only_for(self, runs: Iterable[Run]) -> None:
        """Forgets the segments of which nothing has to be written."""
        self._waiting.clear()
        for run in runs:
            first = self._waiting.get(run.ordinal, run)
            self._waiting[run.ordinal] = Run(run.ordinal, first.begin, run.end)
        for ordinal in [ordinal for ordinal in self._aside if ordinal not in self._waiting]:
            del self._aside[ordinal]


class BlockInProgress:
    """A block that is copied from the table slice by slice, by iterating it, and then written."""

    def __init__(self, cut: TableCut, runs: list[Run]) -> None:
        """A block of `cut` that is to hold `runs`."""
        self._cut = cut
        self._runs = runs
        self._steps = cut.buffer(sum(run.agent_steps for run in runs))

    def __iter__(self) -> Iterator[None]:
        """Copies up to `SLICE_BYTES` (or one step), of at most `SLICE_RUNS` runs, per iteration."""
        most = max(1, SLICE_BYTES // max(1, self._cut.schema.bytes_per_step))
        done = 0
        for piece in divided(self._runs, most):
            for number, run in enumerate(piece, start=1):
                to = slice(done, done + run.agent_steps)
                self._cut.copy(run, {name: array[to] for name, array in self._steps.items()})
                done += run.agent_steps
                if number % SLICE_RUNS == 0:
                    yield
            yield

    def write(self) -> None:
        """Writes and syncs the file. Touches only the disk."""
        block = write_block(self._cut.writer.staging, self._cut.schema, self._runs, self._steps)
        self._cut.add(block)
        self._cut.progress.advance(block.nbytes)


def array_file(name: str) -> str:
    """The file of the arrays called `name`."""
    return f"{name}.npy"
