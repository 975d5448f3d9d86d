"""Preallocated slots that hold the steps, in memory that readers on the same machine map."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from replay.errors import ReplayError
from replay.memory import SharedMemory
from replay.schema import Batch, Schema

LARGE_ROW_BYTES = 1024  # rows from this size on are copied window by window
# Beside its step a slot costs its generation, its place in the list of free slots and, twice over
# because they grow by doubling, in the list of an episode's.
SLOT_BYTES = 28
_GENERATION = np.dtype(np.uint32)


class Rows:
    """The arrays of a ring over its memory, in the owner's process or in a reader's.

    Attributes:
        arrays: Each field's (capacity, *shape) array.
        generations: uint32 (capacity,). The number of a slot goes up when its step is given up,
            before anything else is written there.
    """

    def __init__(self, schema: Schema, capacity: int, memory: SharedMemory) -> None:
        """Lays the arrays over `memory`, of `nbytes_of(schema, capacity)`."""
        self.memory = memory
        self.arrays: dict[str, np.ndarray] = {}
        end = 0
        # The largest first: `SharedMemory.claim` works from the front.
        for field in sorted(schema.fields, key=lambda field: -field.nbytes):
            begin, end = end, end + field.nbytes * capacity
            flat = memory.data[begin:end].view(field.dtype)
            self.arrays[field.name] = flat.reshape(capacity, *field.shape)
            end = _page(end)
        flat = memory.data[end : end + capacity * _GENERATION.itemsize]
        self.generations = flat.view(_GENERATION)
        self.row_bytes = max(field.nbytes for field in schema.fields)

    @staticmethod
    def nbytes_of(schema: Schema, capacity: int) -> int:
        """Bytes that a ring of `capacity` slots takes."""
        fields = sum(_page(field.nbytes * capacity) for field in schema.fields)
        return fields + capacity * _GENERATION.itemsize

    def gather(self, slots: np.ndarray, out: Batch) -> None:
        """Copies the steps at `slots` (T, B) into `out`, arrays of shape (T, B, ...)."""
        length = len(slots)
        # Mostly the slots of a window are neighbours, and then one block copy does.
        runs = (np.diff(slots, axis=0) == 1).all(axis=0).tolist() if length else []
        firsts = slots[0].tolist() if length else []
        for name, array in self.arrays.items():
            target = out[name]
            if array[0].nbytes < LARGE_ROW_BYTES:
                target[...] = array[slots]
                continue
            for b, (run, first) in enumerate(zip(runs, firsts, strict=True)):
                target[:, b] = array[first : first + length] if run else array[slots[:, b]]


class RowsDrawn(NamedTuple):
    """Windows that lie in a ring: what a reader needs to copy them by itself."""

    slots: np.ndarray  # int64 (T, B)
    generations: np.ndarray  # uint32 (B,): of each window's first slot, at the draw
    touched: int  # slots ever written


class Ring:
    """A store of `capacity` slots of one step each, given out and taken back first-in first-out.

    A slot is an index into every field's (capacity, ...) array. An episode owns whatever slots it
    was given, in time order, so episodes that grow side by side never fragment the memory. Steps
    are copied in once and copied out once; no view of a caller's array is kept. Slots are first
    used in order 0, 1, 2, ..., and memory is claimed on first write, so a short run on a large ring
    stays small.
    """

    def __init__(self, schema: Schema, capacity: int) -> None:
        """Raises `ReplayError` for a capacity below 1."""
        if capacity < 1:
            raise ReplayError(
                f"A ring holds at least one step, got capacity {capacity}: raise "
                "replay.bytes_per_shard."
            )
        self.schema = schema
        self.capacity = capacity
        self.memory = SharedMemory(Rows.nbytes_of(schema, capacity))
        self._rows = Rows(schema, capacity, self.memory)
        self.touched = 0  # slots written at least once
        self._held: dict[int, _Slots] = {}
        # Circular: the free slots are free_count entries from _free_head on.
        self._free = np.arange(capacity)
        self._free_head = 0
        self.free_count = capacity

    @property
    def agent_steps(self) -> int:
        """Steps stored now."""
        return self.capacity - self.free_count

    @property
    def bytes_resident(self) -> int:
        """Bytes of memory claimed so far."""
        return self.touched * (self.schema.bytes_per_step + SLOT_BYTES)

    @property
    def bytes_capacity(self) -> int:
        """Bytes of memory when every slot has been used."""
        return self.capacity * (self.schema.bytes_per_step + SLOT_BYTES)

    def prepare(self, steps: Mapping[str, np.ndarray], length: int) -> Mapping[str, np.ndarray]:
        """Returns `steps` as they are: (L, ...) arrays. Raises `ReplayError` if they never fit."""
        if length > self.capacity:
            raise ReplayError(
                f"A chunk of {length} agent steps does not fit a shard of {self.capacity}: "
                "raise replay.capacity_agent_steps or replay.bytes_per_shard."
            )
        return steps

    def fits(self, prepared: Mapping[str, np.ndarray]) -> bool:
        """Whether there are free slots for them."""
        return len(prepared["is_last"]) <= self.free_count

    def append(self, ordinal: int, prepared: Mapping[str, np.ndarray]) -> None:
        """Copies (L, ...) arrays behind what segment `ordinal` holds. They must fit."""
        length = len(prepared["is_last"])
        if length > self.free_count:
            raise ReplayError(f"The ring has {self.free_count} free slots, {length} are needed.")
        slots = self._free.take(np.arange(self._free_head, self._free_head + length), mode="wrap")
        first, last = int(slots[0]), int(slots.max())
        if last >= self.touched:
            self.memory.claim((last + 1) * self._rows.row_bytes)
        run = slice(first, first + length) if (np.diff(slots) == 1).all() else None
        for name, array in self._rows.arrays.items():
            array[slots if run is None else run] = prepared[name]
        self._free_head = (self._free_head + length) % self.capacity
        self.free_count -= length
        self.touched = max(self.touched, last + 1)
        self._held.setdefault(ordinal, _Slots()).extend(slots)

    def release(self, ordinal: int) -> None:
        """Takes a segment's slots back; their content is gone with the next writes."""
        held = self._held.pop(ordinal, None)
        if held is None:
            return
        # Before the slots can be written again: a reader that copies them right now finds that the
        # number has changed and draws the window again. (Processors that may reorder the two writes
        # are kept from it by the locks that the interpreter takes in between.)
        self._rows.generations[held.slots] += 1
        tail = (self._free_head + self.free_count) % self.capacity
        self._free[(tail + np.arange(len(held.slots))) % self.capacity] = held.slots
        self.free_count += len(held.slots)

    def read(self, ordinal: int, begin: int, end: int) -> Batch:
        """Copies steps [begin, end) of a segment into new (end - begin, ...) arrays."""
        slots = self._held[ordinal].between(begin, end)
        return {name: array[slots] for name, array in self._rows.arrays.items()}

    def locate(self, ordinals: np.ndarray, starts: np.ndarray, length: int) -> RowsDrawn:
        """Where B windows of `length` steps lie: window b begins at step `starts[b]` of segment
        `ordinals[b]`.
        """
        slots = np.empty((length, len(ordinals)), np.int64)
        for b, (ordinal, start) in enumerate(zip(ordinals.tolist(), starts.tolist(), strict=True)):
            slots[:, b] = self._held[ordinal].between(start, start + length)
        return RowsDrawn(slots, self._rows.generations[slots[0]], self.touched)

    def gather(
        self, ordinals: np.ndarray, starts: np.ndarray, length: int, out: Batch | None = None
    ) -> Batch:
        """Copies those windows into new (T, B, ...) arrays, or into `out`."""
        if out is None:
            out = self.schema.empty(length, len(ordinals))
        self._rows.gather(self.locate(ordinals, starts, length).slots, out)
        return out

    def clear(self) -> None:
        """Frees every slot; memory already claimed stays claimed."""
        for ordinal in list(self._held):
            self.release(ordinal)
        self._free = np.arange(self.capacity)
        self._free_head = 0


class _Slots:
    """The slots of one segment in time order."""

    __slots__ = ("_length", "_slots")

    def __init__(self) -> None:
        self._slots = np.empty(64, np.int64)
        self._length = 0

    @property
    def slots(self) -> np.ndarray:
        """int64 (length,), a view."""
        return self._slots[: self._length]

    def between(self, begin: int, end: int) -> np.ndarray:
        """Those of steps [begin, end), a view."""
        if begin < 0 or end > self._length:
            raise IndexError(f"Steps {begin} to {end} of a segment that holds {self._length}.")
        return self._slots[begin:end]

    def extend(self, slots: np.ndarray) -> None:
        end = self._length + len(slots)
        if end > len(self._slots):
            grown = np.empty(max(end, 2 * len(self._slots)), np.int64)
            grown[: self._length] = self.slots
            self._slots = grown
        self._slots[self._length : end] = slots
        self._length = end


def _page(nbytes: int) -> int:
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
