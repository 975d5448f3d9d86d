"""A saved table, checked in full before anything of it is used."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from replay.blocks import Block, BlockReader, Written
from replay.cut import array_file
from replay.errors import ReplayError, SnapshotError
from replay.progress import Progress
from replay.resharding import Source, distributed, merged_table_state
from replay.schema import Schema
from replay.snapshot import damage_of, read_manifest
from replay.table import Segment, Table

Damaged = Literal["refuse", "skip"]
_FILES_NAMED = 5  # in one message

logger = logging.getLogger(__name__)


class TableRestore:
    """What one shard is to hold, checked and ready to be put in place. Making this object reads
    everything and changes nothing.

    Attributes:
        owners: The `content` that was given to each `TableCut`, one per saved part.
        arrays: Its arrays: name -> ordinal -> array. Segments a part of which was skipped, and
            arrays whose file was, have none.
        renumbered: Whether segments have other ordinals than those they were saved with.
        skipped_agent_steps: Steps left out because their files are damaged.
        written: The blocks on disk that a next save can share; None if there are none.
    """

    def __init__(
        self,
        source: Source | str | os.PathLike[str],
        schema: Schema,
        *,
        damaged: Damaged = "refuse",
        progress: Progress | None = None,
    ) -> None:
        """Checks all files that `source` needs.

        `damaged` says what to do about files of steps that are: "refuse", or "skip" those steps (an
        episode that loses steps in its middle becomes two, so that no window crosses the hole).
        Raises `SnapshotError` if files are damaged and not skipped, if a manifest is, or if the
        steps have another schema.
        """
        if damaged not in ("refuse", "skip"):
            raise ReplayError(f"damaged must be 'refuse' or 'skip', got {damaged!r}.")
        if not isinstance(source, Source):
            source = Source((os.fspath(source),))
        self.source = source
        self._schema = schema
        self._progress = progress or Progress()
        parts = [_Part(path, schema) for path in source.parts]
        if source.unchanged:
            chosen = [(parts[0], row) for row in parts[0].segments]
        else:
            lengths = [[row.length for row in part.segments] for part in parts]
            share = distributed(lengths, source.count)[source.index]
            chosen = [(parts[shard], parts[shard].segments[place]) for shard, place in share]
        harmed = self._check(parts, chosen, damaged)
        self.owners = [part.owner for part in parts]
        self.renumbered = bool(harmed) or not source.unchanged
        self._pieces = [piece for part, row in chosen for piece in part.pieces_of(row)]
        self.agent_steps = sum(piece.agent_steps for piece in self._pieces)
        self.skipped_agent_steps = sum(row.length for _, row in chosen) - self.agent_steps
        self.arrays: dict[str, dict[int, np.ndarray]] = {}
        self._number()
        self.written = None if self.renumbered else parts[0].written
        if source.unchanged:
            self._state = dict(parts[0].state)
        else:
            states = [part.state for part in parts]
            self._state = merged_table_state(states, source.index, source.count)
        if self.renumbered:
            self._state["next_ordinal"] = len(self._pieces)
        if harmed:
            logger.warning(
                "%s: %s Left out: %d of %d agent steps.",
                source,
                _named(harmed),
                self.skipped_agent_steps,
                self.skipped_agent_steps + self.agent_steps,
            )

    def apply(self, table: Table) -> None:
        """Replaces what `table` holds. What does not fit leaves, oldest first, with a warning.

        Raises `SnapshotError`, with the table empty, if the disk fails after everything was
        checked.
        """
        table.clear()
        self._progress.begin("loading", self.agent_steps * self._schema.bytes_per_step)
        try:
            for piece in self._pieces:
                steps = piece.part.reader.read(piece.row.ordinal, piece.begin, piece.end)
                row = piece.row
                segment = Segment(piece.ordinal, row.actor, row.episode, row.start + piece.begin)
                segment.finished = row.finished
                table.restore_segment(segment, steps)
                self._progress.advance(piece.agent_steps * self._schema.bytes_per_step)
        except SnapshotError as error:
            table.clear()
            raise SnapshotError(
                f"{error} It could be read before: is the disk failing? The shard is empty now; "
                "load a snapshot on another disk."
            ) from None
        table.restore_state(self._state)
        left = self.agent_steps - table.agent_steps
        table.removed_agent_steps += left
        if left:
            logger.warning(
                "%s holds more than fits here: the oldest %d of %d agent steps were left out. "
                "Raise replay.capacity_agent_steps or replay.bytes_per_shard to keep all.",
                self.source,
                left,
                self.agent_steps,
            )

    def _check(
        self, parts: Sequence[_Part], chosen: Sequence[tuple[_Part, _Row]], damaged: Damaged
    ) -> list[str]:
        """Reads the files needed; returns what is wrong with those to be skipped."""
        needed = {
            part.folder: set(part.entries) if self.source.unchanged else part.array_files()
            for part in parts
        }
        for part, row in chosen:
            needed[part.folder].update(name for _, name in part.reader.runs_of(row.ordinal))
        files = [
            (part, name, part.entries[name])
            for part in parts
            for name in sorted(needed[part.folder])
        ]
        self._progress.begin("checking", sum(entry["bytes"] for _, _, entry in files))
        found = []
        for part, name, entry in files:
            harm = damage_of(part.folder / name, entry, self._progress.advance)
            if harm is not None:
                part.harmed.add(name)
                found.append(harm)
        if found and damaged == "refuse":
            raise SnapshotError(
                f"{_named(found)} Nothing was loaded; use an earlier snapshot, or load what is "
                'whole with damaged="skip".'
            )
        return found

    def _number(self) -> None:
        """Gives every piece its ordinal, and finds its arrays."""
        for place, piece in enumerate(self._pieces):
            piece.ordinal = place if self.renumbered else piece.row.ordinal
            if piece.agent_steps < piece.row.length:
                continue
            for name, values in piece.part.arrays().items():
                if piece.row.ordinal in values:
                    self.arrays.setdefault(name, {})[piece.ordinal] = values[piece.row.ordinal]


class _Row(NamedTuple):
    """A saved segment."""

    ordinal: int
    actor: str
    episode: int
    start: int
    length: int
    finished: bool


class _Piece:
    """Steps [begin, end) of a saved segment that become a segment of the table."""

    def __init__(self, part: _Part, row: _Row, begin: int, end: int) -> None:
        self.part, self.row, self.begin, self.end = part, row, begin, end
        self.ordinal = row.ordinal

    @property
    def agent_steps(self) -> int:
        return self.end - self.begin


class _Part:
    """What one shard has saved."""

    def __init__(self, path: str, schema: Schema) -> None:
        manifest = read_manifest(path)
        content = manifest.content
        self.folder, self.entries = manifest.folder, manifest.parts
        try:
            saved = Schema.from_json(content["schema"])
            _require_same(saved, schema, path)
            blocks = tuple(Block.from_json(block, manifest.parts) for block in content["blocks"])
            self.segments = [_Row(*row) for row in content["segments"]]
            self.state: Mapping[str, Any] = content["table"]
            self.owner: dict[str, Any] = content["owner"]
            self._array_sizes: dict[str, list[list[int]]] = content["arrays"]
        except KeyError as error:
            raise SnapshotError(
                f"{path} is not what one shard has saved (no {error} in its manifest). Give the "
                "folder that the replay service wrote."
            ) from None
        self.written = Written(self.folder, blocks)
        self.reader = BlockReader(self.folder, schema, blocks)
        self.harmed: set[str] = set()  # files to be left out
        self._arrays: dict[str, dict[int, np.ndarray]] | None = None

    def array_files(self) -> set[str]:
        return {array_file(name) for name in self._array_sizes}

    def arrays(self) -> dict[str, dict[int, np.ndarray]]:
        """Name -> ordinal -> array, without those of damaged files."""
        if self._arrays is None:
            self._arrays = {}
            for name, sizes in self._array_sizes.items():
                if array_file(name) not in self.harmed:
                    flat = np.load(self.folder / array_file(name), allow_pickle=False)
                    ends = np.cumsum([size for _, size in sizes])
                    self._arrays[name] = {
                        ordinal: flat[end - size : end]
                        for (ordinal, size), end in zip(sizes, ends.tolist(), strict=True)
                    }
        return self._arrays

    def pieces_of(self, row: _Row) -> list[_Piece]:
        """What is whole of a segment, as few pieces as can be."""
        pieces: list[_Piece] = []
        for run, name in self.reader.runs_of(row.ordinal):
            if name in self.harmed:
                continue
            if pieces and pieces[-1].end == run.begin:
                pieces[-1].end = run.end
            else:
                pieces.append(_Piece(self, row, run.begin, run.end))
        return pieces


def _require_same(saved: Schema, schema: Schema, path: str) -> None:
    if saved != schema:
        differing = [
            f"{f.name} {f.dtype} {f.shape}" for f in saved.fields if f not in schema.fields
        ]
        raise SnapshotError(
            f"{path} holds steps of another schema (saved there: "
            f"{', '.join(differing) or 'fewer fields'}). "
            "Nothing was loaded; use the environment settings of the run that wrote it."
        )


def _named(damage: Sequence[str]) -> str:
    more = len(damage) - _FILES_NAMED
    return " ".join(damage[:_FILES_NAMED]) + (f" And {more} more files." if more > 0 else "")
