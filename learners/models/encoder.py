"""Observation encoder x_t = f(o_t) (paper section 2.1)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from learners.models.layers import initialise, without_affine_norm
from learners.settings import CONV_INITS, ModelSettings


class PixelEncoder(nn.Module):
    """Convolutions with ReLU, one linear layer and a layer norm without learned scale.

    Every feature vector has norm sqrt(feature_dims), so the contrastive score of two of them is a
    cosine times feature_dims.

    The delta-orthogonal initialisation of the released code first looks at one pixel in stride^2;
    at 48 pixels with a thin pole "kaiming" (torch's default) finds the pole in half the updates.

    Attributes:
        precision: dtype of convolutions and linear layer; weights and output stay float32.

    Raises:
        ValueError: The convolutions leave no pixel of a crop of this size.
    """

    def __init__(self, settings: ModelSettings, crop_size: int, channels: int = 3) -> None:
        super().__init__()
        self.precision = torch.float32
        layers: list[nn.Module] = []
        side = crop_size
        for width, kernel, stride, padding in zip(
            settings.conv_channels,
            settings.conv_kernels,
            settings.conv_strides,
            settings.conv_paddings,
            strict=True,
        ):
            layers += [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU(inplace=True)]
            channels = width
            side = (side + 2 * padding - kernel) // stride + 1
            if side < 1:
                raise ValueError(
                    f"A crop of {crop_size} pixels is too small for model.conv_strides="
                    f"{settings.conv_strides}: raise learner.crop_size or use fewer convolutions."
                )
        self.convolutions = nn.Sequential(*layers)
        self.linear = nn.Linear(channels * side * side, settings.feature_dims)
        initialise(self)
        if settings.conv_init == "kaiming":
            for layer in layers[::2]:
                nn.init.kaiming_uniform_(cast(nn.Conv2d, layer).weight, a=5**0.5)
        elif settings.conv_init != "delta_orthogonal":
            raise ValueError(f"model.conv_init={settings.conv_init!r}: choose one of {CONV_INITS}.")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: Tensor) -> Tensor:
        """Map crops (N, 3, S, S) in [0, 1] to features (N, feature_dims)."""
        low = self.precision is not torch.float32
        with torch.autocast(pixels.device.type, self.precision, enabled=low):
            maps = self.convolutions(pixels)  # (N, C, s, s), channels last
            features = self.linear(maps.permute(0, 2, 3, 1).flatten(1))  # (N, F)
        return without_affine_norm(features.float())
