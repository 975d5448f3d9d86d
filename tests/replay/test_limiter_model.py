"""The limiter beside a simple model of it, under random interleavings."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from replay import Limiter

RATIOS = st.sampled_from([None, 0.25, 1.0, 3.5, 64.0])
MINIMUMS = st.integers(0, 60)
BANDS = st.sampled_from([0.0, 4.0, 40.0, 400.0])
STEPS = st.integers(1, 40)


class LimiterModel(RuleBasedStateMachine):
    """A limiter beside a list of what happened, counted one agent step at a time."""

    @initialize(ratio=RATIOS, minimum=MINIMUMS, band=BANDS)
    def make(self, ratio: float | None, minimum: int, band: float) -> None:
        self.made_with = self.limits = (ratio, minimum, band)
        self.limiter = Limiter(ratio, minimum, band)
        self.preloading = False
        self.inserted = 0
        self.sampled = 0
        self.since: list[int] = []  # +1 for each counted step, -n for a sample, since the restart
        self.restart()

    def restart(self) -> None:
        self.since.clear()
        self.widest = self.limits[2]
        self.unchecked = 0  # agent steps that came in without asking, since error <= band

    def error(self) -> float:
        ratio = self.limits[0]
        return 0.0 if ratio is None else sum(ratio if n > 0 else n for n in self.since)

    def insert(self, steps: int) -> None:
        for _ in range(steps):
            self.inserted += 1
            if not self.preloading and self.inserted > self.limits[1]:
                self.since.append(1)
        self.limiter.inserted_steps(steps)

    @rule(steps=STEPS)
    def begin_an_episode(self, steps: int) -> None:
        ratio, minimum, band = self.limits
        free = self.preloading or ratio is None or self.inserted < minimum
        may = free or self.error() + ratio * steps <= band
        assert self.limiter.may_insert(steps) == may
        if may:
            self.insert(steps)
            self.unchecked += free * steps

    @rule(steps=STEPS)
    def go_on_with_an_episode(self, steps: int) -> None:
        self.insert(steps)
        self.unchecked += steps

    @rule(steps=STEPS, gone=st.sampled_from([0, 0, 5]))
    def sample(self, steps: int, gone: int) -> None:
        ratio, minimum, band = self.limits
        stored = max(0, self.inserted - gone)
        may = not self.preloading and self.inserted >= minimum and stored > 0
        may = may and (ratio is None or self.error() - steps >= -band)
        assert self.limiter.may_sample(steps, stored) == may
        if may:
            self.sampled += steps
            self.since.append(-steps)
            self.limiter.sampled_steps(steps)

    @rule(
        changes=st.fixed_dictionaries(
            {}, optional={"samples_per_insert": RATIOS, "minimum": MINIMUMS, "band": BANDS}
        )
    )
    def configure(self, changes: dict[str, Any]) -> None:
        self.limiter.configure(**changes)
        before = self.limits
        names = ("samples_per_insert", "minimum", "band")
        values = [changes.get(name, now) for name, now in zip(names, before, strict=True)]
        self.limits = (values[0], values[1], values[2])
        self.widest = max(self.widest, self.limits[2])
        if self.limits[:2] != before[:2]:
            self.restart()

    @rule(on=st.booleans())
    def preload(self, on: bool) -> None:
        self.limiter.preload(on)
        if self.preloading and not on:
            self.restart()
        self.preloading = on

    @rule()
    def save_and_load(self) -> None:
        state = json.loads(json.dumps(self.limiter.state_dict()))
        self.limiter = Limiter(*self.made_with)
        self.limiter.load_state_dict(state)
        if self.preloading:  # ends with the save: nobody would end it
            self.preloading = False
            self.restart()
        else:
            assert self.limiter.state_dict() == state

    @invariant()
    def counts_agree_and_the_error_is_in_its_bounds(self) -> None:
        ratio, _, band = self.limits
        limiter, error = self.limiter, self.error()
        assert (limiter.inserted, limiter.sampled) == (self.inserted, self.sampled)
        assert (limiter.error, limiter.preloading) == (error, self.preloading)
        assert (limiter.samples_per_insert, limiter.minimum, limiter.band) == self.limits
        if error <= band:
            self.unchecked = 0
        assert -self.widest <= error <= self.widest + (ratio or 0.0) * self.unchecked

    @invariant()
    def one_side_can_move_if_the_band_is_wide_enough(self) -> None:
        ratio, minimum, band = self.limits
        if ratio is None or self.preloading or self.inserted < minimum:
            return
        for chunk_steps in (1, 8, 40):
            for batch_steps in (1, 8, 40):
                if 2 * band >= ratio * chunk_steps + batch_steps:
                    assert self.limiter.may_insert(chunk_steps) or self.limiter.may_sample(
                        batch_steps, self.inserted
                    )


LimiterModel.TestCase.settings = settings(
    deadline=None, derandomize=True, max_examples=80, stateful_step_count=40, database=None
)
test_a_limiter_agrees_with_a_list_of_what_happened_and_keeps_its_bounds = LimiterModel.TestCase
