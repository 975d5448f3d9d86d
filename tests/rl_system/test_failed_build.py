"""What a user meets when a learner cannot be built: one line, and no process is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)

PROGRAM = """
import sys
from rl_system import run
from rl_system.cli import main

def begin(*given):
    from learners.learner import SystemLearner
    from rl_system.algorithm import CoReConfig

    class BrokenLearner(SystemLearner):
        def build(self):
            super().build()
            raise ValueError("no such optimiser\\nsecond line")

    CoReConfig.get_default_learner_class = lambda self: BrokenLearner
    return train(*given)

train, run.train = run.train, begin
status = main(sys.argv[1:])
import ray
print("ray runs" if ray.is_initialized() else "ray has ended")
sys.exit(status)
"""
TINY = [
    "environment.difficulty=none", "environment.image_size=28", "learner.crop_size=24",
    "model.conv_channels=4,8", "model.conv_kernels=3,3", "model.conv_strides=2,2",
    "model.conv_paddings=1,1", "learner.batch_size=4", "learner.sequence_length=8",
    "replay.minimum_agent_steps=200",
]  # fmt: skip
MARK = "RL_SYSTEM_TEST_MARK"


def processes_marked(mark: str) -> list[int]:
    """Process ids of all that inherited the mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            inherited = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in inherited:
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("learners", [0, 1])
def test_a_learner_that_cannot_be_built_is_one_line_and_leaves_no_process(
    tmp_path: Path, learners: int
) -> None:
    mark = str(tmp_path)
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "train", "core/cartpole-swingup/tiny", *TINY,
             f"run.directory={tmp_path}", "run.name=run", f"learner.count={learners}"],
            env=os.environ | {MARK: mark}, stdout=out, stderr=err, timeout=200,
        )  # fmt: skip
    told = (tmp_path / "err").read_text()
    log = tmp_path / "run" / "error.log"
    assert done.returncode == 1, told
    assert told == (
        f"rl-system: The run failed: ValueError: no such optimiser (the whole of it is in {log})\n"
    )
    assert "second line" in log.read_text() and "Traceback" in log.read_text()
    assert (tmp_path / "out").read_text().splitlines()[-1] == "ray has ended"
    assert processes_marked(mark) == []
