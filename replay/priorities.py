"""Weights that a learner changes, and what a batch drawn by them has to be corrected for."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from replay.errors import ReplayError

ROW = 64  # leaves that are claimed together, and children of a node


class SumTree:
    """Non-negative float64 weights that can be drawn from in proportion, in logarithmic time.

    The leaves are given out in rows of `ROW` neighbours; the address of a leaf is `ROW` times its
    row plus its place in the row. The lowest free row always comes next, so a tree put together
    again from the rows in use lies as it lay before. A node's weight is computed anew from its
    children whenever one of them changes: rounding errors do not add up, however many changes there
    are. The capacity doubles when no row is free.
    """

    def __init__(self) -> None:
        """A tree of one free row."""
        self._free: list[int] = []  # heap
        # Leaves first: a level's weights (nodes, ROW), and what lies left of each place in its
        # node, (nodes, ROW + 1), the node's weight last.
        self._weights: list[np.ndarray] = []
        self._sums: list[np.ndarray] = []
        self._lay_out(np.empty((0, ROW)), 1)

    @property
    def rows(self) -> int:
        """Rows in use and free."""
        return len(self._weights[0])

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return float(self._sums[-1][0, -1])

    def claim(self) -> int:
        """Takes a row and returns its number; its leaves weigh 0."""
        if not self._free:
            self._lay_out(self._weights[0], 2 * self.rows)
        return heapq.heappop(self._free)

    def claim_again(self, rows: Sequence[int]) -> None:
        """Takes the rows of these numbers, as saved. Raises `ReplayError` if one is in use."""
        size = self.rows
        while size <= max(rows, default=0):
            size *= 2
        if size > self.rows:
            self._lay_out(self._weights[0], size)
        taken = set(rows)
        if len(taken) != len(rows) or not taken <= set(self._free):
            raise ReplayError(
                "Two segments share a row of priorities, so the saved priorities are damaged: load "
                "the snapshot before this one."
            )
        self._free = sorted(set(self._free) - taken)

    def release(self, rows: Sequence[int]) -> None:
        """Gives rows back; their leaves weigh 0 again."""
        numbers = np.array(rows, np.int64)
        self._weights[0][numbers] = 0.0
        self._add_up(numbers)
        for row in rows:
            heapq.heappush(self._free, row)

    def set(self, addresses: np.ndarray, weights: np.ndarray | float) -> None:
        """Sets the leaves at `addresses` (int64); where an address repeats, the last one counts."""
        self._weights[0].reshape(-1)[addresses] = weights
        self._add_up(_parents(addresses))

    def fill(self, begin: int, end: int, weight: float) -> None:
        """Sets the leaves at the addresses [begin, end), of which there are some."""
        self._weights[0].reshape(-1)[begin:end] = weight
        self._add_up(_parents(range(begin, end)))

    def get(self, addresses: np.ndarray) -> np.ndarray:
        """The weights of the leaves at `addresses`, float64."""
        return self._weights[0].reshape(-1)[addresses]

    def find(self, targets: np.ndarray) -> np.ndarray:
        """The address that each target falls on when the weights lie end to end, int64.

        `targets` are float64 in [0, total). A leaf of weight 0 is never found. Needs `total > 0`.
        """
        rest = targets
        position = np.zeros(len(targets), np.int64)
        for level in reversed(self._sums):
            sums = level.take(position, axis=0)
            # A target that rounding has carried past the end of its node stays on the node.
            rest = np.minimum(rest, np.nextafter(sums[:, -1], 0.0))
            child = (sums > rest[:, None]).argmax(axis=1) - 1
            rest = rest - level.reshape(-1)[position * (ROW + 1) + child]
            position = position * ROW + child
        return position

    def _add_up(self, nodes: np.ndarray | range) -> None:
        """Recomputes the sums of `nodes` of the lowest level, and all above them."""
        for level, (weights, sums) in enumerate(zip(self._weights, self._sums, strict=True)):
            # Slices of neighbours are several times quicker than picking nodes.
            which = slice(nodes.start, nodes.stop) if isinstance(nodes, range) else nodes
            running = weights[which].cumsum(axis=1)
            sums[which, 1:] = running
            if level + 1 == len(self._weights):
                return
            self._weights[level + 1].reshape(-1)[which] = running[:, -1]
            nodes = _parents(nodes)

    def _lay_out(self, leaves: np.ndarray, rows: int) -> None:
        """Builds all levels over `leaves` and as many empty rows as make `rows`."""
        self._free.extend(range(len(leaves), rows))  # all above those in the heap: still a heap
        weights = np.zeros((rows, ROW))
        weights[: len(leaves)] = leaves
        self._weights, self._sums = [], []
        while True:
            sums = np.zeros((len(weights), ROW + 1))
            np.cumsum(weights, axis=1, out=sums[:, 1:])
            self._weights.append(weights)
            self._sums.append(sums)
            if len(weights) == 1:
                return
            above = np.zeros((-(-len(weights) // ROW), ROW))
            above.reshape(-1)[: len(weights)] = sums[:, -1]
            weights = above


def _parents(nodes: np.ndarray | range) -> np.ndarray | range:
    if isinstance(nodes, range):
        return range(nodes.start // ROW, (nodes.stop - 1) // ROW + 1)
    return np.unique(nodes // ROW)


def stratified(generator: np.random.Generator, total: float, count: int) -> np.ndarray:
    """One target from each of `count` equal parts of [0, total), ascending, float64 (Schaul et al.
    2016, appendix B.2.1): every weight is met in proportion, with less noise than by free draws.
    """
    return np.minimum(
        (np.arange(count) + generator.random(count)) * (total / count), np.nextafter(total, 0.0)
    )


def importance_weights(
    probabilities: np.ndarray,
    shares: Sequence[int],
    populations: Sequence[int],
    exponent: float,
) -> np.ndarray:
    """What the loss of each window of a batch is to be multiplied by so that the batch stands for
    uniform draws: (N P(i))^-beta over the largest of the batch (Schaul et al. 2016, section 3.4).

    A shard gives a fixed part of every batch, whatever its priorities add up to. So a window's
    probability within the whole replay is that within its shard times the shard's part, and N
    counts the windows of all shards.

    Args:
        probabilities: Float64 (B,). Each window's probability within its own shard, shard by shard.
        shares: Windows that each shard gave, in the same order; they add up to B.
        populations: Windows that each shard chose from.
        exponent: The paper's beta: 0 corrects nothing, 1 fully.

    Returns:
        Float32 (B,), above 0 and at most 1.

    Raises:
        ReplayError: If the numbers do not belong together.
    """
    probabilities = np.asarray(probabilities, np.float64)
    count = len(probabilities)
    if len(shares) != len(populations) or sum(shares) != count:
        raise ReplayError(
            f"{count} probabilities need shares that add up to {count}, and one population a "
            f"share; got shares {list(shares)} and populations {list(populations)}."
        )
    if not (np.isfinite(exponent) and exponent >= 0):
        raise ReplayError(
            "The exponent of importance weights must be 0 (no correction) or above, got "
            f"{exponent}."
        )
    if not ((probabilities > 0) & (probabilities <= 1)).all():
        raise ReplayError(
            "Importance weights need the probabilities of windows that were drawn, above 0 and at "
            f"most 1, got {probabilities.min()} to {probabilities.max()}."
        )
    parts = np.repeat(np.asarray(shares, np.float64) / count, shares)
    corrections = (sum(populations) * probabilities * parts) ** -exponent
    return (corrections / corrections.max()).astype(np.float32)
