from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from replay import ReplaySettings, SnapshotError, Workload
from replay.recovery import Recovery
from replay.resharding import Source
from replay.server import ShardServer
from tests.replay.episodes import SCHEMA, chunk, episode


def new_server(folder: Path) -> ShardServer:
    """A shard's process, begun anew or, in the same folder, started again."""
    settings = ReplaySettings(shards=1, capacity_agent_steps=400, minimum_agent_steps=2)
    return ShardServer(0, SCHEMA, settings, Workload(None), 0, str(folder))


def test_what_was_registered_last_is_known_in_the_next_life(tmp_path: Path) -> None:
    notes = Recovery(tmp_path, 0)
    assert notes.snapshot is None and notes.restarts == 0
    for source in (Source(("/one",)), Source(("/one", "/two"), 1, 3)):
        notes.register(source)
        notes.inserted(50)
        notes = Recovery(tmp_path, 0)
        assert notes.snapshot == source
    notes.restored(20)
    assert Recovery(tmp_path, 0).lost_agent_steps == 30
    assert Recovery(tmp_path, 1).restarts == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parts": 3, "index": 0, "count": 1}'])
def test_a_note_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    Recovery(tmp_path, 0).register(Source(("/one",)))
    (tmp_path / "shard-0.json").write_text(text)
    assert Recovery(tmp_path, 0).snapshot is None


def test_a_shard_started_again_says_where_it_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = new_server(tmp_path / "notes")

    async def live() -> None:
        await server.insert(list(episode("a", 0, 20)))
        await server.save(str(tmp_path / "staged"))
        (tmp_path / "staged").rename(tmp_path / "snap")
        await server.register(str(tmp_path / "snap"))
        await server.insert([chunk("a", 1, 0, 8)])

    asyncio.run(live())
    with caplog.at_level(logging.WARNING):
        again = new_server(tmp_path / "notes")
    assert f"from {tmp_path / 'snap'}): 20 agent steps stored, 8 lost so far" in caplog.text
    stats = asyncio.run(again.stats())
    assert (stats["restarts"], stats["lost_agent_steps"]) == (1, 8)
    (tmp_path / "snap" / "manifest.json").write_text("{")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        new_server(tmp_path / "notes")
    assert "empty: " in caplog.text and "0 agent steps stored, 28 lost so far" in caplog.text


def test_a_disk_that_does_not_take_a_save_is_told_and_the_next_save_works(tmp_path: Path) -> None:
    server = new_server(tmp_path / "notes")
    (tmp_path / "file").touch()

    async def live() -> None:
        await server.insert(list(episode("a", 0, 20)))
        with pytest.raises(SnapshotError, match=r"Shard 0 could not save to .*file/snap.*disk"):
            await server.save(str(tmp_path / "file" / "snap"))
        await server.save(str(tmp_path / "snap"))
        source = Source((str(tmp_path / "snap"),))
        await server.check(source, "refuse")
        assert (await server.progress())[0] == "checking"
        await server.load(source, "refuse")
        task, done, total = await server.progress()
        assert task == "loading" and done == total == 20 * SCHEMA.bytes_per_step

    asyncio.run(live())
    assert asyncio.run(server.stats())["agent_steps"] == 20
