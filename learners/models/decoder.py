"""Pixel decoder p(o_t | s_t, h_t), of the generative world models (Dreamer, CVRL-generative)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from learners.models.layers import initialise_as_keras


class PixelDecoder(nn.Module):
    """A linear layer to one pixel of many channels, then transposed convolutions of stride 2.

    Args:
        state_dims: Size of a state.
        channels: Input channels of each transposed convolution; the last gives 3 channels.
        kernels: Their kernel sides.
        size: Side that the picture must have, pixels.

    Attributes:
        precision: dtype of the convolutions; weights and output stay float32.

    Raises:
        ValueError: These convolutions draw pictures of another size.
    """

    def __init__(
        self, state_dims: int, channels: Sequence[int], kernels: Sequence[int], size: int
    ) -> None:
        super().__init__()
        self.precision = torch.float32
        self.linear = nn.Linear(state_dims, channels[0])
        layers: list[nn.Module] = []
        side = 1
        outputs = [*channels[1:], 3]
        for width_in, width_out, kernel in zip(channels, outputs, kernels, strict=True):
            layers += [nn.ConvTranspose2d(width_in, width_out, kernel, 2), nn.ReLU(inplace=True)]
            side = (side - 1) * 2 + kernel
        if side != size:
            raise ValueError(
                f"The pixel decoder draws {side} x {side} pixels and learner.crop_size is {size}: "
                "set learner.crop_size, or model.decoder_channels and model.decoder_kernels."
            )
        self.convolutions = nn.Sequential(*layers[:-1])
        initialise_as_keras(self)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, states: Tensor) -> Tensor:
        """Map states (N, D) to the means of pixels (N, 3, size, size), in [0, 1] where it fits."""
        low = self.precision is not torch.float32
        with torch.autocast(states.device.type, self.precision, enabled=low):
            maps = self.linear(states)[:, :, None, None]
            maps = cast(Tensor, maps.contiguous(memory_format=torch.channels_last))
            pictures = self.convolutions(maps)
        return pictures.float() + 0.5
