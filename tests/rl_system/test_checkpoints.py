from __future__ import annotations

import json
from pathlib import Path

import pytest

from replay.snapshot import SnapshotWriter
from rl_system.checkpoints import MANIFEST, Checkpoints, read_manifest
from rl_system.errors import CheckpointError


def write(path: Path) -> None:
    (path / "learner").mkdir()
    (path / "learner" / "state.pkl").write_bytes(b"weights")
    (path / "replay.json").write_bytes(b"{}")
    with SnapshotWriter(path / "replay") as snapshot:
        part = snapshot.part("frames")
        part.write(b"frames")
        snapshot.commit({"shards": 1})


def test_the_newest_complete_checkpoint_comes_back_with_its_content(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "checkpoints")
    store.save(write, {"updates": 1})
    path = store.save(write, {"updates": 2})
    newest = store.newest()
    assert newest.path == path
    assert newest.number == 2
    assert newest.content == {"updates": 2}
    assert (newest.path / "learner" / "state.pkl").read_bytes() == b"weights"


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=2)
    for _ in range(4):
        store.save(write, {})
    assert [path.name for path in store.list()] == ["000003", "000004"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000003", "000004"]


def test_a_save_that_fails_leaves_the_earlier_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(write, {"updates": 1})

    def fail(path: Path) -> None:
        (path / "half").write_bytes(b"x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.save(fail, {})
    assert [path.name for path in tmp_path.iterdir()] == ["000001"]
    assert store.newest().content == {"updates": 1}


def test_what_a_killed_process_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save(write, {"updates": 1})
    (tmp_path / "000002").mkdir()
    (tmp_path / "000002" / "half").write_bytes(b"x")
    assert store.newest().number == 1
    assert store.save(write, {}).name == "000002"
    assert not (tmp_path / "000002" / "half").exists()


@pytest.mark.parametrize("name", ["learner/state.pkl", "replay.json", "replay/manifest.json"])
@pytest.mark.parametrize("damage", ["bytes", "length", "missing"])
def test_damage_anywhere_is_named_with_an_earlier_checkpoint_to_use(
    tmp_path: Path, name: str, damage: str
) -> None:
    store = Checkpoints(tmp_path)
    store.save(write, {})
    path = store.save(write, {}) / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content + b"x" if damage == "length" else b"X" + content[1:])
    with pytest.raises(CheckpointError) as error:
        store.newest()
    assert Path(name).name in str(error.value)
    assert "Nothing was loaded" in str(error.value)
    assert "--checkpoint 000001" in str(error.value)
    assert store.read(tmp_path / "000001").number == 1


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(write, {})
    (path / MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        read_manifest(path)


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(write, {})
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        read_manifest(path)


def test_a_run_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        Checkpoints(tmp_path / "checkpoints").newest()


def test_replay_parts_are_hashed_once_by_replay_alone(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path).save(write, {})
    parts = json.loads((path / MANIFEST).read_text())["parts"]
    assert sorted(parts) == ["learner/state.pkl", "replay.json", "replay/manifest.json"]
