"""The command `rl-system`. Each subcommand imports what it needs, so that --help answers at once.

Exit status: 0 done; 1 an error of the program, or a doctor's failure; 2 something that the user can
put right (the message says how); 130 or 143 stopped by Ctrl-C or SIGTERM, after saving if training
had begun.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rl_system import bench, videos

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
# What an evaluation may change: what the policy sees, and how it acts.
_EVALUABLE = (
    "environment.",
    "evaluation.",
    "behavior.mpc",
    "behavior.horizon",
    "behavior.return_lambda",
    "behavior.discount",
    "behavior.mode_samples",
    "behavior.exploration_noise",
    "behavior.mean_bound",
    "behavior.log_std_",
)
_OVERRIDE = re.compile(r"[a-z_]+\.[a-z_0-9]+=")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse_arguments(given)
    from rl_system.errors import RunFailed, cause_of, is_users
    from rl_system.interrupt import Stopped

    log_to_terminal()
    try:
        return int(options.run(options, ["rl-system", *given]))
    except Stopped as stopped:
        print(f"rl-system was {stopped}.", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("rl-system was stopped by SIGINT.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except RunFailed as failed:
        print(f"rl-system: {failed}", file=sys.stderr)
        return EXIT_FAILURE
    except Exception as error:
        cause = cause_of(error)
        if not is_users(cause):
            raise
        print(f"rl-system: {cause}", file=sys.stderr)
        return EXIT_USER_ERROR


class _ToCurrentStderr(logging.Handler):
    """Writes to what `sys.stderr` is now: a run takes the stream away from native libraries, and
    the live display prints above itself. `logging.StreamHandler` keeps the one it began with.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:  # as every handler of logging does
            self.handleError(record)


def log_to_terminal() -> None:
    """Show warnings of all modules on the error stream."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        handlers=[_ToCurrentStderr()],
    )


def parse_arguments(given: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; overrides may stand anywhere behind what they override.

    `argparse` alone refuses positional arguments behind an option (`resume DIR --checkpoint 3
    run.max_minutes=60`), so what it leaves over and looks like an override is one.

    Raises:
        SystemExit: With status 2 and a message, if anything else is left over.
    """
    parser = build_parser()
    options, rest = parser.parse_known_args(given)
    takes_overrides = hasattr(options, "overrides")
    wrong = [entry for entry in rest if not (takes_overrides and _OVERRIDE.match(entry))]
    if wrong:
        parser.error(f"not understood: {' '.join(wrong)} (see rl-system {given[0]} --help)")
    if takes_overrides:
        options.overrides = [*options.overrides, *rest]
    return options


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="rl-system",
        description="Train world-model agents from distracting pixels: Ray actors stream sequences "
        "into a sharded replay, a learner trains and pushes weights back.",
        epilog="First steps:  rl-system doctor;  rl-system train default",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_resume(commands)
    _add_eval(commands)
    _add_report(commands)
    _add_doctor(commands)
    _add_envs(commands)
    bench.add_parser(commands)
    videos.add_parser(commands)
    return parser


def _add_train(commands: Any) -> None:
    parser = _command(
        commands,
        "train",
        _train,
        "train in a new run directory",
        "rl-system train core/cartpole-swingup/tiny run.seed=1 run.max_minutes=10",
        "Ctrl-C or SIGTERM saves and stops; `rl-system resume RUN_DIR` goes on.",
    )
    parser.add_argument(
        "preset",
        nargs="?",
        metavar="PRESET_OR_FILE",
        help="name of a preset (--list), or a YAML file such as RUN_DIR/settings.yaml",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="settings that win over the preset (--settings lists all)",
    )
    parser.add_argument("--list", action="store_true", help="list the presets and end")
    parser.add_argument(
        "--settings",
        nargs="?",
        const="",
        metavar="SECTION",
        help="list all settings, or those of one section, and end (those of the preset's system)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved settings and end; machine and folders are not checked",
    )


def _add_resume(commands: Any) -> None:
    parser = _command(
        commands,
        "resume",
        _resume,
        "go on with a run from its newest checkpoint",
        "rl-system resume runs/cartpole-swingup-seed0 run.max_minutes=60",
        "Counters, replay, weights, optimisers, the learner's random state and the clock continue; "
        "actors begin new episodes, with new seeds. A run at its limit whose end was interrupted "
        "gets the rest of it: evaluation, films and report.",
    )
    parser.add_argument("directory", metavar="RUN_DIR", help="directory of the run")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="what may change within a run: run.* (limits), evaluation.*, deadlines, and how "
        "replay is kept (replay.shards, replay.checkpoint, replay.damaged, replay.detached)",
    )
    parser.add_argument("--checkpoint", metavar="NUMBER", help="another one than the newest")


def _add_eval(commands: Any) -> None:
    from actors.environments.settings import DIFFICULTIES

    parser = _command(
        commands,
        "eval",
        _eval,
        "measure and film the policy of a run",
        "rl-system eval runs/cartpole-swingup-seed0 --episodes 50 --difficulty medium",
        "Mean and standard error over whole episodes; the film lies in RUN_DIR/videos.",
    )
    parser.add_argument("directory", metavar="RUN_DIR", help="directory of the run")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help="settings to see and act by, such as behavior.mpc=false, environment.videos=FOLDER",
    )
    parser.add_argument("--checkpoint", metavar="NUMBER", help="another one than the newest")
    parser.add_argument("--episodes", type=_positive, metavar="N", help="how many episodes")
    parser.add_argument(
        "--difficulty",
        choices=DIFFICULTIES,
        help="of the distractions; without: the one trained on",
    )
    parser.add_argument(
        "--split", choices=("train", "held_out"), help="background videos; without: held_out"
    )
    parser.add_argument("--explore", action="store_true", help="sample actions, as in training")
    parser.add_argument("--seed", type=int, help="other start states and videos than the run's")
    parser.add_argument("--name", help="name of the film and of the entry in run.json")
    parser.add_argument("--no-video", action="store_true", help="only measure")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_report(commands: Any) -> None:
    parser = _command(
        commands,
        "report",
        _report,
        "write an HTML report of one run, or compare several",
        "rl-system report runs/a-seed* runs/b-seed* --output comparison.html",
        "Runs that differ only in their seed are drawn as mean ± standard error.",
    )
    parser.add_argument("directories", nargs="+", metavar="RUN_DIR", help="run directories")
    parser.add_argument("--output", metavar="FILE", help="without: report.html in the first one")
    parser.add_argument(
        "--csv",
        metavar="FILE",
        help="write the learning curves as numbers; the HTML too if --output is given",
    )


def _add_doctor(commands: Any) -> None:
    parser = _command(
        commands,
        "doctor",
        _doctor,
        "say what works on this machine, and what to do about the rest",
        "rl-system doctor --videos /data/DAVIS",
        "Ends with status 1 if something is broken that every run needs.",
    )
    parser.add_argument(
        "--only",
        choices=("graphics", "machine", "versions", "torch", "ray", "folders", "robosuite"),
        help="one part instead of all",
    )
    parser.add_argument("--videos", metavar="FOLDER", help="look at a folder of videos, too")
    parser.add_argument("--quiet", action="store_true", help="only the exit status")


def _add_envs(commands: Any) -> None:
    parser = _command(
        commands,
        "envs",
        _envs,
        "list what can be trained on",
        "rl-system envs",
        "Use a name as environment.name, or one of the first six in a preset's name.",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def _train(options: argparse.Namespace, command: list[str]) -> int:
    from rl_system.config import describe, load_settings, save_settings, system_of
    from rl_system.errors import SettingsError
    from rl_system.presets import SIZES, list_benchmarks, list_presets, list_systems, read_preset

    if options.list:
        print("\n".join(list_presets()))
        print(
            f"\nMore: SYSTEM/TASK/SIZE or SYSTEM/BENCHMARK/TASK/SIZE, with SYSTEM one of "
            f"{', '.join(list_systems())}; BENCHMARK one of {', '.join(list_benchmarks())}; SIZE "
            f"one of {', '.join(SIZES)}; TASK as in `rl-system envs`."
        )
        return 0
    if options.settings is not None:
        system = system_of(read_preset(options.preset)) if options.preset else "core"
        print(describe(options.settings or None, system))
        return 0
    if options.preset is None:
        raise SettingsError("Name a preset or a file, for example: rl-system train default")
    settings = load_settings(options.preset, options.overrides)
    if options.dry_run:
        save_settings(settings, "/dev/stdout")
        return 0
    from rl_system.run import train

    return train(settings, command)[1]


def _resume(options: argparse.Namespace, command: list[str]) -> int:
    from rl_system.run import resume

    return resume(options.directory, options.overrides, options.checkpoint, command)[1]


def _eval(options: argparse.Namespace, command: list[str]) -> int:
    from rl_system.checkpoints import Checkpoints
    from rl_system.config import override
    from rl_system.errors import SettingsError
    from rl_system.finish import evaluate_checkpoint
    from rl_system.run_directory import RunDirectory

    entries = list(options.overrides)
    wrong = [entry for entry in entries if not entry.startswith(_EVALUABLE)]
    if wrong:
        raise SettingsError(
            f"{wrong[0]} cannot change in an evaluation: only settings that begin with "
            f"{', '.join(_EVALUABLE)} can."
        )
    if options.difficulty is not None and any("difficulty=" in entry for entry in entries):
        raise SettingsError("Give --difficulty or a setting of the difficulty, not both.")
    directory = RunDirectory.open(options.directory)
    if options.difficulty is not None:  # refused unless the environment has it
        entries.append(f"evaluation.difficulty={options.difficulty}")
    settings = override(directory.settings(), entries)
    store = Checkpoints(directory.checkpoints)
    if options.checkpoint is None:
        checkpoint = store.newest()
    else:
        checkpoint = store.read(directory.checkpoints / options.checkpoint.zfill(6))
    name = options.name or "-".join(
        [
            "eval",
            options.difficulty or "trained",
            options.split or settings.evaluation.split,
            *(re.sub(r"[^\w.]+", "-", entry) for entry in options.overrides),
        ]
    )
    result = evaluate_checkpoint(
        directory,
        settings,
        checkpoint.path,
        name,
        episodes=options.episodes,
        difficulty=options.difficulty,
        split=options.split,
        explore=True if options.explore else None,
        seed=options.seed,
        film=not options.no_video,
    )
    if options.json:
        plain = result.metrics() | {
            "returns": list(result.returns),
            "difficulty": result.difficulty,
            "split": result.split,
            "checkpoint": checkpoint.path.name,
            "video": str(result.video) if result.video else None,
        }
        print(json.dumps(plain))
    else:
        print(result)
        if result.video:
            print(f"Film: {result.video}")
    return 0


def _report(options: argparse.Namespace, command: list[str]) -> int:
    from pathlib import Path

    from rl_system.report import write_curves, write_report
    from rl_system.run_directory import RunDirectory

    directories = [RunDirectory.open(path).path for path in options.directories]
    if options.csv:
        print(f"Curves: {write_curves(directories, options.csv)}")
        if not options.output:
            return 0
    output = Path(options.output) if options.output else directories[0] / "report.html"
    print(f"Report: {write_report(directories, output)}")
    return 0


def _doctor(options: argparse.Namespace, command: list[str]) -> int:
    from rich.console import Console

    from rl_system.doctor import examine

    console = Console(quiet=options.quiet)
    marks = {
        "ok": "[green]ok     [/]",
        "warning": "[yellow]warning[/]",
        "failure": "[red]FAILURE[/]",
    }
    failures, current = 0, ""
    for section, check in examine(options.only, options.videos):
        if section != current:
            console.print(f"\n[bold]{section}[/]")
            current = section
        console.print(f"  {marks[check.status]}  {check.topic}: ", end="", highlight=False)
        console.print(check.found, markup=False, highlight=False, soft_wrap=True)
        if check.advice and check.status != "ok":
            console.print(f"           -> {check.advice}", markup=False, soft_wrap=True)
        failures += check.status == "failure"
    console.print()
    if failures:
        console.print(f"{failures} of these must be put right before training.")
    else:
        console.print("Ready to train.")
    return 1 if failures else 0


def _envs(options: argparse.Namespace, command: list[str]) -> int:
    from dataclasses import asdict

    from actors.environments.catalog import list_environments

    entries = list_environments()
    if options.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=1))
        return 0
    width = max(len(entry.name) for entry in entries)
    print(f"{'name':{width}}  action repeat  benchmark")
    for entry in entries:
        mark = "Distracting Control Suite" if entry.in_paper else ""
        if entry.family == "robosuite":
            mark = "robosuite (make robosuite)"
        print(f"{entry.name:{width}}  {entry.action_repeat:13}  {mark}".rstrip())
    levels = {entry.family: entry.difficulties for entry in entries}
    print("\nenvironment.difficulty (dcs/*: with environment.dynamic true or false):")
    for family, names in levels.items():
        print(f"  {family}/*: {', '.join(names)}")
    print("Background videos are procedural or from a folder of yours (environment.videos).")
    return 0


def _command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace, list[str]], int],
    summary: str,
    example: str,
    note: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}. {note}",
        epilog=f"Example:  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number
