"""What a machine computes at best: large matrix products and the encoder's own convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import nn

from benchmarks.learner_subject import SEED, Size, make_agent

SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # of the square matrices
QUICK_SIDES = (256,)  # where the peak does not matter
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PeakWork:
    """One operation that can be done again and again, of a known number of FLOP.

    Args:
        gflop: Of doing it once.
        operation: Does it.
        device: Where; waited for.
    """

    def __init__(self, gflop: float, operation: Callable[[], object], device: str) -> None:
        self.gflop = gflop
        self._operation, self._device = operation, device

    def run(self, times: int) -> None:
        """Does it some times and waits until the device is done."""
        with torch.no_grad():
            for _ in range(times):
                self._operation()
        if self._device == "cuda":
            torch.cuda.synchronize()


def make_works(
    size: Size, precision: str, device: str, sides: Sequence[int]
) -> dict[str, PeakWork]:
    """Returns what the peak of a precision is the best of, by name.

    The convolution is the forward pass of the encoder's second (at the paper's size 3 x 3 from 32
    to 32 channels) over all pictures of a batch, channels last, on what the first one gives.
    """
    dtype = DTYPES[precision]
    torch.manual_seed(SEED)
    works = {}
    for side in sides:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product = torch.empty_like(left)
        multiply = partial(torch.mm, left, right, out=product)
        works[f"matrix_{side}"] = PeakWork(2e-9 * side**3, multiply, device)
    encoder = make_agent(size).model.encoder.to(device)
    pictures = size.learner.sequence_length * size.learner.batch_size
    crops = torch.rand(pictures, 3, size.learner.crop_size, size.learner.crop_size, device=device)
    crops = crops.to(memory_format=torch.channels_last)
    with torch.no_grad():
        maps = encoder.convolutions[:2](crops).to(dtype)  # (T B, C, s, s)
        convolution = cast(nn.Conv2d, encoder.convolutions[2]).to(dtype)
        outputs = convolution(maps).numel()
    gflop = 2e-9 * outputs * convolution.weight[0].numel()
    works["convolution"] = PeakWork(gflop, partial(convolution, maps), device)
    return works
