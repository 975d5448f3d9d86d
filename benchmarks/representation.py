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
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.representation_experiment import ARMS, Experiment, Setup, plan
from benchmarks.representation_table import print_table, report

# isort: split
import torch


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
        print_table(summary)
    if options.json:
        print(json.dumps({"machine": summary["machine"], "figures": summary, "ratios": {}}))
    return 0


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
