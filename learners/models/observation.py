"""Features of an observation: of a picture, and of numbers beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from learners.models.layers import MLP
from learners.models.rssm import RSSM


class ObservationModel(nn.Module):
    """Maps an observation to its features x.

    An observation is a picture or, with a `proprioception_size` P above 0, a picture and P numbers.
    The features of the second kind are those of the picture, then those of an MLP on the numbers
    (ELU after every layer, no layer norm).

    Args:
        encoder: Maps crops (N, 3, S, S) in [0, 1] to features.
        proprioception_size: P.
        proprioception_dims: Layers of that MLP.

    Attributes:
        encoder: Observation encoder f, of pictures.
        proprioception_encoder: The same of proprioception; None without.
        felt_dims: Size of its features, which are behind those of the picture; 0 without.
    """

    def __init__(
        self, encoder: nn.Module, proprioception_size: int, proprioception_dims: Sequence[int]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.proprioception_encoder: MLP | None = None
        self.felt_dims = 0
        if proprioception_size:
            sizes = [proprioception_size, *proprioception_dims]
            self.felt_dims = sizes[-1]
            self.proprioception_encoder = MLP(sizes, nn.ELU, last=True)

    def encode(self, pixels: Tensor, proprioception: Tensor | None = None) -> Tensor:
        """Map crops (..., 3, S, S) in [0, 1] and proprioception (..., P) to features x (..., F).

        Raises:
            ValueError: Proprioception is given to a model without an encoder for it, or missing.
        """
        if (proprioception is None) != (self.proprioception_encoder is None):
            given = "pictures alone" if proprioception is None else "pictures and proprioception"
            raise ValueError(
                f"The model is not made for {given}: environment.proprioception must be what it "
                "was when the model was made."
            )
        features = self.encoder(pixels.flatten(0, -4)).unflatten(0, pixels.shape[:-3])
        if self.proprioception_encoder is None:
            return features
        return torch.cat([features, self.proprioception_encoder(proprioception)], -1)


class RecurrentModel(ObservationModel):
    """A world model: features of observations, and the RSSM that filters them."""

    rssm: RSSM
