from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actors.environments.catalog import NATURAL_TASKS, PAPER_TASKS, make_environment
from actors.environments.settings import EnvironmentSettings


@pytest.mark.parametrize("name", PAPER_TASKS)
@pytest.mark.parametrize(
    ("difficulty", "quality"),
    [("hard", "fast"), ("hard", "paper"), ("medium", "exact"), ("background2", "fast")],
)
def test_the_clean_twin_equals_the_undisturbed_environment(
    name: str, difficulty: str, quality: str
) -> None:
    settings = EnvironmentSettings(name=name, difficulty=difficulty, quality=quality, image_size=64)
    disturbed = make_environment(settings, 9)
    clean = make_environment(replace(settings, difficulty="none"), 9)
    generator = np.random.default_rng(0)
    disturbed.reset()
    picture = clean.reset().observation
    for _ in range(3):
        np.testing.assert_array_equal(disturbed.clean_observation(), picture)
        assert not np.array_equal(disturbed.observation(), picture)
        action = generator.uniform(-1, 1, clean.action_spec().shape)
        before = disturbed.step(action).observation
        picture = clean.step(action).observation
        disturbed.clean_observation()
        # Looking at the twin changes nothing.
        np.testing.assert_array_equal(disturbed.observation(), before)
    disturbed.close()
    clean.close()


@pytest.mark.parametrize("mask", ["threshold", "segmentation", "sky"])
def test_the_clean_twin_of_a_natural_picture_is_the_plain_one(mask: str) -> None:
    settings = EnvironmentSettings(
        name=NATURAL_TASKS[3], difficulty="natural", natural_mask=mask, image_size=64
    )
    natural = make_environment(settings, 9)
    plain = make_environment(
        replace(settings, difficulty="none", view="square", action_repeat=2), 9
    )
    natural.reset()
    np.testing.assert_array_equal(natural.clean_observation(), plain.reset().observation)
    natural.close()
    plain.close()


def test_a_clean_environment_is_its_own_twin() -> None:
    environment = make_environment(EnvironmentSettings(quality="fast"), 1)
    picture = environment.reset().observation
    np.testing.assert_array_equal(environment.clean_observation(), picture)
    environment.close()
