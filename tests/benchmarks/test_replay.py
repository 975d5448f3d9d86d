from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import replay
from benchmarks.peers import traffic
from benchmarks.replay_peers import REVERB_PYTHON, ReverbProcesses, ReverbStore, RllibStore
from benchmarks.replay_stores import MemoryCopy, Rate


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.npy"
    shape = (300, *traffic.FRAME)
    np.save(path, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return path


@pytest.mark.slow
def test_rllibs_buffer_is_filled_written_and_read(frames: Path) -> None:
    store = RllibStore(frames, capacity=1024)
    store.fill(1024)
    inserted, sampled = store.insert(1, 0.1), store.sample(0.1)
    store.close()
    assert inserted.amount % traffic.EPISODE == 0 and inserted.per_s > 0
    assert sampled.amount >= 1 and sampled.cpu_s > 0


@pytest.mark.slow
@pytest.mark.skipif(not REVERB_PYTHON.exists(), reason="needs make bench-peers")
def test_reverb_holds_what_was_written_and_gives_batches_in_both_ways(frames: Path) -> None:
    processes = ReverbProcesses(2, frames)
    store = ReverbStore(processes, capacity=2048, stride=16, chunk=16)
    store.fill(1024)
    windows = (traffic.EPISODE - traffic.LENGTH) // 16 + 1
    assert store.server.call("windows") == 1024 // traffic.EPISODE * windows
    assert store.insert(2, 0.2).amount >= 2 * traffic.CHUNK
    assert all(store.sample(0.2, way).amount >= 1 for way in store.ways)
    inserted, sampled = store.insert_and_sample(0.2)
    assert inserted.amount >= traffic.CHUNK and sampled.amount >= 1
    store.close()
    processes.close()


def test_a_memory_copy_is_counted_in_batches(frames: Path) -> None:
    copy = MemoryCopy(frames, capacity=500)
    rate = copy.sample(0.05)
    assert rate.per_s > 1 and rate.per_cpu_s > 1
    stored = np.load(frames)
    np.testing.assert_array_equal(copy._source[300:], stored[:200])
    assert copy._batch.any()


def test_rates_are_by_the_wall_clock_and_by_cpu_time() -> None:
    rate = Rate(amount=100.0, seconds=2.0, cpu_s=4.0)
    assert (rate.per_s, rate.per_cpu_s) == (50.0, 25.0)


def test_too_large_a_store_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert replay.main(["--capacity", "1000000000", "--peers"]) == 2
    assert "--capacity" in capsys.readouterr().err


@pytest.mark.slow
def test_the_last_line_is_one_object_with_the_promised_ratios(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--json", "--quick", "--capacity", "2048", "--writers", "1", "--frames", "noise"]
    assert replay.main([*given, "--peers"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result) == {"machine", "figures", "ratios"}
    ratios = result["ratios"]
    assert set(replay.RATIOS) <= set(ratios)
    assert ratios["insert_vs_reverb"] is None and ratios["sample_vs_reverb"] is None
    assert 0.0 < ratios["sample_vs_memcpy"] < 2.0 and ratios["sample_full_vs_tenth"] > 0.0
    rates = result["figures"]["rates"]
    assert rates["insert_full_1"]["ours"]["per_s"]["median"] > 500
    assert rates["sample_full"]["memory_copy"]["gib_per_s"] > 0.1
