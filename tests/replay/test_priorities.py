from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import ReplayError
from replay.priorities import ROW, SumTree, importance_weights, stratified

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60, database=None)
WEIGHTS = st.one_of(st.just(0.0), st.floats(0.01, 100.0))


def assert_draws_in_proportion(tree: SumTree, weights: dict[int, float]) -> None:
    """Every address is found by targets at, and just below, the ends of its stretch."""
    assert tree.total == pytest.approx(sum(weights.values()), rel=1e-12, abs=1e-300)
    end = 0.0
    for address in sorted(weights):
        weight = weights[address]
        if weight:
            inside = end + weight * np.array([0.001, 0.5, 0.999])
            assert set(tree.find(inside).tolist()) == {address}
        end += weight
    if end:
        everywhere = np.append(np.arange(1000) * (tree.total / 1000), np.nextafter(tree.total, 0))
        assert all(weights[address] > 0 for address in tree.find(everywhere).tolist())


@PROPERTY
@given(
    changes=st.lists(
        st.one_of(
            st.tuples(st.just("claim"), st.integers(1, 80), WEIGHTS),
            st.tuples(st.just("fill"), st.integers(0, 10**6), WEIGHTS),
            st.tuples(st.just("set"), st.integers(0, 10**6), WEIGHTS),
            st.tuples(st.just("release"), st.integers(0, 10**6), st.just(0.0)),
        ),
        max_size=25,
    )
)
def test_a_sum_tree_agrees_with_a_plain_dictionary_under_any_changes(
    changes: list[tuple[str, int, float]],
) -> None:
    tree, rows, weights = SumTree(), [], {}
    for kind, number, weight in changes:
        if kind == "claim":
            for _ in range(number):
                row = tree.claim()
                assert row not in rows
                rows.append(row)
                weights |= dict.fromkeys(range(row * ROW, row * ROW + ROW), 0.0)
        elif not rows:
            continue
        elif kind == "fill":
            row = rows[number % len(rows)]
            begin, end = row * ROW + number % 7, (row + 1) * ROW - number % 11
            tree.fill(begin, end, weight)
            weights |= dict.fromkeys(range(begin, end), weight)
        elif kind == "set":
            chosen = np.random.default_rng(number).choice(sorted(weights), 20)
            values = weight * np.arange(20.0)
            tree.set(chosen, values)
            weights |= dict(zip(chosen.tolist(), values.tolist(), strict=True))
        else:
            gone = [rows.pop(number % len(rows)) for _ in range(min(3, len(rows)))]
            tree.release(gone)
            weights = {a: w for a, w in weights.items() if a // ROW not in gone}
        addresses = np.array(sorted(weights), np.int64)
        assert tree.get(addresses).tolist() == [weights[a] for a in addresses.tolist()]
        assert tree.total == pytest.approx(sum(weights.values()), rel=1e-12)
    assert_draws_in_proportion(tree, weights)


def test_rounding_errors_do_not_add_up_over_a_million_changes() -> None:
    generator = np.random.default_rng(0)
    tree, leaves = SumTree(), np.zeros(100 * ROW)
    for _ in range(100):
        tree.claim()
    for _ in range(2000):
        addresses = generator.integers(0, len(leaves), 500)
        values = 10.0 ** generator.uniform(-12, 12, 500)
        tree.set(addresses, values)
        leaves[addresses] = values
    tree.set(np.arange(len(leaves)), 1e-3)
    assert tree.total == pytest.approx(1e-3 * len(leaves), rel=1e-13)
    tree.set(np.arange(len(leaves)), 0.0)
    assert tree.total == 0.0


def test_leaves_without_weight_are_never_found_whatever_the_range_of_the_others() -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        tree = SumTree()
        for _ in range(130):
            tree.claim()
        weights = 10.0 ** generator.uniform(-200, 99, 130 * ROW)
        weights[generator.random(len(weights)) < 0.7] = 0.0
        tree.set(np.arange(len(weights)), weights)
        targets = np.minimum(tree.total * generator.random(500) ** 4, np.nextafter(tree.total, 0.0))
        targets[:2] = 0.0, np.nextafter(tree.total, 0.0)
        assert (weights[tree.find(targets)] > 0).all()


def test_a_target_that_rounding_carries_to_the_end_of_a_node_stays_on_the_node() -> None:
    tree, ulp = SumTree(), math.ulp(1.0)
    for _ in range(2):
        tree.claim()
    # The last target but for rounding: 1 + 3 ulp - 1.5 ulp rounds to 1 + 2 ulp, a full node.
    tree.set(np.array([0, ROW]), np.array([1.5 * ulp, 1 + 2 * ulp]))
    last = np.nextafter(tree.total, 0.0)
    assert last - 1.5 * ulp == 1 + 2 * ulp
    assert tree.find(np.array([last])).tolist() == [ROW]


def test_a_tree_grows_by_doubling_and_keeps_its_weights() -> None:
    tree, sizes = SumTree(), Counter()
    for row in range(300):
        assert tree.claim() == row
        tree.fill(row * ROW, row * ROW + ROW, 1.0 + row)
        sizes[tree.rows] += 1
    assert list(sizes) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert tree.total == ROW * sum(1.0 + row for row in range(300))


def test_released_rows_come_back_lowest_first_and_empty() -> None:
    tree = SumTree()
    for _ in range(8):
        tree.claim()
    tree.fill(0, 8 * ROW, 2.0)
    tree.release([5, 2, 7])
    assert tree.total == 5 * ROW * 2.0
    assert [tree.claim() for _ in range(4)] == [2, 5, 7, 8]
    assert tree.get(np.array([2 * ROW, 5 * ROW + 3])).tolist() == [0.0, 0.0]


def test_saved_rows_are_taken_again_and_the_rest_stays_free() -> None:
    tree = SumTree()
    tree.claim_again([9, 0, 3])
    assert [tree.claim() for _ in range(4)] == [1, 2, 4, 5]


@pytest.mark.parametrize("rows", [[1, 1], [-1], [0]])
def test_rows_that_are_taken_twice_or_do_not_exist_are_refused(rows: list[int]) -> None:
    tree = SumTree()
    tree.claim()
    with pytest.raises(ReplayError, match="saved priorities are damaged"):
        tree.claim_again(rows)


def test_one_target_falls_into_each_equal_part() -> None:
    targets = stratified(np.random.default_rng(0), 7.0, 100)
    assert (np.floor(targets / 0.07 + 1e-9) == np.arange(100)).all()
    tiny = math.ulp(0.0)
    assert (stratified(np.random.default_rng(0), tiny, 8) < tiny).all()


def test_importance_weights_are_the_papers_over_one_shard() -> None:
    probabilities = np.array([0.5, 0.25, 0.125, 0.125])
    weights = importance_weights(probabilities, [4], [10], 0.4)
    expected = (10 * probabilities) ** -0.4
    assert weights.dtype == np.float32
    assert weights == pytest.approx(expected / expected.max(), rel=1e-6)
    assert weights.max() == 1.0


def test_importance_weights_make_a_batch_of_uneven_shards_stand_for_uniform_draws() -> None:
    """Full correction: the expected weight that falls on each window is the same, over all."""
    generator = np.random.default_rng(0)
    shards = [generator.random(size) ** 3 for size in (5, 40)]
    shards = [p / p.sum() for p in shards]
    shares = [24, 8]
    probabilities = np.concatenate(
        [p[np.arange(s) % len(p)] for p, s in zip(shards, shares, strict=True)]
    )
    weights = importance_weights(probabilities, shares, [5, 40], 1.0)
    drawn = np.repeat(shares, shares) * probabilities  # expected draws of that window in a batch
    assert weights * drawn == pytest.approx((weights * drawn)[0], rel=1e-5)


def test_an_exponent_of_zero_corrects_nothing() -> None:
    weights = importance_weights(np.array([0.9, 0.1, 0.3]), [2, 1], [7, 9], 0.0)
    assert weights.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("probabilities", "shares", "populations", "exponent", "message"),
    [
        ([0.5, 0.5], [1], [4], 0.5, "shares that add up to 2"),
        ([0.5, 0.5], [1, 1], [4], 0.5, "one population a share"),
        ([0.5, 0.0], [2], [4], 0.5, "windows that were drawn, above 0"),
        ([0.5, math.nan], [2], [4], 0.5, "windows that were drawn, above 0"),
        ([0.5, 0.5], [2], [4], -0.1, "got -0.1"),
        ([0.5, 0.5], [2], [4], math.nan, "got nan"),
    ],
)
def test_numbers_that_do_not_belong_together_are_refused(
    probabilities: list[float],
    shares: list[int],
    populations: list[int],
    exponent: float,
    message: str,
) -> None:
    with pytest.raises(ReplayError, match=message):
        importance_weights(np.array(probabilities), shares, populations, exponent)
