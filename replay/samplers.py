"""Which windows make a batch, at a cost of O(batch x log windows) whatever the table holds."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from replay.errors import ReplayError
from replay.priorities import ROW, SumTree, stratified
from replay.ranks import RankIndex
from replay.table import Segment, Table

LARGEST_PRIORITY = 1e100  # far from where a sum of them would overflow


class Window(NamedTuple):
    """What is drawn: `length` consecutive stored steps of one segment, beginning at a multiple of
    `stride` steps of the segment.
    """

    length: int
    stride: int = 1

    def count(self, steps: int) -> int:
        """Windows in a segment of `steps` stored steps."""
        return (steps - self.length) // self.stride + 1 if steps >= self.length else 0


class Draw(NamedTuple):
    """Windows that a sampler chose, B of them."""

    ordinals: np.ndarray  # int64 (B,): their segments
    starts: np.ndarray  # int64 (B,): the step of the segment at which each begins
    # float64 (B,): how likely each was among all windows of the table, where the learner has to
    # make up for it (`priorities.importance_weights`); None: uneven chances, if any, are wanted
    probabilities: np.ndarray | None = None


class Sampler(Protocol):
    """Draws windows of one kind from one table, and follows the table's changes."""

    @property
    def eligible(self) -> int:
        """Windows (or episodes) to choose from; 0 while nothing can be drawn."""

    def draw(self, generator: np.random.Generator, count: int) -> Draw:
        """`count` windows. Needs `eligible > 0`."""

    def grown(self, segment: Segment) -> None:
        """See `table.Listener`."""

    def removed(self, segment: Segment) -> None:
        """See `table.Listener`."""


class _Ranked:
    """Numbers all windows of a table: segments in order of arrival, and the windows of each in
    order.
    """

    def __init__(self, table: Table, window: Window) -> None:
        """Indexes what the table holds and follows it from here on."""
        self.window = _checked(window)
        self._table = table
        self._ranks = RankIndex()  # a segment's weight is its number of windows
        for segment in table:
            self.grown(segment)
        table.listeners.append(self)

    @property
    def eligible(self) -> int:
        """The number of windows."""
        return self._ranks.total

    def grown(self, segment: Segment) -> None:
        """Counts the windows that the new steps complete."""
        self._ranks.set(segment.ordinal, self.window.count(segment.length))

    def removed(self, segment: Segment) -> None:
        """Forgets the segment's windows."""
        self._ranks.remove_through(segment.ordinal)

    def _at(self, ranks: np.ndarray, probabilities: np.ndarray | None = None) -> Draw:
        ordinals, numbers = self._ranks.find(ranks)
        return Draw(ordinals, numbers * self.window.stride, probabilities)


class UniformWindows(_Ranked):
    """Every window is equally likely; draws are independent."""

    def draw(self, generator: np.random.Generator, count: int) -> Draw:
        """See `Sampler`."""
        return self._at(generator.integers(0, self._ranks.total, count))


class UniformEpisodes(_Ranked):
    """Every episode that has a window is equally likely, and within it every window: what CoRe's
    code does.

    With more episodes than asked for, no episode is drawn twice in one call; with fewer, they are
    drawn with replacement; with exactly as many, each comes once, in order. (One window per
    episode and batch, so long episodes are not favoured.) With several shards "one call"
    is one shard's share of a batch; an episode lies on one shard only, so no episode repeats in the
    batch either.
    """

    @property
    def eligible(self) -> int:
        """The number of episodes that are long enough."""
        return self._ranks.total

    def draw(self, generator: np.random.Generator, count: int) -> Draw:
        """See `Sampler`."""
        episodes = self._ranks.total
        if episodes > count:
            ranks = distinct(generator, episodes, count)
        elif episodes == count:
            ranks = np.arange(count)
        else:
            ranks = generator.integers(0, episodes, count)
        ordinals, _ = self._ranks.find(ranks)
        windows = [
            self.window.count(self._table.length_of(ordinal)) for ordinal in ordinals.tolist()
        ]
        return Draw(ordinals, generator.integers(0, windows) * self.window.stride)

    def grown(self, segment: Segment) -> None:
        """Admits the episode once it is long enough."""
        # It weighs 1 however many windows it has.
        self._ranks.set(segment.ordinal, int(segment.length >= self.window.length))


class Recency(_Ranked):
    """Newer windows are likelier: probability falls by half every `half_life` agent steps of age.

    Age is counted in windows from the newest one, `stride` steps each, segments in order of
    arrival, up to the oldest window stored. Draws are independent. (Draws carry no probabilities:
    nobody wants to correct for what the sampler is there for.)
    """

    def __init__(self, table: Table, window: Window, half_life: float = 50_000.0) -> None:
        """Raises `ReplayError` if `half_life` is not a positive number."""
        if not (math.isfinite(half_life) and half_life > 0):
            raise ReplayError(
                "half_life of the sampler 'recency' counts agent steps and must be a positive "
                f"number, got {half_life}."
            )
        self._log_ratio = -math.log(2.0) * window.stride / half_life  # of neighbours in age
        super().__init__(table, window)

    def draw(self, generator: np.random.Generator, count: int) -> Draw:
        """See `Sampler`."""
        windows = self._ranks.total
        # The geometric distribution cut off at `windows`, by its inverse; expm1 and log1p keep it
        # exact where half_life is many times the number of windows.
        mass = math.expm1(windows * self._log_ratio)
        ages = np.log1p(generator.random(count) * mass) / self._log_ratio
        ages = np.minimum(ages.astype(np.int64), windows - 1)
        return self._at(windows - 1 - ages)


class _Leaves:
    """The windows of one segment in the tree: window w is in row `rows[w // ROW]`."""

    __slots__ = ("rows", "windows")

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.windows = 0

    def addresses(self) -> np.ndarray:
        """Of the windows in order, int64."""
        numbers = np.arange(self.windows)
        return np.array(self.rows, np.int64)[numbers // ROW] * ROW + numbers % ROW


class Prioritised(_Ranked):
    """Windows are drawn in proportion to a power of their priorities (Schaul et al. 2016).

    P(i) = p_i^alpha / sum_k p_k^alpha. A new window gets the largest priority that `update` has
    given so far (1 before that), so that it is soon drawn once. A window of priority 0 is not drawn
    unless all are 0, and then all are equally likely: add the paper's small epsilon before
    `update` if nothing should starve. One call draws stratified: window b of B comes from the b-th
    of B equal parts of the sum.
    """

    def __init__(self, table: Table, window: Window, exponent: float = 0.6) -> None:
        """`exponent` is the paper's alpha: 0 is uniform, 1 fully in proportion. Raises
        `ReplayError` if it is outside.
        """
        if not 0 <= exponent <= 1:
            raise ReplayError(
                f"exponent of the sampler 'prioritised' must be in [0, 1], got {exponent}."
            )
        self._exponent = exponent
        self._see(0.0)
        self._tree = SumTree()
        self._leaves: dict[int, _Leaves] = {}
        self._priorities = np.zeros((1, ROW))  # of each leaf; the tree has their powers
        # Of each row: its segment, and the number of its first window there.
        self._owners = np.zeros((2, 1), np.int64)
        super().__init__(table, window)

    def draw(self, generator: np.random.Generator, count: int) -> Draw:
        """See `Sampler`."""
        total = self._tree.total
        if total == 0:
            windows = self._ranks.total
            return self._at(generator.integers(0, windows, count), np.full(count, 1 / windows))
        addresses = self._tree.find(stratified(generator, total, count))
        ordinals, firsts = self._owners[:, addresses // ROW]
        starts = (firsts + addresses % ROW) * self.window.stride
        return Draw(ordinals, starts, self._tree.get(addresses) / total)

    def update(self, ordinals: np.ndarray, starts: np.ndarray, priorities: np.ndarray) -> int:
        """Sets the priorities of drawn windows and returns how many are still there; the others are
        ignored. Of a window named twice, the last counts.

        Args:
            ordinals: Int64 (B,), as drawn.
            starts: Int64 (B,), as drawn.
            priorities: Float (B,), finite and not negative: the paper's |TD error| + epsilon.

        Raises:
            ReplayError: If a priority is refused or the lengths differ; nothing is changed then.
        """
        priorities = checked_priorities(priorities, len(ordinals))
        if len(starts) != len(ordinals):
            raise ReplayError(f"{len(ordinals)} segments need as many starts, got {len(starts)}.")
        addresses, kept = [], []
        for b, (ordinal, start) in enumerate(zip(ordinals.tolist(), starts.tolist(), strict=True)):
            leaves = self._leaves.get(ordinal)
            number, beside = divmod(start, self.window.stride)
            if leaves is not None and 0 <= number < leaves.windows and not beside:
                addresses.append(leaves.rows[number // ROW] * ROW + number % ROW)
                kept.append(b)
        if kept:
            given = priorities[kept]
            self._set(np.array(addresses), given)
            self._see(max(self._largest, float(given.max())))
        return len(kept)

    def grown(self, segment: Segment) -> None:
        """Gives the windows that the new steps complete the largest priority so far."""
        super().grown(segment)
        leaves = self._leaves.setdefault(segment.ordinal, _Leaves())
        number, leaves.windows = leaves.windows, self.window.count(segment.length)
        while len(leaves.rows) * ROW < leaves.windows:
            self._own(self._tree.claim(), segment.ordinal, leaves)
        while number < leaves.windows:
            first = end = number // ROW
            while end < len(leaves.rows) and leaves.rows[end] - leaves.rows[first] == end - first:
                end += 1  # neighbouring rows are filled at once
            place = leaves.rows[first] * ROW + number % ROW
            count = min(leaves.windows, end * ROW) - number
            self._priorities.reshape(-1)[place : place + count] = self._initial_priority
            self._tree.fill(place, place + count, self._initial_weight)
            number += count

    def removed(self, segment: Segment) -> None:
        """Forgets the segment's windows and their priorities."""
        super().removed(segment)
        leaves = self._leaves.pop(segment.ordinal)
        if leaves.rows:
            self._tree.release(leaves.rows)

    def priorities_of(self, segment: Segment) -> np.ndarray:
        """The priorities of a segment's windows, float64 (windows,), in order."""
        return self._priorities.reshape(-1)[self._leaves[segment.ordinal].addresses()]

    def restore(self, segment: Segment, priorities: np.ndarray) -> None:
        """Puts back what `priorities_of` returned. Raises `ReplayError` if it is not of as many
        windows or has a value that `update` would refuse.
        """
        leaves = self._leaves[segment.ordinal]
        self._set(leaves.addresses(), checked_priorities(priorities, leaves.windows))

    def state(self) -> dict[str, Any]:
        """What else a snapshot needs for the same draws, as plain values."""
        return {
            "largest_priority": self._largest,
            "rows": [[ordinal, list(leaves.rows)] for ordinal, leaves in self._leaves.items()],
        }

    def restore_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` returned; `restore` then puts back the priorities, segment by
        segment (a segment left out keeps the largest one). Raises `ReplayError`, with nothing
        changed, if the state is damaged.
        """
        tree = SumTree()
        saved = {
            ordinal: rows
            for ordinal, rows in state["rows"]
            if ordinal in self._leaves and len(rows) == len(self._leaves[ordinal].rows)
        }
        tree.claim_again([row for rows in saved.values() for row in rows])
        self._tree = tree
        self._see(state["largest_priority"])
        for ordinal, leaves in self._leaves.items():
            rows = saved.get(ordinal) or [self._tree.claim() for _ in leaves.rows]
            leaves.rows = []
            for row in rows:
                self._own(row, ordinal, leaves)
            self._set(leaves.addresses(), np.full(leaves.windows, self._initial_priority))

    def _see(self, largest: float) -> None:
        self._largest = largest  # priority that was ever given
        self._initial_priority = largest or 1.0
        self._initial_weight = float(self._weights_of(np.array([self._initial_priority]))[0])

    def _weights_of(self, priorities: np.ndarray) -> np.ndarray:
        # Always of arrays: the power of a Python float may differ from NumPy's in the last bit, and
        # a restored sampler draws the same windows. 0 ** 0 is 1, but 0 means "not drawn".
        return np.where(priorities > 0, priorities**self._exponent, 0.0)

    def _own(self, row: int, ordinal: int, leaves: _Leaves) -> None:
        missing = self._tree.rows - len(self._priorities)
        if missing > 0:
            self._owners = np.pad(self._owners, ((0, 0), (0, missing)))
            self._priorities = np.pad(self._priorities, ((0, missing), (0, 0)))
        self._owners[:, row] = ordinal, len(leaves.rows) * ROW
        leaves.rows.append(row)

    def _set(self, addresses: np.ndarray, priorities: np.ndarray) -> None:
        if len(addresses):
            self._priorities.reshape(-1)[addresses] = priorities
            self._tree.set(addresses, self._weights_of(priorities))


def distinct(generator: np.random.Generator, population: int, count: int) -> np.ndarray:
    """`count` different integers of [0, population), every set equally likely, in O(count) (R.
    Floyd's algorithm, 1987).
    """
    tops = np.arange(population - count, population)
    chosen: dict[int, None] = {}  # a set that keeps order, so that equal seeds give equal batches
    for top, pick in zip(tops.tolist(), generator.integers(0, tops + 1).tolist(), strict=True):
        chosen[top if pick in chosen else pick] = None
    return np.fromiter(chosen, np.int64, count)


def _checked(window: Window) -> Window:
    if window.length < 1 or window.stride < 1:
        raise ReplayError(
            f"A window needs a length and a stride of 1 step or more, got {window.length} and "
            f"{window.stride}."
        )
    return window


def checked_priorities(priorities: np.ndarray, count: int) -> np.ndarray:
    """Returns priorities as float64 (count,). Raises `ReplayError` if some are none."""
    priorities = np.asarray(priorities, np.float64)
    if priorities.shape != (count,):
        raise ReplayError(
            f"{count} windows need priorities of shape ({count},), got {priorities.shape}."
        )
    refused = ~((priorities >= 0) & (priorities <= LARGEST_PRIORITY))  # nan is neither
    if refused.any():
        raise ReplayError(
            "A priority must be a number from 0 (drawn only if all are 0) to "
            f"{LARGEST_PRIORITY:g}, got {priorities[refused][0]} for window {refused.argmax()} of "
            f"{count}: give the size of the error, not its sign, and look for a learner that "
            "diverges."
        )
    return priorities


SAMPLERS: dict[str, type[UniformWindows | UniformEpisodes | Prioritised | Recency]] = {
    "windows": UniformWindows,
    "episodes": UniformEpisodes,
    "prioritised": Prioritised,
    "recency": Recency,
}
