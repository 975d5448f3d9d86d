"""Everything that disturbs the picture of one environment: background, camera and colours.

One seed gives every random stream its own (the published package leaves generators unseeded, or
gives all three wrappers the same seed). All of it can be saved, restored, and taken away for a
moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from dm_control.rl import control

from actors.environments import background, published
from actors.environments.camera import CameraWalk
from actors.environments.catalog import Entry
from actors.environments.color import ColorWalk
from actors.environments.rendering import Renderer
from actors.environments.settings import EnvironmentSettings
from actors.environments.sky import SkyMissing
from actors.environments.videos import open_videos

STREAMS = ("task", "background", "camera", "color")

# Tasks with a sky that a wall, a floor of heights or a plane of their own hides from the camera.
HIDDEN_SKIES = ("dcs/quadruped-escape",)
HIDDEN_SKY_DOMAINS = ("manipulator", "stacker")

# Levels without camera and colours, and how many videos they show in training (None: all). The
# package's wrappers, run with ranges of zero there by CoRe's code, leave every picture as it is.
_BACKGROUND_LEVELS: dict[str, int | None] = {"background2": 2, "background60": None}


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


def num_videos(settings: EnvironmentSettings, split: str) -> int | None:
    """Returns how many videos the level shows: the first so many of the split, None for all.

    With two videos to train on, all are held out, as in CoRe's code.
    """
    if settings.num_videos is not None:
        return settings.num_videos
    if settings.difficulty in published.NUM_VIDEOS:
        return published.NUM_VIDEOS[settings.difficulty]
    return _BACKGROUND_LEVELS.get(settings.difficulty) if split == "train" else None


class Distractions:
    """The distractions of one environment, ticking with it.

    `reset`, then for every agent step one `tick` per simulator step and one `settle`; a picture is
    drawn after `place`. Parts that the settings leave out are None.

    Attributes:
        clock: which background frame is shown.
        camera: the walk of the camera.
        color: the walk of the colours.

    Raises:
        ValueError: the task cannot be disturbed so; the message says what to leave out.
        VideoFolderError: the videos are missing or too few.
    """

    def __init__(
        self,
        task: control.Environment,
        entry: Entry,
        settings: EnvironmentSettings,
        split: str,
        renderer: Renderer,
        seeds: dict[str, int],
    ) -> None:
        self.clock: background.SwingingClock | None = None
        self.camera: CameraWalk | None = None
        self.color: ColorWalk | None = None
        self._renderer = renderer
        self._sky: background.SkyVideo | None = None
        self._paste: background.PastedVideo | None = None
        self._floor: _Floor | None = None
        level = settings.difficulty
        if level == "none":
            return
        if "background" in settings.distractions:
            self._add_background(task.physics, entry, settings, split, seeds["background"])
        if level in published.SCALES:
            scale = published.SCALES[level] if settings.intensity is None else settings.intensity
            if "camera" in settings.distractions:
                self.camera = _camera_walk(task, entry, scale, settings.dynamic, seeds["camera"])
            if "color" in settings.distractions:
                self.color = ColorWalk(task.physics, scale, settings.dynamic, seeds["color"])

    def reset(self) -> None:
        """Draws the distractions of an episode that has just begun."""
        for part in (self.clock, self.camera, self.color):
            if part is not None:
                part.reset()
        self.place()

    def tick(self) -> None:
        """Moves on by one simulator step."""
        if self.clock is not None and self.clock.ticks_per_simulator_step:
            self.clock.tick()
        if self.camera is not None:
            self.camera.tick()
        if self.color is not None:
            self.color.tick()

    def settle(self) -> None:
        """Ends an agent step: pictures show where the distractions are from now on."""
        if self.clock is not None and not self.clock.ticks_per_simulator_step:
            self.clock.tick()
        self.place()

    def place(self) -> None:
        """Moves camera and colours to where their walks are, once after each simulator step."""
        if self.camera is not None:
            self.camera.place()
        if self.color is not None:
            self.color.place()

    def observe(self, memory: np.ndarray | None = None) -> np.ndarray:
        """Draws the disturbed picture: uint8 (image_size, image_size, 3).

        Args:
            memory: such an array, contiguous, to draw into and return; None makes a new one.
        """
        if self._sky is not None:
            self._renderer.send_sky(self._sky.texture(), self._sky.token)
        picture = self._renderer.observe(memory=memory)
        if self._paste is not None:
            seen = self._renderer.background() if self._paste.needs_background else None
            self._paste.apply(picture, seen)
        return picture

    def film(self, size: int) -> np.ndarray:
        """Draws the disturbed scene: uint8 (size, 4/3 size, 3), without pasted videos."""
        if self._sky is not None:
            self._renderer.send_sky(self._sky.texture(), self._sky.token)
        return self._renderer.film(size)

    @contextmanager
    def removed(self) -> Iterator[None]:
        """Takes camera, colours and floor back to the task's own while the context is open."""
        if self.camera is not None:
            self.camera.swap()
        if self.color is not None:
            self.color.put_back()
        if self._floor is not None:
            self._floor.put_back()
        try:
            yield
        finally:
            if self.camera is not None:
                self.camera.swap()
            if self.color is not None:
                self.color.place()
            if self._floor is not None:
                self._floor.place()

    def get_state(self) -> dict[str, Any]:
        """Returns a plain, picklable copy of the distractions (not of the task)."""
        return {
            name: None if part is None else part.get_state() for name, part in self._parts().items()
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state` of a task with the same distractions.

        Raises:
            ValueError: the state has other distractions than this task.
        """
        parts = self._parts()
        saved = sorted(name for name, part in state.items() if part is not None)
        here = sorted(name for name, part in parts.items() if part is not None)
        if saved != here:
            raise ValueError(
                f"The saved environment has the distractions {saved or 'none'}, this one "
                f"{here or 'none'}: restore it with the same environment settings."
            )
        for name in here:
            parts[name].set_state(state[name])

    def reseed(self, seeds: dict[str, int]) -> None:
        """Draws from generators of these seeds from now on (see `stream_seeds`)."""
        for name, part in self._parts().items():
            if part is not None:
                part.reseed(seeds[name])

    def _parts(self) -> dict[str, Any]:
        return {"background": self.clock, "camera": self.camera, "color": self.color}

    def _add_background(
        self, physics: Any, entry: Entry, settings: EnvironmentSettings, split: str, seed: int
    ) -> None:
        natural = settings.difficulty == "natural"
        in_sky = not natural or settings.natural_mask == "sky"
        size, sky = settings.image_size, None
        if in_sky:
            sky = self._open_sky(entry, natural)
            size = sky.shape[0]
        videos = open_videos(
            settings.videos, split, num_videos(settings, split), size,
            split_file=settings.videos_split,
        )  # fmt: skip
        clock = background.LoopingClock if natural else background.SwingingClock
        self.clock = clock(videos, settings.dynamic, seed)
        if sky is None:
            segmented = settings.natural_mask == "segmentation"
            self._paste = background.PastedVideo(self.clock, settings.image_size, segmented)
            return
        self._sky = background.SkyVideo(self.clock, settings.background_blend, sky)
        alpha = settings.ground_alpha
        self._floor = _Floor(physics, ground_alpha(entry.domain) if alpha is None else alpha)

    def _open_sky(self, entry: Entry, natural: bool) -> np.ndarray:
        advice = "leave background out of environment.distractions"
        if natural:
            advice = "set environment.natural_mask=threshold or segmentation"
        if entry.name in HIDDEN_SKIES or entry.domain in HIDDEN_SKY_DOMAINS:
            raise ValueError(f"The sky of {entry.name} is hidden from its camera: {advice}.")
        try:
            return self._renderer.replace_sky()
        except SkyMissing as error:
            raise ValueError(f"{entry.name}: {error}; {advice}.") from error


def _camera_walk(
    task: control.Environment, entry: Entry, scale: float, dynamic: bool, seed: int
) -> CameraWalk:
    try:
        return CameraWalk(task, camera_id(entry.domain), scale, dynamic, entry.domain, seed)
    except ValueError as error:
        raise ValueError(f"{entry.name}: {error}") from error


class _Floor:
    """The opacity of the floor, where the model has one."""

    def __init__(self, physics: Any, alpha: float) -> None:
        names = physics.named.model.mat_rgba.axes.row.names
        self._material = list(names).index("grid") if "grid" in names else None
        self._materials = physics.model.mat_rgba
        self._alpha = alpha
        self._own = 1.0 if self._material is None else float(self._materials[self._material, 3])
        self.place()

    def place(self) -> None:
        if self._material is not None:
            self._materials[self._material, 3] = self._alpha

    def put_back(self) -> None:
        if self._material is not None:
            self._materials[self._material, 3] = self._own
