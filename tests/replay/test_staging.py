from __future__ import annotations

import numpy as np

from replay.staging import Staging, StagingReader
from tests.replay.episodes import SCHEMA, chunk


def test_a_chunk_is_found_where_its_writer_laid_it_down() -> None:
    staging, reader = Staging(SCHEMA, 8, 2), StagingReader(SCHEMA)
    given = chunk("a", 0, 0, 5)
    block, kept = staging.put(given)
    staged = staging.describe(kept, block)
    assert staged is not None and len(staged) == 5
    found = reader.find(staged)
    assert found is not None and found.key == given.key
    for name, array in given.steps.items():
        np.testing.assert_array_equal(found.steps[name], array)


def test_a_call_that_comes_after_its_block_was_used_again_finds_nothing() -> None:
    staging, reader = Staging(SCHEMA, 8, 1), StagingReader(SCHEMA)
    block, kept = staging.put(chunk("a", 0, 0, 8))
    old = staging.describe(kept, block)
    staging.give_back(block)
    block, kept = staging.put(chunk("a", 0, 8, 8))
    new = staging.describe(kept, block)
    assert old is not None and new is not None and old.offset == new.offset
    assert reader.find(old) is None
    assert reader.find(new) is not None


def test_a_chunk_too_long_for_a_block_travels_by_itself_as_a_copy() -> None:
    staging = Staging(SCHEMA, 8, 1)
    given = chunk("a", 0, 0, 9)
    block, kept = staging.put(given)
    given.steps["reward"][...] = -1
    assert kept.steps["reward"].tolist() == list(range(9))
    assert staging.describe(kept, block) is None
    staging.give_back(block)
    assert staging.free == 1


def test_memory_of_a_writer_that_has_ended_is_not_found() -> None:
    staging, reader = Staging(SCHEMA, 8, 1), StagingReader(SCHEMA)
    block, kept = staging.put(chunk("a", 0, 0, 8))
    staged = staging.describe(kept, block)
    assert staged is not None
    gone = staged.address._replace(descriptor=10_000)
    lost = type(staged)(staged.key, staged.length, gone, staged.offset, staged.serial)
    assert reader.find(lost) is None
