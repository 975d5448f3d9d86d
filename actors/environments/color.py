"""The colour distraction: every material's colour drawn around its own, then wandering.

Ranges, random walk and the order of random draws are those of the published package, bit for bit;
colours are handed to the simulator only when a picture is drawn.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from actors.environments import published


class ColorWalk:
    """The random walk of a model's material colours.

    Args:
        physics: whose materials change.
        scale: how far each channel may go from its own value, 0 to 1.
        dynamic: whether colours wander within an episode.
        seed: 32 bit.
    """

    def __init__(self, physics: Any, scale: float, dynamic: bool, seed: int) -> None:
        ranges = published.suite_utils.get_color_kwargs(scale, dynamic)
        self._materials: np.ndarray = physics.model.mat_rgba
        self._step_std = float(ranges["step_std"])
        self._random = np.random.RandomState(seed)
        self._own = np.array(self._materials[:, :3])
        self._most = np.clip(self._own + ranges["max_delta"], 0.0, 1.0)
        self._least = np.clip(self._own - ranges["max_delta"], 0.0, 1.0)
        self._colors = self._own.astype(np.float64)  # as the package walks, bounds in float32

    def reset(self) -> None:
        """Draws the colours of a new episode, uniformly in their ranges."""
        draws = self._random.uniform(0.0, 1.0, self._own.shape)
        self._colors[:] = self._least + draws * (self._most - self._least)

    def tick(self) -> None:
        """Wanders on by one simulator step."""
        change = self._random.standard_normal(self._own.shape)
        change *= self._step_std
        colors = self._colors
        colors += change
        np.maximum(colors, self._least, out=colors)
        np.minimum(colors, self._most, out=colors)

    def place(self) -> None:
        """Gives the materials their colours."""
        self._materials[:, :3] = self._colors

    def put_back(self) -> None:
        """Gives the materials their own colours until `place`."""
        self._materials[:, :3] = self._own

    def get_state(self) -> dict[str, Any]:
        """Returns a plain, picklable copy of the walk."""
        return {"colors": self._colors.copy(), "random": self._random.get_state(legacy=False)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state` of a walk over the same materials."""
        self._colors[:] = state["colors"]
        self._random.set_state(state["random"])

    def reseed(self, seed: int) -> None:
        """Draws from a generator of that seed (32 bit) from now on."""
        self._random.seed(seed)
