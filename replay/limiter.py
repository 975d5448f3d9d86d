"""The one number that ties actors to the learner, enforced in both directions."""

from __future__ import annotations

import math
from types import EllipsisType
from typing import Any, NamedTuple

from replay.errors import ReplayError


class Limits(NamedTuple):
    """What a limiter keeps to."""

    samples_per_insert: float | None
    minimum: int
    band: float


class Limiter:
    """Keeps samples per insert near a ratio, for one shard.

    Four numbers, after Reverb's sample-to-insert ratio: the ratio r, the `minimum` of agent steps
    before the first sample, and two counts of agent steps, inserted past the minimum and sampled (a
    batch of T x B counts T x B). With

        error = r * inserted past the minimum - sampled

    a sample of n agent steps may go ahead if error - n >= -band, and a new episode whose first
    chunk has n agent steps may begin if error + r * n <= band. The rest of an episode that has
    begun is never held back. So, always,

        -band <= error <= band + r * (agent steps of episodes begun and not yet received when the
        bound was reached)

    (the upper bound gives way to the chunk that reaches the minimum, and while a sample waits for
    its first window, see below). With r = None only the minimum counts.

    Everything can be set while it runs, see `configure`. When the ratio or the minimum changes,
    both counts restart at 0: the new numbers hold from there on, and no debt of the old ones is
    repaid at once. A narrower band leaves the error where it is, and the side that is out of it
    waits.

    In preload mode, see `preload`, a dataset can be written as fast as it comes: nothing is held
    back, nothing is sampled, and nothing counts towards the error.

    Why nothing can wait for ever. The shard asks one thing more: while a sample request waits at
    it, it holds back no insert (`ReplayShard.would_admit`). And a writer whose new episode is held
    back by one shard offers it to the next, and waits only while all shards hold back. Suppose then
    that nobody moves although a learner asks for batches. Its request waits at some shard, which
    therefore holds back nothing; a writer that waits was held back by every shard, this one
    included, so no writer waits: each either has nothing to write or is moving. Every insert raises
    that shard's error and fill, writers that find the others held back bring their episodes to it,
    and after finitely many steps the sample is allowed. The argument uses no bound on episode
    lengths, no equality between shards and no history, so it also holds after a writer or a shard
    was killed and came back empty or with an old snapshot, and after every `configure`. What
    remains are a learner that does not ask, actors that do not write and a preload that nobody
    ends: for those there are deadlines.
    """

    def __init__(self, samples_per_insert: float | None, minimum: int, band: float) -> None:
        """`minimum` is in agent steps, `band` in sampled agent steps. Raises `ReplayError` naming
        the setting if one cannot work.
        """
        self._limits = self._made_with = _checked(Limits(samples_per_insert, minimum, band))
        self.inserted = 0
        self.sampled = 0
        self.insert_waits = 0
        self.insert_wait_s = 0.0
        self.sample_waits = 0
        self.sample_wait_s = 0.0
        self._preloading = False
        # Since the counts restarted: inserted past the minimum, and sampled.
        self.counted_inserted = 0
        self.counted_sampled = 0
        self._last_insert = 0
        self._last_sample = 0

    @property
    def samples_per_insert(self) -> float | None:
        """Sampled agent steps per inserted one; None: no ratio is kept."""
        return self._limits.samples_per_insert

    @property
    def minimum(self) -> int:
        """Agent steps before the first sample."""
        return self._limits.minimum

    @property
    def band(self) -> float:
        """Sampled agent steps that the error may be off 0."""
        return self._limits.band

    @property
    def preloading(self) -> bool:
        """Whether preload mode is on."""
        return self._preloading

    @property
    def error(self) -> float:
        """How far, in sampled agent steps, the learner is behind (positive) or ahead of (negative)
        the ratio.
        """
        if self.samples_per_insert is None:
            return 0.0
        return self.samples_per_insert * self.counted_inserted - self.counted_sampled

    def configure(
        self,
        *,
        samples_per_insert: float | EllipsisType | None = ...,
        minimum: int | EllipsisType = ...,
        band: float | EllipsisType = ...,
    ) -> None:
        """Changes what is given, from now on. Raises `ReplayError`, with nothing changed, if a
        value cannot work.
        """
        given = {"samples_per_insert": samples_per_insert, "minimum": minimum, "band": band}
        changes: dict[str, Any] = {name: v for name, v in given.items() if v is not ...}
        before, self._limits = self._limits, _checked(self._limits._replace(**changes))
        if self._limits[:2] != before[:2]:
            self._restart()

    def preload(self, on: bool) -> None:
        """Turns preload mode on or off. At its end the error restarts at 0, and what was loaded
        counts towards the minimum.
        """
        if self._preloading and not on:
            self._restart()
        self._preloading = on

    def may_insert(self, agent_steps: int) -> bool:
        """Whether an episode whose first chunk has `agent_steps` may begin."""
        if self._preloading or self.samples_per_insert is None or self.inserted < self.minimum:
            return True
        return self.error + self.samples_per_insert * agent_steps <= self.band

    def may_sample(self, agent_steps: int, stored: int) -> bool:
        """Whether `agent_steps` may be sampled from a shard that holds `stored`."""
        # Not `stored < minimum`: whole episodes leave, so a table may never hold that many at once.
        if self._preloading or self.inserted < self.minimum or not stored:
            return False
        return self.samples_per_insert is None or self.error - agent_steps >= -self.band

    def inserted_steps(self, agent_steps: int) -> None:
        """Counts an insert."""
        before = max(self.inserted, self.minimum)
        self.inserted += agent_steps
        self._last_insert = agent_steps
        if not self._preloading:
            self.counted_inserted += max(0, self.inserted - before)

    def sampled_steps(self, agent_steps: int) -> None:
        """Counts a sample."""
        self.sampled += agent_steps
        self._last_sample = agent_steps
        self.counted_sampled += agent_steps

    def insert_waited(self, seconds: float) -> None:
        """Counts a write that was held back for `seconds`."""
        self.insert_waits += 1
        self.insert_wait_s += seconds

    def sample_waited(self, seconds: float) -> None:
        """Counts a batch that had to wait for `seconds`."""
        self.sample_waits += 1
        self.sample_wait_s += seconds

    def waiting_for(self) -> str:
        """Who has to wait for whom now, as a sentence; chunks and batches are taken to be as large
        as the last ones.
        """
        if self._preloading:
            return "Readers wait for the end of the preload; writers are not held back."
        if self.inserted < self.minimum:
            return (
                f"Readers wait for writers: {self.inserted} of the {self.minimum} agent steps "
                "before the first sample are there."
            )
        if self.samples_per_insert is None:
            return "Nobody waits: no samples per insert are set."
        writers = not self.may_insert(self._last_insert)
        readers = not self.may_sample(self._last_sample, self.inserted)
        if writers and readers:
            return (
                f"Writers and readers both wait: a band of {self.band:g} sampled agent steps is "
                f"too narrow for chunks of {self._last_insert} and batch shares of "
                f"{self._last_sample} agent steps. Raise replay.limiter_band_agent_steps or set it "
                "to null."
            )
        side = "behind" if self.error >= 0 else "ahead of"
        where = (
            f"the learner is {abs(self.error):.0f} sampled agent steps {side} samples per insert, "
            f"with a band of {self.band:.0f}."
        )
        if writers:
            return f"Writers wait for readers: {where}"
        if readers:
            return f"Readers wait for writers: {where}"
        return f"Nobody waits: {where}"

    def limits(self) -> dict[str, Any]:
        """What `configure` takes, as it is now."""
        return self._limits._asdict()

    def state_dict(self) -> dict[str, Any]:
        """All counts and the numbers they were kept at, as plain values."""
        return {
            "limits": self._limits._asdict(),
            "made_with": self._made_with._asdict(),
            "preloading": self._preloading,
            "counted_inserted": self.counted_inserted,
            "counted_sampled": self.counted_sampled,
            **{name: getattr(self, name) for name in _TOTALS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the counts back. Preload mode stays as it is here.

        A number that was set by `configure` comes back too, unless this limiter was made with
        another one than the saved limiter was: then the settings of the run have changed, and they
        hold. If the ratio or the minimum is another one than before the save, the error restarts at
        0.
        """
        saved, made_with = Limits(**state["limits"]), state["made_with"]
        own = self._made_with._asdict()
        changed = {name: value for name, value in own.items() if value != made_with[name]}
        self._limits = saved._replace(**changed)
        for name in _TOTALS:
            setattr(self, name, state[name])
        self.counted_inserted = state["counted_inserted"]
        self.counted_sampled = state["counted_sampled"]
        if self._limits[:2] != saved[:2] or state["preloading"]:
            self._restart()

    def _restart(self) -> None:
        self.counted_inserted = self.counted_sampled = 0


_TOTALS = (
    "inserted",
    "sampled",
    "insert_waits",
    "insert_wait_s",
    "sample_waits",
    "sample_wait_s",
)


def _checked(limits: Limits) -> Limits:
    ratio, minimum, band = limits
    if ratio is not None and not (math.isfinite(ratio) and ratio > 0):
        raise ReplayError(f"samples_per_insert must be positive or None (no limit), got {ratio}.")
    if minimum < 0:
        raise ReplayError(f"replay.minimum_agent_steps must not be negative, got {minimum}.")
    if not (math.isfinite(band) and band >= 0):
        raise ReplayError(
            f"replay.limiter_band_agent_steps must be a number of 0 or more, got {band}."
        )
    return limits._replace(band=float(band))
