from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import unittest
from pathlib import Path

import dm_env
import numpy as np
import pytest
from dm_control import suite
from dm_env import test_utils

from actors.environments import distractions
from actors.environments.catalog import (
    PAPER_TASKS,
    Entry,
    find,
    list_environments,
    make_environment,
)
from actors.environments.settings import EnvironmentSettings
from actors.environments.suite import SuiteEnvironment


def _small(name: str = "dcs/cartpole-swingup", **fields: object) -> EnvironmentSettings:
    given = {"image_size": 48, "difficulty": "medium", "quality": "fast"} | fields
    return EnvironmentSettings(name=name, **given)  # type: ignore[arg-type]


def _roll(environment: SuiteEnvironment, agent_steps: int, seed: int = 0) -> list[dm_env.TimeStep]:
    generator = np.random.default_rng(seed)
    shape = environment.action_spec().shape
    return [
        environment.step(generator.uniform(-1, 1, shape).astype(np.float32))
        for _ in range(agent_steps)
    ]


def _assert_equal(first: list[dm_env.TimeStep], second: list[dm_env.TimeStep]) -> None:
    for one, two in zip(first, second, strict=True):
        assert (one.step_type, one.reward, one.discount) == (
            two.step_type,
            two.reward,
            two.discount,
        )
        np.testing.assert_array_equal(one.observation, two.observation)


class TestContract(test_utils.EnvironmentTestMixin, unittest.TestCase):
    """dm_env's own tests of what an environment promises, over the end of an episode."""

    def make_object_under_test(self) -> SuiteEnvironment:
        return make_environment(_small(action_repeat=100), 0)


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_the_same_seed_and_actions_give_identical_episodes(name: str) -> None:
    one, two = make_environment(_small(name), 7), make_environment(_small(name), 7)
    for _ in range(2):
        _assert_equal([one.reset()], [two.reset()])
        _assert_equal(_roll(one, 5), _roll(two, 5))
    one.close()
    two.close()


def test_different_seeds_differ() -> None:
    one, two = make_environment(_small(), 7).reset(), make_environment(_small(), 8).reset()
    assert np.abs(one.observation.astype(int) - two.observation).mean() > 5


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_a_reset_with_a_seed_gives_the_episodes_of_a_new_environment(name: str) -> None:
    used, new = make_environment(_small(name), 1), make_environment(_small(name), 7)
    used.reset()
    _roll(used, 4)
    _assert_equal([used.reset(seed=7)], [new.reset()])
    _assert_equal(_roll(used, 4), _roll(new, 4))
    _assert_equal([used.reset()], [new.reset()])
    with pytest.raises(ValueError, match="0 or more"):
        used.reset(seed=-1)


def test_another_process_draws_the_same_bytes() -> None:
    program = (
        "import hashlib, numpy as np, sys\n"
        "from actors.environments.catalog import make_environment\n"
        "from actors.environments.settings import EnvironmentSettings\n"
        "settings = EnvironmentSettings(name='dcs/walker-walk', difficulty='hard')\n"
        "environment = make_environment(settings, 5)\n"
        "digest = hashlib.sha256(environment.reset().observation.tobytes())\n"
        "for _ in range(5):\n"
        "    step = environment.step(np.full(6, 0.5))\n"
        "    digest.update(step.observation.tobytes() + np.float64(step.reward).tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    digests = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
        ).stdout
        for _ in range(2)
    ]
    assert len(digests[0]) > 60 and digests[0] == digests[1]


@pytest.mark.parametrize(
    ("difficulty", "split", "videos", "parts"),
    [
        ("easy", "train", 4, {"background", "camera", "color"}),
        ("easy", "held_out", 4, {"background", "camera", "color"}),
        ("medium", "train", 8, {"background", "camera", "color"}),
        ("hard", "train", 60, {"background", "camera", "color"}),
        ("hard", "held_out", 30, {"background", "camera", "color"}),
        ("background2", "train", 2, {"background"}),
        ("background2", "held_out", 30, {"background"}),
        ("background60", "train", 60, {"background"}),
        ("background60", "held_out", 30, {"background"}),
    ],
)
def test_a_level_has_the_published_videos_and_parts(
    difficulty: str, split: str, videos: int, parts: set[str]
) -> None:
    environment = make_environment(_small(difficulty=difficulty), 0, split)  # type: ignore
    clock = environment.distractions.clock
    assert clock is not None and len(clock._videos.names) == videos
    assert {name for name, part in environment.distractions._parts().items() if part} == parts


def test_intensity_replaces_the_range_of_camera_and_colours() -> None:
    far = {}
    for intensity in (0.0, 0.1, 0.5):
        environment = make_environment(_small(difficulty="easy", intensity=intensity), 3)
        environment.reset()
        moved = environment.physics.data.cam_xpos[0].copy()
        with environment.distractions.removed():
            moved -= environment.physics.data.cam_xpos[0]
        far[intensity] = float(np.linalg.norm(moved))
    level = make_environment(_small(difficulty="easy"), 3)
    level.reset()
    with level.distractions.removed():
        own = level.physics.data.cam_xpos[0].copy()
    assert far[0.1] == float(np.linalg.norm(level.physics.data.cam_xpos[0] - own))
    assert far[0.0] < 1e-9 < far[0.1] < far[0.5]
    with pytest.raises(ValueError, match="intensity is 2"):
        _small(intensity=2)
    with pytest.raises(ValueError, match="replaces the range of easy"):
        _small(difficulty="none", intensity=0.2)


def test_two_episodes_of_one_environment_differ() -> None:
    environment = make_environment(_small(), 7)
    assert not np.array_equal(environment.reset().observation, environment.reset().observation)


@pytest.mark.parametrize("name", [*PAPER_TASKS, "dcs/quadruped-walk", "dcs/point_mass-hard"])
@pytest.mark.parametrize("quality", ["fast", "paper"])
def test_a_restored_environment_continues_identically(name: str, quality: str) -> None:
    settings = _small(name, quality=quality)
    environment = make_environment(settings, 3)
    environment.reset()
    _roll(environment, 4)
    state = pickle.dumps(environment.get_state())
    assert len(state) < 100_000
    picture = environment.observation()
    rest = [*_roll(environment, 4), environment.reset(), *_roll(environment, 2)]
    other = make_environment(settings, 99)
    other.reset()
    _roll(other, 2, seed=5)
    other.set_state(pickle.loads(state))
    np.testing.assert_array_equal(other.observation(), picture)
    _assert_equal(rest, [*_roll(other, 4), other.reset(), *_roll(other, 2)])
    fresh = make_environment(settings, 98)  # restored before its first reset
    fresh.set_state(pickle.loads(state))
    _assert_equal(rest[:4], _roll(fresh, 4))
    for made in (environment, other, fresh):
        made.close()


def test_another_process_continues_a_saved_environment(tmp_path: Path) -> None:
    settings = _small("dcs/cheetah-run", quality="paper", difficulty="hard")
    environment = make_environment(settings, 3)
    environment.reset()
    _roll(environment, 4)
    (tmp_path / "state").write_bytes(pickle.dumps((settings, environment.get_state())))
    program = (
        "import pickle, sys, numpy as np\n"
        "from actors.environments.catalog import make_environment\n"
        "settings, state = pickle.load(open(sys.argv[1], 'rb'))\n"
        "environment = make_environment(settings, 99)\n"
        "environment.set_state(state)\n"
        "steps = [environment.step(np.full(6, 0.25)) for _ in range(3)]\n"
        "pictures = np.stack([step.observation for step in steps])\n"
        "np.savez(sys.argv[2], pictures=pictures, rewards=[step.reward for step in steps])\n"
    )
    files = [str(tmp_path / "state"), str(tmp_path / "continued.npz")]
    subprocess.run([sys.executable, "-c", program, *files], check=True, timeout=120)
    steps = [environment.step(np.full(6, 0.25)) for _ in range(3)]
    continued = np.load(files[1])
    np.testing.assert_array_equal(continued["pictures"], [step.observation for step in steps])
    np.testing.assert_array_equal(continued["rewards"], [step.reward for step in steps])


def test_a_state_of_another_environment_is_refused() -> None:
    environment = make_environment(_small(), 3)
    state = environment.get_state()
    with pytest.raises(ValueError, match=r"cartpole-swingup.*cheetah-run"):
        make_environment(_small("dcs/cheetah-run"), 3).set_state(state)
    with pytest.raises(ValueError, match="same environment settings"):
        make_environment(_small(distractions=("color",)), 3).set_state(state)
    for split, count in (("held_out", None), ("train", 7)):
        with pytest.raises(ValueError, match="one of other videos than this environment's"):
            make_environment(_small(num_videos=count), 3, split).set_state(state)  # type: ignore
    for wrong in (None, {}, state | {"extra": 1}):
        with pytest.raises(ValueError, match="no state that get_state"):
            environment.set_state(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("difficulty", "hard"),
        ("intensity", 0.5),
        ("dynamic", False),
        ("background_blend", 0.5),
        ("ground_alpha", 1.0),
        ("natural_mask", "sky"),
        ("action_repeat", 3),
    ],
)
def test_a_state_of_other_settings_is_refused_and_changes_nothing(
    field: str, value: object
) -> None:
    state = make_environment(_small(**{field: value}), 3).get_state()
    environment, untouched = make_environment(_small(), 5), make_environment(_small(), 5)
    environment.reset()
    untouched.reset()
    with pytest.raises(ValueError, match=rf"{field} {value!r} instead of .* same environment"):
        environment.set_state(state)
    _assert_equal(_roll(environment, 2), _roll(untouched, 2))


def test_a_state_fits_pictures_of_another_quality_and_size() -> None:
    one = make_environment(_small(), 3)
    other = make_environment(_small(quality="paper", image_size=64), 8)
    one.reset()
    _roll(one, 2)
    other.set_state(one.get_state())
    assert [step.reward for step in _roll(one, 3)] == [step.reward for step in _roll(other, 3)]


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_rewards_equal_plain_dm_control_with_the_action_repeated(name: str) -> None:
    environment, entry = make_environment(_small(name, image_size=16), 4), find(name)
    seed = distractions.stream_seeds(4)["task"]
    plain = suite.load(entry.domain, entry.task, task_kwargs={"random": seed})
    environment.reset()
    plain.reset()
    generator = np.random.default_rng(0)
    for _ in range(30):
        action = generator.uniform(-1, 1, environment.action_spec().shape).astype(np.float32)
        expected = sum(plain.step(action).reward for _ in range(entry.action_repeat))
        assert environment.step(action).reward == expected
    environment.close()


def test_an_episode_has_the_promised_agent_steps_and_does_not_terminate() -> None:
    environment = make_environment(_small(image_size=16, difficulty="none", action_repeat=30), 0)
    environment.reset()
    time_steps = _roll(environment, environment.episode_agent_steps)
    assert environment.episode_agent_steps == 34
    assert [time_step.last() for time_step in time_steps] == [False] * 33 + [True]
    assert time_steps[-1].discount == 1.0
    assert environment.simulator_steps == 10  # 33 agent steps of 30, then what is left of 1000
    assert make_environment(_small(), 0).episode_agent_steps == 125


def test_one_picture_is_drawn_per_agent_step() -> None:
    environment = make_environment(_small(), 0)
    environment.reset()
    _roll(environment, 6)
    assert environment.frames_drawn == 7


def test_observations_belong_to_the_caller() -> None:
    for quality in ("fast", "paper"):
        environment = make_environment(_small(quality=quality), 0)
        first = environment.reset().observation
        kept = first.copy()
        _roll(environment, 1)
        np.testing.assert_array_equal(first, kept)
        assert first.flags.writeable and first.flags.owndata and first.flags.c_contiguous


def test_held_out_differs_from_train_in_the_background_only() -> None:
    train, held_out = (make_environment(_small(), 5, split) for split in ("train", "held_out"))
    assert not np.array_equal(train.reset().observation, held_out.reset().observation)
    np.testing.assert_array_equal(train.physics.data.cam_xpos, held_out.physics.data.cam_xpos)
    np.testing.assert_array_equal(train.physics.data.qpos, held_out.physics.data.qpos)
    np.testing.assert_array_equal(train.physics.model.mat_rgba, held_out.physics.model.mat_rgba)


def test_clean_ignores_the_distractions() -> None:
    one = make_environment(_small(difficulty="none"), 5)
    two = make_environment(_small(difficulty="none", distractions=()), 5)
    _assert_equal([one.reset(), *_roll(one, 3)], [two.reset(), *_roll(two, 3)])


def test_frames_for_people_do_not_disturb_observations() -> None:
    one, two = make_environment(_small(), 5), make_environment(_small(), 5)
    one.reset()
    two.reset()
    assert one.render_frame(240).shape == (240, 320, 3)
    _assert_equal(_roll(one, 3), _roll(two, 3))
    assert one.frames_drawn == two.frames_drawn


def test_actions_are_clipped_and_checked() -> None:
    one, two = make_environment(_small(), 5), make_environment(_small(), 5)
    one.reset()
    two.reset()
    _assert_equal([one.step(np.array([9.0]))], [two.step(np.array([1.0]))])
    with pytest.raises(ValueError, match="shape"):
        one.step(np.zeros(2))
    with pytest.raises(ValueError, match="not finite"):
        one.step(np.array([np.nan]))


def test_a_second_thread_gets_a_clear_error() -> None:
    environment = make_environment(_small(), 5)
    environment.reset()
    caught: list[Exception] = []

    def use() -> None:
        try:
            environment.reset()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(timeout=60)
    assert len(caught) == 1 and "one thread" in str(caught[0])


def test_closing_twice_is_fine() -> None:
    environment = make_environment(_small(), 5)
    environment.reset()
    environment.close()
    environment.close()


def test_a_closed_environment_says_so() -> None:
    environment = make_environment(_small(), 5)
    environment.reset()
    environment.close()
    for use in (environment.reset, environment.observation, environment.clean_observation):
        with pytest.raises(RuntimeError, match=r"dcs/cartpole-swingup has been closed"):
            use()
    with pytest.raises(RuntimeError, match="has been closed"):
        environment.step(np.zeros(1))


def test_a_frame_without_pixels_is_refused() -> None:
    environment = make_environment(_small(), 5)
    environment.reset()
    with pytest.raises(ValueError, match="8 is the least"):
        environment.render_frame(0)
    environment.close()


_SUITE = [entry for entry in list_environments() if entry.family == "dcs"]


@pytest.mark.slow
@pytest.mark.parametrize("entry", _SUITE, ids=lambda entry: entry.name)
def test_every_listed_task_runs_clean_and_behind_a_video_or_says_why_not(entry: Entry) -> None:
    clean = make_environment(_small(entry.name, difficulty="none"), 0)
    assert clean.action_spec().shape == (entry.action_dims,)
    assert clean.episode_agent_steps * clean.action_repeat >= entry.episode_simulator_steps
    plain = clean.reset().observation
    assert plain.std() > 1.0
    assert np.isfinite([time_step.reward for time_step in _roll(clean, 3)]).all()
    clean.close()
    try:
        disturbed = make_environment(_small(entry.name, difficulty="background2"), 0)
    except ValueError as error:
        assert "is hidden from its camera" in str(error)
        return
    changed = np.abs(disturbed.reset().observation.astype(int) - plain).max(-1) > 10
    assert changed.mean() > 0.3, "the task's sky is hidden and make_environment does not say so"
    assert np.isfinite([time_step.reward for time_step in _roll(disturbed, 3)]).all()
    disturbed.close()
