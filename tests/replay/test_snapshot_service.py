from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from replay import ReplayError, ReplayTimeout, SnapshotError, Workload, following
from replay.service import ReplayService
from replay.snapshot import SnapshotWriter, read_manifest
from replay.writer import ReplayWriter
from tests.replay.conftest import Make
from tests.replay.episodes import assert_windows_are_whole, chunk, episode

LOAD = Workload(1000.0, batch_length=6, batch_size=12, chunk_length=8)
SUMS = (
    "agent_steps",
    "episodes",
    "inserted_agent_steps",
    "sampled_agent_steps",
    "removed_agent_steps",
    "finished_episodes",
    "skipped_agent_steps",
)


def write(writer: ReplayWriter, *numbers: int, length: int = 20) -> None:
    for number in numbers:
        for part in episode("a", number, length):
            writer.write(part)
    writer.flush()


def harm(part: Path) -> Path:
    """Flips a bit in the first file of steps that a shard has saved."""
    path = part / str(read_manifest(part).content["blocks"][0][0])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path


def kill(service: ReplayService, index: int) -> None:
    os.kill(ray.get(service.shards[index].pid.remote()), signal.SIGKILL)


def wait_for_restart(service: ReplayService, index: int) -> dict[str, float]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            stats = service.shard_stats()[index]
        except ReplayError:
            continue
        if stats["restarts"]:
            return stats
    pytest.fail("the shard was not started again")


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(
    make: Make, tmp_path: Path
) -> None:
    service = make()
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "replay", Path("/proc/none/replay")):
        with pytest.raises(SnapshotError, match=r"(?s)No snapshot can be .*run\.directory") as told:
            service.save(folder)
        assert str(folder) in str(told.value)
    service.save(tmp_path / "replay")


def test_a_saved_service_comes_back_with_counts_and_draws_the_same_batches(
    make: Make, tmp_path: Path
) -> None:
    service, other = make(workload=LOAD, seed=1), make(workload=LOAD, seed=2)
    write(service.writer("a"), 0, 1)
    service.save(tmp_path / "replay")
    other.load(tmp_path / "replay")
    assert service.stats() == other.stats()
    ours, theirs = service.reader(), other.reader()
    for _ in range(5):
        a, b = ours.read(), theirs.read()
        assert all((a[name] == b[name]).all() for name in a)
    ours.close()
    theirs.close()


def test_a_second_save_links_what_the_first_has_written(make: Make, tmp_path: Path) -> None:
    service = make()
    writer = service.writer("a")
    write(writer, 0, 1)
    service.save(tmp_path / "replay")
    first = {file.name: file.stat().st_ino for file in tmp_path.glob("replay/*/*.steps")}
    write(writer, 2, 3)
    service.save(tmp_path / "replay")  # in place of the first
    second = {file.name: file.stat().st_ino for file in tmp_path.glob("replay/*/*.steps")}
    assert len(first) == 2 and len(second) == 4 and first.items() <= second.items()
    shutil.copytree(tmp_path / "replay", tmp_path / "copy")
    service.load(tmp_path / "copy")
    service.save(tmp_path / "again")
    for index in range(2):
        manifests = [tmp_path / name / f"shard-{index}/manifest.json" for name in ("copy", "again")]
        assert manifests[0].read_bytes() == manifests[1].read_bytes()
    assert service.stats()["agent_steps"] == 80


def test_a_damaged_file_of_one_shard_leaves_all_untouched_or_is_skipped_by_choice(
    make: Make, tmp_path: Path
) -> None:
    service, other = make(), make()
    write(service.writer("a"), *range(8))
    service.save(tmp_path / "replay")
    path = harm(tmp_path / "replay" / "shard-1")
    write(other.writer("b"), 0, 1)
    before = other.stats()
    with pytest.raises(SnapshotError, match=rf"shard-1/{path.name} is damaged"):
        other.load(tmp_path / "replay")
    assert other.stats() == before
    other.load(tmp_path / "replay", damaged="skip")
    shards = other.shard_stats()
    assert [shard["skipped_agent_steps"] for shard in shards] == [0, 80]
    assert [shard["agent_steps"] for shard in shards] == [80, 0]
    (tmp_path / "replay" / "shard-1" / "manifest.json").unlink()
    for damaged in ("refuse", "skip"):
        with pytest.raises(SnapshotError, match=r"shard-1/manifest\.json"):
            other.load(tmp_path / "replay", damaged=damaged)


def test_what_two_shards_saved_three_or_one_can_load(make: Make, tmp_path: Path) -> None:
    load = replace(LOAD, samples_per_insert=None)
    service = make(workload=load)
    write(service.writer("a"), *range(9))
    reader = service.reader()
    reader.read()
    reader.close()
    service.stats()
    service.save(tmp_path / "replay")
    before = service.stats()
    told: list[tuple[str, int, int]] = []
    three = make(workload=load, shards=3)
    three.load(tmp_path / "replay", progress=lambda *news: told.append(news))
    after = three.stats()
    assert {name: after[name] for name in SUMS} == {name: before[name] for name in SUMS}
    assert [shard["agent_steps"] for shard in three.shard_stats()] == [60, 60, 60]
    reader = three.reader()
    for _ in range(5):
        assert_windows_are_whole(reader.read())
    reader.close()
    three.save(tmp_path / "three")
    one = make(workload=load, shards=1)
    one.load(tmp_path / "three")
    assert one.stats()["agent_steps"] == 180
    kill(three, 1)  # it goes back to what it saved
    assert wait_for_restart(three, 1)["agent_steps"] == 60
    three.load(tmp_path / "replay")
    kill(three, 2)  # and here to its share of what two shards saved
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if three.shard_stats()[2]["restarts"]:
                break
        except ReplayError:
            continue
    assert [shard["agent_steps"] for shard in three.shard_stats()] == [60, 60, 60]


def test_a_shard_killed_while_saving_leaves_the_snapshot_before_and_the_next_save_works(
    make: Make, tmp_path: Path
) -> None:
    service = make(capacity_agent_steps=4000)
    writer = service.writer("a")
    write(writer, *range(4))
    service.save(tmp_path / "replay")
    write(writer, *range(4, 120))
    pending = [
        shard.save.remote(str(tmp_path / ".replay.partial" / f"shard-{index}"))
        for index, shard in enumerate(service.shards)
    ]
    kill(service, 0)
    stats = wait_for_restart(service, 0)
    assert stats["inserted_agent_steps"] == 40 and stats["lost_agent_steps"] == 1160
    ray.get(pending, timeout=60)  # Ray has sent the unanswered call again
    other = make(capacity_agent_steps=4000)
    other.load(tmp_path / "replay")
    assert other.stats()["agent_steps"] == 80
    service.save(tmp_path / "replay")
    other.load(tmp_path / "replay")
    assert other.stats()["agent_steps"] == 40 + 1200
    assert os.listdir(tmp_path) == ["replay"]


def test_a_shard_killed_under_load_loses_no_more_than_came_in_since_its_snapshot(
    make: Make, tmp_path: Path
) -> None:
    load = Workload(None, batch_length=6, batch_size=4, chunk_length=8)
    service = make(workload=load, capacity_agent_steps=2000)
    over = threading.Event()

    def act() -> int:
        writer = service.writer("a")
        number = 0
        while not over.is_set():
            write(writer, number)
            number += 1
        writer.close()
        return number * 20

    def learn() -> int:
        reader = service.reader()
        batches = 0
        while not over.is_set():
            assert_windows_are_whole(reader.read())
            batches += 1
        reader.close()
        return batches

    def wait_for(agent_steps: float) -> list[dict[str, float]]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            shards = service.shard_stats()
            if min(shard["inserted_agent_steps"] for shard in shards) >= agent_steps:
                return shards
        pytest.fail("nothing was inserted any more")

    with ThreadPoolExecutor(2) as pool:
        acted, learned = pool.submit(act), pool.submit(learn)
        try:
            wait_for(200)
            at_save = wait_for(200)[0]["inserted_agent_steps"]
            service.save(tmp_path / "replay")
            segments = read_manifest(tmp_path / "replay/shard-0").content["segments"]
            before = wait_for(at_save + 400)[0]["inserted_agent_steps"]
            kill(service, 0)
            stats = wait_for_restart(service, 0)
            wait_for(before + 200)
        finally:
            over.set()
    saved = stats["inserted_agent_steps"]
    assert segments and at_save <= saved <= before
    assert before - saved <= stats["lost_agent_steps"]
    total = service.stats()
    # A chunk stored but not yet answered at the death counts as lost and arrives again.
    twice = total["inserted_agent_steps"] + total["lost_agent_steps"] - acted.result()
    assert 0 <= twice <= 4 * 8
    assert total["lost_agent_steps"] == stats["lost_agent_steps"]
    assert learned.result() > 10


def test_a_killed_shard_goes_back_to_what_is_whole_of_a_damaged_snapshot(
    make: Make, tmp_path: Path
) -> None:
    service = make()
    writer = service.writer("a")
    write(writer, *range(4))
    service.save(tmp_path / "replay")
    write(writer, *range(4, 6))
    service.save(tmp_path / "replay")
    harm(tmp_path / "replay" / "shard-0")  # its first 40 steps of 60
    kill(service, 0)
    stats = wait_for_restart(service, 0)
    assert stats["agent_steps"] == 20 and stats["skipped_agent_steps"] == 40
    assert stats["lost_agent_steps"] == 0 and stats["inserted_agent_steps"] == 60
    harm(tmp_path / "replay" / "shard-1")
    (tmp_path / "replay" / "shard-1" / "manifest.json").write_text("{")
    kill(service, 1)
    stats = wait_for_restart(service, 1)
    assert stats["agent_steps"] == 0 and stats["lost_agent_steps"] == 60
    write(writer, *range(6, 12))
    reader = service.reader()
    for _ in range(5):
        assert_windows_are_whole(reader.read())
    reader.close()


def test_a_shard_that_hangs_in_a_save_or_load_is_named_and_nothing_is_lost(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ASK_TIMEOUT_S", 0.1)  # it does not answer in any time
    service = make()
    write(service.writer("a"), *range(4))
    service.save(tmp_path / "replay")
    before = (tmp_path / "replay" / "manifest.json").read_bytes()
    pid = ray.get(service.shards[1].pid.remote())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(ReplayTimeout, match=r"Waited 1 s for .*shard-1 to save"):
            service.save(tmp_path / "replay", timeout_s=1)
        with pytest.raises(ReplayTimeout, match="shard-1 to check its snapshot"):
            service.load(tmp_path / "replay", timeout_s=1)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (tmp_path / "replay" / "manifest.json").read_bytes() == before
    write(service.writer("b"), 9)
    service.save(tmp_path / "replay")
    service.load(tmp_path / "replay")
    assert service.stats()["agent_steps"] == 100


def test_inserts_and_batches_go_on_during_a_save(make: Make, tmp_path: Path) -> None:
    service = make(workload=Workload(None, batch_length=6, batch_size=4, chunk_length=8))
    writer, reader = service.writer("a"), service.reader()
    write(writer, *range(8))
    saves = [
        shard.save.remote(str(tmp_path / f"shard-{index}"))
        for index, shard in enumerate(service.shards)
    ]
    served = 0
    while len(ray.wait(saves, num_returns=2, timeout=0)[0]) < 2 or not served:
        writer.write(chunk("b", served, 0, 8))
        assert_windows_are_whole(reader.read())
        served += 1
    ray.get(saves)
    for index in range(2):
        rows = read_manifest(tmp_path / f"shard-{index}").content["segments"]
        assert all(row[4] in (8, 20) for row in rows)
    reader.close()


def test_shards_that_write_where_nobody_else_sees_it_ask_for_a_shared_folder(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make()
    adopt = SnapshotWriter.adopt

    def not_mounted(writer: SnapshotWriter, name: str) -> None:
        shutil.rmtree(writer.staging / Path(name).parent)
        adopt(writer, name)

    monkeypatch.setattr(SnapshotWriter, "adopt", not_mounted)
    with pytest.raises(ReplayError, match="shared folder"):
        service.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_the_folder_of_one_shard_is_no_snapshot_of_a_service(make: Make, tmp_path: Path) -> None:
    service = make()
    service.save(tmp_path / "replay")
    with pytest.raises(SnapshotError, match="give the folder around it"):
        service.load(tmp_path / "replay" / "shard-0")


def test_priorities_of_a_service_come_back(make: Make, tmp_path: Path) -> None:
    service = make(workload=LOAD, sampler="prioritised")
    write(service.writer("a"), 0, 1)
    for shard, stats in zip(service.shards, service.shard_stats(), strict=True):
        assert stats["agent_steps"] == 20
        zeros = np.zeros(15, np.int64)
        shard.update_priorities.remote(
            service.reader().window, zeros, np.arange(15), np.eye(15)[3], zeros
        )
    service.save(tmp_path / "replay")
    other = make(workload=LOAD, sampler="prioritised")
    other.load(tmp_path / "replay")
    reader = other.reader()
    assert (reader.read()["reward"][0] == 3).all()
    reader.close()
