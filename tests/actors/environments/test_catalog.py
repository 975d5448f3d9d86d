from __future__ import annotations

import pytest

from actors.environments import catalog
from actors.environments.settings import EnvironmentSettings


def test_the_six_paper_tasks_come_first_with_their_published_action_repeats() -> None:
    repeats = {entry.name: entry.action_repeat for entry in catalog.list_environments()[:6]}
    assert repeats == {
        "dcs/ball_in_cup-catch": 4,
        "dcs/cartpole-swingup": 8,
        "dcs/cheetah-run": 4,
        "dcs/finger-spin": 2,
        "dcs/reacher-easy": 4,
        "dcs/walker-walk": 2,
    }


def test_every_listed_environment_is_a_task_of_dm_control() -> None:
    from dm_control import suite

    listed = {
        (entry.domain, entry.task) for entry in catalog.list_environments() if entry.family == "dcs"
    }
    # The rest: linear regulators without a time limit, and a task that differs in its state alone.
    assert set(suite.ALL_TASKS) - listed == {
        ("lqr", "lqr_2_1"),
        ("lqr", "lqr_6_2"),
        ("humanoid", "run_pure_state"),
    }


def test_a_level_that_an_environment_does_not_have_is_named_with_those_it_has() -> None:
    with pytest.raises(ValueError, match="'randomized', and dcs/cheetah-run has: none, easy"):
        catalog.make_environment(EnvironmentSettings(difficulty="randomized"), 0)
    with pytest.raises(ValueError, match="'medium', and robosuite/door-panda has: none, random"):
        settings = EnvironmentSettings(name="robosuite/door-panda", difficulty="medium")
        catalog.make_environment(settings, 0)
    with pytest.raises(ValueError, match=r"environment\.proprioception is for robosuite"):
        catalog.make_environment(EnvironmentSettings(proprioception=True), 0)


@pytest.mark.parametrize(
    "name", ["dcs/cartpole-swingupp", "cartpole-swingup", "dcs/cart_pole-swingup"]
)
def test_an_unknown_name_gives_the_nearest(name: str) -> None:
    with pytest.raises(catalog.UnknownEnvironment, match="dcs/cartpole-swingup"):
        catalog.make_environment(EnvironmentSettings(name=name), 0)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="train or held_out"):
        catalog.make_environment(EnvironmentSettings(), 0, "valid")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("difficulty", "extreme"),
        ("quality", "best"),
        ("distractions", ("colour",)),
        ("action_repeat", 0),
        ("image_size", 4),
        ("background_blend", 1.5),
        ("ground_alpha", -0.1),
        ("num_videos", -1),
        ("image_size", "big"),
        ("dynamic", "no"),
        ("background_blend", True),
        ("videos", None),
        ("distractions", "camera"),
        ("natural_mask", "red"),
        ("view", "tall"),
        ("intensity", -0.1),
    ],
)
def test_a_setting_outside_its_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"environment.{field}"):
        EnvironmentSettings(**{field: value})  # type: ignore[arg-type]
