"""Who may know whom: the arrows between the rooms, read from every import statement."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("rl_system", "actors", "replay", "learners", "configs")
ALLOWED = {
    "rl_system": {"rl_system", "actors", "replay", "learners", "configs"},
    "actors": {"actors", "replay"},
    "learners": {"learners", "replay"},
    "replay": {"replay"},
    "configs": {"configs"},
}
RLLIB_FILES = {
    "rl_system/algorithm.py",
    "actors/runner.py",
    "learners/module.py",
    "learners/learner.py",
}
RAY_FREE_LEARNER = {"learners/module.py", "learners/learner.py"}  # all others import no ray
NEVER = {"tensorflow", "torchvision", "timm"}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of every import, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    wrong = [
        f"{names(path)} imports {name}"
        for path in files(room)
        for name in imports(path)
        if (top := name.split(".")[0]) in ROOMS and top not in ALLOWED[room]
    ]
    assert not wrong, "\n".join(wrong)


def test_environments_import_no_other_room() -> None:
    wrong = [
        f"{names(path)} imports {name}"
        for path in files("actors/environments")
        for name in imports(path)
        if name.split(".")[0] in ROOMS and not name.startswith("actors.environments")
    ]
    assert not wrong, "\n".join(wrong)


def test_exactly_four_files_import_rllib() -> None:
    found = {
        names(path)
        for room in ROOMS
        for path in files(room)
        if any(name.startswith("ray.rllib") for name in imports(path))
    }
    assert found == RLLIB_FILES


def test_replay_imports_no_torch() -> None:
    wrong = [
        names(path)
        for path in files("replay")
        if any(name.split(".")[0] == "torch" for name in imports(path))
    ]
    assert not wrong


def test_the_core_of_a_learner_imports_no_ray() -> None:
    wrong = [
        f"{names(path)} imports {name}"
        for path in files("learners")
        if names(path) not in RAY_FREE_LEARNER
        for name in imports(path)
        if name.split(".")[0] == "ray"
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_packages_that_crash_beside_software_rendering_or_a_cpu_torch() -> None:
    wrong = [
        f"{names(path)} imports {name}"
        for room in ROOMS
        for path in files(room)
        for name in imports(path)
        if name.split(".")[0] in NEVER
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("replay", ("torch", "ray", "dm_control")),
        ("replay.service", ("torch", "ray.rllib")),
        ("learners.update", ("ray", "dm_control", "mujoco")),
        ("rl_system.config", ("torch", "ray", "dm_control", "mujoco")),
        ("rl_system.cli", ("torch", "ray", "dm_control", "yaml", "rich", "numpy")),
    ],
)
def test_importing_a_module_does_not_load_what_it_does_not_need(
    module: str, absent: tuple[str, ...]
) -> None:
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_there_is_no_file_of_odds_and_ends() -> None:
    assert not [
        names(path)
        for room in ROOMS
        for path in files(room)
        if path.stem in ("utils", "util", "helpers", "misc", "common")
    ]
