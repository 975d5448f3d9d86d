from __future__ import annotations

import timeit
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay import ReplayError, ReplayShard, step_schema
from replay.ring import Ring
from replay.samplers import (
    SAMPLERS,
    Draw,
    Prioritised,
    Recency,
    Sampler,
    UniformEpisodes,
    UniformWindows,
    Window,
    distinct,
)
from replay.shard import Request
from replay.table import Table
from tests.replay.episodes import SCHEMA, assert_windows_are_whole, chunk, episode

PROPERTY = settings(deadline=None, derandomize=True, max_examples=50, database=None)
CAPACITY = 60
WINDOWS = st.builds(Window, st.integers(1, 9), st.integers(1, 5))


def inserts_of(longest: int) -> st.SearchStrategy[list[tuple[int, int, str]]]:
    """An actor, the length of its next chunk, and what becomes of its episode there."""
    then = st.sampled_from(["goes on", "goes on", "goes on", "ends", "loses a chunk"])
    one = st.tuples(st.integers(0, 2), st.integers(1, longest), then)
    return st.lists(one, min_size=1, max_size=30)


INSERTS = inserts_of(12)
LONG_CAPACITY, LONG_INSERTS = 400, inserts_of(90)  # with segments of several rows of priorities
Inserts = list[tuple[int, int, str]]
Choice = tuple[int, int]  # a window: segment and first step


def empty_table(capacity: int = CAPACITY) -> Table:
    return Table(Ring(SCHEMA, capacity))


def table_of(*lengths: int, capacity: int = 1000) -> Table:
    table = empty_table(capacity)
    for number, length in enumerate(lengths):
        for part in episode("a", number, length):
            table.insert(part)
    return table


def write(table: Table, inserts: Inserts) -> Iterator[None]:
    """Several actors' episodes, interleaved, with gaps; the oldest leave when the table is full."""
    at = {actor: (0, 0) for actor in range(3)}  # episode, start
    for actor, length, then in inserts:
        number, start = at[actor]
        table.insert(chunk(f"a{actor}", number, start, length, last=then == "ends"))
        end = start + length + 5 * (then == "loses a chunk")
        at[actor] = (number + 1, 0) if then == "ends" else (number, end)
        yield


def windows_of(table: Table, window: Window) -> list[Choice]:
    """Every window in order, the simple way."""
    return [
        (segment.ordinal, start)
        for segment in table
        for start in range(0, segment.length, window.stride)
        if start + window.length <= segment.length
    ]


def choices(draw: Draw) -> list[Choice]:
    assert draw.ordinals.dtype == draw.starts.dtype == np.int64
    return list(zip(draw.ordinals.tolist(), draw.starts.tolist(), strict=True))


def drawn(sampler: Sampler, batches: int, count: int) -> Counter[Choice]:
    generator = np.random.default_rng(0)
    found: Counter[Choice] = Counter()
    for _ in range(batches):
        found.update(choices(sampler.draw(generator, count)))
    return found


def assert_drawn_as(found: Counter[Choice], probabilities: Mapping[Choice, float]) -> None:
    """The support is exactly that of `probabilities`, and a chi-square is within six deviations."""
    support = {choice for choice, p in probabilities.items() if p > 0}
    assert set(found) == support
    draws = found.total()
    square = sum(
        (found[c] - draws * probabilities[c]) ** 2 / (draws * probabilities[c]) for c in support
    )
    freedom = len(support) - 1
    assert square <= freedom + 6 * np.sqrt(2 * freedom) + 1e-9


@PROPERTY
@given(window=WINDOWS, inserts=INSERTS)
def test_uniform_windows_draws_as_a_plain_list_would(window: Window, inserts: Inserts) -> None:
    table = empty_table()
    sampler = UniformWindows(table, window)
    for _ in write(table, inserts):
        assert sampler.eligible == len(windows_of(table, window))
    windows = windows_of(table, window)
    if windows:
        found = drawn(sampler, 1, 60 * len(windows))
        assert_drawn_as(found, dict.fromkeys(windows, 1 / len(windows)))
        assert drawn(UniformWindows(table, window), 1, 60 * len(windows)) == found


@PROPERTY
@given(window=WINDOWS, inserts=INSERTS, count=st.integers(1, 4))
def test_uniform_episodes_draws_as_a_plain_list_of_lists_would(
    window: Window, inserts: Inserts, count: int
) -> None:
    table = empty_table()
    sampler = UniformEpisodes(table, window)
    for _ in write(table, inserts):
        assert sampler.eligible == len({ordinal for ordinal, _ in windows_of(table, window)})
    windows = windows_of(table, window)
    if windows:
        in_episode = Counter(ordinal for ordinal, _ in windows)
        found = drawn(sampler, 400, count)
        assert_drawn_as(found, {w: 1 / len(in_episode) / in_episode[w[0]] for w in windows})
        assert drawn(UniformEpisodes(table, window), 400, count) == found


@PROPERTY
@given(window=WINDOWS, inserts=INSERTS, half_life=st.floats(60.0, 1e6))
def test_recency_draws_as_halving_down_a_plain_list_would(
    window: Window, inserts: Inserts, half_life: float
) -> None:
    table = empty_table()
    sampler = Recency(table, window, half_life)
    for _ in write(table, inserts):
        assert sampler.eligible == len(windows_of(table, window))
    windows = windows_of(table, window)
    if windows:
        weights = [0.5 ** (age * window.stride / half_life) for age in range(len(windows))]
        newest_first = zip(reversed(windows), weights, strict=True)
        found = drawn(sampler, 1, 8000)
        assert_drawn_as(found, {w: weight / sum(weights) for w, weight in newest_first})
        assert drawn(Recency(table, window, half_life), 1, 8000) == found


@PROPERTY
@given(
    window=WINDOWS,
    inserts=LONG_INSERTS,
    exponent=st.sampled_from([0.0, 0.4, 0.6, 1.0]),
    given_priorities=st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0, 3.0]), min_size=1, max_size=9),
    seed=st.integers(0, 1000),
)
def test_prioritised_draws_as_a_plain_dictionary_would(
    window: Window,
    inserts: Inserts,
    exponent: float,
    given_priorities: list[float],
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    table = empty_table(LONG_CAPACITY)
    sampler = Prioritised(table, window, exponent)
    priorities: dict[Choice, float] = {}
    largest, ever = 0.0, [(0, 0), (10**6, 0), (0, 10**6), (0, -window.stride)]
    for _ in write(table, inserts):
        windows = windows_of(table, window)
        priorities = {w: priorities.get(w, largest or 1.0) for w in windows}
        ever += [w for w in windows if w not in ever]
        assert sampler.eligible == len(windows)
        if generator.random() < 0.7:  # also for windows that are gone or never were
            chosen = [ever[i] for i in generator.integers(0, len(ever), 40)]
            values = generator.choice(given_priorities, 40)
            ordinals, starts = np.array(chosen).T
            applied = {
                w: v for w, v in zip(chosen, values.tolist(), strict=True) if w in priorities
            }
            kept = sampler.update(ordinals, starts, values)
            assert kept == sum(w in priorities for w in chosen)
            here = [v for w, v in zip(chosen, values.tolist(), strict=True) if w in priorities]
            largest = max([largest, *here])
            priorities |= applied
    for segment in table:
        expected = [p for (ordinal, _), p in priorities.items() if ordinal == segment.ordinal]
        assert sampler.priorities_of(segment).tolist() == expected
    if priorities:
        if not any(priorities.values()):
            priorities = dict.fromkeys(priorities, 1.0)
        weights = {w: p**exponent if p else 0.0 for w, p in priorities.items()}
        total = sum(weights.values())
        assert_drawn_as(drawn(sampler, 1, 40_000), {w: p / total for w, p in weights.items()})
        draw = sampler.draw(generator, 50)
        assert draw.probabilities is not None
        assert draw.probabilities == pytest.approx([weights[w] / total for w in choices(draw)])


@PROPERTY
@given(window=WINDOWS, inserts=LONG_INSERTS, seed=st.integers(0, 1000))
def test_a_restored_prioritised_sampler_draws_the_same_windows_and_goes_on_alike(
    window: Window, inserts: Inserts, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    table = empty_table(LONG_CAPACITY)
    live = Prioritised(table, window)
    for _ in write(table, inserts):
        if live.eligible:
            draw = live.draw(generator, 32)
            live.update(draw.ordinals, draw.starts, generator.random(32))
    restored = Prioritised(table, window)
    restored.restore_state(live.state())
    for segment in table:
        restored.restore(segment, live.priorities_of(segment))
    assert restored.state() == live.state()
    for part in range(1, 6):
        table.insert(chunk("b", part, 0, 75))
        if live.eligible:
            draws = [s.draw(np.random.default_rng(part), 64) for s in (live, restored)]
            for one, other in zip(*draws, strict=True):
                assert one.tolist() == other.tolist()
            update = draws[0].ordinals, draws[0].starts, generator.random(64)
            assert live.update(*update) == restored.update(*update) == 64


def test_no_window_crosses_a_gap_or_an_episode() -> None:
    table = empty_table()
    for _ in write(table, [(0, 6, "loses a chunk"), (0, 6, "ends"), (0, 6, "goes on")]):
        pass
    for kind, sampler in SAMPLERS.items():
        assert sampler(table, Window(7)).eligible == 0, kind
        assert sampler(table, Window(6)).eligible == 3, kind


def test_a_stride_spaces_the_windows_of_each_segment() -> None:
    table = table_of(20, 7)
    assert windows_of(table, Window(5, 4)) == [(0, 0), (0, 4), (0, 8), (0, 12), (1, 0)]
    assert set(drawn(UniformWindows(table, Window(5, 4)), 1, 500)) == set(
        windows_of(table, Window(5, 4))
    )
    assert [Window(5, 4).count(steps) for steps in (0, 4, 5, 8, 9)] == [0, 0, 1, 1, 2]


def test_every_window_of_an_episode_is_equally_likely_however_long_the_episode() -> None:
    found = drawn(UniformEpisodes(table_of(10, 4, 40, 5, 20), Window(5)), 4000, 2)
    for ordinal, windows in ((0, 6), (2, 36), (3, 1), (4, 16)):
        starts = [s for (o, s), n in found.items() if o == ordinal for _ in range(n)]
        assert abs(len(starts) - 2000) < 150
        assert np.mean(starts) == pytest.approx((windows - 1) / 2, abs=0.025 * windows)


def test_half_of_the_draws_by_recency_are_younger_than_the_half_life() -> None:
    table = table_of(*[104] * 5)
    found = drawn(Recency(table, Window(5), 20.0), 1, 40_000)
    newest_first = list(reversed(windows_of(table, Window(5))))
    younger = [sum(found[w] for w in newest_first[: 20 * n]) / 40_000 for n in (1, 2, 3)]
    assert younger == pytest.approx([0.5, 0.75, 0.875], abs=0.01)


def test_no_episode_repeats_in_a_batch_when_there_are_more_than_asked_for() -> None:
    sampler = UniformEpisodes(table_of(*[8] * 20), Window(5))
    generator = np.random.default_rng(0)
    for _ in range(100):
        assert len(set(sampler.draw(generator, 19).ordinals.tolist())) == 19


def test_exactly_as_many_episodes_as_asked_for_come_once_each_in_order() -> None:
    draw = UniformEpisodes(table_of(*[8] * 6), Window(5)).draw(np.random.default_rng(0), 6)
    assert draw.ordinals.tolist() == [0, 1, 2, 3, 4, 5]
    assert draw.probabilities is None


def test_fewer_episodes_than_asked_for_are_drawn_with_replacement() -> None:
    draw = UniformEpisodes(table_of(8, 8), Window(5)).draw(np.random.default_rng(0), 30)
    assert set(draw.ordinals.tolist()) == {0, 1}


def test_distinct_draws_every_subset_equally_often() -> None:
    generator = np.random.default_rng(0)
    found = Counter(frozenset(distinct(generator, 5, 2).tolist()) for _ in range(10_000))
    assert len(found) == 10
    assert all(abs(n - 1000) < 150 for n in found.values())


@pytest.mark.parametrize("half_life", [1e-9, 1.0, 1e300])
def test_recency_stands_extreme_half_lives(half_life: float) -> None:
    sampler = Recency(table_of(20, 20), Window(5), half_life)
    found = drawn(sampler, 1, 2000)
    assert set(found) <= set(windows_of(table_of(20, 20), Window(5)))
    assert found[1, 15] >= {1e-9: 2000, 1.0: 900, 1e300: 30}[half_life]


def test_new_windows_get_the_largest_priority_given_so_far() -> None:
    table = table_of(8)
    sampler = Prioritised(table, Window(4))
    first, second = np.array([0]), np.array([1])
    assert sampler.priorities_of(next(iter(table))).tolist() == [1.0] * 5
    sampler.update(first, first, np.array([0.25]))
    sampler.update(first, second, np.array([0.125]))
    table.insert(chunk("b", 0, 0, 5))
    assert sampler.priorities_of(list(table)[1]).tolist() == [0.25, 0.25]


def test_one_window_of_priority_above_0_is_drawn_alone_and_with_none_all_are() -> None:
    table = table_of(12)
    sampler = Prioritised(table, Window(4), exponent=0.0)
    zeros, starts = np.zeros(9, np.int64), np.arange(9)
    sampler.update(zeros, starts, np.eye(9)[5])
    draw = sampler.draw(np.random.default_rng(0), 100)
    assert set(choices(draw)) == {(0, 5)}
    assert draw.probabilities is not None
    assert draw.probabilities.tolist() == [1.0] * 100
    sampler.update(zeros, starts, np.zeros(9))
    draw = sampler.draw(np.random.default_rng(0), 100)
    assert set(choices(draw)) == {(0, start) for start in range(9)}
    assert draw.probabilities is not None
    assert draw.probabilities.tolist() == [1 / 9] * 100


def test_a_priority_above_0_leaves_only_by_leaving_the_table() -> None:
    table = empty_table(16)
    table.insert(chunk("a", 0, 0, 8))
    sampler = Prioritised(table, Window(4))
    table.insert(chunk("a", 1, 0, 8))
    table.insert(chunk("a", 2, 0, 8))
    assert sampler.update(np.array([0, 1]), np.array([0, 0]), np.array([5.0, 2.0])) == 1
    assert {ordinal for ordinal, _ in drawn(sampler, 1, 100)} == {1, 2}


@pytest.mark.parametrize("priority", [-0.1, np.nan, np.inf, -np.inf, 1e101])
def test_a_priority_that_cannot_be_is_refused_and_nothing_changes(priority: float) -> None:
    table = table_of(8)
    sampler = Prioritised(table, Window(4))
    ordinals, starts = np.zeros(2, np.int64), np.arange(2)
    with pytest.raises(ReplayError, match=r"for window 1 of 2.*learner that diverges"):
        sampler.update(ordinals, starts, np.array([0.5, priority]))
    with pytest.raises(ReplayError, match="for window 4 of 5"):
        sampler.restore(next(iter(table)), np.array([1, 1, 1, 1, priority]))
    assert sampler.priorities_of(next(iter(table))).tolist() == [1.0] * 5


def test_priorities_of_other_lengths_are_refused() -> None:
    table = table_of(8)
    sampler = Prioritised(table, Window(4))
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)
    with pytest.raises(ReplayError, match=r"2 windows need priorities of shape \(2,\), got \(1,\)"):
        sampler.update(two, two, np.ones(1))
    with pytest.raises(ReplayError, match="1 segments need as many starts, got 2"):
        sampler.update(one, two, np.ones(1))
    with pytest.raises(ReplayError, match=r"5 windows need priorities of shape \(5,\), got \(4,\)"):
        sampler.restore(next(iter(table)), np.ones(4))


def test_a_damaged_state_is_refused_and_nothing_changes() -> None:
    table = table_of(8, 8)
    sampler = Prioritised(table, Window(4))
    before = sampler.state()
    with pytest.raises(ReplayError, match="saved priorities are damaged"):
        sampler.restore_state({"largest_priority": 2.0, "rows": [[0, [1]], [1, [1]]]})
    assert sampler.state() == before
    assert sampler.draw(np.random.default_rng(0), 4).ordinals.tolist() == [0, 0, 1, 1]


def test_options_that_cannot_work_are_refused_by_name() -> None:
    table = table_of(8)
    for kind in SAMPLERS:
        for window in (Window(0), Window(4, 0)):
            with pytest.raises(ReplayError, match="length and a stride of 1 step or more"):
                SAMPLERS[kind](table, window)
    for half_life in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ReplayError, match="half_life of the sampler 'recency'"):
            Recency(table, Window(4), half_life)
    for exponent in (-0.1, 1.1, np.nan):
        with pytest.raises(ReplayError, match="exponent of the sampler 'prioritised'"):
            Prioritised(table, Window(4), exponent)
    assert not table.listeners


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_batches_are_whole_windows_and_equal_seeds_give_equal_batches(sampler: str) -> None:
    shards = [ReplayShard(Ring(SCHEMA, 80), sampler=sampler, seed=5) for _ in range(2)]
    given_out = 0
    for number in range(12):
        for part in episode("a", number, 11 + number):
            batches = []
            for shard in shards:
                shard.insert(part)
                batches.append(shard.sample(Request(Window(6), 4)))
            one, other = batches
            if one is not None and other is not None:
                assert_windows_are_whole(one)
                assert all((one[name] == other[name]).all() for name in one)
                given_out += 1
    assert given_out > 20


@pytest.fixture(scope="module")
def tables() -> tuple[Table, Table]:
    """One of a thousand steps and one of half a million, in episodes of a thousand."""
    small = step_schema((1, 1, 1), 1)
    sizes = (1_000, 500_000)
    tables = [Table(Ring(small, size)) for size in sizes]
    for table, size in zip(tables, sizes, strict=True):
        for number in range(size // 1000):
            table.insert(chunk("a", number, 0, 1000, last=True, schema=small))
    return tables[0], tables[1]


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_draw_costs_about_the_same_whatever_is_stored(
    kind: str, tables: tuple[Table, Table]
) -> None:
    generator = np.random.default_rng(0)
    few, many = (SAMPLERS[kind](table, Window(32)) for table in tables)

    def seconds(sampler: Sampler) -> float:
        return min(timeit.repeat(lambda: sampler.draw(generator, 32), number=1, repeat=200))

    assert seconds(many) < 6 * seconds(few)  # 500 times as much is stored
    for table in tables:
        table.listeners.clear()


def test_many_windows_can_be_followed_at_once() -> None:
    shard = ReplayShard(Ring(SCHEMA, 60))
    for number in range(8):
        for part in episode("a", number, 20):
            shard.insert(part)
        for length in range(2, 14):
            batch = shard.sample(Request(Window(length), 2))
            assert batch is not None
            assert_windows_are_whole(batch)
