"""The cost of planning: a real short run, and what its figures mean."""

from __future__ import annotations

import json

import pytest

from benchmarks import planning_cost
from benchmarks.rounds import Timing


def test_figures_are_per_agent_step_and_relative_to_the_policy() -> None:
    slow, fast = Timing(), Timing()
    slow.wall_ms, slow.cpu_ms = [40.0, 60.0, 80.0], [20.0, 30.0, 50.0]
    fast.wall_ms, fast.cpu_ms = [20.0, 20.0, 20.0], [10.0, 10.0, 10.0]
    numbers, ratios = planning_cost.figures(
        {"tiny, 4 environments": {"policy": fast, "one step": slow}}
    )
    one_step = numbers["tiny, 4 environments"]["one step"]
    assert one_step["wall_ms_per_agent_step"] == 15.0
    assert one_step["cpu_ms_per_agent_step"] == 7.5
    assert ratios == {"tiny, 4 environments, policy": 1.0, "tiny, 4 environments, one step": 3.0}


def test_a_run_ends_with_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planning_cost, "SIZES", ("tiny",))
    monkeypatch.setattr(planning_cost, "ENVIRONMENTS", (2,))
    assert planning_cost.main(["--seconds", "0.1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result) == {"machine", "figures", "ratios"}
    assert result["ratios"]["tiny, 2 environments, one step"] > 1.0
    with pytest.raises(SystemExit):
        planning_cost.main(["--seconds", "0"])
