"""Episodes of cartpole-swingup whose true states are known, drawn clean and before videos.

Start states are stratified: of E episodes each begins in another of E equal parts of the range of
every coordinate (a Latin hypercube), so that two sets of episodes have the same distribution of
states. All pictures of a set show the same trajectories.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from actors.environments.catalog import Split, make_environment
from actors.environments.settings import EnvironmentSettings

QUANTITIES = ("cart_position", "pole_cosine", "pole_sine", "cart_velocity", "pole_velocity")
# Of start states, by coordinate of the simulator: metres, radians, metres and radians per second.
# The camera sees carts between -1.6 and 1.6 m.
START_RANGES = ((-0.8, 0.8), (-np.pi, np.pi), (-0.5, 0.5), (-3.0, 3.0))
TRAINED_ON, HELD_OUT, CLEAN = "natural", "natural_held_out", "clean"  # names of pictures
# Which pictures each set of episodes has.
SETS: dict[str, tuple[str, ...]] = {
    "train": (TRAINED_ON, CLEAN),
    "test": (TRAINED_ON, HELD_OUT, CLEAN),
}
_VIDEO_SPLITS: dict[str, Split] = {TRAINED_ON: "train", HELD_OUT: "held_out"}
_ACTION_MEMORY = 0.9  # correlation of actions that follow each other
_ACTION_STD = 0.4  # before they are cut to [-1, 1]; more drives carts out of the picture


@dataclass(frozen=True)
class Episodes:
    """E episodes of T agent steps; step t of an episode is at [e, t].

    Attributes:
        states: float32 (E, T, 5), the `QUANTITIES` when the picture of the step was drawn.
        actions: float32 (E, T, 1), taken on that picture.
        rewards: float32 (E, T), earned by that action.
        pictures: uint8 (E, T, S, S, 3) by name.
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    pictures: Mapping[str, np.ndarray]

    def windows(
        self, pictures: str, count: int, length: int, seed: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """Draws a batch of windows, uniformly over episodes and starts, as an `Update` takes it:
        `observation` (length, count, S, S, 3), `action`, `reward` and `discount`.
        """
        generator = np.random.default_rng(seed)
        episodes, agent_steps = self.rewards.shape
        rows = generator.integers(episodes, size=count)
        starts = generator.integers(agent_steps - length + 1, size=count)

        def cut(values: np.ndarray) -> np.ndarray:
            windows = [values[row, at : at + length] for row, at in zip(rows, starts, strict=True)]
            return np.stack(windows, 1)

        rewards = cut(self.rewards)
        return {
            "observation": cut(self.pictures[pictures]),
            "action": cut(self.actions),
            "reward": rewards,
            "discount": np.ones_like(rewards),
        }


def start_states(count: int, seed: int) -> np.ndarray:
    """Draws simulator states (count, 4), in the order of `START_RANGES`; every coordinate has one
    in each of `count` equal parts of its range.
    """
    generator = np.random.default_rng(seed)
    parts = [generator.permutation(count) for _ in START_RANGES]
    shares = (np.stack(parts, 1) + generator.random((count, len(START_RANGES)))) / count
    low, high = np.array(START_RANGES).T
    return low + shares * (high - low)


def smooth_actions(count: int, agent_steps: int, seed: int) -> np.ndarray:
    """Draws random actions float32 (count, agent_steps, 1) in [-1, 1] that change slowly.

    The second half of the episodes has the actions of the first with the other sign, so that
    the carts of a set drift neither way.
    """
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((agent_steps, -(-count // 2)))
    noise = np.concatenate([noise, -noise], 1)[:, :count]
    actions = np.empty((agent_steps, count))
    actions[0] = noise[0]
    for step in range(1, agent_steps):
        fresh = np.sqrt(1.0 - _ACTION_MEMORY**2) * noise[step]
        actions[step] = _ACTION_MEMORY * actions[step - 1] + fresh
    return np.clip(_ACTION_STD * actions.T[..., None], -1.0, 1.0).astype(np.float32)


def collect(
    name: str,
    count: int,
    agent_steps: int,
    action_repeat: int,
    *,
    image_size: int = 64,
    videos: str = "procedural",
    num_videos: int | None = None,
) -> Episodes:
    """Simulates and draws a set of episodes, always the same for the same arguments.

    Args:
        name: "train" or "test": seeds, and the pictures of `SETS`.
        count: episodes.
        agent_steps: length of each.
        action_repeat: simulator steps per agent step.
        image_size: side of pictures.
        videos, num_videos: see `EnvironmentSettings`.
    """
    seed = 1 + list(SETS).index(name)
    starts = start_states(count, seed)
    actions = smooth_actions(count, agent_steps, seed)
    shape = (count, agent_steps)
    states = np.empty((*shape, len(QUANTITIES)), np.float32)
    rewards = np.empty(shape, np.float32)
    pictures = {
        kind: np.empty((*shape, image_size, image_size, 3), np.uint8) for kind in SETS[name]
    }
    settings = EnvironmentSettings(
        name="dcs/cartpole-swingup",
        difficulty="natural",
        action_repeat=action_repeat,
        image_size=image_size,
        quality="fast",
        videos=videos,
        num_videos=num_videos,
    )
    for kind in (kind for kind in SETS[name] if kind != CLEAN):
        environment = make_environment(settings, seed, _VIDEO_SPLITS[kind])
        physics = environment.physics
        for episode in range(count):
            environment.reset()
            with physics.reset_context():
                physics.data.qpos[:], physics.data.qvel[:] = np.split(starts[episode], 2)
            picture = np.asarray(environment.observation())
            for step in range(agent_steps):
                (position, angle), velocities = physics.data.qpos, physics.data.qvel
                state = (position, np.cos(angle), np.sin(angle), *velocities)
                pictures[kind][episode, step] = picture
                if kind == TRAINED_ON:  # the first pass; another only changes the videos
                    states[episode, step] = state
                    clean = np.asarray(environment.clean_observation())
                    pictures[CLEAN][episode, step] = clean
                time_step = environment.step(actions[episode, step])
                rewards[episode, step] = time_step.reward
                picture = np.asarray(time_step.observation)
        environment.close()
    return Episodes(states, actions, rewards, pictures)


def save(episodes: Episodes, folder: Path) -> None:
    """Writes episodes as a folder of .npy files, beside and renamed: it is there whole or not."""
    beside = folder.with_name(f"{folder.name}.incomplete")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name in ("states", "actions", "rewards"):
        np.save(beside / f"{name}.npy", getattr(episodes, name))
    for name, pictures in episodes.pictures.items():
        np.save(beside / f"pictures_{name}.npy", pictures)
    os.replace(beside, folder)


def load(folder: Path) -> Episodes:
    """Maps what `save` has written: read-only arrays, read from the disk where they are used."""
    found = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    pictures = {
        name.removeprefix("pictures_"): array
        for name, array in found.items()
        if name.startswith("pictures_")
    }
    return Episodes(found["states"], found["actions"], found["rewards"], pictures)
