"""Preallocated arrays that hold the steps, and the list of free places in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from replay.errors import ReplayError
from replay.schema import Batch, Schema


class Ring:
    """`capacity` slots of one step each, given out and taken back in first-in first-out order.

    A slot is an index into every field's (capacity, ...) array. An episode owns whatever slots it
    was given, in time order, so episodes that grow side by side never fragment the memory. Steps
    are copied in once and copied out once; no view of a caller's array is kept and none of the
    ring's memory is handed out. Slots are first used in order 0, 1, 2, ..., and memory is claimed
    on first write, so a short run on a large ring stays small.
    """

    def __init__(self, schema: Schema, capacity: int) -> None:
        """Raises `ReplayError` if the arrays could not fit in the machine's memory."""
        if capacity < 1:
            raise ReplayError(
                f"A ring holds at least one step, got capacity {capacity}: raise "
                "replay.bytes_per_shard."
            )
        check_memory(schema.bytes_per_step * capacity)
        self.schema = schema
        self.capacity = capacity
        self.arrays = schema.empty(capacity)
        self._free = np.arange(
            capacity
        )  # circular: the free slots are free_count entries from free_head
        self._free_head = 0
        self.free_count = capacity
        self.touched = 0  # slots written at least once

    def clear(self) -> None:
        """Frees every slot; memory already claimed stays claimed."""
        self._free = np.arange(self.capacity)
        self._free_head = 0
        self.free_count = self.capacity

    def write(self, steps: Mapping[str, np.ndarray], length: int) -> np.ndarray:
        """Copies (L, ...) arrays into L free slots and returns those slots, (L,) int64. There must
        be L free.
        """
        if length > self.free_count:
            raise ReplayError(f"The ring has {self.free_count} free slots, {length} are needed.")
        slots = self._free.take(np.arange(self._free_head, self._free_head + length), mode="wrap")
        first = int(slots[0])
        # Mostly the slots are neighbours, and one block copy is cheaper than a scatter.
        run = slice(first, first + length) if (np.diff(slots) == 1).all() else None
        for name, array in self.arrays.items():
            array[slots if run is None else run] = steps[name]
        self._free_head = (self._free_head + length) % self.capacity
        self.free_count -= length
        self.touched = max(self.touched, int(slots.max()) + 1)
        return slots

    def release(self, slots: np.ndarray) -> None:
        """Takes slots back; their content is gone for good with the next writes."""
        tail = (self._free_head + self.free_count) % self.capacity
        self._free[(tail + np.arange(len(slots))) % self.capacity] = slots
        self.free_count += len(slots)

    def gather(self, slots: np.ndarray, out: Batch | None = None) -> Batch:
        """Copies the steps at `slots` (any shape, such as (T, B)) into new arrays of shape
        (*slots.shape, ...), or into `out`.
        """
        if out is None:
            out = self.schema.empty(*slots.shape)
        for name, array in self.arrays.items():
            # "clip" is the mode in which take writes straight into `out`; slots are always in
            # range.
            np.take(array, slots, axis=0, out=out[name], mode="clip")
        return out


def available_memory() -> int | None:
    """Bytes this process could still claim: the machine's available memory within the control
    group's limit; None if unknown.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {
            line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.split()[1:]
        }
        available = found["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit != "max":
            # Page cache counts as used there although it is given back on demand: trust the larger
            # of the two views of "free".
            available = min(available, max(int(limit) - used, int(limit) // 2))
    except (OSError, ValueError):
        pass
    return available


def check_memory(needed: int, what: str = "This shard's arrays") -> None:
    """Raises `ReplayError` naming the settings to lower if `needed` bytes exceed the available
    memory.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise ReplayError(
            f"{what} need {needed / 2**30:.2f} GiB when full, but {available / 2**30:.2f} GiB of "
            "memory are available here. "
            "Lower replay.capacity_agent_steps, set replay.bytes_per_shard, or use smaller "
            "observations."
        )
