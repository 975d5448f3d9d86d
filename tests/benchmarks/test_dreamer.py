from __future__ import annotations

import json
import subprocess
import sys
from itertools import count

import gymnasium
import numpy as np
import pytest

from benchmarks import dreamer
from benchmarks.dreamer_ours import parameters_of
from benchmarks.peers.rllib_dreamer import ScaledPixels
from benchmarks.peers.worker_process import WorkerFailed
from benchmarks.training_rate import Counts, NoProgress, family_cpu_s, measure_training
from rl_system.config import load_settings

PARAMETERS = {"world_model": 100, "behavior": 10}


def sample(updates_per_s: float, updates_per_cpu_s: float = 1.0) -> dreamer.Sample:
    return {
        "updates_per_s": updates_per_s,
        "agent_steps_per_s": 5 * updates_per_s,
        "replayed_per_s": 320 * updates_per_s,
        "updates_per_cpu_s": updates_per_cpu_s,
        "replay_ratio": 64.0,
        "load_before": 1.0,
        "parameters": PARAMETERS,
    }


def samples_of(**rates: list[float]) -> dict[str, dict[int, dreamer.Sample]]:
    return {side: dict(enumerate(map(sample, values))) for side, values in rates.items()}


# Figures ----------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_over_rounds_of_ours_over_rllibs_rate_in_the_same_round() -> None:
    samples = samples_of(
        cvrl=[2.0, 6.0, 12.0], dreamer=[1.0, 1.0, 1.0], rllib_1_thread=[1.0, 2.0, 3.0]
    )
    result = dreamer.make_result(samples, {}, {})
    assert result["ratios"]["cvrl_updates_vs_rllib"] == 3.0
    assert result["ratios"]["cvrl_agent_steps_vs_rllib"] == 3.0
    assert result["ratios"]["dreamer_replayed_vs_rllib"] == 0.5
    assert result["figures"]["rates"]["cvrl"]["updates_per_s"]["median"] == 6.0
    assert result["figures"]["parameters"]["rllib_1_thread"] == PARAMETERS


def test_ours_is_compared_with_the_better_of_rllibs_ways_by_each_clock() -> None:
    samples = samples_of(cvrl=[4.0] * 3)
    samples["rllib_1_thread"] = {r: sample(1.0, updates_per_cpu_s=0.5) for r in range(3)}
    samples["rllib_2_threads"] = {r: sample(2.0, updates_per_cpu_s=0.25) for r in range(3)}
    result = dreamer.make_result(samples, {}, {})
    assert result["ratios"]["cvrl_updates_vs_rllib"] == 2.0
    assert result["figures"]["ratios"]["cvrl_updates"]["over"] == "rllib_2_threads"
    assert result["ratios"]["cvrl_updates_cpu_vs_rllib"] == 2.0
    assert result["figures"]["ratios"]["cvrl_updates_cpu"]["over"] == "rllib_1_thread"


def test_a_side_that_failed_makes_its_ratios_null_and_tells_its_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    samples = samples_of(cvrl=[4.0] * 3, dreamer=[3.0] * 3, rllib_1_thread=[1.0])
    result = dreamer.make_result(samples, {"rllib_1_thread": "train: ValueError: no size"}, {})
    assert set(result["ratios"].values()) == {None}
    assert result["figures"]["errors"] == {"rllib_1_thread": "train: ValueError: no size"}
    dreamer.print_tables(result)
    printed = capsys.readouterr().out
    assert "cvrl_updates_vs_rllib: null" in printed and "ValueError: no size" in printed
    json.dumps(result)


def test_one_of_ours_that_failed_leaves_the_others_ratios() -> None:
    samples = samples_of(cvrl=[4.0] * 3, dreamer=[], rllib_1_thread=[1.0] * 3)
    ratios = dreamer.make_result(samples, {"dreamer": "ended"}, {})["ratios"]
    assert ratios["cvrl_updates_vs_rllib"] == 4.0
    assert ratios["dreamer_updates_vs_rllib"] is None


def test_a_failing_side_is_reported_once_and_left_out_of_later_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def run_side(side: str, seconds: float) -> dreamer.Sample:
        asked.append(side)
        if side == "rllib_1_thread":
            raise WorkerFailed("rllib_dreamer ended")
        return sample(2.0)

    monkeypatch.setattr(dreamer, "run_side", run_side)
    options = dreamer._parser().parse_args(["--rllib-threads", "1"])
    samples, errors = dreamer.measure(options)
    assert errors == {"rllib_1_thread": "rllib_dreamer ended"}
    assert asked.count("rllib_1_thread") == 1
    assert asked.count("cvrl") == asked.count("dreamer") == 3
    assert set(samples["cvrl"]) == {0, 1, 2}


# Fairness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", dreamer.OURS)
def test_our_side_has_the_batches_horizon_replay_ratio_and_pictures_that_rllib_is_given(
    system: str,
) -> None:
    overrides = [*dreamer.OVERRIDES, *dreamer.WIDTHS[system]]
    settings = load_settings(dreamer.PRESET.format(system=system), overrides)
    learner, environment = settings.learner, settings.environment
    assert (learner.batch_size, learner.sequence_length) == (dreamer.BATCH, dreamer.LENGTH)
    assert learner.updates_per_agent_step == dreamer.UPDATES_PER_AGENT_STEP
    assert settings.behavior.horizon == dreamer.HORIZON
    assert all(getattr(environment, key) == value for key, value in dreamer.ENVIRONMENT.items())
    assert (settings.behavior.mpc, settings.objective.observation) == (
        (True, "contrastive") if system == "cvrl" else (False, "generative")
    )


@pytest.mark.parametrize("system", dreamer.OURS)
def test_our_world_model_has_as_many_parameters_as_rllibs(system: str) -> None:
    overrides = [*dreamer.OVERRIDES, *dreamer.WIDTHS[system]]
    settings = load_settings(dreamer.PRESET.format(system=system), overrides)
    assert parameters_of(settings)["world_model"] == pytest.approx(622_563, rel=0.02)


def test_rllib_sees_pictures_between_minus_one_and_one_channels_last() -> None:
    class Pictures(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, (2, 2, 3), np.uint8)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.array([0, 128, 255] * 4, np.uint8).reshape(2, 2, 3), {}

    observation, _ = ScaledPixels(Pictures()).reset()
    assert observation.dtype == np.float32 and observation.shape == (2, 2, 3)
    np.testing.assert_allclose(observation[0, 0], [-1.0, 0.0, 127 / 128])
    assert ScaledPixels(Pictures()).observation_space.contains(observation)


# Counting ---------------------------------------------------------------------------------------


def test_counting_begins_after_the_warm_up_and_lasts_until_the_time_is_up() -> None:
    steps = count(1)

    def train() -> Counts:
        updates = next(steps)
        return Counts(updates, 5 * updates, 320 * updates)

    ticks, cpu = count(), count(0, 3)
    rate = measure_training(
        train,
        warm_up_updates=4,
        seconds=6.0,
        patience_s=10.0,
        cpu_clock=lambda: float(next(cpu)),
        clock=lambda: float(next(ticks)),
    )
    assert (rate.updates, rate.agent_steps, rate.replayed_agent_steps) == (6, 30, 1920)
    assert (rate.seconds, rate.cpu_s) == (6.0, 3.0)
    named = rate.as_dict()
    assert (named["updates_per_s"], named["agent_steps_per_s"]) == (1.0, 5.0)
    assert (named["replay_ratio"], named["updates_per_cpu_s"]) == (64.0, 2.0)


def test_calls_that_bring_no_update_begin_and_end_no_counting() -> None:
    ticks = count()
    updates = iter([1, 1, 2, 2, 2, 3])
    rate = measure_training(
        lambda: Counts(next(updates), 0, 0),
        warm_up_updates=1,
        seconds=3.0,
        patience_s=10.0,
        clock=lambda: float(next(ticks)),
    )
    assert (rate.updates, rate.seconds) == (2, 5.0)


def test_whole_episodes_are_counted_from_the_end_of_one_to_the_end_of_another() -> None:
    # An episode ends with every fourth call; the first call has seen one end already.
    calls = count(1)

    def train() -> Counts:
        number = next(calls)
        return Counts(number, 10 * number, 0, episodes=1 + number // 4)

    ticks = count()
    rate = measure_training(
        train,
        warm_up_updates=5,
        seconds=5.0,
        patience_s=10.0,
        whole_episodes=True,
        clock=lambda: float(next(ticks)),
    )
    assert (rate.updates, rate.seconds) == (8, 8.0)


def test_training_without_updates_ends_with_where_it_stood() -> None:
    ticks = count()
    with pytest.raises(NoProgress, match="after 0 updates and 7 agent steps"):
        measure_training(
            lambda: Counts(0, 7, 0), 1, 1.0, patience_s=3.0, clock=lambda: float(next(ticks))
        )


def test_cpu_time_is_that_of_the_process_and_its_children() -> None:
    before = family_cpu_s()
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None and child.stdout.readline()
    spent = family_cpu_s() - before
    child.communicate(b"\n", timeout=10)
    assert spent >= 0.4  # the clock of processes ticks in hundredths


# Arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--rounds", "2"], "below 3"),
        (["--seconds", "0"], "no number of seconds above 0"),
        (["--seconds", "inf"], "no number of seconds above 0"),
        (["--rllib-threads", "0"], "below 1"),
    ],
)
def test_arguments_that_cannot_be_measured_with_are_refused(
    given: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        dreamer.main(given)
    assert told in capsys.readouterr().err


def test_too_little_memory_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dreamer, "memory_bytes", lambda: (1 << 30, 1 << 20))
    assert dreamer.main([]) == 2
    assert "GiB" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("side", ["cvrl", "rllib_1_thread"])
def test_each_side_trains_in_a_process_of_its_own_and_is_counted(
    side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dreamer, "OUR_WARM_UP_UPDATES", 1)
    monkeypatch.setattr(dreamer, "RLLIB_WARM_UP_UPDATES", 1)
    counted = dreamer.run_side(side, seconds=1.0)
    assert counted["updates"] > 0 and counted["agent_steps"] > 0 and counted["cpu_s"] > 0
    assert 600_000 < counted["parameters"]["world_model"] < 640_000
    assert counted["replayed_agent_steps"] == 320 * counted["updates"]
