"""What policies that look at nothing score: the bar that a learned policy has to clear.

On some tasks doing nothing is worth much more than random actions (cartpole-balance: about 750
against 270), so a learner is compared with the best of all of these, never with random actions
alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from actors.environments.catalog import find

Policy = Callable[
    [np.random.Generator, int], np.ndarray
]  # (generator, action dimensions) -> action in [-1, 1]

POLICIES: dict[str, Policy] = {
    "random": lambda generator, size: generator.uniform(-1.0, 1.0, size),
    "zero": lambda generator, size: np.zeros(size),
    "plus_one": lambda generator, size: np.ones(size),
    "minus_one": lambda generator, size: -np.ones(size),
    "small_noise": lambda generator, size: np.clip(generator.normal(0.0, 0.2, size), -1.0, 1.0),
}


def measure_trivial(
    name: str, episodes: int = 20, seed: int = 0, action_repeat: int | None = None
) -> dict[str, tuple[float, float]]:
    """Plays full episodes with each trivial policy, without drawing.

    All policies start from the same `episodes` start states. Takes a few seconds (20 episodes are
    100,000 simulator steps).

    Args:
        name: of the catalogue.
        episodes: number of episodes per policy, 1 or more.
        seed: of start states and actions.
        action_repeat: simulator steps per action, None for the catalogue's.

    Returns:
        For each of `POLICIES` the mean undiscounted return and its standard error over episodes (0
        for one).

    Raises:
        UnknownEnvironment: no such name.
        ValueError: `episodes` is below 1.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}; measure at least one.")
    entry = find(name)
    from actors.environments.tasks import load_task  # imports the simulator

    repeat = action_repeat or entry.action_repeat
    results = {}
    for policy_name, policy in POLICIES.items():
        environment = load_task(entry, seed % 2**32)
        spec = environment.action_spec()
        generator = np.random.default_rng(seed)
        returns = []
        for _ in range(episodes):
            total, time_step = 0.0, environment.reset()
            while not time_step.last():
                action = policy(generator, spec.shape[0])
                command = spec.minimum + (action + 1.0) * 0.5 * (spec.maximum - spec.minimum)
                for _ in range(repeat):
                    time_step = environment.step(command)
                    total += time_step.reward
                    if time_step.last():
                        break
            returns.append(total)
        spread = np.std(returns, ddof=1) / math.sqrt(episodes) if episodes > 1 else 0.0
        results[policy_name] = (float(np.mean(returns)), float(spread))
    return results


def best_trivial(results: dict[str, tuple[float, float]]) -> tuple[str, float]:
    """Returns name and mean return of the best policy of `measure_trivial`."""
    name = max(results, key=lambda policy: results[policy][0])
    return name, results[name][0]
