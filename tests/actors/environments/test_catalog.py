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

    listed = {(entry.domain, entry.task) for entry in catalog.list_environments()}
    assert listed <= set(suite.ALL_TASKS)


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
    ],
)
def test_a_setting_outside_its_range_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"environment.{field}"):
        EnvironmentSettings(**{field: value})  # type: ignore[arg-type]
