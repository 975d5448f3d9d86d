"""dm_env's specifications as Gymnasium's spaces."""

from __future__ import annotations

from typing import Any

import numpy as np
from dm_env import specs
from gymnasium import spaces


def space_of(spec: specs.Array | dict[str, specs.Array]) -> spaces.Space[Any]:
    """Returns the Box of an array's shape, dtype and bounds, or a Dict of several by name."""
    if isinstance(spec, dict):
        return spaces.Dict({name: space_of(part) for name, part in spec.items()})
    if isinstance(spec, specs.BoundedArray):
        low, high = (np.broadcast_to(b, spec.shape) for b in (spec.minimum, spec.maximum))
    else:
        low, high = np.full(spec.shape, -np.inf), np.full(spec.shape, np.inf)
    return spaces.Box(low.astype(spec.dtype), high.astype(spec.dtype), dtype=spec.dtype)
