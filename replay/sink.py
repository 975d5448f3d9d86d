"""Where a reader puts the sequences of a batch."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from replay.ring import Rows
from replay.schema import Batch


class Sink(Protocol):
    """Takes the B sequences of a batch in parts, of any shard and in any order.

    `columns`, (N,) and increasing, are the places in the batch of the N sequences of a part. A
    place may be given again, and the last counts.
    """

    def copy(self, shard: int, batch: Batch, columns: np.ndarray) -> None:
        """Takes sequences that came as copies: arrays (T, N, ...), used no longer than this call
        lasts.
        """

    def gather(self, shard: int, rows: Rows, slots: np.ndarray, columns: np.ndarray) -> None:
        """Takes the sequences at `slots`, int64 (T, N), of a shard's ring. They may be overwritten
        meanwhile: `keep`, the next call, says which were. `rows` is used no longer than this call
        lasts.
        """

    def keep(self, whole: np.ndarray) -> None:
        """Says which sequences of the last `gather` nothing was written over until it returned,
        bool (N,). The others are drawn again and come in other calls.
        """


class ArraySink:
    """Puts them into arrays (T, B, ...)."""

    def __init__(self, out: Batch) -> None:
        self._out = out

    def copy(self, shard: int, batch: Batch, columns: np.ndarray) -> None:
        """See `Sink`."""
        for name, array in batch.items():
            self._out[name][:, columns] = array

    def gather(self, shard: int, rows: Rows, slots: np.ndarray, columns: np.ndarray) -> None:
        """See `Sink`."""
        first, end = int(columns[0]), int(columns[-1]) + 1
        if end - first == len(columns):
            rows.gather(slots, {name: array[:, first:end] for name, array in self._out.items()})
            return
        part = {
            name: np.empty((*slots.shape, *array.shape[2:]), array.dtype)
            for name, array in self._out.items()
        }
        rows.gather(slots, part)
        self.copy(shard, part, columns)

    def keep(self, whole: np.ndarray) -> None:
        """See `Sink`. The others' places are given again."""
