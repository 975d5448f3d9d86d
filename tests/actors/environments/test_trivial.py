from __future__ import annotations

import numpy as np
import pytest

from actors.environments.trivial import POLICIES, best_trivial, measure_trivial


def test_every_trivial_policy_is_measured_and_measured_alike_twice() -> None:
    first = measure_trivial("dcs/cartpole-swingup", episodes=2, seed=1)
    assert set(first) == set(POLICIES)
    assert first == measure_trivial("dcs/cartpole-swingup", episodes=2, seed=1)
    assert all(np.isfinite(value).all() for value in first.values())


def test_doing_nothing_is_the_best_trivial_policy_of_cartpole_balance() -> None:
    results = measure_trivial("dcs/cartpole-balance", episodes=3, seed=0)
    name, value = best_trivial(results)
    assert name == "zero" and value > results["random"][0] + 200


def test_no_episode_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        measure_trivial("dcs/cartpole-balance", episodes=0)
