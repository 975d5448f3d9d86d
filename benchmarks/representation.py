"""Do states of a contrastive world model know more of the robot than those of a generative one?

    python -m benchmarks.representation --out FOLDER [--updates 5000] [--seeds 0,1,2] [--json]

World models are trained on the same recorded episodes of cartpole-swingup, once on pictures before
moving videos ("natural", as in Natural MuJoCo) and once on clean pictures of the very same
trajectories. Arms: `contrastive` and `generative` are CVRL's CELBO and its pixel decoder at the
defaults of their settings, with small networks; `untrained` is the contrastive model as it is
initialised, of which linear maps read something too; `released` has the contrastive term in the
form of CVRL's released code. All have equally many updates, and the arms of one seed see the same
windows in the same order. Only the model is trained: the update is CVRL's without its behaviour
losses, of which the model gets no gradient anyway.

Then every test episode is filtered from its beginning, and a ridge regression, fitted to the
training episodes, reads the true state from the posterior's mean and the recurrent state
[mean s, h] from step 10 on. Its R2 is given for episodes of other start states before the videos of
the training (`natural`), before held-out ones (`natural_held_out`), or `clean`. Beside it are the
model's losses under their names in training: `loss/contrastive` of a contrastive model is InfoNCE,
chance being `contrastive/log_pairs`; both and `kl/nats` in nats.

A killed run continues when it is started again: the episodes are kept in FOLDER/episodes, a
training goes on from its checkpoint of every 500 updates, and every finished one is a file of
FOLDER/runs. FOLDER/representation.json and .csv are written anew after each. Their rows are means
over seeds with standard errors, and say whether runs are still missing ("partial"). To repeat the
probe of a trained model, delete its .json alone.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shlex
import sys
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
from rl_system.machine import describe_machine, versions

FIRST_PROBED_STEP = 10  # of an episode: by then the filter has seen the velocities
CHECKPOINT_UPDATES = 500
TEST_BATCHES = 50  # of windows, for the losses on test episodes
TRAINING = "training"  # in place of the pictures of a test: the training episodes themselves
COLUMNS = ("arm", "pictures", "tested_on", "figure", "mean", "standard_error", "seeds", "partial")

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
        _write(begun, json.dumps(asdict(setup)))
        self.sets = {name: self._episodes(name) for name in SETS}

    def make(self, run: Run) -> dict[str, Any]:
        """Trains and probes unless that is done; returns what the run's file holds."""
        if (found := self.result(run)) is not None:
            return found
        update, progress = self._train(run)
        result = run._asdict() | {"figures": self._figures(run, update, progress)} | progress
        _write(self.runs / f"{run.name}.json", json.dumps(result))
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


def table(runs: Sequence[Run], results: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Returns a row of `COLUMNS` for every figure of an arm: mean and standard error over seeds.

    Args:
        runs: All that are planned.
        results: Theirs, None for those that are not finished; rows they would belong to are
            partial. The standard error is None with less than two seeds.
    """
    rows = []
    finished = list(zip(runs, results, strict=True))
    for arm, pictures in dict.fromkeys((run.arm, run.pictures) for run in runs):
        of_kind = [result for run, result in finished if (run.arm, run.pictures) == (arm, pictures)]
        done = [result for result in of_kind if result is not None]
        for tested_on, names in done[0]["figures"].items() if done else ():
            for figure in names:
                values = np.array([result["figures"][tested_on][figure] for result in done])
                error = float(values.std(ddof=1) / len(values) ** 0.5) if len(done) > 1 else None
                rows.append(
                    {
                        "arm": arm,
                        "pictures": pictures,
                        "tested_on": tested_on,
                        "figure": figure,
                        "mean": float(values.mean()),
                        "standard_error": error,
                        "seeds": len(done),
                        "partial": len(done) < len(of_kind),
                    }
                )
    return rows


def report(experiment: Experiment, runs: Sequence[Run], command: str) -> dict[str, Any]:
    """Writes representation.json and .csv into the experiment's folder; returns the former."""
    results = [experiment.result(run) for run in runs]
    rows = table(runs, results)
    missing = [run.name for run, result in zip(runs, results, strict=True) if result is None]
    summary = {
        "command": command,
        "machine": describe_machine() | {"versions": versions(), "device": experiment.device},
        "setup": asdict(experiment.setup),
        "partial": bool(missing),
        "missing": missing,
        "train_mean_r2": experiment.train_mean_r2(),
        "rows": rows,
        "runs": [result for result in results if result is not None],
    }
    _write(experiment.folder / "representation.json", json.dumps(summary, indent=1))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(experiment.folder / "representation.csv", text.getvalue())
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    torch.set_num_threads(1)
    setup = Setup(**{name: getattr(options, name) for name in asdict(Setup())})
    experiment = Experiment(options.out, setup, options.device)
    runs = plan(options.arms, options.seeds)
    command = shlex.join(["python", "-m", "benchmarks.representation", *given])
    missing = [run for run in runs if experiment.result(run) is None]
    for run in missing or runs[-1:]:
        experiment.make(run)
        summary = report(experiment, runs, command)
        _print(summary)
    if options.json:
        print(json.dumps({"machine": summary["machine"], "figures": summary, "ratios": {}}))
    return 0


def _probed(values: np.ndarray) -> np.ndarray:
    return values[:, FIRST_PROBED_STEP:]


def _named(scores: np.ndarray) -> dict[str, float]:
    return {f"r2/{name}": float(score) for name, score in zip(QUANTITIES, scores, strict=True)}


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.incomplete")
    beside.write_text(text)
    os.replace(beside, path)


def _print(summary: dict[str, Any]) -> None:
    if summary["partial"]:
        print(f"\nPARTIAL: {len(summary['missing'])} runs are missing.")
    found = {tuple(row[name] for name in COLUMNS[:4]): row for row in summary["rows"]}
    print(f"\nR2\n| arm | tested on | {' | '.join(QUANTITIES)} | seeds |")
    print("|---" * (3 + len(QUANTITIES)) + "|")
    for arm, pictures, tested_on in dict.fromkeys(key[:3] for key in found):
        row = [found[arm, pictures, tested_on, f"r2/{name}"] for name in QUANTITIES]
        cells = [
            f"{one['mean']:.2f}"
            + ("" if one["standard_error"] is None else f" ± {one['standard_error']:.2f}")
            for one in row
        ]
        where = f"{pictures}, {tested_on}" if tested_on == TRAINING else tested_on
        print(f"| {arm} | {where} | {' | '.join(cells)} | {row[0]['seeds']} |", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="of all results")
    parser.add_argument("--seeds", type=_numbers, default=(0, 1, 2), help="separated by commas")
    parser.add_argument("--arms", type=_arms, default=tuple(ARMS), help="separated by commas")
    parser.add_argument("--device", default="cpu", help="of the networks: cpu or cuda")
    for name, value in asdict(Setup()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _arms(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - ARMS.keys():
        raise argparse.ArgumentTypeError(
            f"no arm is called {', '.join(sorted(unknown))}; choose from {', '.join(ARMS)}."
        )
    return names


if __name__ == "__main__":
    sys.exit(main())
