"""The one number that ties actors to the learner, enforced in both directions."""

from __future__ import annotations

from typing import Any

from replay.errors import ReplayError


class Limiter:
    """Keeps samples per insert near a ratio, for one shard.

    Four numbers, after Reverb's sample-to-insert ratio: the ratio r, the `minimum` of agent steps
    before the first sample, and two counts, inserted and sampled agent steps (a batch of T x B
    counts T x B). With

        error = r * (inserted - minimum) - sampled

    a sample of n agent steps may go ahead if error - n >= -band, and a new episode whose first
    chunk has n agent steps may begin if error + r * n <= band. The rest of an episode that has
    begun is never held back. So, always,

        -band <= error <= band + r * (agent steps of episodes begun and not yet received when the
        bound was reached)

    from the first sample on (the upper bound gives way while a sample waits for its first window,
    see below). With r = None only the minimum counts.

    Why nothing can wait for ever. The shard asks one thing more: while a sample request waits at
    it, it holds back no insert (`ReplayShard.would_admit`). And a writer whose new episode is held
    back by one shard offers it to the next, and waits only while all shards hold back. Suppose then
    that nobody moves although a learner asks for batches. Its request waits at some shard, which
    therefore holds back nothing; a writer that waits was held back by every shard, this one
    included, so no writer waits: each either has nothing to write or is moving. Every insert raises
    that shard's error and fill, writers that find the others held back bring their episodes to it,
    and after finitely many steps the sample is allowed. The argument uses no bound on episode
    lengths, no equality between shards and no history, so it also holds after a writer or a shard
    was killed and came back empty or with an old snapshot. What remains are a learner that does not
    ask and actors that do not write: for those there are deadlines.
    """

    def __init__(self, samples_per_insert: float | None, minimum: int, band: float) -> None:
        """`band` is in sampled agent steps."""
        if samples_per_insert is not None and samples_per_insert <= 0:
            raise ReplayError(
                f"samples_per_insert must be positive or None (no limit), got {samples_per_insert}."
            )
        self.samples_per_insert = samples_per_insert
        self.minimum = minimum
        self.band = float(band)
        self.inserted = 0
        self.sampled = 0
        self.insert_waits = 0
        self.insert_wait_s = 0.0
        self.sample_waits = 0
        self.sample_wait_s = 0.0
        self._correction = 0.0

    @property
    def error(self) -> float:
        """How far, in sampled agent steps, the learner is behind (positive) or ahead of (negative)
        the ratio.
        """
        if self.samples_per_insert is None:
            return 0.0
        return (
            self.samples_per_insert * (self.inserted - self.minimum)
            - self.sampled
            + self._correction
        )

    def may_insert(self, agent_steps: int) -> bool:
        """Whether an episode whose first chunk has `agent_steps` may begin."""
        if self.samples_per_insert is None or self.inserted < self.minimum:
            return True
        return self.error + self.samples_per_insert * agent_steps <= self.band

    def may_sample(self, agent_steps: int, stored: int) -> bool:
        """Whether `agent_steps` may be sampled from a shard that holds `stored`."""
        if stored < self.minimum:
            return False
        return self.samples_per_insert is None or self.error - agent_steps >= -self.band

    def inserted_steps(self, agent_steps: int) -> None:
        """Counts an insert."""
        self.inserted += agent_steps

    def sampled_steps(self, agent_steps: int) -> None:
        """Counts a sample."""
        self.sampled += agent_steps

    def insert_waited(self, seconds: float) -> None:
        """Counts a write that was held back for `seconds`."""
        self.insert_waits += 1
        self.insert_wait_s += seconds

    def sample_waited(self, seconds: float) -> None:
        """Counts a batch that had to wait for `seconds`."""
        self.sample_waits += 1
        self.sample_wait_s += seconds

    def state_dict(self) -> dict[str, Any]:
        """All counts and the ratio they were kept at, as plain values."""
        return {
            "samples_per_insert": self.samples_per_insert,
            "minimum": self.minimum,
            "inserted": self.inserted,
            "sampled": self.sampled,
            "insert_waits": self.insert_waits,
            "insert_wait_s": self.insert_wait_s,
            "sample_waits": self.sample_waits,
            "sample_wait_s": self.sample_wait_s,
            "correction": self._correction,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the counts back.

        If the ratio or the minimum has changed since, the error restarts at 0: the new ratio holds
        from here on and no debt of the old one is repaid at once.
        """
        for name in (
            "inserted",
            "sampled",
            "insert_waits",
            "insert_wait_s",
            "sample_waits",
            "sample_wait_s",
        ):
            setattr(self, name, state[name])
        self._correction = state["correction"]
        if (state["samples_per_insert"], state["minimum"]) != (
            self.samples_per_insert,
            self.minimum,
        ):
            self._correction -= self.error
