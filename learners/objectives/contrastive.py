"""Contrastive prediction of image features, Eq. 1 of the CoRe paper."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from learners.collective import ALONE, Collective
from learners.settings import NEGATIVES, REDUCTIONS


def contrastive_loss(
    features: Tensor,
    predictions: Tensor,
    inverse_temperature: Tensor,
    *,
    negatives: str = "all",
    reduction: str = "mean",
    learners: Collective = ALONE,
    gather: bool = True,
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
        learners: Those that share the batch. The loss is that of this learner's rows and columns,
            scaled so that the mean over the learners is the loss of the whole batch.
        gather: Whether steps of all learners are negatives, or of each only its own.

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
    shares = learners.size
    if not gather or negatives == "same_sequence":  # all that is needed is here
        learners = ALONE
    own = features.flatten(0, 1).float()  # (n, F): n = T * B of this learner, N of all
    own_predictions = predictions.flatten(0, 1).float()
    temperature = inverse_temperature.float()
    scores = own @ learners.gather(own_predictions).t() * temperature  # (n, N)
    across = scores.t()
    if learners.size > 1:
        across = own_predictions @ learners.gather(own).t() * temperature  # (n, N)
    pairs = scores.shape[1]
    target = torch.arange(len(own), device=scores.device) + learners.rank * len(own)
    candidates = pairs
    if negatives != "all":
        every = torch.arange(learners.size * batch, device=scores.device).view(-1, 1, batch)
        sequence = every.expand(-1, horizon, -1).flatten()  # (N,)
        same = sequence[target][:, None] == sequence[None, :]
        if negatives == "same_sequence":
            excluded, candidates = ~same, horizon
        else:
            itself = target[:, None] == torch.arange(pairs, device=scores.device)[None, :]
            excluded, candidates = same & ~itself, pairs - horizon + 1
        scores = scores.masked_fill(excluded, float("-inf"))
        across = across.masked_fill(excluded, float("-inf"))
    over_columns = F.cross_entropy(scores, target, reduction=reduction)
    over_rows = F.cross_entropy(across, target, reduction=reduction)
    loss = over_columns + over_rows
    loss = 0.5 * loss if reduction == "mean" else loss * shares
    with torch.no_grad():
        metrics = {
            "contrastive/accuracy": (scores.argmax(-1) == target).float().mean(),
            "contrastive/log_pairs": scores.new_full((), math.log(candidates)),
            "contrastive/inverse_temperature": inverse_temperature.detach(),
        }
    return loss, metrics
