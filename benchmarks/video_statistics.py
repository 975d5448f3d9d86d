"""How natural background videos look, in numbers: spectrum, contrast, colour and motion.

    python -m benchmarks.video_statistics procedural /data/clips [...] [--split all] [--json]

Every source is what environment.videos may be; each prints one line, the mean over its videos and,
behind ±, their standard deviation. Frames are reduced to 128 x 128, so that sources of different
resolution can be compared.

| column | meaning |
|---|---|
| slope | of log power over log frequency, luminance, 2 to 32 waves per picture |
| contrast | standard deviation of luminance within a picture, grey levels |
| mean | mean luminance, grey levels |
| saturation | mean saturation of HSV, 0 to 1 |
| colour | standard deviation of the two colour differences (Cr, Cb) over that of luminance |
| change 1, 8 | mean absolute change of luminance over 1 and 8 frames, grey levels |
| likeness 1, 8 | correlation of a picture with the one 1 and 8 frames later |

Natural pictures have a slope of about -2 (amplitude falls as 1/frequency) and below, white noise 0.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice

import cv2
import numpy as np

from actors.environments.videos.clips import Clip, square_frames
from actors.environments.videos.splits import find_source
from rl_system.machine import describe_machine, versions

SIZE = 128
LAGS = (1, 8)
COLUMNS = (
    "slope", "contrast", "mean", "saturation", "colour", "change_1", "change_8", "likeness_1",
    "likeness_8",
)  # fmt: skip


def power_slope(luminance: np.ndarray) -> float:
    """Returns the slope of log radial power over log frequency of one picture (size, size)."""
    size = luminance.shape[0]
    window = np.outer(np.hanning(size), np.hanning(size))
    power = np.abs(np.fft.fft2((luminance - luminance.mean()) * window)) ** 2
    waves = np.fft.fftfreq(size, 1.0 / size)
    ring = np.rint(np.hypot(waves[:, None], waves[None, :])).astype(int)
    radial = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
    frequencies = np.arange(2, 33)
    # One point per third of an octave: else the many high frequencies would decide alone.
    bands = np.floor(3 * np.log2(frequencies)).astype(int)
    x = [np.log(frequencies[bands == band]).mean() for band in np.unique(bands)]
    y = [np.log(radial[frequencies[bands == band]]).mean() for band in np.unique(bands)]
    return float(np.polyfit(x, y, 1)[0])


def describe(frames: np.ndarray) -> dict[str, float]:
    """Returns the columns for one video, uint8 (frames, size, size, 3); nan where it is short."""
    luma = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2YCrCb) for frame in frames]).astype(float)
    luminance, differences = luma[..., 0], luma[..., 1:]
    saturation = [cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)[..., 1].mean() / 255 for frame in frames]
    contrast = luminance.std(axis=(1, 2))
    values = {
        "slope": np.mean([power_slope(picture) for picture in luminance[::8]]),
        "contrast": contrast.mean(),
        "mean": luminance.mean(),
        "saturation": np.mean(saturation),
        "colour": (differences.std(axis=(1, 2)).mean(axis=1) / np.maximum(contrast, 1)).mean(),
    }
    for lag in LAGS:
        if len(frames) <= lag:
            values[f"change_{lag}"] = values[f"likeness_{lag}"] = np.nan
            continue
        values[f"change_{lag}"] = np.abs(luminance[lag:] - luminance[:-lag]).mean()
        values[f"likeness_{lag}"] = np.mean(
            [
                np.corrcoef(one.ravel(), other.ravel())[0, 1]
                for one, other in zip(luminance[:-lag], luminance[lag:], strict=True)
            ]
        )
    return {name: float(value) for name, value in values.items()}


def find_clips(source: str, split: str) -> list[Clip]:
    splits = find_source(source, None)
    return [clip for name, clips in splits.items() if split in ("all", name) for clip in clips]


def plain(values: np.ndarray) -> dict[str, float | None]:
    """Returns a row of the table by column, None where it has no value."""
    return {
        name: None if np.isnan(value) else round(float(value), 4)
        for name, value in zip(COLUMNS, values, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="procedural or a folder")
    parser.add_argument("--split", choices=("train", "held_out", "all"), default="all")
    parser.add_argument("--max-frames", type=int, default=120, metavar="N", help="of each video")
    parser.add_argument("--each", action="store_true", help="a line for every video, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    options = parser.parse_args()

    figures: dict[str, dict] = {}
    print(f"| source | videos | {' | '.join(COLUMNS)} |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for source in options.sources:
        rows = {}
        for clip in find_clips(source, options.split):
            frames = np.stack(list(islice(square_frames(clip, SIZE, None), options.max_frames)))
            rows[clip.name] = describe(frames)
            if options.each:
                cells = " | ".join(f"{rows[clip.name][name]:.2f}" for name in COLUMNS)
                print(f"| {clip.name} | 1 | {cells} |")
        table = np.array([[row[name] for name in COLUMNS] for row in rows.values()])
        mean, spread = table.mean(axis=0), table.std(axis=0)
        cells = " | ".join(
            f"{one:.2f} ± {other:.2f}" for one, other in zip(mean, spread, strict=True)
        )
        print(f"| {source} | {len(rows)} | {cells} |")
        figures[source] = {
            "videos": len(rows),
            "mean": plain(mean),
            "spread": plain(spread),
        }
    if options.json:
        machine = describe_machine() | {"versions": versions()}
        print(json.dumps({"machine": machine, "figures": figures, "ratios": {}}))


if __name__ == "__main__":
    main()
