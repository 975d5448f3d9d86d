"""Contrastive prediction of image features, Eq. 1 of the CoRe paper."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from learners.settings import NEGATIVES, REDUCTIONS


def contrastive_loss(
    features: Tensor,
    predictions: Tensor,
    inverse_temperature: Tensor,
    *,
    negatives: str = "all",
    reduction: str = "mean",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the symmetric InfoNCE loss between features and their predictions.

    With scores `lambda x_i . y_j` over all N = T * B pairs, the loss is the cross-entropy of the
    diagonal over rows plus that over columns: summed as printed in Eq. 1 (`reduction="sum"`), or
    each averaged and halved as in the released code (`"mean"`). Scores are kept in float32.

    Args:
        features: x (T, B, F), layer-normalised.
        predictions: y (T, B, F), layer-normalised.
        inverse_temperature: lambda > 0, a scalar.
        negatives: "all" other steps of the batch; those of the "same_sequence" only; or those of
            "other_sequences" only.
        reduction: "mean" or "sum".

    Returns:
        The loss, and metrics: `contrastive/accuracy`, `contrastive/log_pairs` (the value of the
        mean loss at chance) and `contrastive/inverse_temperature`.

    Raises:
        ValueError: `negatives` or `reduction` is unknown.
    """
    if negatives not in NEGATIVES:
        raise ValueError(f"objective.negatives={negatives!r}: choose one of {NEGATIVES}.")
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"objective.contrastive_reduction={reduction!r}: choose one of {REDUCTIONS}."
        )
    horizon, batch = features.shape[:2]
    pairs = horizon * batch
    scores = features.flatten(0, 1).float() @ predictions.flatten(0, 1).float().t()  # (N, N)
    scores = scores * inverse_temperature.float()
    candidates = pairs
    if negatives != "all":
        sequence = torch.arange(batch, device=scores.device).repeat(horizon)  # (N,)
        same = sequence[:, None] == sequence[None, :]
        if negatives == "same_sequence":
            excluded, candidates = ~same, horizon
        else:
            own = torch.eye(pairs, dtype=torch.bool, device=scores.device)
            excluded, candidates = same & ~own, pairs - horizon + 1
        scores = scores.masked_fill(excluded, float("-inf"))
    target = torch.arange(pairs, device=scores.device)
    over_columns = F.cross_entropy(scores, target, reduction=reduction)
    over_rows = F.cross_entropy(scores.t(), target, reduction=reduction)
    loss = over_columns + over_rows
    if reduction == "mean":
        loss = 0.5 * loss
    with torch.no_grad():
        metrics = {
            "contrastive/accuracy": (scores.argmax(-1) == target).float().mean(),
            "contrastive/log_pairs": torch.tensor(float(candidates)).log(),
            "contrastive/inverse_temperature": inverse_temperature.detach(),
        }
    return loss, metrics
