"""Saves killed at every step: `python -m tests.replay.kill_saves FOLDER`.

A child process saves two shards over an earlier snapshot and sends itself SIGKILL before the n-th
call that changes the disk, for every n until a save ends. Each time what is on disk must be the
earlier snapshot or the new one, whole, and the next save must work.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replay import blocks
from replay.shard import ReplayShard
from replay.snapshot import MANIFEST, SnapshotWriter, read_snapshot
from tests.replay.episodes import SCHEMA, episode
from tests.replay.saved import filled, new_shard

CALLS = ("fsync", "link", "rename", "mkdir", "unlink", "rmdir", "open")


def save(path: Path, shards: list[ReplayShard]) -> None:
    """As the service does, with the shards in this process."""
    with SnapshotWriter(path) as writer:
        saved = []
        for index, shard in enumerate(shards):
            part = f"shard-{index}"
            cut = shard.cut(writer.staging / part)
            cut.begin()
            for block in cut:
                for _ in block:
                    pass
                block.write()
            cut.commit()
            cut.close()
            writer.adopt(f"{part}/{MANIFEST}")
            saved.append((shard, cut.written._replace(folder=path / part)))
        writer.commit({"shards": len(shards)})
    for shard, written in saved:
        shard.saved(written)


def load(path: Path) -> list[ReplayShard]:
    shards = [new_shard(capacity=300) for _ in range(read_snapshot(path)["shards"])]
    for index, shard in enumerate(shards):
        shard.load(path / f"shard-{index}")
    return shards


def grow(shards: list[ReplayShard]) -> None:
    for number, shard in enumerate(shards):
        for part in episode("new", shard.table.segments + number, 45):
            shard.insert(part)


def sizes(shards: list[ReplayShard]) -> list[int]:
    return [shard.table.agent_steps for shard in shards]


def save_and_die(path: Path, nth: int) -> None:
    """In the child: returns if the save ends before the n-th call."""
    shards = load(path)
    grow(shards)
    left = nth

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return counted

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    save(path, shards)


def main(root: Path) -> None:
    blocks.BLOCK_BYTES = 40 * SCHEMA.bytes_per_step
    outcomes = {"before": 0, "after": 0}
    for nth in itertools.count(1):
        path = root / str(nth) / "snap"
        shards = [filled(capacity=300), filled(capacity=300)]
        save(path, shards)
        before = sizes(shards)
        grow(shards)
        after = sizes(shards)
        child = os.fork()
        if not child:
            save_and_die(path, nth)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = load(path)
        assert sizes(found) in (before, after), (nth, sizes(found), before, after)
        outcomes["before" if sizes(found) == before else "after"] += 1
        grow(found)
        save(path, found)
        assert sizes(load(path)) == sizes(found)
        assert os.listdir(path.parent) == ["snap"], (nth, os.listdir(path.parent))
        if not status:
            break
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (nth, status)
    print(f"{nth - 1} killed saves: {outcomes['before']} before, {outcomes['after']} after")
    assert nth > 30 and outcomes["before"] > 10 and outcomes["after"] > 1


if __name__ == "__main__":
    main(Path(sys.argv[1]))
