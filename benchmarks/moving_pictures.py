"""A folder of background videos as DAVIS 2017 has them, for machines that have no DAVIS."""

from __future__ import annotations

from pathlib import Path

import cv2
from PIL import Image

from actors.environments.videos import davis, procedural

NUM_FRAMES = 70  # about what a video of DAVIS has
WIDTH, HEIGHT = 854, 480
JPEG_QUALITY = 95


def write(folder: Path, count: int = 8, first: int = 0) -> Path:
    """Fills `folder` with videos under the first names of DAVIS's training list.

    Each has `NUM_FRAMES` JPEG pictures of 854 x 480, drawn by `procedural`; about a second each.

    Args:
        folder: is made, and must not hold such videos already.
        count: number of videos, 8 for the medium level.
        first: another number gives other pictures under the same names.

    Returns:
        The folder.
    """
    for index, name in enumerate(davis.TRAIN_VIDEOS[:count]):
        video = folder / name
        video.mkdir(parents=True)
        frames = procedural.make_video(f"benchmark-{first + index}", HEIGHT, NUM_FRAMES)
        for number, frame in enumerate(frames):
            wide = cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
            Image.fromarray(wide).save(video / f"{number:05d}.jpg", quality=JPEG_QUALITY)
    return folder
