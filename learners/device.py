"""Where and how precisely a learner computes."""

from __future__ import annotations

import torch

from learners.settings import PRECISIONS


def choose_device(name: str) -> torch.device:
    """Return the device of `learner.device`: "auto" takes a GPU where there is one.

    Raises:
        ValueError: The device does not exist on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f'learner.device={name!r} is no device: use "auto", "cpu" or "cuda".'
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"learner.device={name!r}, but torch sees no GPU here: set learner.device=cpu, or "
            "check the driver and the torch build with `rl-system doctor`."
        )
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype in which the pixel encoder computes, for `learner.precision`.

    "auto" takes bfloat16 where the device multiplies it faster than float32: GPUs that support it
    and CPUs with AVX512-BF16 or AMX.

    Raises:
        ValueError: `name` is unknown.
    """
    if name not in PRECISIONS:
        raise ValueError(f"learner.precision={name!r}: choose one of {PRECISIONS}.")
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        name = "bfloat16" if fast else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32
