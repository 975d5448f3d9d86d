from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from replay import Limiter, ReplayShard, SnapshotError, step_schema
from replay.snapshot import SnapshotWriter, read_snapshot
from tests.replay.episodes import SCHEMA, assert_windows_are_whole, chunk, episode


def new_shard(capacity: int = 100, sampler: str = "episodes") -> ReplayShard:
    return ReplayShard(SCHEMA, capacity, sampler=sampler, limiter=Limiter(4.0, 10, 1e6), seed=3)


def filled(sampler: str = "episodes") -> ReplayShard:
    shard = new_shard(sampler=sampler)
    for number in range(9):
        for part in episode("a", number, 17):
            shard.insert(part)
        shard.insert(chunk("b", number, 0, 6, last=number < 8))
    shard.insert(chunk("c", 0, 0, 3))
    shard.insert(chunk("c", 0, 5, 9))  # after a gap
    shard.sample(5, 4)
    return shard


def assert_equal_batches(one: ReplayShard, other: ReplayShard) -> None:
    a, b = one.sample(5, 4), other.sample(5, 4)
    assert a is not None and b is not None
    assert_windows_are_whole(a)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("sampler", ["episodes", "windows"])
def test_a_restored_shard_goes_on_exactly_as_the_saved_one(tmp_path: Path, sampler: str) -> None:
    shard, other = filled(sampler), new_shard(sampler=sampler)
    other.insert(chunk("z", 0, 0, 8))
    shard.save(tmp_path / "snap")
    other.load(tmp_path / "snap")
    for step in range(6):
        assert_equal_batches(shard, other)
        for part in [
            *episode("d", step, 11),
            chunk("b", 8, 6 + step, 1),
            chunk("c", 0, 14 + step, 1),
        ]:
            assert shard.insert(part) == other.insert(part)
            assert shard.insert(part).agent_steps == other.insert(part).agent_steps == 0
    ours, theirs = shard.stats(), other.stats()
    del ours["bytes_resident"], theirs["bytes_resident"]
    assert ours == theirs


def test_save_load_save_gives_equal_manifests(tmp_path: Path) -> None:
    filled().save(tmp_path / "one")
    for before, after in [("one", "two"), ("two", "three")]:
        other = new_shard()
        other.load(tmp_path / before)
        other.save(tmp_path / after)
        assert (tmp_path / before / "manifest.json").read_bytes() == (
            tmp_path / after / "manifest.json"
        ).read_bytes()


def test_a_smaller_shard_keeps_the_newest_episodes_of_a_snapshot(tmp_path: Path) -> None:
    filled().save(tmp_path / "snap")
    small = new_shard(capacity=40)
    small.load(tmp_path / "snap")
    assert 0 < small.table.agent_steps <= 40
    assert [s.actor for s in small.table][-1] == "c"
    batch = small.sample(5, 3)
    assert batch is not None
    assert_windows_are_whole(batch)


def test_a_save_is_one_moment_while_the_shard_goes_on(tmp_path: Path) -> None:
    shard, other = filled(), new_shard()
    shard.save(tmp_path / "still")
    cut = shard.cut(tmp_path / "moving")
    for number, _ in enumerate(cut):
        for part in episode("x", number, 30):  # pushes out what has not been written yet
            shard.insert(part)
        shard.sample(5, 2)
    cut.commit()
    cut.close()
    for name in ("observation.npy", "reward.npy", "manifest.json"):
        assert (tmp_path / "still" / name).read_bytes() == (tmp_path / "moving" / name).read_bytes()
    other.load(tmp_path / "moving")


def test_a_field_of_a_snapshot_is_a_plain_npy_file(tmp_path: Path) -> None:
    shard = filled()
    shard.save(tmp_path / "snap")
    assert np.load(tmp_path / "snap" / "observation.npy").shape == (
        shard.table.agent_steps,
        4,
        4,
        3,
    )


@pytest.mark.parametrize("name", ["observation.npy", "reward.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_snapshot_names_the_file_and_leaves_the_shard_untouched(
    tmp_path: Path, name: str, damage: str
) -> None:
    filled().save(tmp_path / "snap")
    path = tmp_path / "snap" / name
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(data[:-7])
    else:
        data[len(data) // 2] ^= 0x80
        path.write_bytes(data)
    shard, twin = filled(), filled()
    with pytest.raises(SnapshotError, match=name):
        shard.load(tmp_path / "snap")
    assert shard.stats() == twin.stats()
    assert_equal_batches(shard, twin)


def test_a_flipped_character_anywhere_in_a_manifest_never_passes_unseen(tmp_path: Path) -> None:
    filled().save(tmp_path / "snap")
    path = tmp_path / "snap" / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"inserted": ', '"inserted": 1', 1))
    with pytest.raises(SnapshotError, match=r"manifest\.json"):
        new_shard().load(tmp_path / "snap")


def test_a_snapshot_of_another_schema_is_refused_by_field(tmp_path: Path) -> None:
    filled().save(tmp_path / "snap")
    other = ReplayShard(step_schema((8, 8, 3), 2), 100)
    with pytest.raises(SnapshotError, match=r"observation uint8 \(4, 4, 3\)"):
        other.load(tmp_path / "snap")


def test_a_folder_without_a_snapshot_says_so(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="No replay snapshot"):
        new_shard().load(tmp_path)


def test_a_save_that_fails_leaves_the_earlier_snapshot_and_nothing_else(tmp_path: Path) -> None:
    filled().save(tmp_path / "snap")
    before = (tmp_path / "snap" / "manifest.json").read_bytes()
    shard = filled()
    cut = shard.cut(tmp_path / "snap")
    next(iter(cut))
    cut.close()
    assert (tmp_path / "snap" / "manifest.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["snap"]
    assert cut not in shard.table.listeners


def test_a_death_between_the_two_renames_is_mended_by_the_next_reader(tmp_path: Path) -> None:
    with SnapshotWriter(tmp_path / "snap") as writer:
        writer.commit({"save": 1})
    (tmp_path / "snap").rename(tmp_path / ".snap.previous")
    assert read_snapshot(tmp_path / "snap") == {"save": 1}


SAVE_FOR_EVER = """
import sys
from tests.replay.test_snapshot import filled
shard = filled()
print("ready", flush=True)
while True:
    shard.save(sys.argv[1])
"""


def test_a_process_killed_while_saving_leaves_a_snapshot_that_loads(tmp_path: Path) -> None:
    filled().save(tmp_path / "snap")
    root = Path(__file__).parents[2]
    dice = np.random.default_rng(0)
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path / "snap")],
            cwd=root,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(dice.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        child.stdout.close()
        other = new_shard()
        other.load(tmp_path / "snap")
        assert other.table.agent_steps == filled().table.agent_steps
    assert json.loads((tmp_path / "snap" / "manifest.json").read_text())["format"] == 1
