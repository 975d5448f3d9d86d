"""The contrastive term of the CELBO, Eq. 5 and 6 of the CVRL paper."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from learners.collective import ALONE, Collective


def celbo_contrast(
    states: Tensor,
    observations: Tensor,
    *,
    positive_among_candidates: bool = True,
    learners: Collective = ALONE,
    gather: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return minus the mean of `log f(s, o) - log sum over o' of f(s, o')`.

    `log f(s_i, o_j)` is the inner product of code i of a state and code j of an observation, in
    float32; all N = T * B observations of the batch are candidates for every state. There is no
    second term that contrasts states for each observation.

    Args:
        states: Codes of states (T, B, K).
        observations: Codes of observations (T, B, K); of a bilinear score, already times W.
        positive_among_candidates: Whether a state's own observation is in its sum.
        learners: Those that share the batch; the loss is that of this learner's states.
        gather: Whether observations of all learners are candidates, or of each only its own.

    Returns:
        The loss, and metrics: `contrastive/accuracy`, `contrastive/log_pairs` (the loss at chance
        with the positive among N candidates), and how much of the softmax falls, wrongly, on other
        steps of the state's own sequence (`contrastive/same_sequence_mass`) and on other sequences
        (`contrastive/other_sequences_mass`).
    """
    horizon, batch = states.shape[:2]
    if not gather:
        learners = ALONE
    own = states.flatten(0, 1).float()  # (n, K): n = T * B of this learner, N of all
    candidates = learners.gather(observations.flatten(0, 1).float())  # (N, K)
    scores = own @ candidates.t()  # (n, N)
    target = torch.arange(len(own), device=scores.device) + learners.rank * len(own)
    positive = scores.gather(1, target[:, None])  # (n, 1)
    summed = scores
    if not positive_among_candidates:
        summed = scores.scatter(1, target[:, None], float("-inf"))
    loss = (summed.logsumexp(1) - positive.squeeze(1)).mean()
    with torch.no_grad():
        chances = scores.softmax(1)  # (n, N)
        # Step t of window b is row t * B + b of its learner.
        window = torch.arange(batch, device=scores.device).repeat(horizon)  # (n,)
        everyone = torch.arange(learners.size, device=scores.device)[:, None] * batch
        windows = (everyone + window).flatten()  # (N,)
        same = windows[target][:, None] == windows[None, :]
        own_chance = chances.gather(1, target[:, None]).mean()
        same_chance = (chances * same).sum(1).mean()
        metrics = {
            "contrastive/accuracy": (scores.argmax(1) == target).float().mean(),
            "contrastive/log_pairs": scores.new_full((), math.log(scores.shape[1])),
            "contrastive/same_sequence_mass": same_chance - own_chance,
            "contrastive/other_sequences_mass": 1.0 - same_chance,
        }
    return loss, metrics
