"""Weights that can be drawn from in logarithmic time while episodes come and go."""

from __future__ import annotations

import numpy as np

FAN = 256  # children of a node: a running sum of so many is updated in less than a microsecond
NODE_RANKS = 1 << 40  # more ranks than there can be: sets the keys of a level's nodes apart


class RankIndex:
    """Non-negative integer weights of consecutively numbered items, appended at one end and removed
    at the other.

    It answers "which item holds rank r", where ranks run over the items in order and each item owns
    as many ranks as its weight. The items are the leaves of a tree whose nodes have `FAN` children,
    laid out as a circle so that removal at the front costs nothing. A node keeps the running sums
    of its children, and all nodes of a level lie in one sorted array, so that one binary search a
    level serves a whole batch of ranks. The answer depends only on the items, not on how the circle
    happens to lie, so a table restored from a snapshot draws the same windows.
    """

    def __init__(self) -> None:
        """An index without items."""
        self.total = 0
        self._head = 0  # number of the oldest item
        self._tail = 0  # number after the newest item
        self._lay_out(np.zeros(FAN, np.int64))

    def set(self, item: int, weight: int) -> None:
        """Sets an item's weight; the item is a live one, or any number at or past the newest (those
        skipped weigh 0).
        """
        if self._head == self._tail:
            self._head = self._tail = item
        if item < self._head:
            raise IndexError(f"item {item} was removed; the oldest is {self._head}")
        self._tail = max(self._tail, item + 1)
        if self._tail - self._head > self._size:
            self._grow()
        self._add(item, weight - int(self._weights[item % self._size]))

    def remove_through(self, item: int) -> None:
        """Removes every item up to and including `item`."""
        while self._head < self._tail and self._head <= item:
            self._add(self._head, -int(self._weights[self._head % self._size]))
            self._head += 1

    def find(self, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each rank in [0, total): the item that holds it, and which of the item's own ranks it
        is (from 0). int64 arrays of the shape of `ranks`.
        """
        rest = (ranks + self._before(self._head % self._size)) % self.total
        position = np.zeros_like(rest)
        for keys in reversed(self._levels):
            key = position * NODE_RANKS + rest
            # The last child that begins at or before the rank: children without weight begin where
            # their right neighbour does, and those at a node's end begin past every rank in it.
            position = keys.searchsorted(key, side="right") - 1
            rest = key - keys[position]
        items = self._head + (position - self._head) % self._size
        return items, rest

    def _before(self, position: int) -> int:
        """The weight of all leaves left of `position`."""
        total = 0
        for keys in self._levels:
            total += int(keys[position]) % NODE_RANKS
            position //= FAN
        return total

    def _add(self, item: int, change: int) -> None:
        if not change:
            return
        position = item % self._size
        self._weights[position] += change
        self.total += change
        for keys in self._levels:
            node = position // FAN
            keys[position + 1 : (node + 1) * FAN] += change
            position = node

    def _grow(self) -> None:
        items = np.arange(self._head, self._head + self._size)
        old = self._weights[items % self._size]
        size = self._size
        while self._tail - self._head > size:
            size *= 2
        weights = np.zeros(size, np.int64)
        weights[items % size] = old
        self._lay_out(weights)

    def _lay_out(self, weights: np.ndarray) -> None:
        """Builds the levels, leaves first, over as many weights as the circle has places: a power
        of two, at least `FAN`.
        """
        self._size = len(weights)
        self._weights = sums = weights
        # For every child, NODE_RANKS times the number of its node, plus the weight of the
        # children of that node that lie left of it.
        self._levels: list[np.ndarray] = []
        while True:
            nodes = sums.reshape(-1, min(FAN, len(sums)))
            running = np.cumsum(nodes, axis=1)
            keys = running - nodes + NODE_RANKS * np.arange(len(nodes))[:, None]
            self._levels.append(keys.reshape(-1))
            sums = running[:, -1]
            if len(sums) == 1:
                return
