"""One moment of a table, written to disk while the table goes on changing."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from replay.errors import SnapshotError
from replay.schema import Batch, Schema
from replay.snapshot import SnapshotWriter, read_snapshot
from replay.table import Segment, Table


class TableCut:
    """Saves a table as it is when this object is made.

    Stored steps never change, so the cut is only a list of segments and their lengths. It is
    written oldest first, a segment at a time, and the owner may insert and sample in between; a
    segment that must leave the table before its turn is copied aside first, which costs memory only
    for what was inserted during the save. Each field becomes one `.npy` file of all steps in order.
    """

    def __init__(self, table: Table, path: str | os.PathLike[str], content: dict[str, Any]) -> None:
        """Cuts now. `content` (plain values) goes into the manifest and comes back from
        `TableRestore`.
        """
        self._table = table
        self._waiting: OrderedDict[int, tuple[Segment, int]] = OrderedDict(
            (s.ordinal, (s, s.length)) for s in table
        )
        self._aside: dict[int, Batch] = {}
        described = [[s.ordinal, s.actor, s.episode, s.start, s.length, s.finished] for s in table]
        self._content = {
            "schema": table.schema.to_json(),
            "table": table.state(),
            "segments": described,
            "owner": content,
        }
        self._writer = SnapshotWriter(path)
        agent_steps = table.agent_steps
        for field in table.schema.fields:
            header = io.BytesIO()
            layout = np.lib.format.dtype_to_descr(np.dtype(field.dtype))
            shape = (agent_steps, *field.shape)
            np.lib.format.write_array_header_2_0(
                header, {"descr": layout, "fortran_order": False, "shape": shape}
            )
            self._writer.part(f"{field.name}.npy").write(header.getvalue())
        table.listeners.append(self)

    def __iter__(self) -> Iterator[None]:
        """Writes one segment per iteration."""
        while self._waiting:
            ordinal, (segment, length) = next(iter(self._waiting.items()))
            steps = self._aside.pop(ordinal, None)
            if steps is None:
                steps = self._table.ring.gather(segment.slots[:length])
            del self._waiting[ordinal]
            self._writer.append_arrays(steps)
            yield

    def commit(self) -> None:
        """Ends the save after all segments were written. Touches only the disk: another thread may
        do it.
        """
        self._writer.commit(self._content)

    def close(self) -> None:
        """Stops following the table, and removes what was written unless it was committed."""
        if self in self._table.listeners:
            self._table.listeners.remove(self)
        self._writer.discard()

    def grown(self, segment: Segment) -> None:
        """Steps after the cut are not part of it."""

    def removed(self, segment: Segment) -> None:
        """Copies aside what has not been written yet."""
        if segment.ordinal in self._waiting:
            _, length = self._waiting[segment.ordinal]
            self._aside[segment.ordinal] = self._table.ring.gather(segment.slots[:length])


class TableRestore:
    """A saved table, checked and ready to be put back. Making this object reads everything and
    changes nothing.
    """

    def __init__(self, path: str | os.PathLike[str], schema: Schema) -> None:
        """Raises `SnapshotError` if a file is damaged or the steps have another schema."""
        self._path = Path(path)
        content = read_snapshot(path)
        saved = Schema.from_json(content["schema"])
        if saved != schema:
            differing = [
                f"{f.name} {f.dtype} {f.shape}" for f in saved.fields if f not in schema.fields
            ]
            raise SnapshotError(
                f"{self._path} holds steps of another schema (saved there: "
                f"{', '.join(differing) or 'fewer fields'}). "
                "Nothing was loaded; use the environment settings of the run that wrote it."
            )
        self._schema = schema
        self._segments: list[list[Any]] = content["segments"]
        self._state: dict[str, Any] = content["table"]
        self.owner: dict[str, Any] = content["owner"]

    def apply(self, table: Table) -> None:
        """Replaces what `table` holds."""
        arrays = {
            f.name: np.load(self._path / f"{f.name}.npy", mmap_mode="r")
            for f in self._schema.fields
        }
        table.clear()
        begin = 0
        for ordinal, actor, episode, start, length, finished in self._segments:
            segment = Segment(ordinal, actor, episode, start)
            segment.finished = finished
            table.restore_segment(
                segment, {name: array[begin : begin + length] for name, array in arrays.items()}
            )
            begin += length
        table.restore_state(self._state)
