from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from actors.environments.settings import DIFFICULTIES
from rl_system.cli import EXIT_USER_ERROR, build_parser, main, parse_arguments
from rl_system.config import load_settings
from rl_system.run_directory import RunDirectory

COMMANDS = ("train", "resume", "eval", "report", "doctor", "envs", "bench")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"Example:  rl-system {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_in_the_help_is_a_line_that_parses(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    example = text[text.index("Example:  rl-system ") :].splitlines()[0].split()[2:]
    build_parser().parse_args(example)


def test_the_main_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert command in text


def test_a_mistake_of_the_user_is_one_message_and_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["train", "defalt"]) == EXIT_USER_ERROR
    captured = capsys.readouterr()
    assert captured.err.startswith("rl-system: There is no preset 'defalt'")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "default", "learner.bach_size=3"], "batch_size"),
        (["train", "default", "environment.name=dcs/walker-wall"], "dcs/walker-walk"),
        (["train"], "rl-system train default"),
        (["resume", "nowhere"], "no run directory"),
        (["eval", "nowhere"], "no run directory"),
        (["report", "nowhere"], "no run directory"),
        (["train", "--settings", "lerner"], "learner"),
    ],
)
def test_messages_say_what_to_do(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == EXIT_USER_ERROR
    assert words in capsys.readouterr().err


def test_a_folder_without_videos_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "train", "default", f"environment.videos={tmp_path / 'DAVIS'}",
        f"run.directory={tmp_path / 'runs'}",
    ]  # fmt: skip
    assert main(arguments) == EXIT_USER_ERROR
    assert "DAVIS" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("learners", [1, 2])
def test_a_gpu_that_is_not_there_is_told_before_anything_is_written(
    learners: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "train", "default", "learner.device=cuda", f"learner.count={learners}",
        f"run.directory={tmp_path / 'runs'}",
    ]  # fmt: skip
    assert main(arguments) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    wanted = "a GPU" if learners == 1 else "2 GPUs for 2 learners"
    assert message.startswith(f"rl-system: learner.device=cuda needs {wanted}, and torch sees here")
    assert "learner.device=cpu" in message
    assert not (tmp_path / "runs").exists()


def test_a_cluster_that_does_not_answer_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = f"run.directory={tmp_path / 'runs'}"
    assert main(["train", "default", "run.address=127.0.0.1:1", runs]) == EXIT_USER_ERROR
    assert "No Ray cluster answers at run.address=127.0.0.1:1" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_robot_without_robosuite_is_told_how_to_get_it_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "train", "core/door-panda/tiny", f"environment.robosuite_python={tmp_path / 'python'}",
        f"run.directory={tmp_path / 'runs'}",
    ]  # fmt: skip
    assert main(arguments) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert message.startswith("rl-system: environment.robosuite_python is")
    assert str(tmp_path / "python") in message
    assert not (tmp_path / "runs").exists()


def test_an_evaluation_takes_settings_to_see_and_act_by_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["eval", "runs/none", "learner.batch_size=2"]) == 2
    message = capsys.readouterr().err
    assert "learner.batch_size=2 cannot change in an evaluation" in message
    assert "behavior.mpc" in message
    assert main(["eval", "runs/none", "behavior.released_code=true"]) == 2
    assert "behavior.released_code=true cannot change" in capsys.readouterr().err
    both = ["--difficulty", "natural", "environment.difficulty=easy"]
    assert main(["eval", "runs/none", *both]) == 2
    assert "not both" in capsys.readouterr().err


def test_train_lists_presets_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    assert "core/cheetah-run/paper" in capsys.readouterr().out.splitlines()
    assert main(["train", "--settings", "replay"]) == 0
    assert "replay.shards=0" in capsys.readouterr().out
    assert main(["train", "cvrl", "--settings", "behavior"]) == 0
    assert "behavior.mpc=true" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        "train default run.seed=7 learner.count=2 --dry-run",
        "train default --dry-run run.seed=7 learner.count=2",
        "train --dry-run default run.seed=7 learner.count=2",
        "train default run.seed=7 --dry-run learner.count=2",
        "resume runs/a run.seed=7 learner.count=2 --checkpoint 3",
        "resume runs/a --checkpoint 3 run.seed=7 learner.count=2",
    ],
)
def test_overrides_may_stand_before_and_behind_options(arguments: str) -> None:
    options = parse_arguments(arguments.split())
    assert options.overrides == ["run.seed=7", "learner.count=2"]


def test_an_override_behind_an_option_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "default", "--dry-run", "learner.bach_size=3"]) == EXIT_USER_ERROR
    assert "batch_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ("train default --dry-run seed=1", "seed=1"),
        ("resume runs/a --checkpoint 3 --chekpoint", "--chekpoint"),
        ("eval runs/a --explore seed=1", "seed=1"),
    ],
)
def test_what_is_no_override_is_refused_behind_options_too(
    arguments: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments.split())
    assert ended.value.code == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert f"not understood: {wrong} " in message
    assert f"rl-system {arguments.split()[0]} --help" in message


def test_envs_lists_names_that_can_be_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["envs", "--json"]) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out)]
    assert names[0] == "dcs/ball_in_cup-catch"
    assert main(["envs"]) == 0
    shown = capsys.readouterr().out
    assert "dcs/cheetah-run" in shown
    assert "robosuite/*: none, randomized" in shown
    assert "background60, natural" in shown


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_policy_can_be_measured_at_every_difficulty(difficulty: str) -> None:
    arguments = ["eval", "runs/a", "--difficulty", difficulty]
    assert parse_arguments(arguments).difficulty == difficulty


def test_a_difficulty_that_the_runs_task_does_not_have_is_refused_with_those_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings("core/cheetah-run/tiny", [f"run.directory={tmp_path}", "run.name=a"])
    path = RunDirectory.create(settings).path
    assert main(["eval", str(path), "--difficulty", "randomized"]) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert "dcs/cheetah-run does not have" in message and "background60" in message
