"""The conductor of one run: starts everything, trains to the first limit, saves, measures, reports.

    train(settings)     a new run directory
    resume(directory)   the same run, from its newest checkpoint

The loop is `train_until_done`; what happens at the end is in `finish.py`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from replay.errors import SnapshotError
from rl_system.checkpoints import Checkpoint, Checkpoints
from rl_system.cluster import native_messages_to, ray_cluster
from rl_system.config import override, save_settings
from rl_system.errors import (
    CheckpointError,
    RunError,
    RunFailed,
    SettingsError,
    cause_of,
    is_users,
    one_line,
)
from rl_system.interrupt import Interrupt
from rl_system.machine import describe_machine, versions
from rl_system.metrics import flat_numbers
from rl_system.preflight import check_environment, check_resources
from rl_system.progress import Limits, Progress
from rl_system.run_directory import MetricsLog, RunDirectory
from rl_system.settings import Settings

logger = logging.getLogger(__name__)

# Of the section run, what makes a run another one; the rest of the section may change within it.
FIXED = ("run.system", "run.seed", "run.deterministic")

RESUMABLE = (
    "run.",
    "evaluation.",
    "actors.timeout_s",
    "replay.timeout_s",
    "replay.shards",
    "replay.orphan_timeout_s",
    "replay.detached",
    "replay.checkpoint",
    "replay.damaged",
    "learner.device",
    # what changes the pace alone
    "learner.torch_threads",
    "learner.mirror_replay",
    "learner.cuda_graph",
    "learner.compile_kernels",
    "learner.keep_freed_memory",
    "learner.prefetch_batches",
)


class Trainer(Protocol):
    """What the conductor needs of an algorithm; RLlib's `Algorithm` has it."""

    def train(self) -> dict[str, Any]:
        """Run one iteration; the result holds the flat dictionary `metrics`."""
        ...

    def save_to_path(self, path: str) -> Any:
        """Write everything into an existing directory."""
        ...

    def restore_from_path(self, path: str) -> None:
        """Continue from such a directory."""
        ...

    def stop(self) -> None:
        """End all processes."""
        ...


def train(settings: Settings, command: Sequence[str] = ()) -> tuple[RunDirectory, int]:
    """Train in a new run directory until the first limit.

    Args:
        settings: Of the run.
        command: What the user typed, for the report.

    Returns:
        The run directory, and the exit status: 0, or 128 + n where signal n asked to stop.

    Raises:
        UserError: The run cannot start here; the message says what to do. What can be seen before
            it starts is refused before anything is written.
        RunFailed: An error of the program has ended it.
    """
    check_environment(settings)
    check_resources(settings)
    directory = RunDirectory.create(settings)
    directory.note(
        command=list(command),
        seed=settings.run.seed,
        started=_now(),
        machine=describe_machine(),
        versions=versions(),
        status="running",
    )
    with directory.held():
        return directory, _conduct(directory, settings, None)


def resume(
    path: str | Path,
    overrides: Sequence[str] = (),
    checkpoint: str | None = None,
    command: Sequence[str] = (),
) -> tuple[RunDirectory, int]:
    """Go on with a run from its newest checkpoint: same counters, same replay, same clock.

    Lines of metrics after the checkpoint are cut off, since that part is run again. A run that
    reached its limit but whose end was interrupted gets the rest: measured, filmed and reported.

    Args:
        path: Run directory.
        overrides: `section.key=value` of what may change within a run (limits, names of the
            section run, evaluation, deadlines, device).
        checkpoint: Number of another checkpoint than the newest.
        command: What the user typed.

    Raises:
        UserError: Not a run directory, no usable checkpoint, a setting that may not change, or
            nothing is left to do.
        RunFailed: An error of the program has ended the run again.
    """
    directory = RunDirectory.open(path)
    with directory.held():
        return directory, _go_on(directory, overrides, checkpoint, command)


def _go_on(
    directory: RunDirectory,
    overrides: Sequence[str],
    checkpoint: str | None,
    command: Sequence[str],
) -> int:
    settings = directory.settings()
    for entry in overrides:
        if not entry.startswith(RESUMABLE) or entry.startswith(FIXED):
            raise SettingsError(
                f"{entry.partition('=')[0]} cannot change when a run goes on; only "
                f"{', '.join(name + '*' * name.endswith('.') for name in RESUMABLE)} can, without "
                f"{', '.join(FIXED)}. Start a new run instead."
            )
    settings = override(settings, overrides)
    store = Checkpoints(directory.checkpoints, settings.run.keep_checkpoints)
    why = directory.facts().get("error")
    if why and not store.list():
        first, another = why.partition("\n")[0], " and another run.name" * bool(settings.run.name)
        raise RunError(
            f"{directory.path} holds no complete checkpoint: the run ended before its first one "
            f"({first}). Start it anew with `rl-system train {directory.settings_file}`{another}; "
            "a lower run.checkpoint_minutes saves sooner."
        )
    if checkpoint is None:
        found = store.newest()
    else:
        found = store.read(directory.checkpoints / checkpoint.zfill(6))
    trained = Limits(settings.run).reached(found.content.get("metrics", {}))
    if trained and directory.facts().get("status") == "finished":
        raise RunError(
            f"{directory.path} is at its limit already. Raise it, for example with "
            "run.max_minutes=60 behind the directory's name."
        )
    _compare_versions(found)
    check_environment(settings)
    check_resources(settings)
    save_settings(settings, directory.settings_file)
    directory.note(
        resumed=[*directory.facts().get("resumed", []), {"at": _now(), "command": list(command)}],
        machine=describe_machine(),
        versions=versions(),
        status="running",
        error=None,
        ended=None,
    )
    if not trained:
        return _conduct(directory, settings, found)
    directory.forget_after(int(found.content["metrics_lines"]))
    console = Console()
    with Interrupt():
        _finish(directory, settings, found.path, console)
    return 0


def _conduct(directory: RunDirectory, settings: Settings, from_: Checkpoint | None) -> int:
    console = Console()
    console.print(f"Run directory: {directory.path}", highlight=False, soft_wrap=True)
    with Interrupt() as interrupt:
        try:
            checkpoint = _train(directory, settings, from_, interrupt, console)
        except BaseException as error:
            told = _note_failure(directory, "failed", error, console)
            if told is error:
                raise
            raise told from error
        if interrupt.number is not None:
            directory.note(status="interrupted", ended=_now())
            console.print(f"Saved {checkpoint}.", highlight=False, soft_wrap=True)
            console.print(how_to_resume(directory), highlight=False, soft_wrap=True)
            return interrupt.exit_code
        interrupt.can_save = False  # training is saved: from here on a signal just stops
        _finish(directory, settings, checkpoint, console)
    return 0


def _finish(
    directory: RunDirectory, settings: Settings, checkpoint: Path, console: Console
) -> None:
    """Measure and report; where that fails the run stays "trained", and a resume repeats it."""
    from rl_system.finish import finish

    directory.note(status="trained", ended=_now())
    try:
        finish(directory, settings, checkpoint, console)
    except BaseException as error:
        told = _note_failure(directory, "trained", error, console)
        if told is error:
            raise
        raise told from error
    directory.note(status="finished", ended=_now())


def _is_death(error: BaseException) -> bool:
    """Whether an error says that a Ray process died; Ray may not be imported yet."""
    exceptions = sys.modules.get("ray.exceptions")
    return exceptions is not None and isinstance(error, exceptions.RayActorError)


def _note_failure(
    directory: RunDirectory, status: str, error: BaseException, console: Console
) -> BaseException:
    """Note an error in run.json, and where it is the program's or has come from another, whole in
    error.log.

    Returns:
        What to tell the user instead: itself if that says what to do or is a stop.
    """
    cause = cause_of(error)
    told = cause
    if _is_death(error):
        told = RunError(
            "A process of the run died and cannot be replaced while it goes on (killed, or "
            "out of memory?): the learner, a replay shard for good, or the weight hub. "
            f"{one_line(error)} {directory.error_log}, {directory.native_log} and Ray's logs may "
            "say more."
        )
    elif isinstance(cause, Exception) and not is_users(cause):
        told = RunFailed(
            f"The run failed: {one_line(cause)} (the whole of it is in {directory.error_log})"
        )
    if told is not cause or error.__cause__ is not None:
        directory.log_error(error)
    directory.note(status=status, error=f"{type(cause).__name__}: {cause}", ended=_now())
    if Checkpoints(directory.checkpoints).list():
        console.print(how_to_resume(directory), highlight=False, soft_wrap=True)
    return told


def _train(
    directory: RunDirectory,
    settings: Settings,
    from_: Checkpoint | None,
    interrupt: Interrupt,
    console: Console,
) -> Path:
    """Start Ray and the algorithm, train, and return the last checkpoint."""
    limits = Limits(settings.run)
    with (
        native_messages_to(directory.native_log),
        Progress(directory.path.name, limits, console) as progress,
    ):
        progress.notice("Importing Ray and RLlib")
        from rl_system.algorithm import CONFIGS, required_cpus
        from rl_system.resources import describe_learners

        progress.notice("Starting Ray")
        with ray_cluster(settings, required_cpus(settings)):
            interrupt.take()
            learners = describe_learners(settings)
            directory.note(learners=learners)
            progress.say(f"Learners: {learners}.")
            if settings.learner.compile_kernels:
                progress.say("The first update compiles its kernels, which may take a minute.")
            progress.notice("Starting actors, replay shards and learner")
            kind = CONFIGS[settings.run.system]
            config = kind.from_settings(settings, directory.replay, directory.name_in_ray())
            algorithm = config.build_algo()
            try:
                if from_ is not None:
                    algorithm.tell = progress.say
                    _restore(algorithm, directory, settings, from_, progress)
                with MetricsLog(directory, settings.run.tensorboard) as log:
                    return train_until_done(
                        algorithm, directory, settings, limits, log, progress, interrupt
                    )
            finally:
                progress.notice("Stopping")
                algorithm.stop()


def _restore(
    algorithm: Trainer,
    directory: RunDirectory,
    settings: Settings,
    from_: Checkpoint,
    progress: Progress,
) -> None:
    """Put the algorithm and the metrics back to a checkpoint, and say what is lost."""
    progress.notice(f"Restoring checkpoint {from_.path.name}")
    try:
        algorithm.restore_from_path(str(from_.path))
    except SnapshotError as error:
        store = Checkpoints(directory.checkpoints, settings.run.keep_checkpoints)
        raise CheckpointError(
            f"{error} {store.instead_of(from_.path)} Or go on without what is damaged: "
            "replay.damaged=skip."
        ) from error
    lines = directory.metrics()
    directory.forget_after(int(from_.content["metrics_lines"]))
    saved = from_.content.get("metrics", {})
    behind = {
        name: int(lines[-1].get(name, 0) - saved.get(name, 0)) if lines else 0
        for name in ("updates", "agent_steps")
    }
    if any(count > 0 for count in behind.values()):
        progress.say(
            f"The run stood {behind['updates']:,} updates and {behind['agent_steps']:,} agent "
            f"steps beyond checkpoint {from_.path.name}: the updates are lost, the counters go "
            "back."
        )


def train_until_done(
    algorithm: Trainer,
    directory: RunDirectory,
    settings: Settings,
    limits: Limits,
    log: MetricsLog,
    progress: Progress,
    interrupt: Interrupt,
) -> Path:
    """Iterate until the first limit or a signal; return the checkpoint made at the end."""
    store = Checkpoints(directory.checkpoints, settings.run.keep_checkpoints)
    every_s = 60.0 * settings.run.checkpoint_minutes
    metrics: dict[str, Any] = {}

    def save() -> Path:
        progress.notice("Saving a checkpoint")
        content = {
            "metrics_lines": log.line_count,
            "metrics": flat_numbers(metrics),
            "versions": versions(),
            "saved": _now(),
        }
        return store.save(lambda path: _write(algorithm, path), content)

    interrupt.can_save = True
    saved_at = time.monotonic()
    while True:
        metrics = dict(algorithm.train()["metrics"])
        log.append(metrics)
        progress.show(metrics)
        if limits.reached(metrics) or interrupt.number is not None:
            return save()
        if every_s and time.monotonic() - saved_at >= every_s:
            save()
            saved_at = time.monotonic()


def how_to_resume(directory: RunDirectory) -> str:
    """Return the sentence that says how to go on with a run."""
    try:
        path = directory.path.relative_to(Path.cwd())
    except ValueError:
        path = directory.path
    return f"Go on with it:  rl-system resume {path}"


def _write(algorithm: Trainer, path: Path) -> None:
    algorithm.save_to_path(str(path))


def _compare_versions(checkpoint: Checkpoint) -> None:
    """Warn where a checkpoint was written by other versions than these."""
    saved, here = checkpoint.content.get("versions", {}), versions()
    for name in ("rl-system", "ray", "torch"):
        if name in saved and saved[name] != here[name]:
            print(
                f"WARNING: {checkpoint.path.name} was saved with {name} {saved[name]}, here is "
                f"{here[name]}. If restoring fails, install {name}=={saved[name]}.",
                file=sys.stderr,
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
