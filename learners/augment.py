"""Random crops on the learner's device, without a Python loop."""

from __future__ import annotations

import torch
from torch import Tensor

from learners.noise import Generator, uniform


def crop_windows(frames: Tensor, size: int, top: Tensor, left: Tensor) -> Tensor:
    """Cut one square per window, the same for all of its T steps.

    Args:
        frames: uint8 (T, B, H, W, C).
        size: Side of the square, pixels.
        top: First row of each window's square, int64 (B,).
        left: First column of each window's square, int64 (B,).

    Returns:
        Crops (T, B, size, size, C), contiguous, of the dtype of `frames`.
    """
    squares = frames.unfold(2, size, 1).unfold(3, size, 1)  # (T, B, Y, X, C, size, size) view
    squares = squares.permute(0, 1, 2, 3, 5, 6, 4)  # (T, B, Y, X, size, size, C) view
    window = torch.arange(frames.shape[1], device=frames.device)
    return squares[:, window, top, left]


def corners(frames: Tensor, size: int, generator: Generator = None) -> tuple[Tensor, Tensor]:
    """Draw uniformly where each window's square begins: first rows and columns, int64 (B,)."""
    batch, height, width = frames.shape[1:4]
    draws = uniform((2, batch), generator, frames.device)
    return (draws[0] * (height - size + 1)).long(), (draws[1] * (width - size + 1)).long()


def random_crop(frames: Tensor, size: int, generator: Generator = None) -> Tensor:
    """Return one uniformly placed crop per window (T, B, size, size, C)."""
    return crop_windows(frames, size, *corners(frames, size, generator))


def crop_pixels(frames: Tensor, size: int, top: Tensor, left: Tensor) -> Tensor:
    """Cut as `crop_windows` and convert as `to_pixels`: one kernel, if it is compiled."""
    return to_pixels(crop_windows(frames, size, top, left))


def centre_crop(frames: Tensor, size: int) -> Tensor:
    """Return the central square of frames (..., H, W, C) as a view (..., size, size, C)."""
    height, width = frames.shape[-3:-1]
    top, left = (height - size) // 2, (width - size) // 2
    return frames[..., top : top + size, left : left + size, :]


def to_pixels(frames: Tensor) -> Tensor:
    """Turn uint8 frames (..., H, W, C) into float32 (..., C, H, W) in [0, 1], channels last."""
    return frames.to(torch.float32).mul_(1.0 / 255.0).movedim(-1, -3)
