"""Small recognisable episodes for the replay tests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from replay.schema import Chunk, ChunkKey, Schema, step_schema
from replay.writer import ReplayWriter

SCHEMA = step_schema((4, 4, 3), 2)


def chunk(
    actor: str,
    episode: int,
    start: int,
    length: int,
    *,
    last: bool = False,
    schema: Schema = SCHEMA,
) -> Chunk:
    """Steps whose reward is their index and whose first action entry is the episode's number."""
    steps = schema.empty(length)
    for array in steps.values():
        array[...] = 0
    index = np.arange(start, start + length)
    steps["observation"][...] = (index % 251).reshape(-1, 1, 1, 1)
    steps["action"][:, 0] = episode
    steps["reward"][...] = index
    steps["discount"][...] = 1.0
    steps["is_first"][...] = index == 0
    steps["is_last"][-1] = last
    return Chunk(ChunkKey(actor, episode, start), steps)


def episode(
    actor: str, number: int, length: int, chunk_length: int = 8, *, schema: Schema = SCHEMA
) -> Iterator[Chunk]:
    """A whole episode in chunks."""
    for start in range(0, length, chunk_length):
        size = min(chunk_length, length - start)
        yield chunk(actor, number, start, size, last=start + size == length, schema=schema)


def write(writer: ReplayWriter, *numbers: int, length: int = 20, actor: str = "a") -> None:
    """Writes whole episodes, until all of them are acknowledged."""
    for number in numbers:
        for part in episode(actor, number, length):
            writer.write(part)
    writer.flush()


def assert_windows_are_whole(batch: dict[str, np.ndarray]) -> None:
    """Every window is consecutive steps of one episode, with pixels that belong to them."""
    reward = batch["reward"]
    assert (np.diff(reward, axis=0) == 1).all()
    assert (batch["action"][..., 0] == batch["action"][0, :, 0]).all()
    assert (batch["observation"][..., 0, 0, 0] == reward % 251).all()
    assert not batch["is_last"][:-1].any()
    assert (batch["is_first"] == (reward == 0)).all()
