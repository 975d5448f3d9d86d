from __future__ import annotations

import numpy as np
import pytest

from actors.environments.videos import procedural
from benchmarks.video_statistics import COLUMNS, SIZE, describe, power_slope


def spectrum(slope: float, seed: int) -> np.ndarray:
    """A random picture whose power falls with this slope."""
    noise = np.fft.fft2(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))
    waves = np.fft.fftfreq(SIZE, 1 / SIZE)
    distance = np.maximum(np.hypot(waves[:, None], waves[None, :]), 1)
    return np.fft.ifft2(noise * distance ** (slope / 2)).real


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0, -3.0])
def test_the_slope_of_made_up_spectra_is_found(slope: float) -> None:
    found = [power_slope(spectrum(slope, seed)) for seed in range(20)]
    assert np.mean(found) == pytest.approx(slope, abs=0.15)


def test_a_still_grey_video_has_no_colour_no_change_and_is_alike() -> None:
    grey = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 1), np.uint8)
    found = describe(np.repeat(np.broadcast_to(grey, (SIZE, SIZE, 3))[None], 12, axis=0))
    assert set(found) == set(COLUMNS)
    assert found["saturation"] == found["colour"] == found["change_1"] == found["change_8"] == 0
    assert found["likeness_1"] == pytest.approx(1) and found["contrast"] > 60


def test_procedural_videos_have_the_statistics_of_natural_ones_and_noise_has_not() -> None:
    natural = describe(procedural.make_video("procedural-train-07", SIZE, 12))
    noise = describe(np.random.default_rng(0).integers(0, 255, (12, SIZE, SIZE, 3), np.uint8))
    assert -3.1 < natural["slope"] < -2.0 < -0.3 < noise["slope"]
    assert natural["likeness_1"] > 0.8 > 0.1 > abs(noise["likeness_1"])
    assert 20 < natural["contrast"] < 80 and 0.1 < natural["saturation"] < 0.85
