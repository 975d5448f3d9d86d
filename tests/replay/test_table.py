"""What is a table's own, whatever keeps the steps; the rest is in `table_contract`."""

from __future__ import annotations

import pytest

from replay.ring import Ring
from replay.table import ACTORS_REMEMBERED, EPISODES_REMEMBERED, Table
from tests.replay.episodes import SCHEMA, chunk
from tests.replay.table_contract import stored


@pytest.fixture
def table() -> Table:
    return Table(Ring(SCHEMA, 64))


def test_an_actor_remembers_as_many_open_episodes_as_it_says(table: Table) -> None:
    for number in range(EPISODES_REMEMBERED):
        table.insert(chunk("a", number, 0, 1))
    for number in range(EPISODES_REMEMBERED):
        assert table.insert(chunk("a", number, 1, 1, last=True)) == 1
    assert table.gaps == 0


def test_actors_beyond_those_remembered_are_forgotten_longest_silent_first(table: Table) -> None:
    for number in range(ACTORS_REMEMBERED):
        table.insert(chunk(f"actor-{number}", 0, 0, 1, last=True))
    table.insert(chunk("actor-0", 1, 0, 1, last=True))
    table.insert(chunk("newcomer", 0, 0, 1, last=True))
    assert table.insert(chunk("actor-0", 0, 0, 1, last=True)) == 0
    assert table.insert(chunk("actor-2", 0, 0, 1, last=True)) == 0
    assert len(table.state()["received"]) == ACTORS_REMEMBERED
    assert "actor-1" not in table.state()["received"]


def test_the_same_episode_of_two_actors_stays_apart(table: Table) -> None:
    for start in (0, 8):
        for actor in "ab":
            assert table.insert(chunk(actor, 0, start, 8, last=start == 8)) == 8
    assert stored(table) == [(0, 0, 16), (0, 0, 16)]
    assert [segment.actor for segment in table] == ["a", "b"]
    assert table.finished_episodes == 2


def test_state_is_plain_values_that_json_keeps(table: Table) -> None:
    import json

    table.insert(chunk("a", 3, 0, 8))
    table.insert(chunk("b", 1, 8, 8))
    state = table.state()
    assert json.loads(json.dumps(state)) == state
    other = Table(Ring(SCHEMA, 64))
    other.restore_state(json.loads(json.dumps(state)))
    assert other.state() == state
    assert other.insert(chunk("a", 3, 0, 8)) == 0
