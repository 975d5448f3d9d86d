"""World models that learn from recorded episodes, and what is read from their states.

`benchmarks/representation.py` says what is compared, and how.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.representation_episodes import (
    CLEAN,
    QUANTITIES,
    SETS,
    TRAINED_ON,
    Episodes,
    collect,
    load,
    save,
)
from benchmarks.representation_probe import RidgeProbe, filter_episodes, r2

# isort: split
import torch
from torch import Tensor

from learners.augment import to_pixels
from learners.cvrl import CVRLAgent
from learners.cvrl_settings import (
    CVRLBehaviorSettings,
    CVRLLearnerSettings,
    CVRLModelSettings,
    CVRLObjectiveSettings,
)
from learners.cvrl_update import CVRLUpdate
from learners.update import Windows

FIRST_PROBED_STEP = 10  # of an episode: by then the filter has seen the velocities
CHECKPOINT_UPDATES = 500
TEST_BATCHES = 50  # of windows, for the losses on test episodes
TRAINING = "training"  # in place of the pictures of a test: the training episodes themselves

MODEL = CVRLModelSettings(
    conv_channels=(16, 32, 64, 128),
    recurrent_dims=64,
    latent_dims=16,
    hidden_dims=64,
    observation_code_dims=(64,),
    state_code_dims=(64,),
    reward_dims=(64, 64),
    decoder_channels=(256, 64, 32, 16),
)
# Never trained and never asked: only there because an agent has a behaviour.
BEHAVIOR = CVRLBehaviorSettings(actor_dims=(8,), value_dims=(8,), critic_dims=(8,), mpc=False)


@dataclass(frozen=True)
class Arm:
    """A way to tie states to observations."""

    objective: CVRLObjectiveSettings
    model: CVRLModelSettings = MODEL
    trained: bool = True


ARMS = {
    "contrastive": Arm(CVRLObjectiveSettings()),
    "generative": Arm(CVRLObjectiveSettings(observation="generative")),
    "untrained": Arm(CVRLObjectiveSettings(), trained=False),
    "released": Arm(
        CVRLObjectiveSettings(score="dot", contrastive_state="whole"),
        replace(MODEL, observation_code_dims=(128, 64), state_code_dims=(64, 64)),
    ),
}


@dataclass(frozen=True)
class Setup:
    """What all runs of a folder have in common."""

    updates: int = 5000
    episodes: int = 200  # to train on
    test_episodes: int = 60
    agent_steps: int = 60  # of an episode
    action_repeat: int = 2
    batch_size: int = 10
    sequence_length: int = 12
    model_rate: float = 1e-3  # Adam learning rate, as in configs/cvrl/tiny.yaml
    videos: str = "procedural"  # or a folder with training and held-out videos


class Run(NamedTuple):
    """One training."""

    arm: str
    pictures: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.pictures}-{self.seed}"


class ModelUpdate(CVRLUpdate):
    """CVRL's update of the world model alone, with its optimiser."""

    def apply(self, windows: Windows) -> tuple[dict[str, Tensor], None]:
        features, states = self.agent.observe(windows.pixels, windows.actions, self._noise)
        loss, metrics = self.agent.model_loss(features, states, windows.pixels, windows.rewards)
        self._backward(loss)
        self._clip_and_step("model", *self._parts["model"], metrics)
        return metrics, None


class Experiment:
    """The runs of one folder, each of which is made once.

    Args:
        folder: Made if it is missing.
        setup: What the folder was begun with.
        device: Of the networks.

    Raises:
        ValueError: The folder was begun with another setup.
    """

    def __init__(self, folder: Path, setup: Setup, device: str = "cpu") -> None:
        self.folder, self.setup, self.device = folder, setup, device
        self.runs = folder / "runs"
        self.runs.mkdir(parents=True, exist_ok=True)
        begun = folder / "setup.json"
        if begun.exists() and (found := json.loads(begun.read_text())) != asdict(setup):
            raise ValueError(
                f"{folder} was begun with {found}: use those numbers, or another --out."
            )
        write_whole(begun, json.dumps(asdict(setup)))
        self.sets = {name: self._episodes(name) for name in SETS}

    def make(self, run: Run) -> dict[str, Any]:
        """Trains and probes unless that is done; returns what the run's file holds."""
        if (found := self.result(run)) is not None:
            return found
        update, progress = self._train(run)
        result = run._asdict() | {"figures": self._figures(run, update, progress)} | progress
        write_whole(self.runs / f"{run.name}.json", json.dumps(result))
        return result

    def result(self, run: Run) -> dict[str, Any] | None:
        """Returns what the run's file holds, None before it is finished."""
        path = self.runs / f"{run.name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def train_mean_r2(self) -> dict[str, float]:
        """Returns R2 on the test episodes of always saying the mean over the training episodes: 0
        if both sets have the same distribution of states.
        """
        train, test = (
            _probed(self.sets[name].states).reshape(-1, len(QUANTITIES)) for name in SETS
        )
        scores = r2(np.broadcast_to(train.mean(0), test.shape), test)
        return dict(zip(QUANTITIES, scores.tolist(), strict=True))

    def _episodes(self, name: str) -> Episodes:
        folder, setup = self.folder / "episodes" / name, self.setup
        if not folder.exists():
            count = setup.episodes if name == "train" else setup.test_episodes
            size = (count, setup.agent_steps, setup.action_repeat)
            save(collect(name, *size, videos=setup.videos), folder)
        return load(folder)

    def _train(self, run: Run) -> tuple[ModelUpdate, dict[str, Any]]:
        """Trains from the last checkpoint on; returns also the curve and the time it took."""
        arm, checkpoint = ARMS[run.arm], self.runs / f"{run.name}.checkpoint"
        update = self._begin(arm, run.seed)
        progress: dict[str, Any] = {"curve": [], "cpu_s": 0.0, "wall_s": 0.0}
        if checkpoint.exists():
            saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
            update.agent.load_state_dict(saved["agent"])
            update.load_state_dict(saved["update"])
            progress = saved["progress"]
        wanted = self.setup.updates if arm.trained else 0
        while update.updates < wanted:
            cpu_s, wall_s = time.process_time(), time.monotonic()
            for _ in range(min(CHECKPOINT_UPDATES, wanted - update.updates)):
                update.step(self._windows("train", run.pictures, [run.seed, update.updates]))
            metrics = update.metrics()
            progress["cpu_s"] += time.process_time() - cpu_s
            progress["wall_s"] += time.monotonic() - wall_s
            progress["curve"].append({"updates": update.updates} | metrics)
            state = {"agent": update.agent.state_dict(), "update": update.state_dict()}
            beside = checkpoint.with_suffix(".incomplete")
            torch.save(state | {"progress": progress}, beside)
            os.replace(beside, checkpoint)
            wall_s = progress["wall_s"] / update.updates
            loss, nats = metrics["loss/model"], metrics["kl/nats"]
            print(
                f"{run.name}: {update.updates} updates, {wall_s:.3f} s each, loss {loss:.3f}, "
                f"KL {nats:.2f} nats",
                flush=True,
            )
        return update, progress

    def _begin(self, arm: Arm, seed: int) -> ModelUpdate:
        setup = self.setup
        learner = CVRLLearnerSettings(
            batch_size=setup.batch_size,
            sequence_length=setup.sequence_length,
            model_rate=setup.model_rate,
            precision="float32",
        )
        torch.manual_seed(seed)
        agent = CVRLAgent(arm.model, arm.objective, BEHAVIOR, learner, action_dims=1)
        agent.to(self.device)
        return ModelUpdate(agent, learner, arm.objective, BEHAVIOR, self.device, seed)

    def _windows(self, name: str, pictures: str, seed: Sequence[int]) -> dict[str, np.ndarray]:
        setup = self.setup
        return self.sets[name].windows(pictures, setup.batch_size, setup.sequence_length, seed)

    def _figures(
        self, run: Run, update: ModelUpdate, progress: dict[str, Any]
    ) -> dict[str, dict[str, float]]:
        """Returns R2 and losses by what they are of: the training, or pictures of test episodes."""
        train, test = self.sets["train"], self.sets["test"]
        states = filter_episodes(update.agent, train.pictures[run.pictures], train.actions)
        states, truth = _probed(states), _probed(train.states)
        probe = RidgeProbe.fit(states, truth)
        figures = {TRAINING: _named(probe.score(states, truth))}
        if progress["curve"]:
            figures[TRAINING] |= progress["curve"][-1]
            for clock in ("cpu_s", "wall_s"):
                figures[TRAINING][f"{clock}_per_update"] = progress[clock] / update.updates
        for pictures in SETS["test"]:
            if (pictures == CLEAN) != (run.pictures == CLEAN):
                continue
            states = filter_episodes(update.agent, test.pictures[pictures], test.actions)
            scores = _named(probe.score(_probed(states), _probed(test.states)))
            figures[pictures] = scores | self._test_losses(update, pictures)
        return figures

    @torch.no_grad()
    def _test_losses(self, update: ModelUpdate, pictures: str) -> dict[str, float]:
        """Returns means of the model's losses over windows of test episodes."""
        agent, generator = update.agent, torch.Generator(self.device).manual_seed(0)
        sums: dict[str, float] = {}
        for batch in range(TEST_BATCHES):
            windows = {
                name: torch.from_numpy(values).to(self.device)
                for name, values in self._windows("test", pictures, [batch]).items()
            }
            pixels = to_pixels(windows["observation"])
            features, states = agent.observe(pixels, windows["action"], generator)
            _, metrics = agent.model_loss(features, states, pixels, windows["reward"])
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value) / TEST_BATCHES
        return sums


def plan(arms: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """Returns the runs in their order: seed by seed, and the released form after all others."""
    kinds = [(arm, pictures) for pictures in (TRAINED_ON, CLEAN) for arm in arms]
    runs = [Run(arm, pictures, seed) for seed in seeds for arm, pictures in kinds]
    return sorted(runs, key=lambda run: run.arm == "released")


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is either there as a whole or as it was before."""
    beside = path.with_name(f"{path.name}.incomplete")
    beside.write_text(text)
    os.replace(beside, path)


def _probed(values: np.ndarray) -> np.ndarray:
    return values[:, FIRST_PROBED_STEP:]


def _named(scores: np.ndarray) -> dict[str, float]:
    return {f"r2/{name}": float(score) for name, score in zip(QUANTITIES, scores, strict=True)}
