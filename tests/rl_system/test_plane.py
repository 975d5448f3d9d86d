"""The data plane without actors and learner: where it lives, what it saves, and its next life."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
from ray.train._internal.storage import StorageContext
from ray.tune import Checkpoint

from replay import Chunk, ChunkKey, following
from replay.errors import ReplayTimeout, SnapshotError
from replay.resharding import Source
from rl_system import hub
from rl_system.config import settings_from_dict
from rl_system.errors import CheckpointError, RunError
from rl_system.plane import DataPlane, living_shards, next_checkpoint, place_of
from rl_system.resources import settled
from rl_system.snapshots import Reference
from tests.rl_system.tiny_run import TINY

Start = Callable[..., DataPlane]
EPISODE = 50  # agent steps


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, object_store_memory=100 * 2**20, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture
def start(cluster: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts the data plane of one run, again and again, and stops it after the test."""
    planes: list[DataPlane] = []

    def make(lasting: bool = True, name: str = request.node.name, **replay: Any) -> DataPlane:
        sections = TINY | {"replay": TINY["replay"] | {"cpus_per_shard": 0.1, "shards": 1} | replay}
        folder = tmp_path / name / "replay"
        planes.append(DataPlane.start(settings_from_dict(sections), name, folder, lasting))
        return planes[-1]

    yield make
    for plane in planes:
        plane.stop()


def insert(plane: DataPlane, episodes: int = 4) -> None:
    writer = plane.replay.writer("actor-1")
    generator = np.random.default_rng(0)
    for episode in range(episodes):
        steps = plane.replay.schema.empty(EPISODE)
        for array in steps.values():
            array[...] = 0
        steps["observation"][...] = generator.integers(0, 255, steps["observation"].shape)
        steps["is_first"][0] = steps["is_last"][-1] = True
        for begin in range(0, EPISODE, 25):
            part = {name: array[begin : begin + 25] for name, array in steps.items()}
            writer.write(Chunk(ChunkKey("actor-1", episode, begin), part))
    writer.flush()
    writer.close()


def stored(plane: DataPlane) -> int:
    return int(plane.replay.stats()["agent_steps"])


def checkpoint_of(plane: DataPlane, path: Path, storage: StorageContext | None = None) -> Path:
    path.mkdir(parents=True)
    plane.save(path, storage)
    return path


def restore(plane: DataPlane, checkpoint: Path) -> str:
    told: list[str] = []
    plane.restore(*plane.find(checkpoint), told.append)
    return "\n".join(told)


def test_a_checkpoint_names_its_snapshot_and_the_next_life_loads_it(
    start: Start, tmp_path: Path
) -> None:
    plane = start(shards=2)
    insert(plane)
    checkpoint = checkpoint_of(plane, tmp_path / "checkpoint")
    assert [path.name for path in checkpoint.iterdir()] == ["replay.json"]
    assert Reference.read(checkpoint).agent_steps == 4 * EPISODE
    plane.stop()
    assert living_shards(plane.prefix) == []
    again = start(shards=3)  # another number of shards
    assert not again.adopted and stored(again) == 0
    assert "200 agent steps were loaded" in restore(again, checkpoint)
    assert stored(again) == 4 * EPISODE


def test_a_run_may_compress_what_it_stores_or_not_from_one_life_to_the_next(
    start: Start, tmp_path: Path
) -> None:
    plane = start(compression="zstd")
    insert(plane)
    checkpoint = checkpoint_of(plane, tmp_path / "checkpoint")
    plane.stop()
    restore(again := start(), checkpoint)
    assert stored(again) == 4 * EPISODE


def test_a_copy_lies_in_the_checkpoint_and_moves_with_it(start: Start, tmp_path: Path) -> None:
    plane = start(checkpoint="copy")
    insert(plane)
    checkpoint = checkpoint_of(plane, tmp_path / "checkpoint")
    plane.stop()
    shutil.rmtree(plane.snapshots.folder)
    checkpoint.rename(tmp_path / "moved")
    again = start(checkpoint="copy")
    restore(again, tmp_path / "moved")
    assert stored(again) == 4 * EPISODE


def test_without_a_folder_that_lasts_a_checkpoint_holds_its_snapshot(
    start: Start, tmp_path: Path
) -> None:
    plane = start(lasting=False)
    insert(plane)
    checkpoint = checkpoint_of(plane, tmp_path / "checkpoint")
    assert (checkpoint / "replay" / "manifest.json").is_file()


def test_with_checkpoint_none_a_run_begins_with_empty_replay_and_says_so(
    start: Start, tmp_path: Path
) -> None:
    plane = start(checkpoint="none")
    insert(plane)
    checkpoint = checkpoint_of(plane, tmp_path / "checkpoint")
    assert not plane.snapshots.folder.joinpath("000001").exists()
    plane.stop()
    again = start(checkpoint="none")
    assert "nothing was restored, training goes on with 0 agent steps" in restore(again, checkpoint)


def test_a_snapshot_that_is_gone_can_be_gone_on_without(start: Start, tmp_path: Path) -> None:
    plane = start()
    insert(plane)
    checkpoint = checkpoint_of(plane, tmp_path / "checkpoint")
    plane.stop()
    shutil.rmtree(plane.snapshots.folder)
    again = start()
    with pytest.raises(CheckpointError, match=r"replay\.checkpoint=none"):
        again.find(checkpoint)
    again.stop()
    assert "nothing was restored" in restore(start(checkpoint="none"), checkpoint)


def test_damaged_files_are_refused_or_skipped_by_choice(start: Start, tmp_path: Path) -> None:
    plane = start(shards=2)
    insert(plane)
    checkpoint = checkpoint_of(plane, tmp_path / "checkpoint")
    block = next((plane.snapshots.folder / "000001" / "shard-0").glob("*.steps"))
    block.write_bytes(b"x" + block.read_bytes()[1:])
    plane.stop()
    refusing = start(shards=2)
    with pytest.raises(SnapshotError, match=block.name):
        restore(refusing, checkpoint)
    assert stored(refusing) == 0
    refusing.stop()
    skipping = start(shards=2, damaged="skip")
    told = restore(skipping, checkpoint)
    assert 0 < stored(skipping) < 4 * EPISODE
    assert f"{4 * EPISODE - stored(skipping)} agent steps lay in damaged files" in told


def test_shards_that_were_left_alive_are_taken_over_with_what_they_hold(
    start: Start, tmp_path: Path
) -> None:
    plane = start(shards=2)
    insert(plane, 2)
    checkpoint = checkpoint_of(plane, tmp_path / "checkpoint")
    insert(plane, 2)
    plane.leave()
    again = start(shards=2, timeout_s=61.0)  # a deadline may change
    assert again.adopted and stored(again) == 4 * EPISODE
    told = restore(again, checkpoint)
    assert "2 shards were still alive" in told
    assert "200 agent steps, 100 of them newer than the checkpoint" in told
    assert again.replay.stats()["limiter_error_agent_steps"] == 0.0
    assert "100 agent steps were loaded" in restore(again, checkpoint)  # the second time it is


def test_shards_of_a_life_that_ended_before_it_had_loaded_are_given_the_snapshot(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plane = start()
    insert(plane)
    checkpoint = checkpoint_of(plane, tmp_path / "checkpoint")
    plane.stop()
    start().leave()  # its shards live on, empty
    again = start()
    assert again.adopted and stored(again) == 0
    assert "200 agent steps were loaded" in restore(again, checkpoint)
    assert "only 0 of the 200 agent steps" in caplog.text
    assert stored(again) == 4 * EPISODE


def load_one_shard(plane: DataPlane, snapshot: Path) -> None:
    """As far as a life comes that is killed between the loads of two shards."""
    plane.snapshots.begin_restore()
    source = Source((str(snapshot / "shard-0"),))
    ray.get(plane.replay.shards[0].load.remote(source, "refuse"), timeout=60)


@pytest.mark.parametrize("inserted", [0, 20], ids=["empty", "with as many steps"])
def test_shards_of_a_life_that_ended_while_it_loaded_are_not_taken_for_whole(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, inserted: int
) -> None:
    plane = start(shards=2)
    insert(plane)
    checkpoint = checkpoint_of(plane, tmp_path / "checkpoint")
    plane.stop()
    plane = start(shards=2)
    with plane.replay.preload():
        insert(plane, inserted)
    load_one_shard(plane, plane.snapshots.folder / "000001")
    as_many = plane.replay.stats()["inserted_agent_steps"] >= 4 * EPISODE
    assert as_many == (inserted > 0)  # the count alone would take them for whole
    plane.leave()
    again = start(shards=2)
    assert "died, or failed, as it restored them" in caplog.text
    assert not again.adopted and not again.snapshots.restore_unfinished
    assert "200 agent steps were loaded" in restore(again, checkpoint)
    assert stored(again) == 4 * EPISODE
    again.leave()
    assert start(shards=2).adopted  # these are whole


def test_shards_that_a_restore_failed_on_are_the_runs_again_once_they_are_saved(
    start: Start, tmp_path: Path
) -> None:
    plane = start()
    insert(plane)
    plane.snapshots.begin_restore()
    checkpoint_of(plane, tmp_path / "checkpoint")
    plane.leave()
    assert start().adopted


def test_a_snapshot_that_shards_may_be_loading_still_is_left_to_them_until_they_are_stopped(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    donor = start(shards=2, name="donor-of-slow-shards")
    insert(donor)
    checkpoint = checkpoint_of(donor, tmp_path / "checkpoint")
    donor.stop()
    plane = start(shards=2)
    pid = ray.get(plane.replay.shards[1].pid.remote(), timeout=60)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ReplayTimeout, match="shard-1"), monkeypatch.context() as impatient:
            settings = replace(plane.replay.settings, timeout_s=1.0)
            impatient.setattr(plane.replay, "settings", settings)
            impatient.setattr(following, "ASK_TIMEOUT_S", 0.1)  # it does not answer in any time
            restore(plane, checkpoint)
    finally:
        os.kill(pid, signal.SIGCONT)
    own = plane.snapshots.folder / "000001"
    assert (own / "manifest.json").is_file() and plane.snapshots.restore_unfinished
    assert "200 agent steps were loaded" in restore(plane, checkpoint)
    plane.stop()
    assert not own.exists()


def test_shards_that_do_not_fit_or_are_not_wanted_are_ended(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    plane = start()
    insert(plane)
    plane.leave()
    other = start(capacity_agent_steps=8000)
    assert not other.adopted and stored(other) == 0
    assert "replay.capacity_agent_steps differs" in caplog.text
    other.leave()
    assert not start(capacity_agent_steps=8000, detached=False).adopted


def test_another_runs_checkpoint_is_loaded_although_shards_were_alive(
    start: Start, tmp_path: Path
) -> None:
    donor = start(name="donor-of-replay")
    insert(donor, 1)
    checkpoint = checkpoint_of(donor, tmp_path / "checkpoint")
    plane = start()
    insert(plane, 3)
    plane.leave()
    again = start()
    assert again.adopted
    assert "50 agent steps were loaded" in restore(again, checkpoint)
    assert stored(again) == EPISODE


def test_the_number_of_shards_is_as_asked_or_that_of_living_ones_or_of_the_nodes(
    cluster: None,
) -> None:
    def shards(living: int, **replay: Any) -> int:
        sections = TINY | {"replay": TINY["replay"] | replay}
        return settled(settings_from_dict(sections), 3, living).replay.shards

    assert shards(3, shards=2) == 2
    assert shards(3, shards=0) == 3
    assert shards(0, shards=0) == 1  # one node
    assert shards(0, shards=0, shards_per_node=2) == 2


def test_two_processes_never_conduct_one_run(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    plane = start()
    insert(plane)
    monkeypatch.setattr(hub, "CLAIM_TIMEOUT_S", 0.5)
    with pytest.raises(RunError, match="conducts the run"):
        start()
    assert stored(plane) == 4 * EPISODE


def trial(path: str, filesystem: str = "local") -> Any:
    """What `place_of` reads of Tune's `StorageContext`."""
    return SimpleNamespace(
        trial_fs_path=path,
        storage_filesystem=SimpleNamespace(type_name=filesystem),
        experiment_dir_name="search",
        trial_dir_name=Path(path).name,
    )


def test_a_run_with_a_name_and_a_folder_lasts() -> None:
    place = place_of(None, "core-1", "/runs/a/replay", "/scratch/life")
    assert place == ("core-1", Path("/runs/a/replay"), True)


def test_a_run_without_either_has_another_name_each_time_and_a_folder_of_this_life() -> None:
    name, folder, lasting = place_of(None, None, None, "/scratch/life")
    assert (folder, lasting) == (Path("/scratch/life/replay"), False)
    assert place_of(None, None, None, "/scratch/life")[0] != name
    assert place_of(None, "core-1", None, "/scratch/life") == ("core-1", folder, False)


def test_a_trial_keeps_its_name_and_uses_its_own_folder_of_the_storage() -> None:
    name, folder, lasting = place_of(trial("/results/search/trial_1"), None, None, "/scratch/life")
    assert (folder, lasting) == (Path("/results/search/trial_1/replay"), True)
    assert place_of(trial("/results/search/trial_1"), None, None, "/scratch/b")[0] == name
    assert place_of(trial("/results/search/trial_2"), None, None, "/scratch/b")[0] != name


def test_a_trial_whose_storage_is_no_folder_needs_one_to_last() -> None:
    remote = trial("bucket/search/trial_1", "s3")
    assert place_of(remote, None, None, "/scratch/life")[1:] == (
        Path("/scratch/life/replay"),
        False,
    )
    _, folder, lasting = place_of(remote, None, "/shared", "/scratch/life")
    assert (folder, lasting) == (Path("/shared/search/trial_1/replay"), True)


def test_the_place_of_a_trials_next_checkpoint_is_the_one_that_tune_moves_it_to(
    tmp_path: Path,
) -> None:
    storage = StorageContext(str(tmp_path / "results"), "search", trial_dir_name="trial_1")
    for number in range(2):
        written = tmp_path / f"written-{number}"
        written.mkdir()
        (written / "replay.json").touch()
        place = next_checkpoint(storage)
        storage._update_checkpoint_index({})  # as Tune does after a checkpoint was written
        moved = storage.persist_current_checkpoint(Checkpoint(written))
        assert place == moved.path
        assert (Path(moved.path) / "replay.json").is_file()
    assert next_checkpoint(None) is None


def test_a_trial_whose_checkpoints_hold_copies_keeps_one_snapshot_beside_them(
    start: Start, tmp_path: Path
) -> None:
    storage = StorageContext(str(tmp_path / "results"), "search", trial_dir_name="trial_1")
    plane = start(checkpoint="copy")
    for number in range(2):
        insert(plane, 1)
        checkpoint_of(plane, tmp_path / f"written-{number}", storage)
    assert [path.name for path in plane.snapshots.folder.glob("0*")] == ["000002"]


def test_a_trial_with_a_folder_of_its_own_keeps_the_snapshots_of_all_checkpoints_that_tune_keeps(
    start: Start, tmp_path: Path
) -> None:
    storage = StorageContext(str(tmp_path / "results"), "search", trial_dir_name="trial_1")
    plane = start()
    for number in range(3):
        insert(plane, 1)
        written = checkpoint_of(plane, tmp_path / f"written-{number}", storage)
        storage._update_checkpoint_index({})
        storage.persist_current_checkpoint(Checkpoint(written))
        shutil.rmtree(written)
    checkpoints = sorted((tmp_path / "results" / "search" / "trial_1").glob("checkpoint_*"))
    assert len(checkpoints) == 3
    shutil.rmtree(checkpoints[1])
    plane.stop()
    for checkpoint in (checkpoints[0], checkpoints[2]):
        assert Reference.read(checkpoint).locate(checkpoint) is not None
    assert not (plane.snapshots.folder / "000002").exists()
