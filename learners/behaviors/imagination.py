"""Imagined trajectories and what they are worth (Dreamer; paper appendix A.1, A.2).

Legend of shapes: H imagined agent steps, N trajectories, D = Ds + Dh, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from learners.models.rssm import RSSM


class Imagined(NamedTuple):
    """What followed from N states."""

    states: Tensor  # [s, h] (H, N, D), the first one after the first action
    actions: Tensor  # (H, N, A), each the one that led to the state of its row


def imagine(
    rssm: RSSM,
    choose: Callable[[int, Tensor], Tensor],
    latent: Tensor,
    recurrent: Tensor,
    noise: Tensor,
) -> Imagined:
    """Roll the prior out. Gradient passes from every state to all actions before it.

    Args:
        rssm: The dynamics.
        choose: Maps the number of a step and the state [s, h] there, detached (N, D), to actions
            (N, A).
        latent: s of the states to begin with (N, Ds).
        recurrent: h of them (N, Dh).
        noise: Standard normal, of the prior's samples (H, N, Ds).
    """
    states, actions = [], []
    state = torch.cat([latent, recurrent], -1)
    for number, prior_noise in enumerate(noise):
        action = choose(number, state.detach())
        latent, recurrent = rssm.predict(latent, recurrent, action, prior_noise)
        state = torch.cat([latent, recurrent], -1)
        states.append(state)
        actions.append(action)
    return Imagined(torch.stack(states), torch.stack(actions))


def lambda_returns(rewards: Tensor, values: Tensor, discount: float, mix: float) -> Tensor:
    """Return V_lambda of all imagined states but the last (H - 1, N).

    `V_t = r_t + discount ((1 - mix) v_t+1 + mix V_t+1)`, and the last value stands for what follows
    it: `V_H = v_H`. Row t of the rewards is what the step into state t earned, as the reward head
    predicts it (as in the released code of Dreamer and CVRL).

    Args:
        rewards: r (H, N).
        values: v (H, N).
        discount: gamma.
        mix: lambda.
    """
    following = values[-1]
    inputs = rewards[:-1] + discount * (1.0 - mix) * values[1:]
    returns = []
    for each in reversed(inputs.unbind(0)):
        following = each + discount * mix * following
        returns.append(following)
    return torch.stack(returns[::-1])
