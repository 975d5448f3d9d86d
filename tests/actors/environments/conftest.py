"""Shared by the tests of environments: their own cache of videos, and small folders of videos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Before any test imports dm_control, which reads the choice of OpenGL library at its first import.
import actors.environments  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def _own_video_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def write_video() -> Callable[[Path, int], None]:
    """A function that fills a folder with small JPEG frames, each brighter than the last."""

    def write(folder: Path, num_frames: int = 4) -> None:
        folder.mkdir(parents=True)
        # Last frame first, so that the order of creation is not the order of names.
        for index in reversed(range(num_frames)):
            pixels = np.full((48, 85, 3), 20 + 40 * index, np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:05d}.jpg", quality=95)
        (folder / "Thumbs.db").write_bytes(b"not a picture")

    return write
