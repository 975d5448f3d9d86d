"""Observations in memory that the caller gives, and steps that allocate nothing then."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from actors.environments.catalog import PAPER_TASKS, make_environment
from actors.environments.settings import DIFFICULTIES, QUALITIES, EnvironmentSettings
from actors.environments.suite import SuiteEnvironment

SIZE = 100  # pixels of a picture's side
SMALL_OBJECTS_BYTES = 4096  # numbers, views and time steps
# Some tasks' rewards and the published camera's formulas take several kilobytes of small arrays,
# which is less than one byte for each pixel.
SMALL_ARRAYS_BYTES = 9000
WAYS: dict[str, dict[str, Any]] = {
    **{level: {"difficulty": level} for level in DIFFICULTIES if level != "randomized"},
    "square": {"difficulty": "none", "view": "square"},
    "static": {"difficulty": "medium", "dynamic": False},
    "half": {"difficulty": "hard", "background_blend": 0.5},
    "segmentation": {"difficulty": "natural", "natural_mask": "segmentation"},
    "sky": {"difficulty": "natural", "natural_mask": "sky"},
}
# Every way at `fast`, and those that differ in what they draw with at the others; the rest is slow.
CASES = [
    pytest.param(
        quality,
        way,
        marks=() if quality == "fast" or way in ("medium", "half") else pytest.mark.slow,
    )
    for quality in QUALITIES
    for way in WAYS
]


def _make(name: str = "dcs/cartpole-swingup", seed: int = 3, **fields: Any) -> SuiteEnvironment:
    given = {"image_size": 48, "difficulty": "medium", "quality": "fast"} | fields
    return make_environment(EnvironmentSettings(name=name, **given), seed)  # type: ignore


def _memory(environment: SuiteEnvironment) -> np.ndarray:
    return np.full(environment.observation_spec().shape, 77, np.uint8)


def _measure_steps(environment: SuiteEnvironment, warm: int, agent_steps: int) -> list[int]:
    """Returns the most bytes that were allocated at once in each step, a reset before half."""
    memory = _memory(environment)
    generator = np.random.default_rng(0)
    shape = environment.action_spec().shape
    actions = generator.uniform(-1.0, 1.0, (warm + agent_steps, *shape)).astype(np.float32)
    environment.reset()
    for action in actions[:warm]:
        environment.observe_into(memory)
        environment.step(action)
    peaks = []
    tracemalloc.start()
    try:
        for number, action in enumerate(actions[warm:]):
            if number == agent_steps // 2:
                environment.observe_into(memory)
                environment.reset()
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            environment.observe_into(memory)
            environment.step(action)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return peaks


@pytest.mark.parametrize(("quality", "way"), CASES)
def test_a_step_into_the_callers_memory_allocates_small_objects_only(
    quality: str, way: str
) -> None:
    environment = _make("dcs/cheetah-run", quality=quality, image_size=SIZE, **WAYS[way])
    peaks = _measure_steps(environment, 50 if quality == "fast" else 12, 16)
    environment.close()
    assert max(peaks) < SMALL_OBJECTS_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PAPER_TASKS, "dcs/quadruped-walk"])
@pytest.mark.parametrize("quality", QUALITIES)
def test_a_step_of_every_task_allocates_less_than_a_byte_a_pixel(quality: str, name: str) -> None:
    environment = _make(name, quality=quality, image_size=SIZE)
    peaks = _measure_steps(environment, 50, 30)
    environment.close()
    assert max(peaks) < SMALL_ARRAYS_BYTES < SIZE * SIZE


@pytest.mark.parametrize("quality", ["paper", "fast"])
@pytest.mark.parametrize("name", ["dcs/cartpole-swingup", "dcs/reacher-easy"])
def test_what_a_step_allocates_does_not_grow_with_the_picture(name: str, quality: str) -> None:
    peaks = {}
    for size in (32, 256):
        environment = _make(name, quality=quality, image_size=size)
        peaks[size] = max(_measure_steps(environment, 12, 12))
        environment.close()
    assert abs(peaks[256] - peaks[32]) < 500


@pytest.mark.parametrize(("quality", "way"), CASES)
def test_pictures_in_the_callers_memory_are_the_same_bytes(quality: str, way: str) -> None:
    own, given = (_make(quality=quality, **WAYS[way]) for _ in range(2))
    memory = _memory(given)
    for episode in range(2):
        given.observe_into(memory)
        time_steps = [(own.reset(), given.reset())]
        for _ in range(2):
            np.testing.assert_array_equal(*(each.observation for each in time_steps[-1]))
            given.observe_into(memory)
            action = np.full(1, 0.5 - episode)
            time_steps.append((own.step(action), given.step(action)))
        for one, two in time_steps:
            assert (one.step_type, one.reward) == (two.step_type, two.reward)
            assert two.observation is memory
    np.testing.assert_array_equal(own.clean_observation(), given.clean_observation())
    own.close()
    given.close()


def test_memory_counts_for_one_time_step() -> None:
    environment = _make()
    memory = _memory(environment)
    environment.observe_into(memory)
    assert environment.reset().observation is memory
    kept = memory.copy()
    after = environment.step(np.ones(1)).observation
    assert after.flags.owndata and not np.array_equal(after, kept)
    np.testing.assert_array_equal(memory, kept)
    environment.close()


def test_other_pictures_leave_the_memory_to_the_next_time_step() -> None:
    environment = _make()
    environment.reset()
    memory = _memory(environment)
    environment.observe_into(memory)
    environment.observation()
    environment.clean_observation()
    environment.render_frame(16)
    environment.set_state(environment.get_state())
    with pytest.raises(ValueError, match="not finite"):
        environment.step(np.array([np.nan]))
    assert (memory == 77).all()
    assert environment.step(np.ones(1)).observation is memory
    assert not (memory == 77).all()
    environment.close()


def test_the_last_offer_counts() -> None:
    environment = _make()
    first, second = _memory(environment), _memory(environment)
    environment.observe_into(first)
    environment.observe_into(second)
    assert environment.reset().observation is second and (first == 77).all()
    environment.close()


def test_a_row_of_a_larger_array_is_filled_and_its_neighbours_are_not() -> None:
    for quality in ("paper", "fast"):
        environment = _make(quality=quality)
        rows = np.full((3, 48, 48, 3), 77, np.uint8)
        environment.observe_into(rows[1])
        np.testing.assert_array_equal(environment.reset().observation, environment.observation())
        assert rows[1].std() > 1 and (rows[::2] == 77).all()
        environment.close()


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (np.zeros((48, 48), np.uint8), r"memory for them is uint8 \(48, 48\)"),
        (np.zeros((64, 64, 3), np.uint8), r"uint8 \(48, 48, 3\), and the memory"),
        (np.zeros((48, 48, 3), np.float32), "memory for them is float32"),
        ({"observation": np.zeros((48, 48, 3), np.uint8)}, "memory for them is dict"),
        (None, "memory for them is NoneType"),
        (np.zeros((48, 48, 6), np.uint8)[..., ::2], "not C-contiguous"),
        (np.frombuffer(bytes(48 * 48 * 3), np.uint8).reshape(48, 48, 3), "not writable"),
    ],
)
def test_memory_that_does_not_fit_is_refused(memory: Any, words: str) -> None:
    environment = _make()
    with pytest.raises(ValueError, match=rf"dcs/cartpole-swingup.*{words}"):
        environment.observe_into(memory)
    assert environment.reset().observation.flags.owndata
    environment.close()
