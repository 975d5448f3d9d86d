from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from replay import SnapshotError, step_schema
from replay.packed import PackedStore
from replay.ring import Ring
from replay.samplers import Window
from replay.shard import ReplayShard, Request
from replay.snapshot import SnapshotWriter, read_snapshot
from replay.table import Segment
from tests.replay.episodes import SCHEMA, chunk, episode
from tests.replay.saved import assert_equal_batches, filled, new_shard


@pytest.mark.parametrize("sampler", ["episodes", "windows", "prioritised", "recency"])
def test_a_restored_shard_goes_on_exactly_as_the_saved_one(tmp_path: Path, sampler: str) -> None:
    shard, other = filled(sampler=sampler), new_shard(sampler=sampler)
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


def test_a_packed_shard_comes_back_and_can_be_loaded_into_a_ring(tmp_path: Path) -> None:
    shard = filled(store=PackedStore(SCHEMA, 200_000))
    shard.save(tmp_path / "snap")
    for store in (PackedStore(SCHEMA, 200_000), Ring(SCHEMA, 300)):
        other = new_shard(store=store)
        other.load(tmp_path / "snap")
        for ours, theirs in zip(shard.table, other.table, strict=True):
            assert_same_steps(shard, ours, other, theirs)


def assert_same_steps(
    shard: ReplayShard, ours: Segment, other: ReplayShard, theirs: Segment
) -> None:
    a = shard.table.read(ours.ordinal, 0, ours.length)
    b = other.table.read(theirs.ordinal, 0, theirs.length)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_priorities_come_back_with_their_windows(tmp_path: Path) -> None:
    shard, other = filled(sampler="prioritised"), new_shard(sampler="prioritised")
    window = Window(5, 2)
    request = Request(window, 40, "prioritised")
    draw = shard.redraw(request)
    priorities = np.random.default_rng(1).uniform(0, 9, 40)
    shard.update_priorities(window, draw.ordinals, draw.starts, priorities)
    shard.save(tmp_path / "snap")
    other.load(tmp_path / "snap")
    for _ in range(3):
        ours, theirs = shard.redraw(request), other.redraw(request)
        np.testing.assert_array_equal(ours.starts, theirs.starts)
        np.testing.assert_allclose(
            np.asarray(ours.probabilities), np.asarray(theirs.probabilities), rtol=1e-12
        )


def test_a_smaller_shard_keeps_the_newest_episodes_and_says_how_many_steps_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    filled().save(tmp_path / "snap")
    small = new_shard(capacity=40)
    small.load(tmp_path / "snap")
    held = small.table.agent_steps
    assert 0 < held <= 40
    assert [s.actor for s in small.table][-1] == "c"
    left = filled().table.agent_steps - held
    assert f"the oldest {left} of {left + held} agent steps were left out" in caplog.text
    before, after = filled().stats(), small.stats()
    assert after["removed_agent_steps"] == before["removed_agent_steps"] + left
    assert after["inserted_agent_steps"] == before["inserted_agent_steps"]
    assert small.sample(Request(Window(5), 3)) is not None


def test_a_save_is_one_moment_while_the_shard_goes_on(tmp_path: Path) -> None:
    shard, other = filled(), new_shard()
    shard.save(tmp_path / "still")
    shard = filled()
    cut = shard.cut(tmp_path / "moving")
    number = 0
    cut.begin()
    for block in cut:
        for _ in range(20):  # pushes out what has not been written yet
            for part in episode("x", number, 30):
                shard.insert(part)
            number += 1
        for _ in block:
            shard.sample(Request(Window(5), 2))
        block.write()
    cut.commit()
    cut.close()
    assert contents(tmp_path / "still") == contents(tmp_path / "moving")
    other.load(tmp_path / "moving")


def test_steps_that_leave_while_their_block_is_being_copied_are_saved_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay.cut.SLICE_BYTES", 5 * SCHEMA.bytes_per_step)
    monkeypatch.setattr("replay.blocks.BLOCK_BYTES", 30 * SCHEMA.bytes_per_step)
    filled().save(tmp_path / "still")
    shard = filled()
    cut = shard.cut(tmp_path / "moving")
    cut.begin()
    for block in cut:
        for number, _ in enumerate(block):
            for part in episode("x", 1000 + number, 7):
                shard.insert(part)
        block.write()
    cut.commit()
    cut.close()
    assert contents(tmp_path / "still") == contents(tmp_path / "moving")


def contents(folder: Path) -> Mapping[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_a_flipped_character_anywhere_in_a_manifest_never_passes_unseen(tmp_path: Path) -> None:
    filled().save(tmp_path / "snap")
    path = tmp_path / "snap" / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"inserted": ', '"inserted": 1', 1))
    assert path.read_text() != text
    for damaged in ("refuse", "skip"):
        with pytest.raises(SnapshotError, match=r"manifest\.json"):
            new_shard().load(tmp_path / "snap", damaged=damaged)


def test_a_snapshot_of_another_schema_is_refused_by_field(tmp_path: Path) -> None:
    filled().save(tmp_path / "snap")
    other = ReplayShard(Ring(step_schema((8, 8, 3), 2), 100))
    with pytest.raises(SnapshotError, match=r"observation uint8 \(4, 4, 3\)"):
        other.load(tmp_path / "snap")


def test_a_snapshot_of_another_format_asks_for_the_version_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay.snapshot.FORMAT", 1)
    filled().save(tmp_path / "snap")
    monkeypatch.undo()
    with pytest.raises(SnapshotError, match="format 1, this version reads 3"):
        new_shard().load(tmp_path / "snap")


def test_a_folder_without_a_snapshot_says_so(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="No replay snapshot"):
        new_shard().load(tmp_path)


def test_a_folder_that_no_shard_wrote_says_so(tmp_path: Path) -> None:
    with SnapshotWriter(tmp_path / "snap") as writer:
        writer.commit({"shards": 2})
    with pytest.raises(SnapshotError, match="not what one shard has saved"):
        new_shard().load(tmp_path / "snap")


def test_a_save_that_fails_leaves_the_earlier_snapshot_and_nothing_else(tmp_path: Path) -> None:
    filled().save(tmp_path / "snap")
    before = (tmp_path / "snap" / "manifest.json").read_bytes()
    shard = filled()
    cut = shard.cut(tmp_path / "snap")
    cut.begin()
    block = next(iter(cut))
    for _ in block:
        pass
    block.write()
    cut.close()
    assert (tmp_path / "snap" / "manifest.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["snap"]
    assert cut not in shard.table.listeners


def test_a_snapshot_that_stepped_aside_when_the_writer_died_is_found_by_readers(
    tmp_path: Path,
) -> None:
    shard = filled()
    shard.save(tmp_path / "run" / "snap")
    agent_steps = shard.table.agent_steps
    (tmp_path / "run" / "snap").rename(tmp_path / "run" / ".snap.previous")
    assert read_snapshot(tmp_path / "run" / "snap")["segments"]
    (tmp_path / "run" / ".snap.previous").rename(tmp_path / "run" / "snap")
    (tmp_path / "run").rename(tmp_path / ".run.previous")  # the part of a larger one
    other = new_shard()
    other.load(tmp_path / "run" / "snap")
    assert other.table.agent_steps == agent_steps
    other.save(tmp_path / "run" / "snap")
    other.load(tmp_path / "run" / "snap")


def test_an_empty_shard_comes_back_empty(tmp_path: Path) -> None:
    new_shard().save(tmp_path / "snap")
    other = filled()
    other.load(tmp_path / "snap")
    assert other.table.agent_steps == other.stats()["inserted_agent_steps"] == 0


def test_a_save_that_cannot_keep_up_holds_new_episodes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay.shard.BYTES_ASIDE", 30 * SCHEMA.bytes_per_step)
    shard = ReplayShard(Ring(SCHEMA, 64))
    for number in range(3):
        for part in episode("a", number, 20):
            shard.insert(part)
    cut = shard.cut(tmp_path / "snapshot")
    number = 3
    while not shard.insert(chunk("a", number, 0, 20, last=True)).held_back:
        number += 1
        assert number < 10
    # The first two episodes have left and are kept aside; only what goes on growing is still taken.
    assert shard.stats()["bytes_aside"] == 40 * SCHEMA.bytes_per_step
    shard.waiting_samples = 1
    assert not shard.would_admit(1)
    cut.begin()
    for block in cut:
        for _ in block:
            pass
        block.write()
    assert shard.stats()["bytes_aside"] == 0
    assert shard.would_admit(1)
    cut.commit()
    cut.close()
    again = ReplayShard(Ring(SCHEMA, 64))
    again.load(tmp_path / "snapshot")
    assert again.stats()["agent_steps"] == 60
