from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import traffic


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.npy"
    shape = (300, *traffic.FRAME)
    np.save(path, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return path


def test_episodes_have_one_first_and_one_last_step_and_go_on_through_the_frames(
    frames: Path,
) -> None:
    steps = traffic.Steps(frames, seed=0)
    episodes = [list(steps.episode()) for _ in range(2)]
    for episode in episodes:
        assert [step["is_first"] for step in episode] == [True] + [False] * 255
        assert [step["is_last"] for step in episode] == [False] * 255 + [True]
    stored = np.load(frames)
    np.testing.assert_array_equal(episodes[1][0]["observation"], stored[256])
    np.testing.assert_array_equal(episodes[1][44]["observation"], stored[0])


def test_a_step_has_the_promised_fields(frames: Path) -> None:
    step = next(traffic.Steps(frames, seed=1).episode())
    assert step.keys() == traffic.FIELDS.keys()
    for name, (shape, dtype) in traffic.FIELDS.items():
        assert (step[name].shape, step[name].dtype) == (shape, np.dtype(dtype))
    assert traffic.STEP_BYTES == 30_034


def test_a_writer_counts_what_it_wrote_and_its_last_flush() -> None:
    flushed: list[float] = []

    def flush() -> None:
        time.sleep(0.05)
        flushed.append(time.time())

    report = traffic.write(lambda: 32, flush, time.time(), None, 96)
    assert report["amount"] == 96 and report["end"] >= flushed[0]
    assert report["end"] - report["begin"] >= 0.05


def test_a_reader_does_not_count_what_it_read_before_the_start() -> None:
    times: list[float] = []

    def next_batch() -> None:
        time.sleep(0.01)
        times.append(time.time())

    start_at = time.time() + 0.1
    report = traffic.read(next_batch, start_at, 0.1)
    assert report["begin"] >= start_at
    assert report["amount"] == sum(at > report["begin"] for at in times) < len(times)
