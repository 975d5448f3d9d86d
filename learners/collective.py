"""What the learners of one agent tell each other within an update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Collective:
    """The learners that share every batch of one agent, `size` of them; this one is number `rank`.

    Each has an equal part of the batch's windows. All make the same calls in the same order, and
    hold the same weights as long as they began with the same ones.

    Args:
        group: Of torch.distributed; None: this learner is alone, and no call does anything.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the learners, in one exchange."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat, group=self._group)
        flat /= self.size
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)]
        )

    def gather(self, values: Tensor) -> Tensor:
        """Put the learners' values (N, ...) behind each other, in order of rank: (size * N, ...).

        Gradient flows back to all of them: each gets the sum of what all learners' losses send.
        """
        return values if self.size == 1 else _Gather.apply(values, self)

    @torch.no_grad()
    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the learners, without gradient."""
        if self.size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total, group=self._group)
        return total / self.size

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors by those of the learner of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, group_src=0, group=self._group)


ALONE = Collective()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, learners: Collective) -> Tensor:
        ctx.learners = learners
        parts = [torch.empty_like(values) for _ in range(learners.size)]
        dist.all_gather(parts, values.contiguous(), group=learners._group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        learners: Collective = ctx.learners
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=learners._group)
        return total.chunk(learners.size)[learners.rank], None
