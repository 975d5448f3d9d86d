from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from replay.ring import Ring
from replay.schema import step_schema
from replay.shard import ReplayShard
from rl_system.metrics import (
    METRICS,
    STARVED_LINES,
    STUCK_UPDATES,
    flat_numbers,
    table,
    warnings,
    who_waits,
)
from rl_system.progress import Limits, duration
from rl_system.settings import RunSettings
from rl_system.tally import Tally


def lines(count: int = 30, every: int = 100, **values: Any) -> list[dict[str, Any]]:
    healthy = {
        "loss/contrastive": 1.0,
        "contrastive/log_pairs": 5.48,
        "kl/at_floor_fraction": 0.2,
        "learner/busy_percent": 97.0,
        "actor/busy_percent": 30.0,
    }
    names = {name.replace("__", "/"): value for name, value in values.items()}
    return [{"updates": every * (index + 1), **healthy, **names} for index in range(count)]


def test_a_healthy_run_earns_no_warning() -> None:
    assert warnings([]) == []
    assert warnings(lines()) == []


def test_a_contrastive_loss_that_sits_at_log_n_is_warned_of() -> None:
    assert "log N" in warnings(lines(loss__contrastive=5.45))[0]
    assert warnings(lines(loss__contrastive=5.0)) == []


def test_log_n_is_no_reason_to_warn_in_the_first_updates() -> None:
    count = STUCK_UPDATES // 100
    assert warnings(lines(count, loss__contrastive=5.48)) == []
    assert warnings(lines(count + 1, loss__contrastive=5.48)) != []


def test_one_good_line_among_the_recent_ones_silences_the_log_n_warning() -> None:
    history = lines(loss__contrastive=5.48)
    history[-3]["loss/contrastive"] = 4.0
    assert warnings(history) == []


def test_a_summed_contrastive_loss_is_not_mistaken_for_log_n() -> None:
    assert warnings(lines(loss__contrastive=2 * 240 * 5.48)) == []


def test_a_kl_at_its_floor_is_warned_of() -> None:
    assert "floor" in warnings(lines(kl__at_floor_fraction=0.99))[0]


def test_a_learner_that_waits_for_data_is_warned_of() -> None:
    waits = {"learner__busy_percent": 20.0, "actor__busy_percent": 99.0}
    assert "actors.count" in warnings(lines(**waits))[0]
    assert warnings(lines(STARVED_LINES - 1, **waits)) == []


def test_learner_and_actors_that_both_wait_point_at_what_lies_between() -> None:
    (text,) = warnings(lines(learner__busy_percent=20.0, actor__busy_percent=10.0))
    assert "both wait" in text


def test_a_learner_that_waits_for_the_driver_is_not_told_to_get_more_data() -> None:
    waits = {"learner__busy_percent": 20.0, "learner__driver_wait_s": 3.0, "learner__wait_s": 0.5}
    (text,) = warnings(lines(**waits))
    assert "driver" in text and "actors.count" not in text


def test_filling_replay_before_the_first_update_is_not_starving() -> None:
    assert warnings(lines(every=0, learner__busy_percent=0.0)) == []


def test_a_restart_is_told_while_it_is_recent() -> None:
    history = lines()
    for line in history[-2:]:
        line["replay/restarts"] = 1
    assert "shard" in warnings(history)[0]
    assert warnings(history + [dict(history[-1]) for _ in range(STARVED_LINES + 1)]) == []


def test_a_loss_that_is_not_finite_is_told() -> None:
    assert "loss/critic" in warnings(lines(loss__critic=math.nan))[0]


def test_only_finite_plain_numbers_are_logged_as_scalars() -> None:
    given = {"a": 1, "b": 2.5, "c": True, "d": "x", "e": math.inf, "f": None}
    assert flat_numbers(given) == {"a": 1, "b": 2.5}


def test_every_metric_has_a_unit_and_a_meaning_and_a_row_in_the_table() -> None:
    text = table()
    for metric in METRICS:
        assert metric.unit and metric.help
        assert f"`{metric.name}`" in text
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def actor_report(**values: Any) -> dict[str, Any]:
    return {
        "actor": 1, "agent_steps": 10, "simulator_steps": 80, "episodes": 1, "error": None,
        "random_returns": [], "returns": [3.0], "weights_updates": 0, "life": "a",
        "weights_age": {"agent_steps": 10, "sum": 20.0, "max": 3.0},
        "wall_s": 1.0, "wait_s": 0.0, "driver_wait_s": 0.0,
        "policy_s": 0.05, "policy_agent_steps": 10,
        "writer": {"write_waits": 2, "write_wait_s": 0.5, "chunks_in_flight": 3},
    } | values  # fmt: skip


def learner_report(**values: Any) -> dict[str, Any]:
    return {
        "updates": 5, "published": 5, "metrics": {}, "wall_s": 1.0, "wait_s": 0.0,
        "driver_wait_s": 0.0,
        "reader": {
            "read_waits": 1, "read_wait_s": 0.25, "mapped_shards": 2, "uploaded_agent_steps": 7,
        },
    } | values  # fmt: skip


def test_waiting_for_a_slow_driver_is_not_counted_as_work() -> None:
    tally = Tally()
    times = {"wall_s": 10.0, "wait_s": 1.0, "driver_wait_s": 7.0}
    tally.add_learner(learner_report(**times))
    tally.add_actor(actor_report(wall_s=4.0, wait_s=0.0, driver_wait_s=3.0))
    metrics = tally.take_metrics({}, 100)
    assert metrics["learner/busy_percent"] == pytest.approx(20.0)
    assert metrics["actor/busy_percent"] == pytest.approx(25.0)
    assert (metrics["learner/driver_wait_s"], metrics["actor/driver_wait_s"]) == (7.0, 3.0)


def test_the_policys_time_is_per_agent_step_of_all_actors() -> None:
    tally = Tally()
    assert "actor/policy_ms" not in tally.take_metrics({}, 100)
    tally.add_actor(actor_report())
    tally.add_actor(actor_report(actor=2, policy_s=0.25, policy_agent_steps=20))
    assert tally.take_metrics({}, 100)["actor/policy_ms"] == pytest.approx(10.0)
    assert "actor/policy_ms" not in tally.take_metrics({}, 100)


def test_who_waits_for_whom_is_one_sentence_with_the_longest_wait_first() -> None:
    tally = Tally()
    tally.take_metrics({"agent_steps": 1, "sample_wait_s": 10.0, "waiting_samples": 0}, 100)
    tally.add_actor(actor_report(wall_s=10.0, wait_s=3.7))
    tally.add_learner(learner_report(wall_s=10.0, wait_s=1.0, driver_wait_s=0.05))
    metrics = tally.take_metrics(
        {"agent_steps": 1, "sample_wait_s": 10.6, "waiting_samples": 0}, 100
    )
    assert metrics["wait/actors_for_learner_percent"] == pytest.approx(37.0)
    assert metrics["wait/learner_for_actors_percent"] == pytest.approx(6.0)
    assert metrics["wait/learner_for_replay_percent"] == pytest.approx(4.0)
    assert who_waits([metrics]) == (
        "actors wait for the learner 37 % of the time, the learner waits for actors 6 %, "
        "the learner waits for replay 4 %"
    )


def test_a_batch_that_a_shard_holds_back_still_is_a_wait_for_actors() -> None:
    tally = Tally()
    tally.add_learner(learner_report(wall_s=2.0, wait_s=2.0))
    metrics = tally.take_metrics(
        {"agent_steps": 1, "sample_wait_s": 0.0, "waiting_samples": 3}, 100
    )
    assert metrics["wait/learner_for_actors_percent"] == 100.0
    assert metrics["wait/learner_for_replay_percent"] == 0.0


def test_nobody_waits_and_nothing_known_are_told_apart() -> None:
    assert who_waits([{"updates": 3}]) is None
    assert who_waits([{"wait/actors_for_learner_percent": 0.4}]) == "nobody waits"


def test_waits_of_all_writers_are_added_up() -> None:
    tally = Tally()
    for actor in (1, 2, 2):
        tally.add_actor(actor_report(actor=actor))
    tally.add_learner(learner_report())
    metrics = tally.take_metrics({}, 100)
    assert metrics["actor/write_wait_s"] == 1.0
    assert metrics["actor/chunks_in_flight"] == 6
    assert metrics["learner/mapped_shards"] == 2
    assert metrics["learner/uploaded_agent_steps"] == 7


def test_the_age_of_weights_is_a_mean_over_agent_steps_of_all_actors() -> None:
    tally = Tally()
    tally.add_learner(learner_report(updates=50, published=40))
    for actor, steps, age in ((1, 10, 4.0), (2, 30, 8.0)):
        ages = {"agent_steps": steps, "sum": steps * age, "max": age + 1}
        tally.add_actor(actor_report(actor=actor, weights_updates=45, weights_age=ages))
    metrics = tally.take_metrics({}, 100)
    assert metrics["weights/age_updates"] == pytest.approx(7.0)
    assert metrics["weights/age_updates_max"] == 9.0


def test_an_actor_that_comes_back_as_a_new_process_counts_as_a_restart() -> None:
    tally = Tally()
    for life in ("a", "a", "b", "b"):
        tally.add_actor(actor_report(life=life))
    tally.add_actor(actor_report(actor=2, life="c"))
    assert tally.restarts == 1
    tally.add_actor(actor_report(actor=2, life="c", error="Traceback"))
    assert tally.restarts == 2


def test_the_names_that_the_run_counts_are_in_the_dictionary() -> None:
    tally = Tally()
    tally.add_actor(actor_report())
    tally.add_learner(learner_report(wait_s=0.2, driver_wait_s=0.1))
    tally.add_evaluation({"return_mean": 1.0, "return_se": 0.1, "episodes": 5, "updates": 5})
    known = {metric.name for metric in METRICS}
    replay = ReplayShard(Ring(step_schema((4, 4, 3), 1), capacity=16)).stats()
    assert not set(tally.take_metrics(replay, 100)) - known


def test_the_first_limit_that_is_reached_ends_a_run() -> None:
    limits = Limits(RunSettings(max_updates=100, max_minutes=1.0))
    assert not limits.reached({"updates": 99, "elapsed_s": 59.0})
    assert limits.reached({"updates": 100, "elapsed_s": 0.0})
    assert limits.reached({"updates": 0, "elapsed_s": 60.0})
    assert limits.share({"updates": 50, "elapsed_s": 45.0}) == 0.75


def test_a_run_without_limits_is_never_at_its_end() -> None:
    limits = Limits(RunSettings())
    assert not limits.reached({"updates": 10**9, "elapsed_s": 1e9})
    assert limits.seconds_left({"updates": 5, "elapsed_s": 5.0}, {}) is None


def test_time_left_follows_the_pace() -> None:
    limits = Limits(RunSettings(max_updates=100))
    began, now = {"updates": 20, "elapsed_s": 10.0}, {"updates": 40, "elapsed_s": 20.0}
    assert limits.seconds_left(now, began) == 30.0


def test_durations_are_written_for_people() -> None:
    assert [duration(s) for s in (5, 65, 3600 + 65)] == ["0:05", "1:05", "1:01:05"]


def test_the_documentation_has_the_table_of_metrics():
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert table() in page.read_text(), "docs/metrics.md is out of date: write table() into it"
