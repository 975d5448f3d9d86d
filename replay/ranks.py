"""Weights that can be drawn from in logarithmic time while episodes come and go."""

from __future__ import annotations

import numpy as np


class RankIndex:
    """Non-negative integer weights of consecutively numbered items, appended at one end and removed
    at the other.

    It answers "which item holds rank r", where ranks run over the items in order and each item owns
    as many ranks as its weight: a binary indexed tree (P. Fenwick, 1994), laid out as a circle so
    that removal at the front costs nothing. The answer depends only on the items, not on how the
    circle happens to lie, so a table restored from a snapshot draws the same windows.
    """

    def __init__(self) -> None:
        """An index without items."""
        self.total = 0
        self._head = 0  # number of the oldest item
        self._tail = 0  # number after the newest item
        self._size = 64  # a power of two, at least tail - head
        self._weights = np.zeros(self._size, np.int64)
        self._tree = np.zeros(self._size + 1, np.int64)

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
        is (from 0).
        """
        rest = (ranks + self._before(self._head % self._size)) % self.total
        position = np.zeros_like(rest)
        stride = self._size // 2
        while stride:
            weight = self._tree[position + stride]
            right = weight <= rest
            rest = np.where(right, rest - weight, rest)
            position = np.where(right, position + stride, position)
            stride //= 2
        items = self._head + (position - self._head) % self._size
        return items, rest

    def _before(self, position: int) -> int:
        total = 0
        while position:
            total += int(self._tree[position])
            position &= position - 1
        return total

    def _add(self, item: int, change: int) -> None:
        if not change:
            return
        position = item % self._size
        self._weights[position] += change
        self.total += change
        position += 1
        while position <= self._size:
            self._tree[position] += change
            position += position & -position

    def _grow(self) -> None:
        items = np.arange(self._head, self._head + self._size)
        weights = self._weights[items % self._size]
        while self._tail - self._head > self._size:
            self._size *= 2
        self._weights = np.zeros(self._size, np.int64)
        self._weights[items % self._size] = weights
        cumulative = np.concatenate([[0], np.cumsum(self._weights)])
        ends = np.arange(self._size + 1)
        self._tree = cumulative[ends] - cumulative[ends & (ends - 1)]
