"""Settings of SAC on pixels: encoder, actor-critic and optimisation.

No paper of this program publishes its own SAC in full, so these are the usual numbers of SAC on
pixels with an encoder that the critics train (Yarats et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

from learners.checks import ConvolutionalSection
from learners.settings import CONV_INITS, BehaviorSettings, TrainingSettings


@dataclass(frozen=True)
class PixelSACModelSettings(ConvolutionalSection):
    """Shapes of the encoder."""

    conv_channels: tuple[int, ...] = (32, 32, 32, 32)  # output channels of each convolution
    conv_kernels: tuple[int, ...] = (3, 3, 3, 3)  # kernel side of each convolution
    conv_strides: tuple[int, ...] = (2, 1, 1, 1)  # stride of each convolution
    conv_paddings: tuple[int, ...] = (0, 0, 0, 0)  # zero padding of each convolution
    conv_init: str = "delta_orthogonal"  # or "kaiming": tiny encoders learn small objects sooner
    feature_dims: int = 50  # features of a stack of pictures, layer-normalised
    frames: int = 3  # newest pictures that are seen together
    # ELU layers of the proprioception encoder, whose output is behind the image features
    proprioception_dims: tuple[int, ...] = (200, 200, 200)

    def problems(self) -> list[str]:
        """Return what cannot work in these shapes."""
        return [
            *super().problems(),
            *self.not_among({"conv_init": CONV_INITS}),
            *self.below(1, "frames"),
        ]


@dataclass(frozen=True)
class PixelSACObjectiveSettings:
    """Nothing: the critics' Bellman error trains the encoder."""


@dataclass(frozen=True)
class PixelSACBehaviorSettings(BehaviorSettings):
    """Soft actor-critic on the features of pictures."""


@dataclass(frozen=True)
class PixelSACLearnerSettings(TrainingSettings):
    """Batches, learning rates and clips of SAC on pixels."""

    batch_size: int = 32  # B, windows in a batch
    sequence_length: int = 10  # T, agent steps in a window; the first model.frames - 1 only seen
    updates_per_agent_step: float = 0.5  # update ratio; times B*T it is the samples per insert
    crop_size: int = 64  # side of the square crop that the encoder sees, pixels
    random_crop: bool = False  # true: SAC+RAD, one random crop per window
    actor_rate: float = 1e-3  # Adam learning rate of the actor
    critic_rate: float = 1e-3  # Adam learning rate of the critics and the encoder
    alpha_rate: float = 1e-4  # Adam learning rate of the log temperature
    alpha_beta1: float = 0.5  # Adam beta1 of the log temperature
    actor_clip: float = 10.0  # gradient-norm clip of the actor
    critic_clip: float = 100.0  # gradient-norm clip of the critics and the encoder
    alpha_clip: float = 1.0  # gradient-norm clip of the log temperature

    def problems(self) -> list[str]:
        """Return what cannot work in this training."""
        return super().problems() + self.not_from_zero_below_one("alpha_beta1")
