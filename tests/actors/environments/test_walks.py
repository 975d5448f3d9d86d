"""Camera and colour walks against the published package's own wrappers, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from actors.environments import distractions, published
from actors.environments.camera import CameraWalk
from actors.environments.catalog import PAPER_TASKS, find
from actors.environments.color import ColorWalk
from actors.environments.tasks import load_task, step_task


def _package(name: str, scale: float, dynamic: bool) -> Any:
    entry = find(name)
    environment: Any = load_task(entry, 3)
    ranges = published.suite_utils.get_camera_kwargs(entry.domain, scale, dynamic)
    environment = published.camera.DistractingCameraEnv(environment, camera_id=0, seed=4, **ranges)
    ranges = published.suite_utils.get_color_kwargs(scale, dynamic)
    return published.color.DistractingColorEnv(environment, seed=5, **ranges)


@pytest.mark.parametrize("name", PAPER_TASKS)
@pytest.mark.parametrize(("scale", "dynamic"), [(0.1, True), (0.3, True), (0.2, False)])
def test_walks_equal_the_published_wrappers_bit_for_bit(
    name: str, scale: float, dynamic: bool
) -> None:
    entry = find(name)
    theirs, ours = _package(name, scale, dynamic), load_task(entry, 3)
    camera = CameraWalk(ours, distractions.camera_id(entry.domain), scale, dynamic, entry.domain, 4)
    color = ColorWalk(ours.physics, scale, dynamic, 5)
    generator = np.random.default_rng(0)
    for _ in range(2):  # episodes
        theirs.reset()
        ours.reset()
        for part in (camera, color):
            part.reset()
            part.place()
        for simulator_step in range(120):
            action = generator.uniform(-1, 1, ours.action_spec().shape)
            theirs.step(action)
            step_task(ours, action)
            camera.tick()
            color.tick()
            if simulator_step % 7:  # drawn now and then, as at an action repeat
                continue
            camera.place()
            color.place()
            for field in ("cam_xpos", "cam_xmat"):
                np.testing.assert_array_equal(
                    getattr(ours.physics.data, field)[0], getattr(theirs.physics.data, field)[0]
                )
            np.testing.assert_array_equal(
                ours.physics.model.mat_rgba, theirs.physics.model.mat_rgba
            )


def test_a_swapped_camera_shows_its_own_pose_and_comes_back() -> None:
    task = load_task(find("dcs/cheetah-run"), 3)
    camera = CameraWalk(task, 0, 0.3, True, "cheetah", 4)
    task.reset()
    own = task.physics.data.cam_xpos[0].copy()
    camera.reset()
    camera.place()
    walked = task.physics.data.cam_xpos[0].copy()
    assert not np.array_equal(own, walked)
    camera.swap()
    np.testing.assert_array_equal(task.physics.data.cam_xpos[0], own)
    camera.swap()
    np.testing.assert_array_equal(task.physics.data.cam_xpos[0], walked)


def test_a_camera_that_cannot_walk_is_named() -> None:
    with pytest.raises(ValueError, match=r"camera is 'targetbodycom'.*leave camera out"):
        CameraWalk(load_task(find("dcs/dog-fetch"), 3), 0, 0.1, True, "dog", 4)
