"""Natural MuJoCo: CVRL's ten tasks with a video in place of everything but the robot."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from actors.environments.catalog import NATURAL_TASKS, make_environment
from actors.environments.settings import EnvironmentSettings
from actors.environments.suite import SuiteEnvironment


def _make(name: str, mask: str = "threshold", **fields: object) -> SuiteEnvironment:
    given = {"image_size": 64, "difficulty": "natural", "natural_mask": mask} | fields
    split = given.pop("split", "train")
    return make_environment(EnvironmentSettings(name=name, **given), 4, split)  # type: ignore


@pytest.mark.parametrize("name", NATURAL_TASKS)
def test_the_released_rule_keeps_bright_red_and_pastes_the_video_elsewhere(name: str) -> None:
    environment = _make(name)
    assert environment.action_repeat == 2 and environment.episode_agent_steps == 500
    environment.reset()
    picture = environment.step(np.zeros(environment.action_spec().shape)).observation
    clean, video = environment.clean_observation(), environment.distractions.clock.picture()
    kept = clean[..., 0] > 100
    np.testing.assert_array_equal(picture[kept], clean[kept])
    np.testing.assert_array_equal(picture[~kept], video[~kept])
    assert 0.5 < (~kept).mean() < 1.0
    environment.close()


@pytest.mark.parametrize("name", NATURAL_TASKS)
def test_the_segmentation_keeps_the_robot_and_nothing_of_floor_and_sky(name: str) -> None:
    environment = _make(name, "segmentation")
    environment.reset()
    picture, clean = environment.observation(), environment.clean_observation()
    physics, model = environment.physics, environment.physics.model
    kinds = physics.render(64, 64, camera_id=2 if "quadruped" in name else 0, segmentation=True)
    bodies = (kinds[..., 1] == mujoco.mjtObj.mjOBJ_GEOM) & (
        model.geom_type[kinds[..., 0]] != mujoco.mjtGeom.mjGEOM_PLANE
    )
    assert 3 < bodies.sum() < 0.25 * 64 * 64
    np.testing.assert_array_equal(picture[bodies], clean[bodies])
    nothing = kinds[..., 0] < 0
    video = environment.distractions.clock.picture()
    np.testing.assert_array_equal(picture[nothing], video[nothing])
    bright = clean[..., 0] > 100
    assert (bright == bodies).mean() > 0.9  # the two rules are about the same thing
    environment.close()


@pytest.mark.parametrize("name", NATURAL_TASKS)
def test_the_sky_form_shows_the_video_in_the_scene(name: str) -> None:
    environment = _make(name, "sky", quality="fast")
    changes = np.abs(
        environment.reset().observation.astype(int) - environment.clean_observation()
    ).max(-1)
    assert (changes > 10).mean() > 0.4
    environment.close()


def test_the_video_moves_one_frame_per_agent_step_and_an_episode_draws_another() -> None:
    environment = _make("dcs/cartpole-balance", action_repeat=2, quality="fast")
    videos = set()
    for _ in range(6):
        environment.reset()
        clock = environment.distractions.clock
        videos.add(clock.video)
        frames = [clock.frame]
        for _ in range(3):
            environment.step(np.zeros(1))
            frames.append(clock.frame)
        assert frames == [1, 2, 3, 4]
    assert len(videos) > 2
    environment.close()


def test_held_out_videos_are_others() -> None:
    shown = {}
    for split in ("train", "held_out"):
        environment = _make("dcs/cheetah-run", split=split, quality="fast")
        shown[split] = set(environment.distractions.clock._videos.names)
        environment.close()
    assert shown["train"] and not shown["train"] & shown["held_out"]


@pytest.mark.parametrize("quality", ["paper", "fast"])
@pytest.mark.parametrize("mask", ["threshold", "segmentation"])
def test_a_wide_view_is_pasted_into_as_well(mask: str, quality: str) -> None:
    environment = _make("dcs/walker-walk", mask, view="wide", quality=quality)
    picture, clean = environment.reset().observation, environment.clean_observation()
    video = environment.distractions.clock.picture()
    pasted = (picture == video).all(-1)
    np.testing.assert_array_equal(picture[~pasted], clean[~pasted])
    assert 0.5 < pasted.mean() < 1.0
    if mask == "segmentation":
        # The robot is where the pictures of the plain suite show it, squeezed to three quarters.
        columns = np.flatnonzero((~pasted).any(0))
        square = _make("dcs/walker-walk", mask, quality=quality)
        kept = (square.reset().observation != square.distractions.clock.picture()).any(-1)
        width = np.ptp(np.flatnonzero(kept.any(0)))
        assert abs(np.ptp(columns) - width * 3 / 4) <= 2
        square.close()
    environment.close()


def test_pictures_larger_than_what_they_are_resized_from_are_pasted_into_as_well() -> None:
    environment = _make("dcs/cartpole-swingup", "segmentation", view="wide", image_size=300)
    first, picture = environment.reset().observation, environment.observation()
    np.testing.assert_array_equal(picture, first)  # the mask's larger buffer changes no picture
    video = environment.distractions.clock.picture()
    assert 0.9 < (picture == video).all(-1).mean() < 1.0
    environment.close()


def test_tasks_without_a_visible_sky_can_be_pasted() -> None:
    environment = _make("dcs/manipulator-bring_ball", "segmentation", quality="fast")
    clean = environment.clean_observation
    assert not np.array_equal(environment.reset().observation, clean())
    environment.close()


def test_a_restored_natural_environment_continues_identically() -> None:
    one, two = _make("dcs/walker-walk", quality="fast"), _make("dcs/walker-walk", quality="fast")
    one.reset()
    for _ in range(3):
        one.step(np.full(6, 0.3))
    two.set_state(one.get_state())
    for _ in range(3):
        first, second = one.step(np.full(6, -0.2)), two.step(np.full(6, -0.2))
        assert first.reward == second.reward
        np.testing.assert_array_equal(first.observation, second.observation)
