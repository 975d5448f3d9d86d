"""Camera, colour and background distractions around one task, ticking once per simulator step.

Ranges, random walks and the order of random draws are those of the published package: its camera
and colour wrappers run as they are, the background clock here draws as its background wrapper does.
Where that package leaves its generators unseeded or gives all three the same seed, here one seed
gives each its own.
"""

from __future__ import annotations

import copy
from typing import Any

import dm_env
import numpy as np
from dm_control.rl import control

from actors.environments import published
from actors.environments.catalog import Entry
from actors.environments.settings import EnvironmentSettings
from actors.environments.videos import VideoSource, open_videos

STREAMS = ("task", "background", "camera", "color")


def stream_seeds(seed: int) -> dict[str, int]:
    """Returns the 32-bit seed of each random stream of an environment, the names of `STREAMS`.

    Raises:
        ValueError: `seed` is negative.
    """
    if seed < 0:
        raise ValueError(f"The environment's seed is {seed}; it must be 0 or more.")
    words = np.random.SeedSequence(seed).generate_state(len(STREAMS))
    return {name: int(word) for name, word in zip(STREAMS, words, strict=True)}


def camera_id(domain: str) -> int:
    """Returns the camera that draws observations of this domain."""
    return 2 if domain == "quadruped" else 0


def ground_alpha(domain: str) -> float:
    """Returns the published opacity of the floor in front of background videos."""
    return float(
        published.suite_utils.get_background_kwargs(domain, None, True, None)["ground_plane_alpha"]
    )


class Background:
    """Which frame of which video is behind the task.

    A reset draws a video, then (static only) one of its frames, then a start and a direction, all
    uniformly. A tick moves one frame on; the video runs back at either end, its last frame then
    shows twice. With a blend below 1, every episode is mixed with the task's own sky (the published
    wrapper mixes later episodes with the last picture of the episode before).
    """

    def __init__(
        self, videos: VideoSource, dynamic: bool, blend: float, sky: np.ndarray, seed: int
    ) -> None:
        self._videos = videos
        self._dynamic = dynamic
        self._blend = np.float32(blend)
        self._under = sky.astype(np.float32) * np.float32(1.0 - blend)
        self._mixed = np.empty_like(self._under)
        self._texture = np.ascontiguousarray(sky)
        self._random = np.random.RandomState(seed)
        self._frames = sky[None]  # of the current video
        self.video = 0  # index into the videos' names
        self.frame = 0  # index of the frame that is shown
        self.direction = 1  # +1 forward, -1 backward

    def reset(self) -> None:
        """Draws the background of a new episode."""
        if not self._videos.names:
            return
        self.video = int(self._random.choice(len(self._videos.names)))
        self._frames = self._videos.frames(self.video)
        count = len(self._frames)
        still = None if self._dynamic else int(self._random.choice(count))
        start = int(self._random.choice(count if still is None else 1))
        self.frame = start if still is None else still
        self.direction = int(self._random.choice([-1, 1]))

    def tick(self) -> None:
        """Moves on by one simulator step."""
        if not self._dynamic or not self._videos.names:
            return
        last = len(self._frames) - 1
        self.frame += self.direction
        if self.frame <= 0:
            self.frame, self.direction = 0, 1
        if self.frame > last:
            self.frame, self.direction = last, -1

    def texture(self) -> np.ndarray:
        """Returns the sky to show, uint8 (size, size, 3), valid until the next call."""
        if not self._videos.names:
            return self._texture
        frame = self._frames[self.frame]
        if self._blend == 1.0:
            return frame
        np.multiply(frame, self._blend, out=self._mixed)
        self._mixed += self._under
        np.copyto(
            self._texture, self._mixed, casting="unsafe"
        )  # cut to whole grey levels, as published
        return self._texture

    def get_state(self) -> dict[str, Any]:
        """Returns a plain, picklable copy of the clock."""
        return {
            "video": self._videos.names[self.video] if self._videos.names else None,
            "frame": self.frame,
            "direction": self.direction,
            "random": self._random.get_state(legacy=False),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state` of a background with the same videos.

        Raises:
            ValueError: the video of the state is not among this environment's videos.
        """
        if self._videos.names:
            if state["video"] not in self._videos.names:
                raise ValueError(
                    f"The saved video {state['video']!r} is not among this environment's: "
                    "restore it with the same environment.videos, num_videos, difficulty and split."
                )
            self.video = self._videos.names.index(state["video"])
            self._frames = self._videos.frames(self.video)
        self.frame, self.direction = state["frame"], state["direction"]
        self._random.set_state(state["random"])


class DistractedTask:
    """A dm_control task whose camera, colours and background are disturbed.

    Attributes:
        background: the background's clock, None when that distraction is off.
    """

    def __init__(
        self,
        task: control.Environment,
        entry: Entry,
        settings: EnvironmentSettings,
        seeds: dict[str, int],
        background: Background | None,
    ) -> None:
        self._physics = task.physics
        self.background = background
        self._camera: Any = None
        self._color: Any = None
        self._task: Any = task
        active = () if settings.difficulty == "none" else settings.distractions
        if background is not None:
            alpha = (
                ground_alpha(entry.domain)
                if settings.ground_alpha is None
                else settings.ground_alpha
            )
            _set_ground_alpha(self._physics, alpha)
        if "camera" in active:
            _check_camera(self._physics, entry.name)
            ranges = published.suite_utils.get_camera_kwargs(
                entry.domain, published.SCALES[settings.difficulty], settings.dynamic
            )
            self._camera = published.camera.DistractingCameraEnv(
                self._task, camera_id=camera_id(entry.domain), seed=seeds["camera"], **ranges
            )
            self._task = self._camera
        if "color" in active:
            ranges = published.suite_utils.get_color_kwargs(
                published.SCALES[settings.difficulty], settings.dynamic
            )
            self._color = published.color.DistractingColorEnv(
                self._task, seed=seeds["color"], **ranges
            )
            self._task = self._color

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode and draws its distractions."""
        time_step = self._task.reset()
        if self.background is not None:
            self.background.reset()
        return time_step

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        """Advances task and distractions by one simulator step."""
        time_step = self._task.step(action)
        if self.background is not None:
            self.background.tick()
        return time_step

    def get_state(self) -> dict[str, Any]:
        """Returns a plain, picklable copy of the distractions (not of the task)."""
        return {
            "background": None if self.background is None else self.background.get_state(),
            "camera": None if self._camera is None else _get_wrapper(self._camera),
            "color": None if self._color is None else _get_wrapper(self._color),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state` of a task with the same distractions.

        Raises:
            ValueError: the state has other distractions than this task.
        """
        parts = {"background": self.background, "camera": self._camera, "color": self._color}
        saved = sorted(name for name, part in state.items() if part is not None)
        here = sorted(name for name, part in parts.items() if part is not None)
        if saved != here:
            raise ValueError(
                f"The saved environment has the distractions {saved or 'none'}, this one "
                f"{here or 'none'}: "
                "restore it with the same environment settings."
            )
        if self.background is not None:
            self.background.set_state(state["background"])
        if self._camera is not None:
            _set_wrapper(self._camera, state["camera"])
        if self._color is not None:
            _set_wrapper(self._color, state["color"])


def make_background(
    settings: EnvironmentSettings, split: str, sky: np.ndarray, seed: int
) -> Background:
    """Returns the background of these settings over the task's `sky`, uint8 (size, size, 3)."""
    count = settings.num_videos
    if count is None:
        count = published.NUM_VIDEOS[settings.difficulty]
    videos = open_videos(settings.videos, split, count, sky.shape[0])
    return Background(videos, settings.dynamic, settings.background_blend, sky, seed)


def _set_ground_alpha(physics: Any, alpha: float) -> None:
    names = physics.named.model.mat_rgba.axes.row.names
    if "grid" in names:
        physics.named.model.mat_rgba["grid", "a"] = alpha


def _check_camera(physics: Any, name: str) -> None:
    modes = published.camera.CAMERA_MODES
    mode = modes[physics.model.cam_mode[0]] if physics.model.ncam else "free"
    if mode not in ("fixed", "trackcom"):
        raise ValueError(
            f"The camera of {name} is {mode!r}, and the camera distraction moves fixed and "
            "trackcom ones: "
            "leave camera out of environment.distractions."
        )


def _get_wrapper(wrapper: Any) -> dict[str, Any]:
    state = {
        name: value
        for name, value in vars(wrapper).items()
        if name not in ("_env", "_random_state")
    }
    return {"fields": copy.deepcopy(state), "random": wrapper._random_state.get_state(legacy=False)}


def _set_wrapper(wrapper: Any, state: dict[str, Any]) -> None:
    for name, value in copy.deepcopy(state["fields"]).items():
        setattr(wrapper, name, value)
    wrapper._random_state.set_state(state["random"])
