from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import blocks
from replay.blocks import Block, BlockReader, Run, divided, kept_blocks, missing_runs, write_block
from replay.samplers import Window
from replay.shard import ReplayShard, Request
from replay.snapshot import _warn_of_copies, read_manifest
from tests.replay.episodes import SCHEMA, chunk, episode
from tests.replay.saved import assert_equal_batches, filled, new_shard

STEP = SCHEMA.bytes_per_step


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 20 * STEP)
    monkeypatch.setattr(blocks, "SMALL_BYTES", 5 * STEP)
    monkeypatch.setattr(blocks, "SMALL_BLOCKS", 4)


def insert(shard: ReplayShard, number: int, length: int = 20) -> None:
    for part in episode("n", number, length):
        shard.insert(part)


def files(folder: Path) -> dict[str, int]:
    """Block files by name, with their inode."""
    return {file.name: file.stat().st_ino for file in folder.glob("*.steps")}


def steps_on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.steps")) // STEP


def assert_same_steps(shard: ReplayShard, folder: Path) -> None:
    other = new_shard(capacity=10_000)
    other.load(folder)
    assert [s.length for s in shard.table] == [s.length for s in other.table]
    for ours, theirs in zip(shard.table, other.table, strict=True):
        a = shard.table.read(ours.ordinal, 0, ours.length)
        b = other.table.read(theirs.ordinal, 0, theirs.length)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_second_save_writes_new_steps_only_and_links_the_rest(tmp_path: Path) -> None:
    shard = new_shard(capacity=1000)
    shard.insert(chunk("open", 0, 0, 7))
    for number in range(3):
        insert(shard, number)
    shard.save(tmp_path / "one")
    insert(shard, 3)
    shard.insert(chunk("open", 0, 7, 5))  # an episode that grows goes on in another block
    shard.save(tmp_path / "two")
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert one.items() <= two.items()
    assert steps_on_disk(tmp_path / "two") - steps_on_disk(tmp_path / "one") == 25
    assert_same_steps(shard, tmp_path / "two")
    shutil.rmtree(tmp_path / "one")  # each is complete by itself
    assert_same_steps(shard, tmp_path / "two")


def test_blocks_have_a_bounded_size_and_every_field_in_c_order(tmp_path: Path) -> None:
    shard = new_shard(capacity=1000)
    insert(shard, 0, length=50)
    shard.save(tmp_path / "snap")
    manifest = read_manifest(tmp_path / "snap")
    sizes = [manifest.parts[name]["bytes"] // STEP for name, _ in manifest.content["blocks"]]
    assert sizes == [20, 20, 10]
    raw = (tmp_path / "snap" / manifest.content["blocks"][1][0]).read_bytes()
    frames, actions = 20 * 4 * 4 * 3, 20 * 2 * 4
    rewards = np.frombuffer(raw, np.float32, 20, frames + actions)
    np.testing.assert_array_equal(rewards, np.arange(20, 40))


def test_save_load_save_load_gives_identical_manifests_and_writes_nothing(tmp_path: Path) -> None:
    shard = filled(sampler="prioritised")
    shard.save(tmp_path / "zero")
    for part in episode("later", 0, 23):
        shard.insert(part)
    shard.save(tmp_path / "one")
    for before, after in [("one", "two"), ("two", "three")]:
        other = new_shard(sampler="prioritised")
        other.load(tmp_path / before)
        other.save(tmp_path / after)
        assert files(tmp_path / before) == files(tmp_path / after)
        assert (tmp_path / before / "manifest.json").read_bytes() == (
            tmp_path / after / "manifest.json"
        ).read_bytes()
        assert_equal_batches(shard, other)
        shard.load(tmp_path / "one")


def test_a_block_that_is_mostly_gone_is_not_kept_and_disk_space_stays_bounded(
    tmp_path: Path,
) -> None:
    shard = new_shard(capacity=100)
    dice = np.random.default_rng(0)
    for number in range(60):
        insert(shard, number, int(dice.integers(1, 30)))
        shard.save(tmp_path / "snap")
        held = shard.table.agent_steps
        assert held <= steps_on_disk(tmp_path / "snap") <= 2 * held
        manifest = read_manifest(tmp_path / "snap")
        assert set(files(tmp_path / "snap")) == set(manifest.parts)
    assert_same_steps(shard, tmp_path / "snap")


def test_many_small_blocks_become_one(tmp_path: Path) -> None:
    shard = new_shard(capacity=1000)
    for number in range(40):
        insert(shard, number, 1)
        shard.save(tmp_path / "snap")
        assert len(files(tmp_path / "snap")) <= 4 + -(-number // 5)
    assert_same_steps(shard, tmp_path / "snap")


def test_a_snapshot_that_was_removed_or_cut_short_meanwhile_is_written_anew(
    tmp_path: Path,
) -> None:
    shard = filled()
    shard.save(tmp_path / "one")
    shutil.rmtree(tmp_path / "one")
    shard.save(tmp_path / "two")
    assert_same_steps(shard, tmp_path / "two")
    for file in (tmp_path / "two").glob("*.steps"):
        file.write_bytes(file.read_bytes()[:-1])
    shard.save(tmp_path / "three")
    assert_same_steps(shard, tmp_path / "three")


def test_a_save_in_place_shares_with_what_it_replaces(tmp_path: Path) -> None:
    shard = filled()
    shard.save(tmp_path / "snap")
    before = files(tmp_path / "snap")
    shard.save(tmp_path / "snap")
    assert files(tmp_path / "snap") == before
    assert os.listdir(tmp_path) == ["snap"]


def test_where_links_are_refused_files_are_copied_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    _warn_of_copies.cache_clear()
    shard = filled()
    shard.save(tmp_path / "snap")
    before = files(tmp_path / "snap")
    monkeypatch.setattr(os, "link", refuse)
    for number in range(2):
        insert(shard, number, 3)
        with caplog.at_level(logging.WARNING):
            shard.save(tmp_path / "snap")
    after = files(tmp_path / "snap")
    shared = set(before) & set(after)
    assert shared and all(before[name] != after[name] for name in shared)
    assert caplog.text.count("cannot be linked") == 1
    assert_same_steps(shard, tmp_path / "snap")


def test_after_going_back_an_older_snapshot_is_shared_and_no_block_is_mistaken(
    tmp_path: Path,
) -> None:
    shard = filled()
    shard.save(tmp_path / "old")
    insert(shard, 0)
    shard.save(tmp_path / "snap")
    shard.load(tmp_path / "old")
    insert(shard, 1)  # the same segment number, other steps
    shard.save(tmp_path / "snap")
    assert_same_steps(shard, tmp_path / "snap")
    batch = shard.sample(Request(Window(5), 4))
    assert batch is not None


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    written=st.lists(st.integers(0, 11), min_size=1, max_size=8),
    room=st.integers(1, 9),
    gone=st.integers(0, 7),
)
def test_missing_runs_are_exactly_the_steps_that_no_block_holds(
    lengths: list[int], written: list[int], room: int, gone: int
) -> None:
    pairs = zip(lengths, written, strict=False)  # later segments are new
    before = {ordinal: min(a, b) for ordinal, (a, b) in enumerate(pairs)}
    runs = [Run(ordinal, 0, length) for ordinal, length in before.items() if length]
    old = [
        Block(str(number), STEP, "", tuple(part)) for number, part in enumerate(divided(runs, room))
    ]
    now = {ordinal: length for ordinal, length in enumerate(lengths) if ordinal >= gone}
    kept = kept_blocks(old, now)
    wanted = {(ordinal, step) for ordinal, length in now.items() for step in range(length)}
    held = [
        (run.ordinal, step)
        for block in kept
        for run in block.runs
        for step in range(run.begin, run.end)
        if run.ordinal in now
    ]
    parts = list(divided(missing_runs(kept, now), room))
    new = [(r.ordinal, step) for part in parts for r in part for step in range(r.begin, r.end)]
    assert len(held) == len(set(held)) and len(new) == len(set(new))
    assert set(held) | set(new) == wanted and not set(held) & set(new)
    assert new == sorted(new)
    assert all(sum(run.agent_steps for run in part) <= room for part in parts)
    for block in kept:
        assert 2 * block.live_agent_steps(now) >= block.agent_steps


def test_blocks_of_the_same_steps_are_one_file(tmp_path: Path) -> None:
    steps = {name: array for name, array in chunk("a", 0, 0, 6).steps.items()}
    one = write_block(tmp_path, SCHEMA, [Run(0, 0, 6)], steps)
    two = write_block(tmp_path, SCHEMA, [Run(1, 0, 4), Run(2, 2, 4)], steps)
    assert one.name == two.name and os.listdir(tmp_path) == [one.name]
    reader = BlockReader(tmp_path, SCHEMA, [one, two])
    np.testing.assert_array_equal(reader.read(2, 2, 4)["reward"], [4, 5])
    np.testing.assert_array_equal(reader.read(0, 1, 3)["reward"], [1, 2])


@pytest.mark.parametrize("seed", range(8))
def test_whatever_was_inserted_around_a_save_its_snapshot_is_the_moment_of_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("replay.cut.SLICE_BYTES", 3 * STEP)
    dice = np.random.default_rng(seed)
    shard = new_shard(capacity=120)
    lengths = dict.fromkeys("abc", (0, 0))  # actor -> episode, next step

    def act(chunks: int) -> None:
        for _ in range(chunks):
            actor = str(dice.choice(list("abc")))
            number, start = lengths[actor]
            start += 2 * int(dice.random() < 0.05 and start > 0)  # a lost chunk
            size, last = int(dice.integers(1, 9)), bool(dice.random() < 0.2)
            shard.insert(chunk(actor, number, start, size, last=last))
            lengths[actor] = (number + 1, 0) if last else (number, start + size)

    for _ in range(12):
        act(int(dice.integers(0, 30)))
        moment = [(s.actor, s.episode, s.start, s.length, s.finished) for s in shard.table]
        rewards = [shard.table.read(s.ordinal, 0, s.length)["reward"] for s in shard.table]
        cut = shard.cut(tmp_path / "snap")
        act(int(dice.integers(0, 4)))
        cut.begin()
        act(int(dice.integers(0, 4)))
        for block in cut:
            for _ in block:
                act(int(dice.integers(0, 4)))
            block.write()
        cut.commit()
        cut.close()
        shard.saved(cut.written)
        held = sum(length for _, _, _, length, _ in moment)
        assert held <= steps_on_disk(tmp_path / "snap") <= 2 * held
        other = new_shard(capacity=1000)
        other.load(tmp_path / "snap")
        found = [(s.actor, s.episode, s.start, s.length, s.finished) for s in other.table]
        assert found == moment
        for segment, reward in zip(other.table, rewards, strict=True):
            steps = other.table.read(segment.ordinal, 0, segment.length)
            np.testing.assert_array_equal(steps["reward"], reward)
            assert (steps["observation"][:, 0, 0, 0] == reward % 251).all()
        if dice.random() < 0.3:  # goes back
            shard.load(tmp_path / "snap")
            for segment in shard.table:
                number, _ = lengths.get(segment.actor, (0, 0))
                lengths[segment.actor] = max(lengths[segment.actor], (number + 1, 0))
