from __future__ import annotations

import io

from rich.console import Console

from rl_system.progress import Limits, Progress, summary
from rl_system.settings import RunSettings

LINE = {
    "elapsed_s": 75.0, "updates": 40, "agent_steps": 12_345, "train/return_mean": 91.25,
    "train/return_se": 2.5, "loss/reward": 0.01234, "wait/actors_for_learner_percent": 36.6,
}  # fmt: skip


def test_the_panel_shows_the_start_then_the_newest_numbers_and_stays_at_the_end() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=110, height=40, color_system=None)
    with Progress("run", Limits(RunSettings(max_updates=80)), console) as progress:
        progress.notice("Starting Ray")
        started = out.getvalue()
        progress.show(LINE)
        progress.notice("Stopping")
    assert "since the start" in started
    assert "Starting Ray ..." in started
    last = out.getvalue().rpartition("╭")[2]
    for words in (
        "1:15 of training",
        "50 %",
        "91.2 ± 2.5",
        "12,345",
        "0.0123",
        "actors wait for the learner 37 %",
    ):
        assert words in last
    assert "..." not in last


def test_without_a_terminal_there_are_plain_lines_and_each_warning_once() -> None:
    out = io.StringIO()
    with Progress("run", Limits(RunSettings()), Console(file=out, width=200)) as progress:
        progress.notice("Starting Ray")
        for index in range(3):
            progress.show(LINE | {"loss/actor": float("nan"), "updates": 40 + index})
    lines = out.getvalue().splitlines()
    assert lines[0] == "Starting Ray"
    assert lines[1].startswith("1:15 (left -)  agent_steps 12345  updates 40 ")
    assert lines[1].endswith("actors wait for the learner 37 % of the time")
    assert sum(line.startswith("WARNING: loss/actor is not finite") for line in lines) == 1


def test_the_summary_cuts_no_path_on_a_narrow_terminal() -> None:
    out = io.StringIO()
    path = "/home/someone/" + "long/" * 30 + "report.html"
    Console(file=out, width=40).print(summary([("return", "1"), ("report", path)]), soft_wrap=True)
    assert out.getvalue().splitlines() == ["return  1", f"report  {path}"]


def test_one_episode_is_shown_without_a_standard_error() -> None:
    out = io.StringIO()
    line = LINE | {"episodes": 1, "train/return_se": 0.0}
    line |= {"eval/return_mean": 80.0, "eval/return_se": 0.0, "eval/episodes": 1}
    with Progress("run", Limits(RunSettings()), Console(file=out, width=200)) as progress:
        progress.show(line)
        progress.show(LINE | {"episodes": 2, "eval/return_mean": 80.0, "eval/episodes": 2})
    first, second = out.getvalue().splitlines()
    assert "return 91.2  EVAL 80.0  " in first and "±" not in first
    assert "return 91.2 ± 2.5  EVAL 80.0 ± 0.0" in second
