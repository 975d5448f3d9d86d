"""Random numbers of an update, the same for a batch however many learners share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SharedGenerator:
    """A generator that `parts` learners have in the same state, each for its part of a batch.

    All draw the numbers of the whole batch and keep their own columns, so that together they draw
    what one learner with the whole batch would.
    """

    generator: torch.Generator
    part: int
    parts: int


Generator = torch.Generator | SharedGenerator | None  # None: torch's global one


def normal(shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Draw standard normal numbers, float32; of `shape`, the second axis is the batch's."""
    return _draw(torch.randn, shape, generator, device)


def uniform(shape: Sequence[int], generator: Generator, device: torch.device) -> Tensor:
    """Draw numbers from [0, 1), float32; of `shape`, the second axis is the batch's."""
    return _draw(torch.rand, shape, generator, device)


def _draw(
    draw: Callable[..., Tensor], shape: Sequence[int], generator: Generator, device: torch.device
) -> Tensor:
    if not isinstance(generator, SharedGenerator):
        return draw(*shape, generator=generator, device=device)
    first, batch, *rest = shape
    everyone = (first, generator.parts * batch, *rest)
    whole = draw(*everyone, generator=generator.generator, device=device)
    return whole[:, generator.part * batch : (generator.part + 1) * batch]
