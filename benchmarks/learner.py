"""Updates of CoRe per second, beside a plain reference update written straight from the paper.

    rl-system bench learner [--json] [--seconds 120] [--size tiny] [--profile FOLDER]

Both update orders of this system, in float32 and with a bfloat16 encoder, and the reference of the
tests (Algorithm 1 as printed: eager, float32, contiguous memory) make the same update from the same
weights, batch and noise, with the same number of threads, in turn, round after round. On a CPU
the reference runs in a process as it comes, and ours in one that keeps freed memory, as a learner's
does (`learners/allocator.py`); `reference_keeping` is the reference in such a process.

Before the rounds each makes three updates in a process of its own (six on a GPU), for its memory,
its FLOP, and the distance of its parameters from the reference's, relative to the reference's way
from its start.
After them torch's profiler divides an update of ours into phases, on a GPU one that is no recorded
graph, which would have none. The peak is the best of large matrix products and the encoder's own
convolution, measured in the same rounds; the share of a bfloat16 update is of the peak in bfloat16,
although only the encoder computes in it. On a GPU the batch lies there already.

Ratios are medians over rounds, by the wall clock, above 1: ours is faster. `fused_vs_reference` and
`sequential_vs_reference` are of the precision that learner.precision=auto takes here (or of the one
that --precision names), with `_float32` of float32, with `_cpu` by CPU time. On a GPU they are null
unless --reference is given, which measures the reference on the CPU; `fused_vs_eager` and
`sequential_vs_eager` compare there with our sequential update in float32, on the same GPU, neither
compiled nor recorded. The last line with --json is one object of machine, figures and ratios. Needs
only torch and NumPy.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.learner_figures import make_result
from benchmarks.learner_measurement import TrialFailed, measure
from benchmarks.learner_subject import COMPILE, OURS, SIZES
from benchmarks.learner_table import print_tables
from learners.device import choose_device
from learners.settings import PRECISIONS, LearnerSettings
from rl_system.cli import EXIT_USER_ERROR
from rl_system.machine import cpus


class Refused(Exception):
    """What was asked for cannot be done here; the message says what to change."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.quick:
        options.seconds = 0.0
    try:
        options.device = _device(options.device)
        if options.profile is not None:
            _make_folder(options.profile)
        measured = measure(options)
    except (Refused, TrialFailed) as error:
        print(f"rl-system bench learner: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    result = make_result(measured)
    print_tables(result)
    if options.json:
        print(json.dumps(result))
    return 0


def _device(name: str) -> str:
    try:
        return choose_device(name).type
    except ValueError as error:
        raise Refused(
            f"--device {name}, but torch sees no GPU here: use --device cpu, or check the driver "
            "and the torch build with `rl-system doctor`."
        ) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--profile {folder}: no folder can be made there ({error}).") from error


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def _duration(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds from 0 on")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rl-system bench learner",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument(
        "--seconds",
        type=_duration,
        default=120.0,
        metavar="N",
        help="for all rounds, at least three; setting up is extra (120)",
    )
    parser.add_argument(
        "--size",
        choices=tuple(SIZES),
        default="paper",
        help="paper: 32 windows of 32 steps, crops of 84 pixels; tiny: as the tiny preset (paper)",
    )
    parser.add_argument(
        "--threads",
        type=_count,
        default=cpus(),
        metavar="N",
        help="of torch (all CPUs: %(default)s)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of our encoder: float32 or bfloat16 alone; auto measures both (auto)",
    )
    parser.add_argument(
        "--compile",
        choices=COMPILE,
        default="off",
        help="kernels: ours with learner.compile_kernels; compiling itself is not timed (off)",
    )
    parser.add_argument(
        "--no-graph", action="store_true", help="on a GPU: ours without learner.cuda_graph"
    )
    parser.add_argument(
        "--reference", action="store_true", help="measure the reference beside a GPU, on the CPU"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FOLDER",
        help="write trace.json and table.txt there, of one order in the default precision",
    )
    parser.add_argument(
        "--profile-order",
        choices=OURS,
        default=LearnerSettings().update_order,
        help="that is written there (%(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="three rounds of a small batch: a trial"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
