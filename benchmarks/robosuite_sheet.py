"""Draws what agents see of robosuite's door: both robots, clean and randomised, five episodes each.

    python -m benchmarks.robosuite_sheet

Pictures are observations at `paper` quality, 20 agent steps into an episode; the same episode has
the same placement in each row of a robot. The page goes to docs/images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from actors.environments.catalog import make_environment
from actors.environments.settings import EnvironmentSettings
from rl_system.contact_sheet import Row, write_contact_sheet

IMAGE = Path(__file__).resolve().parents[1] / "docs" / "images" / "robosuite_contact_sheet.png"
LOOKS: dict[str, tuple[str, ...]] = {
    "none": (),
    "colours, textures and lights": ("color",),
    "and the camera": ("color", "camera"),
}
EPISODES, AGENT_STEPS, SEED = 5, 20, 1


def make_row(robot: str, caption: str, distractions: tuple[str, ...]) -> Row:
    settings = EnvironmentSettings(
        name=f"robosuite/door-{robot}",
        image_size=144,
        difficulty="randomized" if distractions else "none",
        distractions=distractions,
    )
    pictures = []
    with make_environment(settings, SEED) as environment:
        for _ in range(EPISODES):
            environment.reset()
            for action in np.random.default_rng(SEED).uniform(-1.0, 1.0, (AGENT_STEPS, 7)):
                time_step = environment.step(action)
            pictures.append(time_step.observation)
    return Row(f"{settings.name}: {caption}", pictures)


def main() -> None:
    rows = [make_row(robot, *look) for robot in ("panda", "jaco") for look in LOOKS.items()]
    print(write_contact_sheet(rows, IMAGE, columns=2))


if __name__ == "__main__":
    main()
