"""Background videos made from numbers: any machine has them, and they need no download.

A video is two layers of coloured plasma with the 1/f spectrum of natural pictures, drifting apart,
behind discs and a straight bar that cross the picture. Its name seeds everything about it. It is
drawn on a canvas of 800 x 800, the published size of a background, and reduced to the size asked
for.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import cv2
import numpy as np

NUM_FRAMES = 48
NUM_TRAIN = 60
NUM_HELD_OUT = 30
VERSION = 1  # raise it when frames change: cached ones are then made anew

_CANVAS = 800  # pixels
_MODES = 96  # highest spatial frequency of the plasma, in waves per picture
_CONTRAST = 48.0  # standard deviation of the plasma in grey levels


def names(split: str) -> tuple[str, ...]:
    """Returns the names of the videos of "train" (60) or "held_out" (30); no name is in both."""
    count = NUM_TRAIN if split == "train" else NUM_HELD_OUT
    return tuple(f"procedural-{split}-{index:02d}" for index in range(count))


def make_video(name: str, size: int, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Returns the video of that name, uint8 of shape (num_frames, size, size, 3), RGB.

    It takes some tenths of a second, whatever the size.
    """
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    for index, frame in enumerate(draw_frames(name, num_frames)):
        frames[index] = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
    return frames


def draw_frames(name: str, num_frames: int = NUM_FRAMES) -> Iterator[np.ndarray]:
    """Yields the frames of the video of that name, each uint8 (800, 800, 3), RGB."""
    generator = np.random.default_rng([VERSION, zlib.crc32(name.encode())])
    # Periodic layers, twice in each direction: every shift of them is a window, not a copy.
    far, near = (np.tile(_plasma(generator), (2, 2, 1)) for _ in range(2))
    drifts = generator.uniform(-0.012, 0.012, (2, 2))  # picture sizes per frame, (layer, y/x)
    discs = _Discs(generator)
    edge = _Edge(generator)
    for index in range(num_frames):
        back, front = (
            layer[top : top + _CANVAS, left : left + _CANVAS]
            for layer, (top, left) in zip(
                (far, near), np.rint(drifts * index * _CANVAS).astype(int) % _CANVAS, strict=True
            )
        )
        frame = cv2.addWeighted(back, 0.6, front, 0.4, 0.0)
        edge.draw(frame, index)
        discs.draw(frame, index)
        yield frame


def _plasma(generator: np.random.Generator) -> np.ndarray:
    """Returns a periodic picture, amplitudes falling as 1/frequency^1.3, uint8 (800, 800, 3)."""
    vertical = np.fft.fftfreq(_CANVAS, 1.0 / _CANVAS)
    kept = np.abs(vertical) <= _MODES
    frequency = np.hypot(vertical[kept][:, None], np.arange(_MODES + 1)[None, :])
    shape = (3, *frequency.shape)
    waves = generator.standard_normal(shape) + 1j * generator.standard_normal(shape)
    spectrum = np.zeros((3, _CANVAS, _CANVAS // 2 + 1), complex)
    spectrum[:, kept, : _MODES + 1] = waves * np.where(
        (frequency >= 1.0) & (frequency <= _MODES), np.maximum(frequency, 1.0) ** -1.3, 0.0
    )
    fields = np.fft.irfft2(spectrum, s=(_CANVAS, _CANVAS), axes=(1, 2))
    fields /= fields.std(axis=(1, 2), keepdims=True)
    # Neighbouring colours of natural pictures go together: mostly brightness, some tint.
    tints = generator.standard_normal((3, 3)) * 0.35
    tints[0] = 1.0
    base = generator.uniform(80.0, 170.0, 3)
    picture = np.tensordot(fields, tints, axes=(0, 0)) * _CONTRAST + base
    return np.clip(picture, 0.0, 255.0).astype(np.uint8)


class _Discs:
    """A few filled circles that move on straight lines and come back on the other side."""

    def __init__(self, generator: np.random.Generator) -> None:
        count = int(generator.integers(2, 6))
        self._centers = generator.uniform(0.0, 1.0, (count, 2))
        self._velocities = generator.uniform(-0.02, 0.02, (count, 2))
        self._radii = generator.uniform(0.03, 0.14, count)
        self._colors = generator.uniform(0.0, 255.0, (count, 3))

    def draw(self, frame: np.ndarray, index: int) -> None:
        size = frame.shape[0]
        for center, velocity, radius, color in zip(
            self._centers, self._velocities, self._radii, self._colors, strict=True
        ):
            span = 1.0 + 2.0 * radius
            x, y = ((center + radius + velocity * index) % span - radius) * size
            # Three binary places below a pixel (shift), so that slow discs move smoothly.
            cv2.circle(
                frame,
                (round(x * 8), round(y * 8)),
                round(radius * size * 8),
                color.tolist(),
                -1,
                cv2.LINE_AA,
                3,
            )


class _Edge:
    """A bar across the picture that turns and moves slowly, like a horizon or a wall."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._angle, self._turn = generator.uniform(0.0, np.pi), generator.uniform(-0.02, 0.02)
        self._offset, self._speed = generator.uniform(-0.4, 0.4), generator.uniform(-0.01, 0.01)
        self._width = generator.uniform(0.02, 0.1)
        self._color = generator.uniform(0.0, 255.0, 3)

    def draw(self, frame: np.ndarray, index: int) -> None:
        size = frame.shape[0]
        angle = self._angle + self._turn * index
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        middle = 0.5 + across * (self._offset + self._speed * index)
        corners = [
            middle + length * along + side * self._width / 2 * across
            for length, side in ((-2, -1), (2, -1), (2, 1), (-2, 1))
        ]
        points = np.rint(np.array(corners) * size * 8).astype(np.int32)
        cv2.fillConvexPoly(frame, points, self._color.tolist(), cv2.LINE_AA, 3)
