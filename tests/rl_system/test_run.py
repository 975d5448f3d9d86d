"""The conductor's loop, driven by a trainer that counts instead of learning."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from replay.errors import SnapshotError
from rl_system import run
from rl_system.checkpoints import Checkpoints
from rl_system.errors import CheckpointError, RunError, RunFailed, SettingsError, UserError
from rl_system.finish import finish
from rl_system.interrupt import Interrupt, Stopped
from rl_system.progress import Limits, Progress
from rl_system.run import _restore, resume, train_until_done
from rl_system.run_directory import MetricsLog, RunDirectory
from rl_system.settings import RunSettings, Settings


class CountingTrainer:
    """Ten updates an iteration; its checkpoint is the count."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.updates = 0
        self.interrupt_at = interrupt_at

    def train(self) -> dict[str, Any]:
        self.updates += 10
        if self.updates == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return {"metrics": {"updates": self.updates, "agent_steps": 2 * self.updates}}

    def save_to_path(self, path: str) -> None:
        (Path(path) / "count").write_text(str(self.updates))

    def restore_from_path(self, path: str) -> None:
        self.updates = int((Path(path) / "count").read_text())

    def stop(self) -> None:
        pass


def conduct(
    directory: RunDirectory, settings: Settings, trainer: CountingTrainer
) -> tuple[Path, Interrupt, str]:
    limits = Limits(settings.run)
    out = io.StringIO()
    console = Console(file=out, width=200)
    with (
        Interrupt() as interrupt,
        MetricsLog(directory, tensorboard=False) as log,
        Progress("test", limits, console) as progress,
    ):
        path = train_until_done(trainer, directory, settings, limits, log, progress, interrupt)
    return path, interrupt, out.getvalue()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(Settings(), run=RunSettings(directory=str(tmp_path), name="run", max_updates=50))


def test_a_run_ends_at_its_limit_with_a_checkpoint_and_a_line_for_each_iteration(
    settings: Settings,
) -> None:
    directory = RunDirectory.create(settings)
    path, interrupt, shown = conduct(directory, settings, CountingTrainer())
    assert [line["updates"] for line in directory.metrics()] == [10, 20, 30, 40, 50]
    content = Checkpoints(directory.checkpoints).read(path).content
    assert content["metrics_lines"] == 5
    assert content["metrics"]["updates"] == 50
    assert interrupt.exit_code == 0
    assert "updates 10" in shown


def test_ctrl_c_finishes_the_iteration_and_saves(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = RunDirectory.create(settings)
    path, interrupt, _ = conduct(directory, settings, CountingTrainer(interrupt_at=20))
    assert interrupt.exit_code == 130
    assert (path / "count").read_text() == "20"
    assert "then saving" in capsys.readouterr().err


def test_a_second_signal_or_one_before_there_is_anything_to_save_stops_at_once() -> None:
    with Interrupt(), pytest.raises(Stopped) as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert stopped.value.exit_code == 143
    with Interrupt() as interrupt:
        interrupt.can_save = True
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_signals_work_as_before_after_a_run() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_lines_after_a_checkpoint_are_forgotten_when_the_run_goes_on(settings: Settings) -> None:
    directory = RunDirectory.create(settings)
    path, _, _ = conduct(directory, settings, CountingTrainer())
    with MetricsLog(directory, tensorboard=False) as log:
        log.append({"updates": 60})
    with directory.metrics_file.open("a") as file:
        file.write('{"updates": 7')  # cut short by a crash
    assert directory.forget_after(5) == 2
    longer = replace(settings, run=replace(settings.run, max_updates=70))
    trainer = CountingTrainer()
    trainer.restore_from_path(str(path))
    conduct(directory, longer, trainer)
    assert [line["updates"] for line in directory.metrics()] == [10, 20, 30, 40, 50, 60, 70]


def restore(directory: RunDirectory, settings: Settings, trainer: CountingTrainer) -> str:
    """Puts the trainer back to the newest checkpoint; returns what the user is told."""
    out = io.StringIO()
    newest = Checkpoints(directory.checkpoints).newest()
    with Progress("test", Limits(settings.run), Console(file=out, width=200)) as progress:
        _restore(trainer, directory, settings, newest, progress)
    return out.getvalue()


def test_what_lay_behind_the_checkpoint_is_told_and_cut_off(settings: Settings) -> None:
    directory = RunDirectory.create(settings)
    conduct(directory, settings, CountingTrainer())
    assert "beyond" not in restore(directory, settings, CountingTrainer())
    with MetricsLog(directory, tensorboard=False) as log:
        log.append({"updates": 1260, "agent_steps": 2520})
    told = restore(directory, settings, CountingTrainer())
    assert "1,210 updates and 2,420 agent steps beyond checkpoint 000001" in told
    assert directory.metrics()[-1]["updates"] == 50


def test_a_damaged_snapshot_names_the_checkpoint_before_and_how_to_skip(
    settings: Settings,
) -> None:
    class Damaged(CountingTrainer):
        def restore_from_path(self, path: str) -> None:
            raise SnapshotError("block 7 is damaged.")

    directory = RunDirectory.create(settings)
    conduct(directory, settings, CountingTrainer())
    conduct(
        directory, replace(settings, run=replace(settings.run, max_updates=60)), CountingTrainer()
    )
    with pytest.raises(CheckpointError, match=r"block 7.*--checkpoint 000001.*damaged=skip"):
        restore(directory, settings, Damaged())
    assert len(directory.metrics()) > 5


def test_a_run_has_one_name_in_ray_in_all_its_lives_and_a_copy_has_another(
    settings: Settings,
) -> None:
    directory = RunDirectory.create(settings)
    name = directory.name_in_ray()
    assert RunDirectory.open(directory.path).name_in_ray() == name
    copy = directory.path.with_name("copy")
    shutil.copytree(directory.path, copy)
    assert RunDirectory.open(copy).name_in_ray() != name


def test_a_line_cut_short_by_a_crash_is_skipped(settings: Settings) -> None:
    directory = RunDirectory.create(settings)
    directory.metrics_file.write_text('{"updates": 1}\n{"upd')
    assert directory.metrics() == [{"updates": 1}]


def test_a_run_directory_is_never_overwritten(settings: Settings) -> None:
    RunDirectory.create(settings)
    with pytest.raises(RunError, match="rl-system resume"):
        RunDirectory.create(settings)


def test_runs_that_start_in_the_same_second_get_directories_of_their_own(tmp_path: Path) -> None:
    unnamed = replace(Settings(), run=RunSettings(directory=str(tmp_path)))
    paths = {RunDirectory.create(unnamed).path for _ in range(3)}
    assert len(paths) == 3
    assert all((path / "settings.yaml").is_file() for path in paths)


def test_a_folder_that_is_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "gone")
    blocked = replace(Settings(), run=RunSettings(directory=str(tmp_path / "runs")))
    with pytest.raises(RunError, match="runs"):
        RunDirectory.create(blocked)


def test_a_run_directory_that_cannot_be_made_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    blocked = replace(Settings(), run=RunSettings(directory=str(tmp_path / "file")))
    with pytest.raises(RunError, match=r"run\.directory"):
        RunDirectory.create(blocked)


def test_resume_refuses_what_would_make_it_another_run(settings: Settings) -> None:
    directory = RunDirectory.create(settings)
    conduct(directory, settings, CountingTrainer())
    for entry in (
        "learner.batch_size=4",
        "run.seed=3",
        "run.system=cvrl",
        "environment.difficulty=hard",
    ):
        said = f"{entry.partition('=')[0]} cannot change when a run goes on"
        with pytest.raises(SettingsError, match=said):
            resume(directory.path, [entry])


def test_a_run_that_still_goes_on_is_not_resumed_beside_it(settings: Settings) -> None:
    directory = RunDirectory.create(settings)
    with directory.held(), pytest.raises(RunError, match="still going on"):
        resume(directory.path)
    with pytest.raises(UserError, match="checkpoint"):  # free again: only the checkpoint lacks
        resume(directory.path)


def test_resume_of_a_finished_run_at_its_limit_asks_to_raise_it(settings: Settings) -> None:
    directory = RunDirectory.create(settings)
    conduct(directory, settings, CountingTrainer())
    directory.note(status="finished")
    with pytest.raises(RunError, match=r"run\.max_minutes=60"):
        resume(directory.path)


def test_a_run_whose_end_was_interrupted_gets_the_rest_of_it(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """First without a policy in the checkpoint, so that the end fails; then measuring nothing."""
    directory = RunDirectory.create(settings)
    conduct(directory, settings, CountingTrainer())
    directory.note(status="interrupted", ended="then")
    with pytest.raises(UserError):
        resume(directory.path, ["evaluation.final_episodes=1"])
    assert directory.facts()["status"] == "trained"
    assert "Error" in directory.facts()["error"]
    assert f"rl-system resume {directory.path}" in capsys.readouterr().out
    with MetricsLog(directory, tensorboard=False) as log:
        log.append({"updates": 50, "eval/return_mean": 1.0})  # the end came so far

    nothing = ["evaluation.final_episodes=0", "evaluation.trivial_episodes=0"]
    assert resume(directory.path, nothing)[1] == 0
    facts = directory.facts()
    assert facts["status"] == "finished"
    assert "error" not in facts
    assert len(facts["resumed"]) == 2
    assert [line["updates"] for line in directory.metrics()] == [10, 20, 30, 40, 50]
    assert directory.report.is_file()


def test_a_run_that_ended_before_its_first_checkpoint_is_not_resumed_but_says_why(
    settings: Settings,
) -> None:
    directory = RunDirectory.create(settings)
    directory.note(status="failed", error="ValueError: no such thing\nand more")
    with pytest.raises(RunError) as refused:
        resume(directory.path)
    message = str(refused.value)
    assert "ended before its first one (ValueError: no such thing)" in message
    assert f"rl-system train {directory.settings_file}` and another run.name" in message


@pytest.fixture
def failing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Callable[[BaseException], RunDirectory]:
    """Trains a run that ends with an error, raises what the caller gets."""

    def conduct_failing(error: BaseException) -> RunDirectory:
        def fail(*_: Any) -> Path:
            raise error

        monkeypatch.setattr(run, "_train", fail)
        return run.train(settings)[0]

    return conduct_failing


def test_an_error_of_the_program_is_one_line_and_lies_whole_in_the_run_directory(
    failing: Callable[[BaseException], RunDirectory], settings: Settings
) -> None:
    with pytest.raises(RunFailed) as told:
        failing(ZeroDivisionError("first line\nsecond line"))
    directory = RunDirectory(Path(settings.run.directory) / "run")
    assert str(told.value) == (
        "The run failed: ZeroDivisionError: first line (the whole of it is in "
        f"{directory.error_log})"
    )
    log = directory.error_log.read_text()
    assert "Traceback" in log and "second line" in log
    assert directory.facts()["error"] == "ZeroDivisionError: first line\nsecond line"
    assert directory.facts()["status"] == "failed"


def test_an_error_of_another_process_is_told_without_rays_traceback(
    failing: Callable[[BaseException], RunDirectory], settings: Settings
) -> None:
    from ray.exceptions import RayTaskError

    def of_task(cause: Exception) -> RayTaskError:
        lines = "Traceback (most recent call last):\n  a line of the task\nValueError: bad"
        error = RayTaskError("update", lines, cause, "title", 1, "10.0.0.1")
        return error.as_instanceof_cause()

    with pytest.raises(RunFailed, match=r"^The run failed: ValueError: bad \(the whole"):
        failing(of_task(ValueError("bad")))
    directory = RunDirectory(Path(settings.run.directory) / "run")
    assert "a line of the task" in directory.error_log.read_text()
    assert directory.facts()["error"] == "ValueError: bad"


def test_an_error_of_the_user_in_another_process_is_told_as_it_is(
    failing: Callable[[BaseException], RunDirectory], settings: Settings
) -> None:
    from ray.exceptions import RayTaskError

    cause = SnapshotError("Set this.")
    error = RayTaskError("load", "Traceback of the task", cause, "title", 1, "10.0.0.1")
    with pytest.raises(SnapshotError) as told:
        failing(error.as_instanceof_cause())
    assert type(told.value) is SnapshotError and str(told.value) == "Set this."
    assert not RunDirectory(Path(settings.run.directory) / "run").error_log.exists()


def test_a_stop_is_no_failure_of_the_program(
    failing: Callable[[BaseException], RunDirectory], settings: Settings
) -> None:
    with pytest.raises(Stopped):
        failing(Stopped(signal.SIGTERM))
    assert not RunDirectory(Path(settings.run.directory) / "run").error_log.exists()


def test_trivial_policies_are_measured_only_where_that_needs_no_drawing(
    settings: Settings,
) -> None:
    """A robot's simulator draws every step: measuring them would take longer than the run."""
    measured = replace(settings.evaluation, final_episodes=0, trivial_episodes=1)
    for name, there in (("dcs/cheetah-run", True), ("robosuite/door-panda", False)):
        of = replace(
            settings,
            environment=replace(settings.environment, name=name),
            evaluation=measured,
            run=replace(settings.run, name=name.partition("/")[2], report=False),
        )
        directory = RunDirectory.create(of)
        finish(directory, of, directory.checkpoints / "000001", Console(file=io.StringIO()))
        assert bool(directory.trivial()) == there


def test_tensorboard_forgets_what_the_metrics_forget(settings: Settings) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory = RunDirectory.create(settings)
    for levels in ((1.0, 1.0, 1.0, 1.0), (2.0, 2.0)):
        with MetricsLog(directory) as log:
            for level in levels:
                log.append({"agent_steps": 100 * (log.line_count + 1), "level": level})
        directory.forget_after(2)
    events = EventAccumulator(str(directory.tensorboard)).Reload().Scalars("level")
    assert [(event.step, event.value) for event in events] == [
        (100, 1.0), (200, 1.0), (300, 2.0), (400, 2.0),
    ]  # fmt: skip


def test_only_a_run_that_draws_on_this_machine_needs_graphics_here() -> None:
    program = """
from dataclasses import replace
from actors.environments.backend import GraphicsUnavailable
from rl_system.preflight import check_environment
from rl_system.settings import RunSettings, Settings
check_environment(replace(Settings(), run=RunSettings(address="10.0.0.1:6379")))
try:
    check_environment(Settings())
except GraphicsUnavailable:
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"MUJOCO_GL": "disabled"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["refused"], done.stderr
    assert "Training on the cluster at 10.0.0.1:6379 can do without" in done.stderr


def test_resume_of_something_else_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run directory"):
        resume(tmp_path)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rl_system", *arguments]


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_goes_on_where_it_was_and_can_be_evaluated(
    tmp_path: Path,
) -> None:
    """The whole program: train, SIGTERM, resume to the limit, eval, report."""
    overrides = [
        f"run.directory={tmp_path}", "run.name=run", "run.iteration_s=1", "run.max_updates=100000",
        "environment.difficulty=none", "environment.image_size=28", "learner.crop_size=24",
        "model.conv_channels=4,8", "model.conv_kernels=3,3", "model.conv_strides=2,2",
        "model.conv_paddings=1,1", "learner.batch_size=4", "learner.sequence_length=8",
        "replay.minimum_agent_steps=200", "actors.random_agent_steps=200",
        "evaluation.final_episodes=2", "evaluation.every_agent_steps=null",
        "evaluation.trivial_episodes=1", "evaluation.video_seconds=1",
    ]  # fmt: skip
    preset = "core/cartpole-swingup/tiny"
    metrics_file = tmp_path / "run" / "metrics.jsonl"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            _command("train", preset, *overrides), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + 120
            while not _updates(metrics_file):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, "no update within 120 s"
                time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=90) == 143, (tmp_path / "log").read_text()
        finally:
            process.kill()
            process.wait(timeout=30)
    assert "rl-system resume" in (tmp_path / "log").read_text()
    stopped = _updates(metrics_file)

    resumed = subprocess.run(
        _command("resume", str(tmp_path / "run"), f"run.max_updates={stopped + 10}"),
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    lines = [json.loads(line) for line in metrics_file.read_text().splitlines()]
    counts = [line["agent_steps"] for line in lines]
    assert counts == sorted(counts)
    assert lines[-1]["updates"] >= stopped + 10
    assert "eval/return_mean" in lines[-1]
    assert (tmp_path / "run" / "report.html").stat().st_size > 50_000

    measured = subprocess.run(
        _command(
            "eval", str(tmp_path / "run"), "--episodes", "1", "--no-video", "--json",
            "behavior.mean_bound=1.0",
        ),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert measured.returncode == 0, measured.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "eval-trained-held_out-behavior.mean_bound-1.0" in json.dumps(run)
    assert json.loads(measured.stdout.splitlines()[-1])["episodes"] == 1


def _updates(metrics_file: Path) -> int:
    if not metrics_file.is_file():
        return 0
    lines = [json.loads(line) for line in metrics_file.read_text().splitlines() if line[-1:] == "}"]
    return int(lines[-1].get("updates", 0)) if lines else 0


def test_warnings_reach_the_terminal_and_messages_of_native_libraries_a_file(
    tmp_path: Path,
) -> None:
    program = f"""
import logging, os, pathlib
from rl_system.cli import log_to_terminal
from rl_system.cluster import native_messages_to
log_to_terminal()
with native_messages_to(pathlib.Path({str(tmp_path / "native.log")!r})):
    logging.getLogger("actors").warning("an actor failed")
    os.write(2, b"libEGL: hint")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.stderr == "WARNING actors: an actor failed\n"
    assert (tmp_path / "native.log").read_text() == "libEGL: hint"
