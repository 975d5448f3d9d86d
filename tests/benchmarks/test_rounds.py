from __future__ import annotations

import time
from itertools import count

import numpy as np
import pytest

from benchmarks.rounds import MIN_ROUNDS, Candidate, Timing, interleave, ratios, spread


def test_everything_runs_in_turn_and_at_least_the_least_number_of_rounds() -> None:
    order: list[str] = []
    works = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    assert interleave(works, seconds=0.0) == MIN_ROUNDS
    assert order == ["a", "b"] * MIN_ROUNDS


def test_rounds_go_on_until_the_time_is_up() -> None:
    start = time.monotonic()
    rounds = interleave({"nap": lambda: time.sleep(0.01)}, seconds=0.2)
    assert rounds > MIN_ROUNDS
    assert 0.2 <= time.monotonic() - start < 5.0


def test_sleeping_costs_wall_clock_time_and_no_cpu_time() -> None:
    timing = Timing()
    timing.time(lambda: time.sleep(0.02), repeats=2)
    assert timing.wall_ms[0] >= 20.0
    assert timing.cpu_ms[0] < 10.0


def test_another_process_is_timed_by_its_own_clock() -> None:
    ticks = count()
    timing = Timing(cpu_clock=lambda: float(next(ticks)))
    timing.time(lambda: None, repeats=4)
    assert timing.cpu_ms == [250.0]
    assert timing.wall_ms[0] < 250.0


def test_a_candidate_is_reset_and_stepped_with_its_own_actions_in_every_round() -> None:
    done: list[object] = []
    ticks, actions = count(), count()
    candidate = Candidate(
        lambda: done.append("reset"),
        lambda action: done.append(int(action)),
        lambda: np.array(next(actions)),
        agent_steps_per_round=2,
        cpu_clock=lambda: float(next(ticks)),
    )
    candidate.round()
    candidate.round()
    assert done == ["reset", 0, 1, "reset", 2, 3]
    assert candidate.resets.cpu_ms == [1000.0, 1000.0]
    assert candidate.agent_steps.cpu_ms == [500.0, 500.0]
    summary = candidate.summary()
    assert summary["reset"]["cpu_ms"]["median"] == 1000.0
    assert summary["step"]["cpu_ms"]["median"] == 500.0
    assert summary["agent_steps_per_cpu_s"] == 2.0


def test_ratios_are_taken_round_by_round() -> None:
    slow, quick = Timing([10.0, 30.0], [20.0, 20.0]), Timing([5.0, 10.0], [2.0, 4.0])
    assert ratios(slow, quick) == {"cpu": [2.0, 3.0], "wall": [10.0, 5.0]}


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0, 1.0, 2.0], (1.5, 2.0, 2.5)), ([7.0], (7.0, 7.0, 7.0)), ([1.0, 2.0], (1.25, 1.5, 1.75))],
)
def test_a_spread_is_the_median_between_its_quartiles(
    values: list[float], expected: tuple[float, ...]
) -> None:
    found = spread(values)
    assert (found["q1"], found["median"], found["q3"]) == expected
