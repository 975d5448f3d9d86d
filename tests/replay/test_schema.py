from __future__ import annotations

import numpy as np
import pytest

from replay import Chunk, ChunkError, ChunkKey, Field, Schema, seed_for, step_schema
from replay.ring import Ring
from replay.table import Table
from tests.replay.episodes import SCHEMA, assert_windows_are_whole, chunk, episode


def changed(**fields: np.ndarray) -> Chunk:
    good = chunk("a", 0, 0, 5)
    return Chunk(good.key, {**good.steps, **fields})


def test_a_chunk_that_fits_passes() -> None:
    SCHEMA.validate(chunk("a", 0, 0, 5))
    SCHEMA.validate(chunk("a", 0, 5, 1, last=True))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            changed(observation=np.zeros((5, 3, 4, 4), np.uint8)),
            ["'observation'", "(5, 4, 4, 3)", "(5, 3, 4, 4)"],
        ),
        (changed(reward=np.zeros(5, np.float64)), ["'reward'", "float32", "float64"]),
        (changed(discount=np.zeros(4, np.float32)), ["'discount'", "(5,)", "(4,)"]),
        (changed(extra=np.zeros(5)), ["extra", "not in the schema"]),
        (
            Chunk(ChunkKey("a", 0, 0), {"reward": np.zeros(3, np.float32)}),
            ["missing", "observation"],
        ),
        (changed(is_first=np.array([1, 0, 1, 0, 0], bool)), ["'is_first'", "step 0"]),
        (changed(is_last=np.array([0, 1, 0, 0, 0], bool)), ["'is_last'", "final step"]),
        (Chunk(ChunkKey("a", 0, -1), chunk("a", 0, 5, 5).steps), ["count from 0"]),
        (Chunk(ChunkKey("a", 0, 0), chunk("a", 0, 5, 5).steps), ["'is_first'"]),
        (Chunk(ChunkKey("a", 0, 0), SCHEMA.empty(0)), ["at least one step"]),
        (changed(reward=[0.0] * 5), ["'reward'", "list"]),  # type: ignore[arg-type]
        (changed(is_last=[False] * 5), ["'is_last'", "list"]),  # type: ignore[arg-type]
        (changed(reward=np.array([0, 1, np.nan, 0, np.inf], np.float32)), ["'reward'", "[2, 4]"]),
        (changed(action=np.full((5, 2), np.inf, np.float32)), ["'action'", "finite"]),
        (changed(discount=np.full(5, 3.0, np.float32)), ["'discount'", "from 0 to 1", "3"]),
        (Chunk(ChunkKey("a", "0", 0), chunk("a", 0, 0, 5).steps), ["whole numbers"]),  # type: ignore[arg-type]
        ({"reward": np.zeros(5)}, ["takes a Chunk", "dict"]),  # type: ignore[list-item]
    ],
)
def test_a_bad_chunk_is_refused_by_field_with_what_was_expected_and_what_came(
    bad: Chunk, words: list[str]
) -> None:
    with pytest.raises(ChunkError) as error:
        SCHEMA.validate(bad)
    for word in words:
        assert word in str(error.value)


def test_a_schema_survives_the_way_through_a_manifest() -> None:
    assert Schema.from_json(SCHEMA.to_json()) == SCHEMA


def test_proprioception_is_a_field_of_its_own_beside_the_picture_and_absent_at_size_zero() -> None:
    schema = step_schema((4, 4, 3), 2, 5)
    assert schema.names == SCHEMA.names | {"proprioception"}
    assert schema.bytes_per_step == SCHEMA.bytes_per_step + 5 * 4
    assert Schema.from_json(schema.to_json()) == schema
    assert step_schema((4, 4, 3), 2, 0) == SCHEMA
    good = chunk("a", 0, 0, 5, schema=schema)
    schema.validate(good)
    short = {**good.steps, "proprioception": np.zeros((5, 4), np.float32)}
    with pytest.raises(ChunkError, match=r"'proprioception' expected float32 \(5, 5\)"):
        schema.validate(Chunk(good.key, short))
    with pytest.raises(ChunkError, match=r"not in the schema .*proprioception"):
        SCHEMA.validate(good)


def test_proprioception_stays_with_its_picture_on_the_way_through_replay() -> None:
    table = Table(Ring(step_schema((4, 4, 3), 2, 3), 64))
    for part in episode("a", 0, 40, schema=table.schema):
        part.steps["proprioception"][...] = part.steps["reward"][:, None] + [0.0, 0.25, 0.5]
        table.insert(part)
    batch = table.gather(np.array([0, 0]), np.array([0, 25]), 11)
    assert_windows_are_whole(batch)
    expected = batch["reward"][..., None] + np.array([0.0, 0.25, 0.5], np.float32)
    np.testing.assert_array_equal(batch["proprioception"], expected)


def test_a_schema_without_episode_borders_is_refused() -> None:
    with pytest.raises(ChunkError, match="is_last"):
        Schema((Field("is_first", (), "bool"),))


def test_seeds_depend_on_every_name_and_its_kind_and_fit_63_bits() -> None:
    seeds = [
        seed_for(7),
        seed_for(8),
        seed_for(7, "actor", 3),
        seed_for(7, "actor", "3"),
        seed_for(7, "actor3"),
        seed_for(7, "ab", "c"),
        seed_for(7, "a", "bc"),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(7, "actor", 3) == seeds[2]


def test_seeds_are_the_same_on_every_machine() -> None:
    assert seed_for(1, "actor", 2, "environment", 0) == 7323400361215113655
