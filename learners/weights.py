"""A policy's weights as one array: what goes from a learner to those that act.

An array of many megabytes in one piece is copied at the speed of memory, goes into an object store
as it is, and is read there in place by everyone on the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

# Plain data, so that who only passes weights on needs no torch.
Layout = tuple[tuple[str, tuple[int, ...]], ...]  # name and shape of each tensor, in order
Published = tuple[Layout, np.ndarray]  # and float32 (size,), their values behind each other


class FlatWeights:
    """Some tensors of a module and how their values lie in one float32 array.

    The learner makes one of the tensors that it trains, everyone who acts one of their own. Each
    tensor's values are in row-major order, whatever its order in memory, and the tensors follow
    each other in the order given.

    Args:
        tensors: By name, all float32 and on one device: the module's own, not copies.

    Attributes:
        layout: Names and shapes.
        size: Values in all tensors together.
        device: Where the tensors are.

    Raises:
        ValueError: There is no tensor, or one is not float32.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        if not tensors:
            raise ValueError("There are no weights to publish: name at least one tensor.")
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32:
                raise ValueError(
                    f"{name} is {tensor.dtype}: weights are published as float32. Keep what acting "
                    "needs in float32, and compute in another type under autocast."
                )
        self._tensors = list(tensors.values())
        self.layout: Layout = tuple((name, tuple(t.shape)) for name, t in tensors.items())
        self.size = sum(tensor.numel() for tensor in self._tensors)
        self.device = self._tensors[0].device

    @torch.no_grad()
    def flatten(self, out: Tensor) -> None:
        """Copy the values as they are now into `out`, float32 (size,), on the tensors' device.

        On a GPU this is work on the current stream, and nothing waits for it.
        """
        torch.cat([tensor.reshape(-1) for tensor in self._tensors], out=out)

    @torch.no_grad()
    def load(self, published: Published) -> None:
        """Replace the tensors' values by published ones; their array is only read.

        Raises:
            ValueError: They are weights of other tensors; nothing is changed then.
        """
        layout, values = published
        if layout != self.layout:
            raise ValueError(f"{_difference(layout, self.layout)} {_ONE_RUN}")
        if values.shape != (self.size,) or values.dtype != np.float32:
            raise ValueError(
                f"Published weights are {values.dtype} {values.shape} where their layout has "
                f"float32 ({self.size},). {_ONE_RUN}"
            )
        if self.device.type != "cpu":
            self._load_on_device(torch.tensor(values, device=self.device))
            return
        begin = 0
        for tensor in self._tensors:  # by NumPy: torch warns of arrays that cannot be written
            part = values[begin : begin + tensor.numel()]
            np.copyto(tensor.detach().numpy(), part.reshape(tensor.shape))
            begin += tensor.numel()

    def _load_on_device(self, values: Tensor) -> None:
        parts = values.split([tensor.numel() for tensor in self._tensors])
        torch._foreach_copy_(
            self._tensors, [p.view(t.shape) for p, t in zip(parts, self._tensors, strict=True)]
        )


_ONE_RUN = (
    "Learner and policy were built from different settings or versions of the code: stop the run "
    "and start it with one settings.yaml and one version for all of its processes."
)


def _difference(published: Layout, own: Layout) -> str:
    """Say what of two layouts differs first."""
    for theirs, ours in zip_longest(published, own):
        if theirs != ours:
            break
    return f"Published weights do not fit this policy: {_entry(theirs)} there, {_entry(ours)} here."


def _entry(entry: tuple[str, tuple[int, ...]] | None) -> str:
    return "nothing more" if entry is None else f"{entry[0]} {entry[1]}"
