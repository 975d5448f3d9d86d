"""Building blocks of every network: initialisation, MLP, layer-normalised GRU cell, Gaussian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learners.noise import Generator, normal

LOG_STD_BOUND = 10.0  # log standard deviations of latent states stay within +-10


def initialise(module: nn.Module) -> None:
    """Draw orthogonal linear and delta-orthogonal convolution weights in place; biases become 0.

    Delta-orthogonal: every tap is zero but the centre one, which is orthogonal with the ReLU gain
    (Xiao et al. 2018), so that a deep convolution stack neither shrinks nor grows its signal.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            centre = layer.kernel_size[0] // 2
            with torch.no_grad():
                tap = torch.empty(layer.out_channels, layer.in_channels)
                nn.init.orthogonal_(tap, gain=nn.init.calculate_gain("relu"))
                layer.weight[:, :, centre, centre] = tap
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_as_keras(module: nn.Module) -> None:
    """Draw Glorot-uniform weights in place, orthogonal recurrent ones; biases become 0.

    The defaults of Keras, with which Dreamer and CVRL were published.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.GRUCell):
            for gate in layer.weight_ih.chunk(3):
                nn.init.xavier_uniform_(gate)
            nn.init.orthogonal_(layer.weight_hh)
            nn.init.zeros_(layer.bias_ih)
            nn.init.zeros_(layer.bias_hh)


class MLP(nn.Sequential):
    """Linear layers `sizes[0] -> ... -> sizes[-1]` with an activation between them.

    Args:
        sizes: Width of the input, of every hidden layer and of the output.
        activation: Module class placed after each hidden layer.
        last: Whether the activation also follows the output layer.
    """

    def __init__(
        self, sizes: Sequence[int], activation: type[nn.Module], *, last: bool = False
    ) -> None:
        super().__init__()
        for index, (width_in, width_out) in enumerate(pairwise(sizes)):
            self.append(nn.Linear(width_in, width_out))
            if last or index < len(sizes) - 2:
                self.append(activation())

    @property
    def entry(self) -> nn.Linear:
        """The first linear layer."""
        return cast(nn.Linear, self[0])

    def after_entry(self, hidden: Tensor) -> Tensor:
        """Apply everything behind the first linear layer to its output."""
        for index in range(1, len(self)):
            hidden = self[index](hidden)
        return hidden


class LayerNormGRUCell(nn.Module):
    """GRU cell with one bias-free matrix and one layer norm over all three gates together.

    With `[r, c, u] = LN(W [x, h])`: `h' = u * tanh(sigmoid(r) * c) + (1 - u) * h`, where
    `u = sigmoid(u - 1)`: the update gate starts nearly closed, so the state changes slowly.
    """

    def __init__(self, input_dims: int, recurrent_dims: int) -> None:
        super().__init__()
        self.gates = nn.Linear(input_dims + recurrent_dims, 3 * recurrent_dims, bias=False)
        self.norm = nn.LayerNorm(3 * recurrent_dims)

    def forward(self, inputs: Tensor, recurrent: Tensor) -> Tensor:
        """Map inputs (B, I) and state (B, Dh) to the next state (B, Dh)."""
        gates = self.norm(self.gates(torch.cat([inputs, recurrent], -1)))  # (B, 3 Dh)
        reset, candidate, update = gates.chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(recurrent, candidate, torch.sigmoid(update - 1.0))


@dataclass
class Gaussian:
    """Diagonal Gaussian of a latent state: `mean` and `log_std` of equal shape (..., Ds)."""

    mean: Tensor
    log_std: Tensor

    @classmethod
    def from_parameters(cls, parameters: Tensor) -> Gaussian:
        """Split (..., 2 Ds) into mean and log standard deviation, the latter clamped to +-10."""
        mean, log_std = parameters.chunk(2, -1)
        return cls(mean, log_std.clamp(-LOG_STD_BOUND, LOG_STD_BOUND))

    def sample(self, generator: Generator = None) -> Tensor:
        """Draw a reparameterised sample (..., Ds)."""
        noise = normal(self.mean.shape, generator, self.mean.device)
        return self.mean + self.log_std.exp() * noise

    def detach(self) -> Gaussian:
        """Return the same distribution without gradient."""
        return Gaussian(self.mean.detach(), self.log_std.detach())

    def __getitem__(self, index: slice) -> Gaussian:
        """Return the distributions of a slice along the first axis."""
        return Gaussian(self.mean[index], self.log_std[index])


class GaussianHead(nn.Module):
    """MLP whose output is a Gaussian of `latent_dims` dimensions.

    Args:
        sizes: Width of the input and of every hidden layer (ELU).
        latent_dims: Ds.
        min_std: None layer-normalises the output and reads it as mean and log standard deviation
            (CoRe); a number reads it as it is, with standard deviation softplus + `min_std`
            (PlaNet, Dreamer, CVRL).
    """

    def __init__(
        self, sizes: Sequence[int], latent_dims: int, min_std: float | None = None
    ) -> None:
        super().__init__()
        self.network = MLP([*sizes, 2 * latent_dims], nn.ELU)
        self.norm = nn.LayerNorm(2 * latent_dims) if min_std is None else nn.Identity()
        self.min_std = min_std

    def forward(self, inputs: Tensor) -> Gaussian:
        """Map inputs (..., sizes[0]) to a Gaussian (..., Ds)."""
        return self.after_entry(self.network.entry(inputs))

    def after_entry(self, hidden: Tensor) -> Gaussian:
        """Return the Gaussian from the first linear layer's output."""
        parameters = self.norm(self.network.after_entry(hidden))  # (..., 2 Ds)
        if self.min_std is None:
            return Gaussian.from_parameters(parameters)
        mean, raw = parameters.chunk(2, -1)
        return Gaussian(mean, (F.softplus(raw) + self.min_std).log())


def without_affine_norm(values: Tensor) -> Tensor:
    """Layer-normalise the last axis without learned scale or shift."""
    return F.layer_norm(values, values.shape[-1:])


class WithoutAffineNorm(nn.Module):
    """`without_affine_norm` as a layer."""

    def forward(self, values: Tensor) -> Tensor:
        """Normalise the last axis."""
        return without_affine_norm(values)
