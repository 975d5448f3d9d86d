"""The published `distracting-control` package, used as CoRe's authors use it.

Its own `suite.load` builds the task, the three distraction wrappers and dm_control's pixel wrapper:
every simulator step draws 320 x 240 pixels, and moves and uploads the background. The action repeat
is outside, and the last picture of it is resized by Pillow. One alias adapts it to MuJoCo 3.2 and
later; its generators, which it leaves alike or unseeded, get the seeds that they are given here, so
that another environment can be brought into the same state.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

_WRAPPERS = {
    "DistractingBackgroundEnv": "background",
    "DistractingCameraEnv": "camera",
    "DistractingColorEnv": "color",
}


class PackageEnvironment:
    """One task of the Distracting Control Suite, drawn by the package.

    Args:
        domain: dm_control's domain.
        task: dm_control's task.
        videos: folder with one sub-folder of pictures per DAVIS video.
        seeds: 32-bit seeds of "task", "background", "camera" and "color".
        action_repeat: simulator steps per agent step.
        image_size: height and width of the pictures that are given.
        difficulty: easy, medium or hard; all three distractions are on.
        dynamic: whether they move during an episode.
    """

    def __init__(
        self,
        domain: str,
        task: str,
        videos: Path,
        seeds: Mapping[str, int],
        *,
        action_repeat: int,
        image_size: int,
        difficulty: str = "medium",
        dynamic: bool = True,
    ) -> None:
        suite = _load_suite()
        quieter = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # dm_control warns about its own model files
        self._action_repeat = action_repeat
        self._size = (image_size, image_size)
        self._environment = suite.load(
            domain,
            task,
            difficulty=difficulty,
            dynamic=dynamic,
            distraction_types=("background", "camera", "color"),
            background_dataset_path=str(videos),
            background_dataset_videos="train",
            task_kwargs={"random": seeds["task"]},
            render_kwargs={
                "height": 240,
                "width": 320,
                "camera_id": 2 if domain == "quadruped" else 0,
            },
        )
        logging.set_verbosity(quieter)
        layer: Any = self._environment
        while "_env" in vars(layer):
            layer = layer._env
            stream = _WRAPPERS.get(type(layer).__name__)
            if stream is not None:  # before the first reset, so before any of them has drawn
                layer._random_state = np.random.RandomState(seeds[stream])

    def reset(self) -> np.ndarray:
        """Starts an episode: uint8 (image_size, image_size, 3)."""
        return self._resize(self._environment.reset())

    def step(self, action: np.ndarray) -> np.ndarray:
        """Repeats the action: uint8 (image_size, image_size, 3), the last of the pictures."""
        for _ in range(self._action_repeat):
            time_step = self._environment.step(action)
            if time_step.last():
                break
        return self._resize(time_step)

    @property
    def physics(self) -> Any:
        """The task's dm_control physics."""
        return self._environment.physics

    def close(self) -> None:
        """Frees the drawing context."""
        self._environment.physics.free()

    def _resize(self, time_step: Any) -> np.ndarray:
        picture = Image.fromarray(time_step.observation["pixels"])
        return np.array(picture.resize(self._size, Image.Resampling.BILINEAR))


def _load_suite() -> Any:
    os.environ.setdefault("HOME", "/")  # the package composes a default folder from it
    importlib.import_module("actors.environments.published")  # imports it without the old gym
    suite = importlib.import_module("distracting_control.suite")
    from dm_control.mujoco.wrapper import core

    if not hasattr(core.MjModel, "tex_rgb"):
        # MuJoCo 3.2 renamed it; the textures of these tasks have three channels, as it had.
        core.MjModel.tex_rgb = property(lambda model: model.tex_data)
    return suite
