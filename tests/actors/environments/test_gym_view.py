from __future__ import annotations

import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import dm_env
import gymnasium
import numpy as np
import pytest
from dm_env import specs
from gymnasium.utils.env_checker import check_env

from actors.environments import gym_view
from actors.environments.catalog import NATURAL_TASKS, PAPER_TASKS, make_environment
from actors.environments.interface import PixelEnvironment
from actors.environments.settings import EnvironmentSettings

CARTPOLE = "rl_system/DCS-cartpole-swingup-medium-dynamic-v0"
SMALL = {"image_size": 32, "quality": "fast"}


def _make(identifier: str = CARTPOLE, **fields: object) -> gymnasium.Env:
    return gymnasium.make(identifier, **(SMALL | fields))


@pytest.mark.parametrize(
    "identifier",
    [
        CARTPOLE,
        "rl_system/DCS-walker-walk-none-v0",
        "rl_system/DCS-reacher-easy-hard-static-v0",
        "rl_system/Natural-cheetah-run-v0",
    ],
)
def test_gymnasiums_checker_passes_without_a_warning(identifier: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(_make(identifier).unwrapped)


@pytest.mark.slow
def test_gymnasiums_checker_passes_on_robosuites_door() -> None:
    from actors.environments.robosuite import RobosuiteMissing

    try:
        door = gymnasium.make("rl_system/Door-panda-randomized-v0", image_size=84)
    except RobosuiteMissing as missing:
        pytest.skip(str(missing))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(door.unwrapped)
    door.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_copies_in_a_vector_give_what_each_gives_alone(mode: str) -> None:
    vector = gymnasium.make_vec(CARTPOLE, num_envs=2, vectorization_mode=mode, **SMALL)
    actions = np.array([[0.5], [-0.5]], np.float32)
    try:
        first, _ = vector.reset(seed=4)
        second, rewards, *_ = vector.step(actions)
    finally:
        vector.close()
    for index in range(2):
        alone = _make()
        np.testing.assert_array_equal(alone.reset(seed=4 + index)[0], first[index])
        observation, reward, *_ = alone.step(actions[index])
        np.testing.assert_array_equal(observation, second[index])
        assert reward == rewards[index]
        alone.close()


def test_a_seed_gives_the_episodes_of_the_dm_env_environment_of_that_seed() -> None:
    view = _make()
    settings = EnvironmentSettings(
        name="dcs/cartpole-swingup", difficulty="medium", image_size=32, quality="fast"
    )
    direct = make_environment(settings, 11)
    action = np.array([0.3], np.float32)
    for seed in (11, None):  # None: the second episode of the same seed
        np.testing.assert_array_equal(view.reset(seed=seed)[0], direct.reset().observation)
        observation, reward, *_, info = view.step(action)
        expected = direct.step(action)
        np.testing.assert_array_equal(observation, expected.observation)
        assert reward == expected.reward
        assert info["simulator_steps"] == direct.simulator_steps == 8
    first = view.reset(seed=11)[0]  # in the middle of an episode
    assert not np.array_equal(first, view.reset(seed=12)[0])
    np.testing.assert_array_equal(first, view.reset(seed=11)[0])


def test_the_examples_of_the_documentation_run() -> None:
    page = Path(__file__).parents[3] / "docs" / "environments.md"
    examples = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 3
    names: dict[str, Any] = {"np": np, "action": np.zeros(6)}
    for example in examples:
        exec(example, names)
    assert names["time_step"].observation is not None
    np.testing.assert_array_equal(names["time_step"].observation, names["rows"][0])
    for made in ("environment", "env", "envs"):
        names[made].close()
    assert names["info"]["simulator_steps"] == 4


def test_without_a_seed_no_two_environments_are_alike() -> None:
    assert not np.array_equal(_make().reset()[0], _make().reset()[0])


def test_spaces_hold_what_the_environment_gives_and_takes() -> None:
    view = _make("rl_system/DCS-walker-walk-easy-dynamic-v0", image_size=20)
    assert view.observation_space == gymnasium.spaces.Box(0, 255, (20, 20, 3), np.uint8)
    assert view.action_space == gymnasium.spaces.Box(-1.0, 1.0, (6,), np.float32)


def test_a_time_limit_truncates_and_stepping_on_is_refused() -> None:
    view = _make(action_repeat=400)
    view.reset(seed=0)
    ends = [view.step(np.zeros(1, np.float32))[2:] for _ in range(3)]
    assert [(terminated, truncated) for terminated, truncated, _ in ends] == [
        (False, False),
        (False, False),
        (False, True),
    ]
    assert ends[-1][2]["simulator_steps"] == 200
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        view.unwrapped.step(np.zeros(1, np.float32))
    view.reset()
    assert not view.step(np.zeros(1, np.float32))[3]


class _Falls(PixelEnvironment):
    """Truly ends with its first step, and observes a vector beside the picture."""

    name = "falls"
    simulator_steps = 1

    def reset(self, seed: int | None = None) -> dm_env.TimeStep:
        return dm_env.restart(self.observation())

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        return dm_env.termination(1.0, self.observation())

    def observation(self) -> dict[str, np.ndarray]:
        return {
            "observation": np.zeros((8, 8, 3), np.uint8),
            "proprioception": np.zeros(5, np.float32),
        }

    def action_spec(self) -> specs.BoundedArray:
        return specs.BoundedArray((2,), np.float32, -1.0, 1.0)

    def observation_spec(self) -> dict[str, specs.Array]:
        return {
            "observation": specs.BoundedArray((8, 8, 3), np.uint8, 0, 255),
            "proprioception": specs.Array((5,), np.float32),
        }


def test_a_true_end_terminates_and_named_observations_become_a_dict_space(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gym_view, "make_environment", lambda *_: _Falls())
    view = gym_view.GymnasiumView("dcs/cheetah-run")
    observation, _ = view.reset(seed=0)
    assert observation in view.observation_space
    assert isinstance(view.observation_space, gymnasium.spaces.Dict)
    assert view.step(view.action_space.sample())[2:4] == (True, False)


def test_every_level_of_every_paper_task_natural_and_the_doors_are_registered() -> None:
    ids = gym_view.list_ids()
    for name in PAPER_TASKS:
        task = name.removeprefix("dcs/")
        assert ids[f"rl_system/DCS-{task}-none-v0"] == {"name": name, "difficulty": "none"}
        for level in ("easy", "medium", "hard", "background2", "background60"):
            for motion in ("static", "dynamic"):
                keywords = ids[f"rl_system/DCS-{task}-{level}-{motion}-v0"]
                assert keywords == {
                    "name": name,
                    "difficulty": level,
                    "dynamic": motion == "dynamic",
                }
    natural = {key: value for key, value in ids.items() if "/Natural-" in key}
    assert {value["name"] for value in natural.values()} == set(NATURAL_TASKS)
    assert all(value["difficulty"] == "natural" for value in natural.values())
    assert ids["rl_system/Door-panda-randomized-v0"]["difficulty"] == "randomized"
    assert {"rl_system/Door-panda-v0", "rl_system/Door-jaco-v0"} <= set(ids)
    for identifier, keywords in ids.items():
        registered = gymnasium.spec(identifier)
        assert registered.kwargs == keywords
        EnvironmentSettings(**keywords)


def test_an_id_can_name_the_module_that_registers_it() -> None:
    view = gymnasium.make(f"actors.environments.gym_view:{CARTPOLE}", **SMALL)
    assert view.reset(seed=0)[0].shape == (32, 32, 3)


def test_any_setting_is_a_keyword_and_lists_stand_for_tuples() -> None:
    view = _make(image_size=24, distractions=["camera"], action_repeat=3)
    settings = view.unwrapped.settings
    assert (settings.image_size, settings.distractions) == (24, ("camera",))
    view.reset(seed=0)
    assert view.step(np.zeros(1, np.float32))[4]["simulator_steps"] == 3
    json.dumps(gymnasium.spec(CARTPOLE).kwargs)


def test_an_unknown_keyword_names_the_nearest_setting() -> None:
    with pytest.raises(ValueError, match=r"'image_sise'.*'image_size'"):
        _make(image_sise=24)
    with pytest.raises(ValueError, match=r"'foo' is no setting of an environment\. "):
        _make(foo=1)
    with pytest.raises(ValueError, match=r"reset\(seed=\.\.\.\)"):
        _make(seed=3)
    with pytest.raises(ValueError, match=r"environment\.quality.*exact, paper, fast"):
        _make(quality="best")
    with pytest.raises(ValueError, match="train or held_out"):
        _make(split="test")


def test_held_out_shows_other_videos_to_the_same_task() -> None:
    train, held_out = _make(), _make(split="held_out")
    assert not np.array_equal(train.reset(seed=5)[0], held_out.reset(seed=5)[0])
    action = np.array([0.7], np.float32)
    assert train.step(action)[1] == held_out.step(action)[1]


def test_a_restored_view_continues_identically() -> None:
    view, other = _make(), _make()
    view.reset(seed=6)
    view.step(np.array([1.0], np.float32))
    state = pickle.dumps(view.unwrapped.get_state())
    other.reset(seed=7)
    other.unwrapped.set_state(pickle.loads(state))
    for force in (0.4, -0.9):
        action = np.array([force], np.float32)
        (one, one_reward, *_), (two, two_reward, *_) = view.step(action), other.step(action)
        np.testing.assert_array_equal(one, two)
        assert one_reward == two_reward
    np.testing.assert_array_equal(view.reset()[0], other.reset()[0])


def test_rgb_array_renders_a_wide_picture_and_no_mode_renders_none() -> None:
    view = _make(render_mode="rgb_array")
    view.reset(seed=0)
    picture = view.render()
    assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8 and picture.std() > 5
    plain = _make()
    plain.reset(seed=0)
    assert plain.unwrapped.render() is None


def test_the_clean_twin_is_the_picture_of_the_undistracted_task() -> None:
    view = _make(clean_twin=True)
    observation, info = view.reset(seed=3)
    clean = _make("rl_system/DCS-cartpole-swingup-none-v0")
    np.testing.assert_array_equal(info["clean_observation"], clean.reset(seed=3)[0])
    assert not np.array_equal(observation, info["clean_observation"])


def test_closing_twice_is_fine_and_a_closed_view_says_so() -> None:
    view = gym_view.GymnasiumView("dcs/cartpole-swingup", **SMALL)
    view.reset(seed=0)
    view.close()
    view.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError, match="closed"):
        view.reset()
