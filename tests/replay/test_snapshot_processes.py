from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def run(module: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.replay.{module}", str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_save_killed_at_any_step_leaves_the_old_snapshot_or_the_new_one(tmp_path: Path) -> None:
    assert "killed saves" in run("kill_saves", tmp_path)


def test_shards_on_two_nodes_save_load_and_recover_through_a_shared_folder(tmp_path: Path) -> None:
    assert "recovered on two nodes" in run("two_nodes", tmp_path)
