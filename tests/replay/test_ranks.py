from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.ranks import FAN, RankIndex

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60, database=None)


def assert_agrees(index: RankIndex, weights: dict[int, int]) -> None:
    expected = [(item, rank) for item in sorted(weights) for rank in range(weights[item])]
    assert index.total == len(expected)
    if expected:
        items, rest = index.find(np.arange(index.total))
        assert items.dtype == rest.dtype == np.int64
        assert list(zip(items.tolist(), rest.tolist(), strict=True)) == expected


@PROPERTY
@given(
    first=st.integers(0, 5000),
    changes=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 40), st.integers(0, 6)),
            st.tuples(st.just("change"), st.integers(0, 10**6), st.integers(0, 6)),
            st.tuples(st.just("remove"), st.integers(0, 60), st.just(0)),
        ),
        max_size=60,
    ),
)
def test_a_rank_index_agrees_with_a_plain_list_under_any_changes(
    first: int, changes: list[tuple[str, int, int]]
) -> None:
    index, weights, newest = RankIndex(), {first: 3}, first
    index.set(first, 3)
    for kind, number, weight in changes:
        if kind == "append":  # also with a few items skipped
            newest += number
            weights[newest] = weight
            index.set(newest, weight)
        elif kind == "change" and weights:
            item = sorted(weights)[number % len(weights)]
            weights[item] = weight
            index.set(item, weight)
        elif kind == "remove":
            oldest = min(weights, default=newest)
            index.remove_through(oldest + number)
            weights = {item: w for item, w in weights.items() if item > oldest + number}
            newest = max(newest, oldest + number)
        assert_agrees(index, weights)


def test_it_agrees_also_with_several_levels_and_after_many_turns_of_the_circle() -> None:
    generator = np.random.default_rng(1)
    index, weights, head = RankIndex(), {}, 0
    for item in range(6 * FAN):
        weights[item] = int(generator.integers(0, 5))
        index.set(item, weights[item])
        grown = int(generator.integers(head, item + 1))
        weights[grown] += 3
        index.set(grown, weights[grown])
        while len(weights) > 2.5 * FAN:
            index.remove_through(head)
            del weights[head]
            head += 1
        if item % 97 == 0:
            assert_agrees(index, weights)
    assert_agrees(index, weights)


def test_the_same_items_answer_alike_however_they_came_there() -> None:
    old, new = RankIndex(), RankIndex()
    for item in range(1000):
        old.set(item, item % 3)
        if item >= 300:
            old.remove_through(item - 300)
    for item in range(700, 1000):
        new.set(item, item % 3)
    ranks = np.random.default_rng(0).integers(0, new.total, 500)
    assert old.total == new.total
    assert all((a == b).all() for a, b in zip(old.find(ranks), new.find(ranks), strict=True))


def test_a_removed_item_cannot_be_set_again() -> None:
    index = RankIndex()
    index.set(0, 1)
    index.set(1, 1)
    index.remove_through(0)
    with pytest.raises(IndexError, match="item 0 was removed; the oldest is 1"):
        index.set(0, 2)


def test_an_emptied_index_begins_anew_at_any_item() -> None:
    index = RankIndex()
    index.set(3, 2)
    index.remove_through(3)
    assert index.total == 0
    index.set(10**9, 2)
    assert index.find(np.array([1]))[0].tolist() == [10**9]
