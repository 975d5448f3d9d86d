"""The door opening task as CoRe's authors set it up, of robosuite's own parts alone.

robosuite draws the whole front view with every control step, its wrapper randomises once an
episode, and the window is cut out of the picture. A program for robosuite's Python that answers the
calls `reset` and `step` like `actors.environments.robosuite_process`, whose `messages` it borrows:

    PYTHON -I robosuite_door.py '{"messages": FOLDER, "robot": "Panda", ...}'

One thing is mended: robosuite 1.4.1 sends no texture to where it is drawn once there is a context,
and its call for that is wrong. Versions to 1.3, one of which the authors used, sent each.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import mujoco
import numpy as np
import robosuite
from robosuite.controllers import load_controller_config
from robosuite.utils import mjmod
from robosuite.wrappers import DomainRandomizationWrapper


class PublishedDoor:
    """The task of one robot; arguments as those of `robosuite_process.door.Door`."""

    def __init__(self, robot: str, task_seed: int, looks_seed: int, randomize: list[str]) -> None:
        np.random.seed(task_seed)
        environment = robosuite.make(
            "Door",
            robots=robot,
            controller_configs=load_controller_config(default_controller="OSC_POSE"),
            has_renderer=False,
            has_offscreen_renderer=True,
            use_camera_obs=True,
            camera_names="frontview",
            camera_heights=256,
            camera_widths=256,
            reward_shaping=True,
            control_freq=20,
            horizon=500,
            ignore_done=True,
            hard_reset=False,
        )
        environment.reset()  # these two are no part of an episode: ours takes them too,
        environment.step(np.zeros(7))  # and a trace of them reaches into the first one
        if randomize:
            mjmod.TextureModder.upload_texture = _upload
            environment = DomainRandomizationWrapper(
                environment,
                seed=looks_seed,
                randomize_color="color" in randomize,
                randomize_camera="camera" in randomize,
                randomize_lighting="color" in randomize,
                randomize_dynamics=False,
                randomize_every_n_steps=0,
            )
        self._environment = environment
        np.random.seed(task_seed)

    def reset(self) -> dict[str, Any]:
        """Starts an episode; the first observation is behind a step of doing nothing."""
        self._environment.reset()
        return self.step(np.zeros(7))

    def step(self, action: np.ndarray) -> dict[str, Any]:
        """Takes one control step."""
        observation, reward, _, _ = self._environment.step(action)
        # The picture is upside down as OpenGL's are.
        picture = observation["frontview_image"][72:216, 32:176][::-1]
        return {
            "picture": picture,
            "proprioception": observation["robot0_proprio-state"].astype(np.float32),
            "reward": float(reward),
        }


def _upload(modder: Any, name: str, device_id: int = 0) -> None:
    del device_id  # of robosuite's signature
    context = modder.sim._render_context_offscreen
    context.gl_ctx.make_current()
    mujoco.mjr_uploadTexture(modder.model._model, context.con, modder.get_texture(name).id)


def main() -> None:
    """Serves one task until standard input is closed."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    arguments = json.loads(sys.argv[1])
    sys.path.insert(0, arguments.pop("messages"))
    from messages import PREFIX, decode, encode

    door = PublishedDoor(**arguments)
    reply: dict[str, Any] = {}
    while True:
        replies.write(encode(reply))
        replies.flush()
        prefix = sys.stdin.buffer.read(PREFIX.size)
        if len(prefix) < PREFIX.size:
            return
        request = decode(*(sys.stdin.buffer.read(count) for count in PREFIX.unpack(prefix)))
        reply = getattr(door, request["call"])(*request["arguments"])


if __name__ == "__main__":
    main()
