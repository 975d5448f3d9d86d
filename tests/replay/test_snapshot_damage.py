from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from replay import ReplayError, SnapshotError, blocks
from replay.progress import Progress
from replay.restore import TableRestore
from replay.samplers import Window
from replay.shard import Request
from replay.snapshot import read_manifest
from tests.replay.episodes import SCHEMA, chunk, episode
from tests.replay.saved import assert_equal_batches, filled, new_shard

STEP = SCHEMA.bytes_per_step
DAMAGES = ["flip", "truncate", "remove", "lengthen"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 20 * STEP)


def harm(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
        return
    if damage == "flip":
        data[len(data) // 2] ^= 0x80
    path.write_bytes(data[:-7] if damage == "truncate" else data + b"x" * (damage == "lengthen"))


def block_file(folder: Path, number: int) -> Path:
    return folder / read_manifest(folder).content["blocks"][number][0]


@pytest.mark.parametrize("which", ["block", "manifest.json", "prioritised-5-1.npy"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_names_the_file_and_leaves_the_shard_untouched(
    tmp_path: Path, which: str, damage: str
) -> None:
    filled(sampler="prioritised").save(tmp_path / "snap")
    path = block_file(tmp_path / "snap", 1) if which == "block" else tmp_path / "snap" / which
    harm(path, damage)
    shard, twin = filled(), filled()
    with pytest.raises(SnapshotError, match=path.name):
        shard.load(tmp_path / "snap")
    assert shard.stats() == twin.stats()
    assert_equal_batches(shard, twin)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_steps_can_be_left_out_with_a_count_and_no_window_crosses_the_hole(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    shard = new_shard(capacity=1000)
    for part in episode("long", 0, 55):  # blocks of 20, 20 and 20 steps
        shard.insert(part)
    shard.insert(chunk("open", 0, 0, 5))
    shard.save(tmp_path / "snap")
    path = block_file(tmp_path / "snap", 1)
    harm(path, damage)
    other = new_shard(capacity=1000)
    with caplog.at_level(logging.WARNING):
        other.load(tmp_path / "snap", damaged="skip")
    assert [(s.actor, s.start, s.length, s.finished) for s in other.table] == [
        ("long", 0, 20, True),
        ("long", 40, 15, True),
        ("open", 0, 5, False),
    ]
    stats = other.stats()
    assert stats["skipped_agent_steps"] == 20 and stats["agent_steps"] == 40
    assert stats["inserted_agent_steps"] == 60
    assert path.name in caplog.text and "Left out: 20 of 60 agent steps" in caplog.text
    for _ in range(30):
        batch = other.sample(Request(Window(5), 8))
        assert batch is not None
        assert (np.diff(batch["reward"], axis=0) == 1).all()
    assert other.insert(chunk("long", 0, 16, 4)).agent_steps == 0  # lost, but received once
    assert other.insert(chunk("open", 0, 5, 3)).agent_steps == 3
    assert next(reversed(list(other.table))).length == 8
    other.save(tmp_path / "mended")
    again = new_shard(capacity=1000)
    again.load(tmp_path / "mended")
    assert again.stats()["skipped_agent_steps"] == 20
    assert_equal_batches(other, again)


def test_an_open_episode_that_lost_its_end_goes_on_as_another(tmp_path: Path) -> None:
    shard = new_shard(capacity=1000)
    shard.insert(chunk("open", 0, 0, 25))
    shard.save(tmp_path / "snap")
    harm(block_file(tmp_path / "snap", 1), "flip")
    other = new_shard(capacity=1000)
    other.load(tmp_path / "snap", damaged="skip")
    assert other.insert(chunk("open", 0, 25, 8, last=True)).agent_steps == 8
    assert [(s.start, s.length) for s in other.table] == [(0, 20), (25, 8)]


def test_priorities_of_whole_episodes_survive_and_those_of_a_lost_file_begin_anew(
    tmp_path: Path,
) -> None:
    shard = new_shard(capacity=1000, sampler="prioritised")
    for number in range(3):
        for part in episode("e", number, 20):
            shard.insert(part)
    window = Window(5)
    assert shard.sample(Request(window, 4)) is not None
    segments = [segment.ordinal for segment in shard.table]
    starts = np.arange(16)
    for ordinal in segments:
        shard.update_priorities(window, np.full(16, ordinal), starts, np.full(16, ordinal + 0.5))
    shard.save(tmp_path / "snap")

    def weights(folder: str, lost: Path) -> list[float]:
        whole = lost.read_bytes()
        harm(lost, "flip")
        other = new_shard(capacity=1000, sampler="prioritised")
        other.load(tmp_path / folder, damaged="skip")
        lost.write_bytes(whole)
        draw = other.redraw(Request(window, 4000))
        assert draw.probabilities is not None
        return [
            float(np.median(draw.probabilities[draw.ordinals == segment.ordinal]))
            for segment in other.table
        ]

    second, third = weights("snap", block_file(tmp_path / "snap", 0))
    assert third / second == pytest.approx((2.5 / 1.5) ** 0.6)
    equal = weights("snap", tmp_path / "snap" / "prioritised-5-1.npy")
    assert equal == pytest.approx([equal[0]] * 3)


def test_a_manifest_is_never_skipped(tmp_path: Path) -> None:
    filled().save(tmp_path / "snap")
    harm(tmp_path / "snap" / "manifest.json", "truncate")
    shard, twin = filled(), filled()
    with pytest.raises(SnapshotError, match=r"manifest\.json is damaged"):
        shard.load(tmp_path / "snap", damaged="skip")
    assert shard.stats() == twin.stats()


def test_all_steps_lost_leaves_an_empty_shard_that_remembers_what_it_received(
    tmp_path: Path,
) -> None:
    shard = filled()
    shard.save(tmp_path / "snap")
    for file in (tmp_path / "snap").glob("*.steps"):
        harm(file, "flip")
    other = new_shard()
    other.load(tmp_path / "snap", damaged="skip")
    assert other.table.agent_steps == 0
    assert other.stats()["skipped_agent_steps"] == shard.table.agent_steps
    assert other.insert(chunk("a", 3, 0, 8)).agent_steps == 0
    assert other.insert(chunk("a", 30, 0, 8)).agent_steps == 8


def test_a_word_for_damaged_files_that_is_unknown_is_refused(tmp_path: Path) -> None:
    filled().save(tmp_path / "snap")
    with pytest.raises(ReplayError, match="'refuse' or 'skip', got 'ignore'"):
        new_shard().load(tmp_path / "snap", damaged="ignore")  # type: ignore[arg-type]


def test_a_disk_that_fails_after_the_check_leaves_an_empty_shard(tmp_path: Path) -> None:
    filled().save(tmp_path / "snap")
    shard = filled()
    restore = TableRestore(tmp_path / "snap", SCHEMA)
    harm(block_file(tmp_path / "snap", 2), "truncate")
    with pytest.raises(SnapshotError, match="The shard is empty now"):
        shard.apply(restore)
    assert shard.table.agent_steps == 0 and not list(shard.table)
    assert shard.insert(chunk("new", 0, 0, 8)).agent_steps == 8
    shard.save(tmp_path / "snap")
    new_shard().load(tmp_path / "snap")


def test_progress_is_told_up_to_the_last_byte_and_logged_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    filled().save(tmp_path / "snap")
    monkeypatch.setattr("replay.progress.QUIET_S", 0.0)
    told: list[tuple[str, int, int]] = []
    with caplog.at_level(logging.INFO):
        progress = Progress("Shard 7", lambda *news: told.append(news))
        shard = new_shard()
        shard.apply(TableRestore(tmp_path / "snap", SCHEMA, progress=progress))
    for task in ("checking", "loading"):
        done = [entry[1:] for entry in told if entry[0] == task]
        assert done[0][0] == 0 and done[-1][0] == done[-1][1] > 0
        assert done == sorted(done)
    assert "Shard 7: loading 0.00 of 0.00 GiB." in caplog.text
    monkeypatch.setattr("replay.progress.QUIET_S", 100.0)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        new_shard().load(tmp_path / "snap")
    assert not caplog.text
