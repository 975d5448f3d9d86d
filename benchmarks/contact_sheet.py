"""Draws what agents see, all on one page: tasks down, levels or masks across.

    python -m benchmarks.contact_sheet dcs       # the six tasks at every level
    python -m benchmarks.contact_sheet natural   # CVRL's ten tasks with every mask

Each row has a seed of its own, so only the distractions differ along it. Pictures are observations
at `paper` quality, some agent steps into an episode. The page goes to docs/images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actors.environments.catalog import (
    NATURAL_ACTION_REPEAT,
    NATURAL_TASKS,
    PAPER_TASKS,
    find,
    make_environment,
)
from actors.environments.settings import NATURAL_MASKS, EnvironmentSettings
from rl_system.contact_sheet import Row, write_contact_sheet

DCS_LEVELS = ("none", "easy", "medium", "hard", "background2", "background60")
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def dcs_settings(size: int, videos: str) -> dict[str, dict[str, EnvironmentSettings]]:
    """Returns the settings of each row and column of the Distracting Control Suite."""
    return {
        name: {
            level: EnvironmentSettings(name=name, difficulty=level, image_size=size, videos=videos)
            for level in DCS_LEVELS
        }
        for name in PAPER_TASKS
    }


def natural_settings(size: int, videos: str) -> dict[str, dict[str, EnvironmentSettings]]:
    """Returns the settings of each row and column of Natural MuJoCo."""
    return {
        name: {
            "none": EnvironmentSettings(
                name=name,
                image_size=size,
                action_repeat=NATURAL_ACTION_REPEAT,
                view="square",
            )
        }
        | {
            mask: EnvironmentSettings(
                name=name,
                difficulty="natural",
                natural_mask=mask,
                image_size=size,
                videos=videos,
            )
            for mask in NATURAL_MASKS
        }
        for name in NATURAL_TASKS
    }


def observe(settings: EnvironmentSettings, seed: int, agent_steps: int) -> np.ndarray:
    """Returns what an agent sees after that many random actions, uint8 (size, size, 3)."""
    environment = make_environment(settings, seed)
    generator = np.random.default_rng(seed)
    picture = environment.reset().observation
    for _ in range(agent_steps):
        action = generator.uniform(-1.0, 1.0, find(settings.name).action_dims)
        picture = environment.step(action).observation
    environment.close()
    return np.asarray(picture)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sheet", choices=("dcs", "natural"))
    parser.add_argument("--videos", default="procedural", metavar="FOLDER", help="or procedural")
    parser.add_argument("--size", type=int, default=128, help="pixels of a picture's side")
    parser.add_argument("--seed", type=int, default=1, help="of the first row")
    parser.add_argument("--agent-steps", type=int, default=12)
    parser.add_argument("--output", type=Path, metavar="PNG")
    options = parser.parse_args(arguments)
    make = {"dcs": dcs_settings, "natural": natural_settings}[options.sheet]
    settings = make(options.size, options.videos)
    rows = [
        Row(
            name.removeprefix("dcs/"),
            [observe(one, options.seed + down, options.agent_steps) for one in row.values()],
        )
        for down, (name, row) in enumerate(settings.items())
    ]
    path = options.output or IMAGES / f"{options.sheet}_contact_sheet.png"
    write_contact_sheet(rows, path, names=list(next(iter(settings.values()))))
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
