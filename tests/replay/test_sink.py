"""Arrays as a sink: parts of a batch go to their columns and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from replay.ring import Ring, Rows
from replay.sink import ArraySink
from tests.replay.episodes import SCHEMA, chunk

LENGTH = 6


@pytest.fixture
def ring() -> Ring:
    """Four episodes of 10 agent steps, number n with n as its first action entry."""
    made = Ring(SCHEMA, 40)
    for ordinal in range(4):
        made.append(ordinal, chunk("a", ordinal, 0, 10).steps)
    return made


def episodes(out: dict[str, np.ndarray]) -> list[float]:
    assert (out["action"][..., 0] == out["action"][0, :, 0]).all()
    return out["action"][0, :, 0].tolist()


def unset() -> dict[str, np.ndarray]:
    out = SCHEMA.empty(LENGTH, 5)
    for array in out.values():
        array[...] = 9
    return out


@pytest.mark.parametrize("columns", [[1, 2, 3, 4], [0, 2, 3, 4], [3], [0, 4]])
def test_windows_of_a_ring_go_to_their_columns(ring: Ring, columns: list[int]) -> None:
    out = unset()
    ordinals = np.arange(len(columns))
    drawn = ring.locate(ordinals, np.ones(len(columns), int), LENGTH)
    sink = ArraySink(out)
    sink.gather(0, Rows(SCHEMA, 40, ring.memory), drawn.slots, np.array(columns))
    sink.keep(np.ones(len(columns), bool))
    expected = [9.0] * 5
    for ordinal, column in enumerate(columns):
        expected[column] = float(ordinal)
        assert out["reward"][:, column].tolist() == list(range(1, 1 + LENGTH))
    assert episodes(out) == expected


def test_copies_go_to_their_columns_and_a_column_given_again_takes_the_last(ring: Ring) -> None:
    out = unset()
    sink = ArraySink(out)
    for ordinals, columns in (([0, 1], [0, 3]), ([2, 3], [3, 4])):
        copies = ring.gather(np.array(ordinals), np.zeros(2, int), LENGTH)
        sink.copy(0, copies, np.array(columns))
        copies["action"][...] = -1.0  # the sink has copied it
    assert episodes(out) == [0.0, 9.0, 9.0, 2.0, 3.0]
