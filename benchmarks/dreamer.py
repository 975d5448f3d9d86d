"""CVRL in training, and its generative twin Dreamer, beside RLlib's own DreamerV3.

    python -m benchmarks.dreamer [--seconds 120] [--rounds 3] [--json]

Each trains on the same clean cartpole-swingup (64 x 64 pixels, quality fast, action repeat 2) with
the same batches, imagined horizon and replay ratio, and a world model of about as many parameters:
in a process of its own with a Ray of its own, one after the other, round after round; who begins
changes with every round. Counted are environment agent steps, updates and replayed agent steps,
after the first updates, ours from the end of one episode to the end of another. RLlib acts and
learns in one process; it is measured with each of --rllib-threads and compared by the best of them.

Ratios are medians over rounds, above 1: ours is faster; `_updates_cpu` is by CPU time of all
processes, the others by the wall clock. A ratio is null where a side failed, with its error among
the figures. The last line with --json is one object of machine, figures and ratios.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.worker_process import WorkerFailed, WorkerProcess
from benchmarks.rounds import MIN_ROUNDS, spread
from rl_system.cli import EXIT_USER_ERROR
from rl_system.machine import cpus, describe_machine, memory_bytes, versions

OURS = ("cvrl", "dreamer")
RLLIB = "rllib"
RATES = {  # in ratios' names -> of a sample
    "agent_steps": "agent_steps_per_s",
    "updates": "updates_per_s",
    "replayed": "replayed_per_s",
    "updates_cpu": "updates_per_cpu_s",
}
ENVIRONMENT = {
    "name": "dcs/cartpole-swingup",
    "difficulty": "none",
    "view": "square",
    "action_repeat": 2,
    "image_size": 64,
    "quality": "fast",
}
BATCH, LENGTH, HORIZON = 16, 20, 15  # windows, agent steps of a window and of an imagined one
UPDATES_PER_AGENT_STEP = 0.2
CHUNK_AGENT_STEPS = 25  # that are taken in a row: our chunk, RLlib's fragment
PRESET = "{system}/standard/cartpole-swingup/tiny"
OVERRIDES = (
    f"learner.batch_size={BATCH}",
    f"learner.sequence_length={LENGTH}",
    f"learner.updates_per_agent_step={UPDATES_PER_AGENT_STEP}",
    "learner.precision=float32",
    f"behavior.horizon={HORIZON}",
    f"environment.action_repeat={ENVIRONMENT['action_repeat']}",
    f"actors.chunk_agent_steps={CHUNK_AGENT_STEPS}",
    "actors.random_agent_steps=500",
    "replay.minimum_agent_steps=500",
    "evaluation.every_agent_steps=null",
    "run.iteration_s=1.0",
)
# Widths with which the world model has as many parameters as RLlib's of size mini. CVRL has no
# decoder, which is more than half of it there, and gets wider instead.
WIDTHS = {
    "cvrl": (
        "model.recurrent_dims=184",
        "model.hidden_dims=184",
        "model.latent_dims=32",
        "model.observation_code_dims=[64]",
        "model.state_code_dims=[64]",
        "objective.contrastive_state=latent",
    ),
    "dreamer": ("model.decoder_channels=[176,64,32,16]",),
}
RLLIB_SIZE = "mini"
# Updates that are not counted. Ours let the limiter settle, which the episode after the random one
# unsettles; RLlib steps and updates in turn from the first on.
OUR_WARM_UP_UPDATES, RLLIB_WARM_UP_UPDATES = 80, 10
PATIENCE_S = 240.0  # without an update
CALL_TIMEOUT_S = 1800.0
PROCESS_BYTES = 3 << 30  # of one side with its Ray

Sample = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    available = memory_bytes()[1]
    if available < PROCESS_BYTES:
        print(
            f"benchmarks.dreamer: each side needs {PROCESS_BYTES / 2**30:.0f} GiB of memory, "
            f"{available / 2**30:.1f} GiB are available: end other programs first.",
            file=sys.stderr,
        )
        return EXIT_USER_ERROR
    samples, errors = measure(options)
    result = make_result(samples, errors, vars(options))
    print_tables(result)
    if options.json:
        print(json.dumps(result))
    return 0


def measure(options: argparse.Namespace) -> tuple[dict[str, dict[int, Sample]], dict[str, str]]:
    """Returns, by side, what it did in each round, and the errors of those that failed.

    A side that has failed is left out of later rounds.
    """
    sides = [*OURS, *(rllib_side(threads) for threads in options.rllib_threads)]
    samples: dict[str, dict[int, Sample]] = {side: {} for side in sides}
    errors: dict[str, str] = {}
    for number in range(options.rounds):
        turn = number % len(sides)
        for side in [*sides[turn:], *sides[:turn]]:
            if side in errors:
                continue
            load = os.getloadavg()[0]
            try:
                sample = run_side(side, options.seconds / options.rounds)
            except WorkerFailed as error:
                errors[side] = str(error)
                print(f"{side} failed: {error}", file=sys.stderr, flush=True)
                continue
            samples[side][number] = sample | {"load_before": round(load, 2)}
            print(
                f"round {number + 1}, {side}: {sample['updates_per_s']:.3g} updates/s",
                file=sys.stderr,
                flush=True,
            )
    return samples, errors


def rllib_side(threads: int) -> str:
    """Returns the name of RLlib with so many threads."""
    return f"{RLLIB}_{threads}_thread{'s' * (threads > 1)}"


def run_side(side: str, seconds: float) -> Sample:
    """Trains one side in a fresh process.

    Raises:
        WorkerFailed: it could not; the message says why.
    """
    counting = {
        "warm_up_updates": OUR_WARM_UP_UPDATES if side in OURS else RLLIB_WARM_UP_UPDATES,
        "seconds": seconds,
        "patience_s": PATIENCE_S,
    }
    if side in OURS:
        module = "benchmarks.dreamer_ours"
        what: dict[str, Any] = {
            "preset": PRESET.format(system=side),
            "overrides": [*OVERRIDES, *WIDTHS[side]],
        }
    else:
        module = "benchmarks.peers.rllib_dreamer"
        what = {
            "environment": ENVIRONMENT,
            "training": {
                "model_size": RLLIB_SIZE,
                "training_ratio": UPDATES_PER_AGENT_STEP * BATCH * LENGTH,
                "batch_size_B": BATCH,
                "batch_length_T": LENGTH,
                "horizon_H": HORIZON,
            },
            "fragment_agent_steps": CHUNK_AGENT_STEPS,
            "threads": int(side.split("_")[1]),
        }
    process = WorkerProcess(sys.executable, module)
    try:
        return process.call("train", CALL_TIMEOUT_S, **what, **counting)
    finally:
        process.close()


def make_result(
    samples: Mapping[str, Mapping[int, Sample]],
    errors: Mapping[str, str],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the object of machine, figures and ratios.

    Args:
        samples: by side and round.
        errors: of sides that failed.
        options: of the command line, for the record.
    """
    complete = {side: rounds for side, rounds in samples.items() if rounds and side not in errors}
    by_round = _by_round(complete)
    ratios: dict[str, float | None] = {}
    for side in OURS:
        for rate in RATES:
            found = by_round.get(f"{side}_{rate}")
            ratios[f"{side}_{rate}_vs_rllib"] = (
                None if found is None else round(statistics.median(found["values"]), 3)
            )
    return {
        "machine": describe_machine() | {"versions": versions()},
        "figures": {
            "environment": ENVIRONMENT,
            "batch": [BATCH, LENGTH],
            "horizon": HORIZON,
            "replay_ratio": UPDATES_PER_AGENT_STEP * BATCH * LENGTH,
            "ours": {side: [*OVERRIDES, *WIDTHS[side]] for side in OURS},
            "warm_up_updates": {"ours": OUR_WARM_UP_UPDATES, RLLIB: RLLIB_WARM_UP_UPDATES},
            "rllib": {"model_size": RLLIB_SIZE, "fragment_agent_steps": CHUNK_AGENT_STEPS},
            "options": dict(options),
            "parameters": {
                side: next(iter(rounds.values()))["parameters"] for side, rounds in complete.items()
            },
            "rates": {side: _summary(rounds) for side, rounds in complete.items()},
            "samples": {side: list(rounds.values()) for side, rounds in samples.items()},
            "ratios": {
                name: {"over": found["over"]} | spread(found["values"])
                for name, found in by_round.items()
            },
            "errors": dict(errors),
        },
        "ratios": ratios,
    }


def _by_round(complete: Mapping[str, Mapping[int, Sample]]) -> dict[str, dict[str, Any]]:
    """Returns our rate over that of RLlib's best way, of each round that both were measured in."""
    peers = [side for side in complete if side.startswith(RLLIB)]
    found: dict[str, dict[str, Any]] = {}
    if not peers:
        return found
    for rate, key in RATES.items():

        def median(side: str, key: str = key) -> float:
            return statistics.median(sample[key] for sample in complete[side].values())

        best = max(peers, key=median)
        for side in OURS:
            if side in complete:
                shared = sorted(complete[side].keys() & complete[best].keys())
                values = [complete[side][r][key] / complete[best][r][key] for r in shared]
                found[f"{side}_{rate}"] = {"over": best, "values": values}
    return found


def _summary(rounds: Mapping[int, Sample]) -> dict[str, dict[str, float]]:
    keys = (*RATES.values(), "replay_ratio", "load_before")
    return {key: spread([sample[key] for sample in rounds.values()]) for key in keys}


def print_tables(result: Mapping[str, Any]) -> None:
    """Prints the figures as tables in Markdown."""
    figures = result["figures"]
    columns = ("agent steps/s", "updates/s", "replayed/s", "updates/CPU s", "replay ratio")
    keys = (*RATES.values(), "replay_ratio")
    print("Medians (quartiles).\n")
    print(f"| | world model | actor and critics | {' | '.join(columns)} | load before |")
    print("|---" * (len(columns) + 4) + "|")
    for side, rates in figures["rates"].items():
        parameters = figures["parameters"][side]
        counts = f"{parameters['world_model']:,} | {parameters['behavior']:,}"
        cells = " | ".join(_cell(rates[key]) for key in keys)
        load = f"{rates['load_before']['median']:.3g}"
        print(f"| {side.replace('_', ' ')} | {counts} | {cells} | {load} |")
    print()
    for name, value in result["ratios"].items():
        over = figures["ratios"].get(name.removesuffix("_vs_rllib"))
        if value is None or over is None:
            print(f"{name}: null (a side failed)")
        else:
            print(f"{name}: {value} ({over['q1']:.3g}-{over['q3']:.3g}, over {over['over']})")
    for side, error in figures["errors"].items():
        print(f"\n{side} failed: {error}")


def _cell(values: Mapping[str, float]) -> str:
    return f"{values['median']:.3g} ({values['q1']:.3g}-{values['q3']:.3g})"


def _duration(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _rounds(text: str) -> int:
    value = int(text)
    if value < MIN_ROUNDS:
        raise argparse.ArgumentTypeError(f"{value} is below {MIN_ROUNDS}: no median to speak of")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dreamer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument(
        "--seconds",
        type=_duration,
        default=120.0,
        metavar="N",
        help="counted of each side at least, over all rounds; starting and warming up are extra "
        "(120)",
    )
    parser.add_argument("--rounds", type=_rounds, default=MIN_ROUNDS, metavar="N")
    parser.add_argument(
        "--rllib-threads",
        type=_count,
        nargs="+",
        default=sorted({1, cpus()}),
        metavar="N",
        help="of torch, one measurement each (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
