"""Crops against slicing, window by window."""

from __future__ import annotations

import pytest
import torch
from torch._inductor.utils import run_and_get_code

from learners.augment import (
    centre_crop,
    corners,
    crop_pixels,
    crop_windows,
    random_crop,
    to_pixels,
)


def test_crop_windows_equals_slicing_each_window():
    frames = torch.randint(0, 256, (4, 3, 11, 12, 3), dtype=torch.uint8)
    top, left = torch.tensor([0, 2, 4]), torch.tensor([5, 1, 0])
    crops = crop_windows(frames, 7, top, left)
    for b in range(3):
        expected = frames[:, b, top[b] : top[b] + 7, left[b] : left[b] + 7]
        assert torch.equal(crops[:, b], expected)
    assert crops.is_contiguous()


def test_random_crops_reach_every_corner_and_stay_the_same_through_time():
    ramp = torch.arange(36, dtype=torch.uint8).view(1, 1, 6, 6, 1).expand(2, 400, 6, 6, 1)
    crops = random_crop(ramp, 4, torch.Generator().manual_seed(0))
    assert torch.equal(crops[0], crops[1])
    begun = set(crops[0, :, 0, 0, 0].tolist())
    assert begun == {0, 1, 2, 6, 7, 8, 12, 13, 14}


def test_centre_crop_takes_the_middle():
    frames = torch.arange(25).view(5, 5, 1)
    assert centre_crop(frames, 3)[..., 0].tolist() == [[6, 7, 8], [11, 12, 13], [16, 17, 18]]


def test_pixels_are_scaled_to_the_unit_range_with_channels_last_memory():
    pixels = to_pixels(torch.full((2, 8, 8, 3), 255, dtype=torch.uint8))
    assert pixels.shape == (2, 3, 8, 8)
    assert pixels.max() == pixels.min() == 1.0
    assert pixels.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow  # the compiler takes its time
def test_crops_compile_to_one_kernel_that_makes_the_same_pixels():
    frames = torch.randint(0, 256, (4, 3, 11, 12, 3), dtype=torch.uint8)
    top, left = corners(frames, 7, torch.Generator().manual_seed(0))
    compiled = torch.compile(crop_pixels, dynamic=False)
    pixels, (code,) = run_and_get_code(compiled, frames, 7, top, left)
    expected = to_pixels(crop_windows(frames, 7, top, left))
    assert torch.equal(pixels, expected)
    assert pixels.stride() == expected.stride()
    assert code.count("cpp_pybinding") == 1  # once for every kernel on a CPU
