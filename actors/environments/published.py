"""The published `distracting-control` package, imported so that it works beside today's versions.

Its camera and colour wrappers and its ranges are used as they are. Importing the package
registers ids with the old `gym` library, which prints warnings or is not installed: for the moment
of the import a stand-in takes those registrations, so no environment id of `gym` is made here.
"""

from __future__ import annotations

import sys
import types
from typing import Any


def _import() -> tuple[Any, Any, Any, Any]:
    stand_ins: dict[str, types.ModuleType] = {}
    if "gym" not in sys.modules and "distracting_control" not in sys.modules:
        gym, envs = types.ModuleType("gym"), types.ModuleType("gym.envs")
        envs.register = lambda *_, **__: None  # type: ignore[attr-defined]
        gym.envs = envs  # type: ignore[attr-defined]
        stand_ins = {"gym": gym, "gym.envs": envs}
        sys.modules.update(stand_ins)
    try:
        from distracting_control import background, camera, color, suite_utils
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
    return background, camera, color, suite_utils


background, camera, color, suite_utils = _import()

SCALES: dict[str, float] = dict(suite_utils.DIFFICULTY_SCALE)  # easy, medium, hard
NUM_VIDEOS: dict[str, int | None] = dict(suite_utils.DIFFICULTY_NUM_VIDEOS)  # None: all
