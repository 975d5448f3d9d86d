"""What can be read linearly from a world model's states: ridge regression, and its R2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from learners.augment import to_pixels
from learners.cvrl import CVRLAgent

ALPHAS = tuple(10.0**power for power in range(-2, 7))  # penalties that are tried
FOLDS = 5
_LEAST_STD = 1e-6  # a state's dimension that varies less is taken as constant
_FILTERED_EPISODES = 20  # at once


@torch.no_grad()
def filter_episodes(agent: CVRLAgent, pictures: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Returns the states [mean s, h] of whole episodes, float32 (E, T, Ds + Dh).

    The latent states on which the filter goes on are sampled, with the same noise in every call.

    Args:
        agent: its world model filters.
        pictures: uint8 (E, T, S, S, 3).
        actions: float32 (E, T, A).
    """
    generator = torch.Generator(agent.device).manual_seed(0)
    found = []
    for first in range(0, len(pictures), _FILTERED_EPISODES):
        some = slice(first, first + _FILTERED_EPISODES)
        frames, taken = (
            torch.from_numpy(np.swapaxes(values[some], 0, 1).copy()).to(agent.device)
            for values in (pictures, actions)
        )  # (T, B, ...)
        _, states = agent.observe(to_pixels(frames), taken, generator)
        both = torch.cat([states.posterior.mean, states.recurrent], -1)  # (T, B, Ds + Dh)
        found.append(both.transpose(0, 1).cpu().numpy())
    return np.concatenate(found)


def r2(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns 1 - squared error / variance for each column of (N, Q): 1 perfect, 0 the mean."""
    error = ((truth - predicted) ** 2).sum(0)
    return 1.0 - error / ((truth - truth.mean(0)) ** 2).sum(0)


@dataclass(frozen=True)
class RidgeProbe:
    """A linear map from standardised states (N, D) to quantities (N, Q).

    Attributes:
        mean, std: of the states that it was fitted to, (D,).
        weights: (D, Q).
        offset: mean of the quantities, (Q,).
        alphas: penalty of each quantity, (Q,).
    """

    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    offset: np.ndarray
    alphas: np.ndarray

    @classmethod
    def fit(cls, states: np.ndarray, truth: np.ndarray, folds: int = FOLDS) -> RidgeProbe:
        """Fits to states (E, T, D) and their true quantities (E, T, Q) of E episodes.

        The penalty of each quantity is the one of `ALPHAS` with the least squared error in a
        cross-validation that leaves out whole episodes.

        Raises:
            ValueError: there are fewer episodes than folds, or fewer than two.
        """
        if not 2 <= folds <= len(states):
            raise ValueError(
                f"{len(states)} episodes cannot be divided into {folds} folds: collect more "
                "training episodes (--episodes)."
            )
        states, truth = states.astype(np.float64), truth.astype(np.float64)
        errors = np.zeros((len(ALPHAS), truth.shape[-1]))
        for fold in range(folds):
            left_out = np.arange(len(states)) % folds == fold
            candidates = _solve(_rows(states[~left_out]), _rows(truth[~left_out]))
            for index, (mean, std, weights, offset) in enumerate(candidates):
                predicted = (_rows(states[left_out]) - mean) / std @ weights + offset
                errors[index] += ((predicted - _rows(truth[left_out])) ** 2).sum(0)
        best = errors.argmin(0)  # (Q,)
        candidates = _solve(_rows(states), _rows(truth))
        mean, std, _, offset = candidates[0]
        columns = [candidates[index][2][:, column] for column, index in enumerate(best)]
        return cls(mean, std, np.stack(columns, 1), offset, np.array(ALPHAS)[best])

    def predict(self, states: np.ndarray) -> np.ndarray:
        """Maps states (..., D) to quantities (..., Q)."""
        return (states - self.mean) / self.std @ self.weights + self.offset

    def score(self, states: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Returns R2 (Q,) on states (E, T, D) of other episodes with quantities (E, T, Q)."""
        return r2(_rows(self.predict(states)), _rows(truth.astype(np.float64)))


_Solution = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _solve(states: np.ndarray, truth: np.ndarray) -> list[_Solution]:
    """Returns mean, std, weights and offset for each of `ALPHAS`."""
    mean, std, offset = states.mean(0), states.std(0), truth.mean(0)
    std = np.where(std < _LEAST_STD, np.inf, std)
    scaled = (states - mean) / std
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    projected = vectors.T @ (scaled.T @ (truth - offset))
    return [
        (mean, std, vectors @ (projected / (values[:, None] + alpha)), offset) for alpha in ALPHAS
    ]


def _rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])
