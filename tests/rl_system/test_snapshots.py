"""Which snapshots stay, which go, and how a checkpoint finds its own again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path / "run" / "replay")


def save(snapshots: Snapshots, checkpoint: Path, content: bytes = b"steps") -> Path:
    """As the data plane does; returns the snapshot."""
    snapshot = write(snapshots.begin(), content)
    snapshots.newest = snapshot
    checkpoint.mkdir(parents=True)
    Reference("core-1", str(snapshot), manifest_hash(snapshot), snapshot_bytes(snapshot)).write(
        checkpoint
    )
    snapshots.note(snapshot, checkpoint)
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
