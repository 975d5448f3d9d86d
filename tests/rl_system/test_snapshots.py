"""Which snapshots stay, which go, and how a checkpoint finds its own again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fsspec import AbstractFileSystem
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from replay.snapshot import SnapshotWriter
from rl_system.errors import CheckpointError
from rl_system.snapshots import REFERENCE, Reference, Snapshots, manifest_hash, snapshot_bytes


def write(path: Path, content: bytes = b"steps") -> Path:
    with SnapshotWriter(path) as snapshot:
        (snapshot.staging / "shard-0").mkdir()
        with SnapshotWriter(snapshot.staging / "shard-0") as shard:
            shard.part("block").write(content)
            shard.commit({})
        snapshot.adopt("shard-0/manifest.json")
        snapshot.commit({"shards": 1})
    return path


class UnreachableFileSystem(AbstractFileSystem):
    """A storage behind a network that is down."""

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        raise OSError("the network is down")


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path / "run" / "replay")


def save(
    snapshots: Snapshots, checkpoint: Path, content: bytes = b"steps", moved: Path | None = None
) -> Path:
    """As the data plane does; returns the snapshot."""
    snapshot = write(snapshots.begin(), content)
    snapshots.newest = snapshot
    checkpoint.mkdir(parents=True)
    Reference("core-1", str(snapshot), manifest_hash(snapshot), snapshot_bytes(snapshot)).write(
        checkpoint
    )
    snapshots.note(snapshot, checkpoint, None if moved is None else str(moved))
    snapshots.prune()
    return snapshot


def test_a_checkpoint_finds_its_snapshot(snapshots: Snapshots, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "000001"
    snapshot = save(snapshots, checkpoint)
    reference = Reference.read(checkpoint)
    assert reference.locate(checkpoint) == snapshot
    assert reference.bytes > len(b"steps")


def test_a_run_directory_that_was_moved_finds_its_snapshots(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    save(snapshots, tmp_path / "run" / "checkpoints" / "000001")
    (tmp_path / "run").rename(tmp_path / "moved")
    checkpoint = tmp_path / "moved" / "checkpoints" / "000001"
    found = Reference.read(checkpoint).locate(checkpoint)
    assert found == tmp_path / "moved" / "replay" / "000001"


def test_a_snapshot_that_is_gone_or_another_is_an_error_that_says_what_to_do(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "000001"
    snapshot = save(snapshots, checkpoint)
    shutil.rmtree(snapshot)
    for words in (r"is gone", r"replay\.checkpoint=none", r"replay\.checkpoint=copy"):
        with pytest.raises(CheckpointError, match=words):
            Reference.read(checkpoint).locate(checkpoint)
    write(snapshot, b"other steps")
    with pytest.raises(CheckpointError, match="holds another snapshot by now"):
        Reference.read(checkpoint).locate(checkpoint)


def test_a_checkpoint_that_says_nothing_of_replay_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no replay\.json"):
        Reference.read(tmp_path)
    (tmp_path / REFERENCE).write_text('{"path": ')
    with pytest.raises(CheckpointError, match="is damaged"):
        Reference.read(tmp_path)


def test_a_snapshot_goes_with_the_last_checkpoint_that_names_it(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    for number in (1, 2, 3):
        save(snapshots, checkpoints / f"00000{number}", str(number).encode())
    shutil.rmtree(checkpoints / "000001")
    snapshots.prune()
    names = sorted(path.name for path in snapshots.folder.iterdir() if path.is_dir())
    assert names == ["000002", "000003"]


def test_the_snapshot_that_crashed_shards_go_back_to_stays(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    newest = save(snapshots, checkpoints / "000001")
    shutil.rmtree(checkpoints)
    snapshots.prune()
    assert newest.is_dir()
    snapshots.newest = None
    snapshots.prune()
    assert not newest.exists()


def test_checkpoints_written_anywhere_keep_their_snapshots(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    first = save(snapshots, tmp_path / "mine" / "a")
    second = save(snapshots, tmp_path / "mine" / "b")
    assert first.is_dir() and second.is_dir()


def test_checkpoints_that_are_moved_keep_their_snapshots_until_they_are_gone_from_there(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    snapshots.filesystem = LocalFileSystem()
    moved = [tmp_path / "storage" / f"checkpoint_{number}" for number in range(3)]
    saved = []
    for number, place in enumerate(moved):
        written = tmp_path / f"written-{number}"
        saved.append(save(snapshots, written, str(number).encode(), place))
        shutil.copytree(written, place)
        shutil.rmtree(written)
    assert [Reference.read(place).locate(place) for place in moved] == saved
    shutil.rmtree(moved[1])
    snapshots.prune()
    assert [path.is_dir() for path in saved] == [True, False, True]


def test_checkpoints_that_cannot_be_seen_keep_their_snapshots(
    snapshots: Snapshots, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = tmp_path / "written"
    snapshot = save(snapshots, written, moved=Path("bucket/search/trial_1/checkpoint_000000"))
    shutil.rmtree(written)
    later = Snapshots(snapshots.folder)  # of a life that has saved nothing yet
    later.prune()
    assert snapshot.is_dir()
    later.filesystem = PyFileSystem(FSSpecHandler(UnreachableFileSystem()))
    later.prune()
    assert snapshot.is_dir()
    assert "the network is down" in caplog.text


def test_notes_of_the_first_version_are_read(snapshots: Snapshots, tmp_path: Path) -> None:
    saved = [save(snapshots, tmp_path / "mine" / name) for name in "ab"]
    notes = {"000001": str(tmp_path / "mine" / "a")}
    (snapshots.folder / "checkpoints.json").write_text(json.dumps(notes))
    snapshots.prune()
    assert all(path.is_dir() for path in saved)


def test_a_restore_is_unfinished_from_its_begin_to_its_end_in_every_life(
    snapshots: Snapshots,
) -> None:
    assert not snapshots.restore_unfinished
    snapshots.end_restore()
    snapshots.begin_restore()
    assert Snapshots(snapshots.folder).restore_unfinished
    snapshots.end_restore()
    assert not Snapshots(snapshots.folder).restore_unfinished


def test_a_foreign_snapshot_lives_on_when_its_owner_goes(
    snapshots: Snapshots, tmp_path: Path
) -> None:
    donor = write(tmp_path / "donor" / "replay" / "000007")
    before = (donor / "shard-0" / "block").stat()
    own = snapshots.take(donor)
    assert own.parent == snapshots.folder
    assert (own / "shard-0" / "block").stat().st_ino == before.st_ino  # a link, no copy
    shutil.rmtree(donor)
    assert (own / "shard-0" / "block").read_bytes() == b"steps"
    assert snapshots.take(own) == own
