"""Small videos on disk, for tests: folders of pictures, video files, arrays, a tiny DAVIS."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from actors.environments.videos import davis


def picture(index: int, height: int = 48, width: int = 85) -> np.ndarray:
    """A picture that is smooth, coloured and different for every index."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    channels = [y, x, (y + x) / 2]
    wave = [np.sin(6 * c + 0.7 * index + shift) for shift, c in enumerate(channels)]
    return (127 + 100 * np.stack(wave, axis=2)).astype(np.uint8)


def write_pictures(folder: Path, num_frames: int = 3, suffix: str = ".jpg", first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(num_frames):
        Image.fromarray(picture(first + index)).save(folder / f"{index:05d}{suffix}")
    return folder


def write_file(path: Path, num_frames: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = {".avi": "MJPG", ".mp4": "mp4v", ".mkv": "MJPG", ".mov": "mp4v", ".webm": "VP80"}
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code[path.suffix]), 25.0, (96, 64))
    assert writer.isOpened()
    for index in range(num_frames):
        writer.write(cv2.cvtColor(picture(index, 64, 96), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def write_davis(root: Path, num_frames: int = 1) -> Path:
    """All 90 videos of DAVIS 2017 in its layout, one picture shared by all."""
    for place, name in enumerate(davis.TRAIN_VIDEOS + davis.HELD_OUT_VIDEOS):
        write_pictures(root / "JPEGImages" / "480p" / name, num_frames, first=place)
        mask = root / "Annotations" / "480p" / name
        mask.mkdir(parents=True)
        (mask / "00000.png").write_bytes(b"a mask")
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(davis.TRAIN_VIDEOS))
    return root
