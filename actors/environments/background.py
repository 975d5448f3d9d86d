"""Which frame of which video is shown: two clocks, and the two places where it can be shown."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from actors.environments.videos import VideoSource

_DARK_RED = 100  # CVRL's released rule: the brightest red that a video replaces


class SwingingClock:
    """The clock of the Distracting Control Suite: one frame per simulator step, back and forth.

    A reset draws a video, then (static only) one of its frames, then a start and a direction, all
    uniformly and in the published order. A tick moves one frame on; the video runs back at either
    end, its last frame then shows twice.

    Attributes:
        video: index into the names of the videos.
        frame: index of the frame that is shown.
        direction: +1 forward, -1 backward.
    """

    ticks_per_simulator_step = True

    def __init__(self, videos: VideoSource, dynamic: bool, seed: int) -> None:
        self._videos = videos
        self._dynamic = dynamic
        self._random = np.random.RandomState(seed)
        self._frames: np.ndarray | None = None  # of the current video
        self.video = 0
        self.frame = 0
        self.direction = 1

    def reset(self) -> None:
        """Draws what a new episode shows."""
        if not self._videos.names:
            return
        count = self._draw_video()
        still = None if self._dynamic else int(self._random.choice(count))
        start = int(self._random.choice(count if still is None else 1))
        self.frame = start if still is None else still
        self.direction = int(self._random.choice([-1, 1]))

    def tick(self) -> None:
        """Moves on by one frame."""
        if not self._dynamic or self._frames is None:
            return
        last = len(self._frames) - 1
        self.frame += self.direction
        if self.frame <= 0:
            self.frame, self.direction = 0, 1
        if self.frame > last:
            self.frame, self.direction = last, -1

    def picture(self) -> np.ndarray | None:
        """Returns the frame to show, read-only uint8 (size, size, 3); None without videos."""
        return None if self._frames is None else self._frames[self.frame]

    def get_state(self) -> dict[str, Any]:
        """Returns a plain, picklable copy of the clock."""
        return {
            "video": self._videos.names[self.video] if self._videos.names else None,
            "videos": _digest(self._videos),
            "frame": self.frame,
            "direction": self.direction,
            "random": self._random.get_state(legacy=False),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state` of a clock with the same videos.

        Raises:
            ValueError: the state is of other videos; nothing is changed then.
        """
        if state["videos"] != _digest(self._videos):
            raise ValueError(
                f"The saved state shows {state['video']!r}, one of other videos than this "
                "environment's: restore it with the same environment.videos, videos_split, "
                "num_videos, difficulty and split."
            )
        if self._videos.names:
            self.video = self._videos.names.index(state["video"])
            self._frames = self._videos.frames(self.video)
        self.frame, self.direction = state["frame"], state["direction"]
        self._random.set_state(state["random"])

    def reseed(self, seed: int) -> None:
        """Draws from a generator of that seed (32 bit) from now on."""
        self._random.seed(seed)

    def _draw_video(self) -> int:
        """Draws a video; returns its number of frames."""
        self.video = int(self._random.choice(len(self._videos.names)))
        self._frames = self._videos.frames(self.video)
        return len(self._frames)


class LoopingClock(SwingingClock):
    """The clock of Natural MuJoCo: one frame per agent step, forward, from the start at its end.

    A reset draws a video and shows its second frame, as CVRL's code does (static: any of them). The
    code already shows the next video in the very last picture of an episode; here that waits for
    the reset.
    """

    ticks_per_simulator_step = False

    def reset(self) -> None:
        """Draws what a new episode shows."""
        if not self._videos.names:
            return
        count = self._draw_video()
        self.frame = 1 % count if self._dynamic else int(self._random.choice(count))

    def tick(self) -> None:
        """Moves on by one frame."""
        if self._dynamic and self._frames is not None:
            self.frame = (self.frame + 1) % len(self._frames)


class SkyVideo:
    """A video in the sky of the scene, mixed with the task's own sky.

    With a blend below 1 every episode is mixed with the task's own sky (the published wrapper mixes
    later episodes with the last picture of the episode before).

    Args:
        clock: what is shown when.
        blend: weight of the video, 0 to 1.
        sky: the task's own, uint8 (size, size, 3).
    """

    def __init__(self, clock: SwingingClock, blend: float, sky: np.ndarray) -> None:
        self._clock = clock
        self._blend = np.float32(blend)
        self._texture = np.ascontiguousarray(sky)
        if blend < 1.0:
            self._under = sky.astype(np.float32) * np.float32(1.0 - blend)
            self._mixed = np.empty_like(self._under)

    @property
    def token(self) -> tuple[int, int]:
        """Equal for equal textures."""
        return (self._clock.video, self._clock.frame)

    def texture(self) -> np.ndarray:
        """Returns the sky to show, uint8 (size, size, 3), valid until the next call."""
        frame = self._clock.picture()
        if frame is None:
            return self._texture
        if self._blend == 1.0:
            return frame
        np.copyto(self._mixed, frame)  # first: a product of two types goes through buffers
        self._mixed *= self._blend
        self._mixed += self._under
        # cut to whole grey levels, as published
        np.copyto(self._texture, self._mixed, casting="unsafe")
        return self._texture


class PastedVideo:
    """A video in place of what is not the robot, pasted into the drawn picture with hard edges.

    Args:
        clock: what is shown when.
        size: height and width of pictures.
        needs_background: the background is given with every picture; otherwise it is found by
            CVRL's released rule, wherever red is at most 100.
    """

    def __init__(self, clock: SwingingClock, size: int, needs_background: bool) -> None:
        self.needs_background = needs_background
        self._clock = clock
        self._dark = np.empty((size, size), bool)

    def apply(self, picture: np.ndarray, background: np.ndarray | None = None) -> None:
        """Puts the video into a picture; nothing without videos.

        Args:
            picture: uint8 (size, size, 3), changed in place.
            background: bool (size, size), where the video goes if `needs_background`.
        """
        video = self._clock.picture()
        if video is None:
            return
        if background is None:
            background = np.less_equal(picture[..., 0], _DARK_RED, out=self._dark)
        np.copyto(picture, video, where=background[..., None])


def _digest(videos: VideoSource) -> str:
    return hashlib.sha256("\n".join(videos.names).encode()).hexdigest()[:16]
