from __future__ import annotations

import numpy as np
import pytest

from actors.environments.catalog import PAPER_TASKS, make_environment
from actors.environments.settings import EnvironmentSettings
from actors.environments.sky import VideoSky
from actors.environments.suite import SuiteEnvironment

_TASKS = [*PAPER_TASKS, "dcs/quadruped-walk", "dcs/fish-swim", "dcs/hopper-hop"]


def _make(name: str, **fields: object) -> SuiteEnvironment:
    given = {"image_size": 60, "difficulty": "hard", "quality": "paper"} | fields
    return make_environment(EnvironmentSettings(name=name, **given), 2)  # type: ignore


def _pictures(environment: SuiteEnvironment, agent_steps: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    shape = environment.action_spec().shape
    pictures = [environment.reset().observation]
    pictures += [
        environment.step(generator.uniform(-1, 1, shape)).observation for _ in range(agent_steps)
    ]
    environment.close()
    return np.stack(pictures)


@pytest.mark.parametrize("name", _TASKS)
def test_faces_that_are_not_sent_are_not_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = _pictures(_make(name, intensity=1.0), 12)
    monkeypatch.setattr("actors.environments.sky._visible_faces", lambda *_: set(range(6)))
    np.testing.assert_array_equal(few, _pictures(_make(name, intensity=1.0), 12))


@pytest.mark.parametrize("quality", ["exact", "paper", "fast"])
def test_a_driver_without_copies_draws_the_same(
    quality: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = _pictures(_make("dcs/cheetah-run", quality=quality), 3)
    monkeypatch.setattr(VideoSky, "_try_copy", lambda self: False)
    np.testing.assert_array_equal(copied, _pictures(_make("dcs/cheetah-run", quality=quality), 3))


@pytest.mark.parametrize(
    "name", ["dcs/manipulator-bring_ball", "dcs/stacker-stack_2", "dcs/quadruped-escape"]
)
def test_a_hidden_sky_is_refused_and_the_way_out_named(name: str) -> None:
    with pytest.raises(ValueError, match="hidden from its camera: leave background out"):
        _make(name)
    with pytest.raises(ValueError, match=r"set environment\.natural_mask=threshold"):
        _make(name, difficulty="natural", natural_mask="sky")


def test_an_environment_with_a_background_keeps_the_model_s_own_texture() -> None:
    environment = _make("dcs/cheetah-run")
    plain = make_environment(EnvironmentSettings(name="dcs/cheetah-run"), 2)
    environment.reset()
    for field in ("tex_data", "tex_width", "tex_height"):
        np.testing.assert_array_equal(
            getattr(environment.physics.model, field), getattr(plain.physics.model, field)
        )
