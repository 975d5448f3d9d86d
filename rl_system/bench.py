"""`rl-system bench`: runs the measurements of the source tree's `benchmarks` folder.

They are scripts beside the packages and no part of a wheel: each runs in a process of its own, with
this Python, and takes its own options.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import rl_system
from rl_system.errors import UserError

# What can be measured, by the module of `benchmarks` that does it.
PARTS = {"env": "environment", "learner": "learner", "replay": "replay"}


class BenchmarksMissing(UserError):
    """The folder of benchmarks is not here; the message says where it is."""


def add_parser(commands: Any) -> None:
    """Adds the subcommand to the parser of `rl-system`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="measure this machine beside what this system replaces",
        description="Measure this machine beside what this system replaces. Needs the source tree; "
        "with --json the last line is one object of machine, figures and ratios.",
        epilog="Example:  rl-system bench env --json --seconds 60\n"
        "Options of a part:  rl-system bench env --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=tuple(PARTS), help="what to measure")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="OPTION",
        help="options of that part, such as --json and --seconds N",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, command: list[str]) -> int:
    """Runs one benchmark and returns its exit status.

    Raises:
        BenchmarksMissing: there is no source tree here.
    """
    del command
    module = PARTS[options.part]
    paths = [str(find_source_tree(module)), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    sys.stdout.flush()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *options.arguments],
        env=environment,
        check=False,
    )
    # A benchmark that a signal ended has minus its number, as a shell's 128 + number.
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def find_source_tree(module: str) -> Path:
    """Returns the folder that holds `benchmarks/<module>.py`: beside this package, else here.

    Raises:
        BenchmarksMissing: neither has it.
    """
    places = (Path(rl_system.__file__).resolve().parents[1], Path.cwd())
    for place in places:
        if (place / "benchmarks" / f"{module}.py").is_file():
            return place
    raise BenchmarksMissing(
        f"benchmarks/{module}.py is neither in {places[0]} nor in {places[1]}: benchmarks are "
        "scripts of the source tree, which an installed package does not hold. Run this in a "
        "clone of the repository."
    )
