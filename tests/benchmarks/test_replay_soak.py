from __future__ import annotations

import json
import os

import numpy as np
import pytest

from benchmarks import replay_soak
from benchmarks.replay_soak import SUM, Sample, judge


def _samples(*rows: dict[str, float], spilled_mb: float = 0.0) -> list[Sample]:
    return [Sample(10.0 * i, row, 1.0, spilled_mb) for i, row in enumerate(rows)]


class TestJudge:
    def test_memory_that_settles_is_flat(self) -> None:
        figure = judge(_samples(*({"a": mb} for mb in (10.0, 90.0, 91.0, 91.0, 91.0))), 10.0)
        assert figure["passed"] and figure["processes"]["a"]["first_mb"] == 10.0
        assert figure["processes"]["a"]["maximum_mb"] == 91.0

    def test_memory_that_grows_on_is_not(self) -> None:
        figure = judge(_samples(*({"a": 10.0 * i, "b": 5.0} for i in range(6))), 10.0)
        assert not figure["passed"] and not figure["processes"]["a"]["flat"]
        assert figure["processes"]["a"]["slope_mb_per_minute"] == pytest.approx(60.0)
        assert figure["processes"]["b"]["flat"] and not figure["processes"][SUM]["flat"]

    def test_a_process_that_came_or_went_counts_in_the_sum_alone(self) -> None:
        rows = [{"a": 50.0, f"b{i}": 5.0} for i in range(6)]
        figure = judge(_samples(*rows), 10.0)
        assert set(figure["processes"]) == {"a", SUM} and figure["passed"]
        assert figure["processes"][SUM]["last_mb"] == 55.0

    def test_a_spill_fails(self) -> None:
        assert not judge(_samples({"a": 1.0}, {"a": 1.0}, spilled_mb=2.0), 10.0)["passed"]

    def test_this_process_has_memory_of_its_own(self) -> None:
        held = np.ones(50_000_000, np.uint8)
        assert replay_soak.proportional_set_mb(os.getpid()) > held.nbytes / 1e6


@pytest.mark.slow
def test_a_short_soak_looks_at_every_process(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--minutes", "0.2", "--every", "1", "--capacity", "2000", "--tolerance-mb", "1000"]
    assert replay_soak.main([*given, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    for phase in replay_soak.PHASES:
        names = {name.split()[0] for name in figures[phase]["processes"]}
        assert {"ShardServer", "_Writer", "_Reader", "raylet"} <= names
        assert figures[phase]["spilled_mb"] == 0.0
    assert figures["inserted_agent_steps"] > 2000
