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
from PIL import Image, ImageDraw, ImageFont

from actors.environments.catalog import (
    NATURAL_ACTION_REPEAT,
    NATURAL_TASKS,
    PAPER_TASKS,
    find,
    make_environment,
)
from actors.environments.settings import NATURAL_MASKS, EnvironmentSettings

DCS_LEVELS = ("none", "easy", "medium", "hard", "background2", "background60")
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
_GAP, _HEADER, _MARGIN = 3, 18, 118  # pixels between pictures, above them and to their left
_FONT_SIZE = 11


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


def lay_out(pictures: dict[str, dict[str, np.ndarray]]) -> Image.Image:
    """Puts pictures of one size on a page, named by row and by column."""
    columns = list(next(iter(pictures.values())))
    size = next(iter(next(iter(pictures.values())).values())).shape[0]
    pitch = size + _GAP
    page = Image.new(
        "RGB", (_MARGIN + pitch * len(columns), _HEADER + pitch * len(pictures)), "white"
    )
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(_FONT_SIZE)
    for across, column in enumerate(columns):
        draw.text((_MARGIN + across * pitch, 2), column, fill="black", font=font)
    for down, (row, cells) in enumerate(pictures.items()):
        top = _HEADER + down * pitch
        draw.text((4, top + size // 2 - _FONT_SIZE), row, fill="black", font=font)
        for across, column in enumerate(columns):
            page.paste(Image.fromarray(cells[column]), (_MARGIN + across * pitch, top))
    return page


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
    pictures = {
        name.removeprefix("dcs/"): {
            column: observe(settings, options.seed + down, options.agent_steps)
            for column, settings in row.items()
        }
        for down, (name, row) in enumerate(make(options.size, options.videos).items())
    }
    output = options.output or IMAGES / f"{options.sheet}_contact_sheet.png"
    output.parent.mkdir(parents=True, exist_ok=True)
    lay_out(pictures).save(output, optimize=True)
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
