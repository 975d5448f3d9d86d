from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rl_system import bench
from rl_system.cli import EXIT_USER_ERROR, main, parse_arguments


def test_options_behind_the_part_are_left_to_the_benchmark() -> None:
    options = parse_arguments(["bench", "env", "--json", "--seconds", "5", "--help"])
    assert (options.part, options.arguments) == ("env", ["--json", "--seconds", "5", "--help"])


def test_every_part_names_a_script_of_the_source_tree() -> None:
    for module in bench.PARTS.values():
        assert (bench.find_source_tree(module) / "benchmarks" / f"{module}.py").is_file()


def test_an_unknown_part_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "everything"])
    assert ended.value.code == EXIT_USER_ERROR
    assert "env" in capsys.readouterr().err


def test_a_benchmark_answers_with_its_own_help_and_status() -> None:
    done = [
        subprocess.run(
            [sys.executable, "-m", "rl_system", "bench", "env", option],
            capture_output=True,
            text=True,
            timeout=120,
        )
        for option in ("--help", "--secnds")
    ]
    assert done[0].returncode == 0 and "--seconds" in done[0].stdout
    assert done[1].returncode == 2 and "--secnds" in done[1].stderr


def test_without_a_source_tree_one_message_says_where_benchmarks_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.rl_system, "__file__", str(tmp_path / "site" / "rl_system" / "x.py"))
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "env"]) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert "benchmarks/environment.py" in message and "clone" in message
    assert "Traceback" not in message


def test_a_tree_in_the_working_folder_serves_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "tree" / "benchmarks" / "environment.py"
    script.parent.mkdir(parents=True)
    script.write_text("import json, sys; print(json.dumps(sys.argv[1:])); sys.exit(7)")
    monkeypatch.setattr(bench.rl_system, "__file__", str(tmp_path / "site" / "rl_system" / "x.py"))
    monkeypatch.chdir(tmp_path / "tree")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert main(["bench", "env", "--json"]) == 7
    assert json.loads(capfd.readouterr().out) == ["--json"]
