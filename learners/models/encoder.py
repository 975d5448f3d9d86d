"""Observation encoders x_t = f(o_t)."""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from learners.models.layers import initialise, initialise_as_keras, without_affine_norm
from learners.settings import CONV_INITS


class ConvolutionSettings(Protocol):
    """What every system's settings say of its convolutions, an entry for each of them."""

    @property
    def conv_channels(self) -> tuple[int, ...]:
        """Output channels."""

    @property
    def conv_kernels(self) -> tuple[int, ...]:
        """Kernel sides."""

    @property
    def conv_strides(self) -> tuple[int, ...]:
        """Strides."""

    @property
    def conv_paddings(self) -> tuple[int, ...]:
        """Zero paddings."""


class EncoderSettings(ConvolutionSettings, Protocol):
    """Convolutions with a linear layer behind them."""

    @property
    def conv_init(self) -> str:
        """How their weights begin: one of `CONV_INITS`."""

    @property
    def feature_dims(self) -> int:
        """Size of the features."""


def convolutions_of(
    settings: ConvolutionSettings, crop_size: int, channels: int = 3
) -> tuple[nn.Sequential, int]:
    """Return convolutions, each followed by a ReLU, and how many values they leave of a crop.

    Raises:
        ValueError: The convolutions leave no pixel of a crop of this size.
    """
    layers = nn.Sequential()
    side = crop_size
    for width, kernel, stride, padding in zip(
        settings.conv_channels,
        settings.conv_kernels,
        settings.conv_strides,
        settings.conv_paddings,
        strict=True,
    ):
        layers.append(nn.Conv2d(channels, width, kernel, stride, padding))
        layers.append(nn.ReLU(inplace=True))
        channels = width
        side = (side + 2 * padding - kernel) // stride + 1
        if side < 1:
            raise ValueError(
                f"A crop of {crop_size} pixels is too small for model.conv_strides="
                f"{settings.conv_strides}: raise learner.crop_size or use fewer convolutions."
            )
    return layers, channels * side * side


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

    def __init__(
        self,
        settings: EncoderSettings,
        crop_size: int,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.precision = torch.float32
        convolutions, values = convolutions_of(settings, crop_size, channels)
        self.convolutions = convolutions
        self.linear = nn.Linear(values, settings.feature_dims)
        initialise(self)
        if settings.conv_init == "kaiming":
            for layer in list(convolutions)[::2]:
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


class FlatEncoder(nn.Module):
    """Convolutions with ReLU and nothing behind them, on pixels in [-0.5, 0.5] (Dreamer, CVRL).

    Attributes:
        precision: dtype of the convolutions; weights and output stay float32.
        output_dims: Size of the features.

    Raises:
        ValueError: The convolutions leave no pixel of a crop of this size.
    """

    def __init__(self, settings: ConvolutionSettings, crop_size: int) -> None:
        super().__init__()
        self.precision = torch.float32
        self.convolutions, self.output_dims = convolutions_of(settings, crop_size)
        initialise_as_keras(self)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: Tensor) -> Tensor:
        """Map crops (N, 3, S, S) in [0, 1] to features (N, output_dims)."""
        low = self.precision is not torch.float32
        with torch.autocast(pixels.device.type, self.precision, enabled=low):
            maps = self.convolutions(pixels - 0.5)  # (N, C, s, s), channels last
        return maps.permute(0, 2, 3, 1).flatten(1).float()
