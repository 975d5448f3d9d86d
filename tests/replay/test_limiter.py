from __future__ import annotations

import json
import random
from typing import Any

import pytest

from replay import Limiter, ReplayError, ReplaySettings, ReplayShard, Workload
from replay.ring import Ring
from replay.samplers import Window
from replay.shard import Request
from tests.replay.episodes import SCHEMA, chunk


def test_sampling_waits_for_the_minimum_and_then_stays_in_the_band() -> None:
    limiter = Limiter(2.0, 10, 8.0)
    assert not limiter.may_sample(1, stored=9)
    limiter.inserted_steps(10)
    assert limiter.may_sample(8, stored=10)
    assert not limiter.may_sample(9, stored=10)
    assert limiter.may_insert(4)
    assert not limiter.may_insert(5)
    limiter.sampled_steps(8)
    assert limiter.may_insert(8)
    assert not limiter.may_sample(1, stored=10)


def test_inserts_below_the_minimum_are_never_held_back() -> None:
    limiter = Limiter(100.0, 50, 1.0)
    limiter.inserted_steps(49)
    assert limiter.may_insert(32)


def test_without_a_ratio_only_the_minimum_counts() -> None:
    limiter = Limiter(None, 10, 0.0)
    limiter.inserted_steps(9)
    assert not limiter.may_sample(1, stored=9)
    limiter.inserted_steps(1)
    assert limiter.may_insert(1000)
    assert limiter.may_sample(10**9, stored=9)  # as many may never be there at once
    assert not limiter.may_sample(1, stored=0)


def test_counts_and_waits_come_back_from_a_state_dict() -> None:
    limiter = Limiter(2.0, 10, 8.0)
    limiter.inserted_steps(30)
    limiter.sampled_steps(44)
    limiter.insert_waited(1.5)
    limiter.sample_waited(0.5)
    other = Limiter(2.0, 10, 8.0)
    other.load_state_dict(json.loads(json.dumps(limiter.state_dict())))
    assert other.state_dict() == limiter.state_dict()
    assert other.error == -4.0
    assert (other.insert_waits, other.insert_wait_s) == (1, 1.5)
    assert (other.sample_waits, other.sample_wait_s) == (1, 0.5)


@pytest.mark.parametrize(("ratio", "minimum"), [(4.0, 10), (2.0, 20), (2.0, 20_000)])
def test_a_ratio_or_minimum_changed_between_runs_repays_no_debt(ratio: float, minimum: int) -> None:
    limiter = Limiter(2.0, 10, 8.0)
    limiter.inserted_steps(10_000)
    limiter.sampled_steps(19_000)
    other = Limiter(ratio, minimum, 8.0)
    other.load_state_dict(limiter.state_dict())
    assert (other.samples_per_insert, other.minimum) == (ratio, minimum)
    assert (other.inserted, other.sampled, other.error) == (10_000, 19_000, 0.0)
    other.inserted_steps(max(1, minimum - 10_000))
    assert other.error == (ratio if minimum < 10_000 else 0.0)


def test_what_was_set_at_run_time_comes_back_unless_the_settings_have_changed() -> None:
    limiter = Limiter(2.0, 10, 8.0)
    limiter.inserted_steps(40)
    limiter.configure(samples_per_insert=3.0, band=50.0)
    limiter.inserted_steps(5)
    same, changed = Limiter(2.0, 10, 8.0), Limiter(2.0, 10, 9.0)
    same.load_state_dict(limiter.state_dict())
    assert (same.samples_per_insert, same.band, same.error) == (3.0, 50.0, 15.0)
    changed.load_state_dict(limiter.state_dict())
    assert (changed.samples_per_insert, changed.band, changed.error) == (3.0, 9.0, 15.0)


def test_a_ratio_or_minimum_set_at_run_time_repays_no_debt() -> None:
    limiter = Limiter(2.0, 10, 8.0)
    limiter.inserted_steps(14)
    assert not limiter.may_insert(1)
    limiter.configure(samples_per_insert=1.0)
    assert limiter.error == 0.0
    assert limiter.may_insert(8)
    assert not limiter.may_insert(9)
    limiter.inserted_steps(4)
    limiter.configure(minimum=30)
    assert limiter.error == 0.0
    assert limiter.may_insert(1000)
    assert not limiter.may_sample(1, stored=18)
    limiter.inserted_steps(15)
    assert limiter.error == 3.0
    limiter.configure(samples_per_insert=None)
    assert limiter.error == 0.0
    assert limiter.may_sample(10**9, stored=30)


def test_a_band_set_at_run_time_keeps_the_error() -> None:
    limiter = Limiter(2.0, 0, 8.0)
    limiter.inserted_steps(4)
    limiter.configure(band=4.0)
    assert limiter.error == 8.0
    assert not limiter.may_insert(0)
    assert limiter.may_sample(12, stored=4)
    limiter.configure(band=20.0)
    assert limiter.may_insert(6)


def test_setting_a_number_to_what_it_is_changes_nothing() -> None:
    limiter = Limiter(2.0, 10, 8.0)
    limiter.inserted_steps(13)
    before = limiter.state_dict()
    limiter.configure(samples_per_insert=2.0, minimum=10, band=8.0)
    limiter.configure()
    assert limiter.state_dict() == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("samples_per_insert", 0.0, "samples_per_insert must be positive"),
        ("samples_per_insert", float("nan"), "samples_per_insert must be positive"),
        ("minimum", -1, "replay.minimum_agent_steps must not be negative"),
        ("band", -0.5, "replay.limiter_band_agent_steps must be a number of 0 or more"),
        ("band", float("inf"), "replay.limiter_band_agent_steps must be a number of 0 or more"),
    ],
)
def test_numbers_that_cannot_work_are_refused_by_name_and_nothing_changes(
    name: str, value: float, message: str
) -> None:
    numbers: dict[str, Any] = {"samples_per_insert": 2.0, "minimum": 10, "band": 8.0}
    with pytest.raises(ReplayError, match=message):
        Limiter(**(numbers | {name: value}))
    limiter = Limiter(**numbers)
    limiter.inserted_steps(12)
    before = limiter.state_dict()
    with pytest.raises(ReplayError, match=message):
        limiter.configure(**{name: value})
    assert limiter.state_dict() == before


def test_a_preload_holds_nothing_back_samples_nothing_and_leaves_no_debt() -> None:
    limiter = Limiter(2.0, 10, 8.0)
    limiter.preload(True)
    assert limiter.preloading
    limiter.inserted_steps(5000)
    assert limiter.may_insert(10**6)
    assert not limiter.may_sample(1, stored=5000)
    assert limiter.error == 0.0
    limiter.preload(False)
    assert limiter.may_sample(8, stored=5000)
    assert not limiter.may_sample(9, stored=5000)
    assert limiter.may_insert(4)
    assert not limiter.may_insert(5)
    assert limiter.inserted == 5000


def test_what_was_preloaded_counts_towards_the_minimum() -> None:
    limiter = Limiter(2.0, 10, 8.0)
    limiter.preload(True)
    limiter.inserted_steps(6)
    limiter.preload(False)
    assert limiter.may_insert(100)
    limiter.inserted_steps(5)
    assert limiter.error == 2.0


def test_a_preload_in_the_middle_of_a_run_forgets_the_error_at_its_end() -> None:
    limiter = Limiter(2.0, 0, 8.0)
    limiter.inserted_steps(4)
    limiter.preload(True)
    assert limiter.error == 8.0
    limiter.preload(True)
    other = Limiter(2.0, 0, 8.0)
    other.load_state_dict(limiter.state_dict())
    assert not other.preloading  # who would end it?
    limiter.preload(False)
    for each in (limiter, other):
        assert each.error == 0.0
        each.inserted_steps(1)
        each.preload(False)  # ends nothing, so forgets nothing
        assert each.error == 2.0


def test_one_sentence_says_who_waits_for_whom() -> None:
    limiter = Limiter(2.0, 10, 8.0)
    assert limiter.waiting_for().startswith("Readers wait for writers: 0 of the 10 agent steps")
    limiter.preload(True)
    assert limiter.waiting_for().startswith("Readers wait for the end of the preload")
    limiter.preload(False)
    limiter.inserted_steps(10)
    limiter.inserted_steps(2)
    assert limiter.waiting_for() == (
        "Nobody waits: the learner is 4 sampled agent steps behind samples per insert, with a band "
        "of 8."
    )
    limiter.inserted_steps(2)
    assert limiter.waiting_for().startswith("Writers wait for readers: the learner is 8 sampled")
    limiter.sampled_steps(9)
    assert limiter.waiting_for().startswith("Readers wait for writers: the learner is 1 sampled")
    limiter.configure(samples_per_insert=3.0)
    limiter.inserted_steps(5)
    limiter.sampled_steps(15)
    assert limiter.waiting_for() == (
        "Writers and readers both wait: a band of 8 sampled agent steps is too narrow for chunks "
        "of 5 and batch shares of 15 agent steps. Raise replay.limiter_band_agent_steps or set it "
        "to null."
    )
    limiter.configure(samples_per_insert=None)
    assert limiter.waiting_for() == "Nobody waits: no samples per insert are set."


def test_a_band_too_narrow_for_both_sides_to_move_is_refused_with_the_least_that_works() -> None:
    workload = Workload(samples_per_insert=4.0, batch_length=8, batch_size=4, chunk_length=8)
    with pytest.raises(ReplayError, match=r"limiter_band_agent_steps is 5.*at least 6,"):
        workload.band(ReplaySettings(shards=2, limiter_band_agent_steps=5))
    assert workload.band(ReplaySettings(shards=2, limiter_band_agent_steps=6)) == 24.0


def test_only_the_first_chunk_of_an_episode_is_held_back() -> None:
    shard = ReplayShard(Ring(SCHEMA, 100), limiter=Limiter(1.0, 4, 8.0))
    assert not shard.insert(chunk("a", 0, 0, 8)).held_back
    assert shard.insert(chunk("a", 1, 0, 8)).held_back
    assert not shard.insert(chunk("a", 0, 8, 8)).held_back
    assert shard.insert(chunk("a", 0, 0, 8)) == (False, 0)  # a repeat is answered, not held back
    assert shard.sample(Request(Window(4), 5)) is not None
    assert not shard.insert(chunk("a", 1, 0, 8)).held_back


def test_nothing_is_held_back_while_a_sample_request_waits() -> None:
    shard = ReplayShard(Ring(SCHEMA, 100), limiter=Limiter(1.0, 1, 8.0))
    shard.insert(chunk("a", 0, 0, 8))
    assert shard.insert(chunk("a", 1, 0, 8)).held_back
    shard.waiting_samples = 1
    assert not shard.insert(chunk("a", 1, 0, 8)).held_back


REQUEST = Request(Window(6), 2)


@pytest.mark.parametrize("seed", range(25))
def test_no_interleaving_of_writers_readers_crashes_and_new_limits_deadlocks(seed: int) -> None:
    """Plays the protocol of `ReplayWriter` and `ReplayReader` on real shards in random order."""
    dice = random.Random(seed)
    shards_count = dice.choice([1, 2, 3])
    replay_settings = ReplaySettings(
        shards=shards_count,
        capacity_agent_steps=600 * shards_count,
        minimum_agent_steps=dice.randint(1, 200),
        requests_in_flight=dice.randint(1, 3),
    )
    writers, readers = dice.randint(1, 4), dice.randint(1, 2)
    workload = Workload(
        samples_per_insert=dice.choice([0.5, 3.0, 20.0]),
        batch_length=6,
        batch_size=2 * shards_count,
        readers=readers,
        writers=writers,
        chunk_length=8,
    )

    def new_shard() -> ReplayShard:
        limiter = Limiter(
            workload.samples_per_insert,
            replay_settings.shard_minimum_agent_steps,
            workload.band(replay_settings),
        )
        return ReplayShard(Ring(SCHEMA, 600), limiter=limiter)

    shards = [new_shard() for _ in range(shards_count)]
    given = [[0] * shards_count for _ in range(writers)]
    at: list[tuple[int, int, int, int] | None] = [None] * writers  # shard, episode, start, length
    episodes = [0] * writers
    requests = [
        [replay_settings.requests_in_flight] * shards_count for _ in range(readers)
    ]  # open, per shard
    answered = [[0] * shards_count for _ in range(readers)]
    batches = 0

    def write(w: int) -> bool:
        now = at[w]
        if now is None:
            length = dice.randint(6, 60)
            for s in sorted(
                range(shards_count), key=lambda s: (given[w][s], (s - w) % shards_count)
            ):
                if not shards[s].insert(chunk(f"w{w}", episodes[w], 0, 6)).held_back:
                    given[w][s] += 6
                    at[w] = (s, episodes[w], 6, length)
                    return True
            return False
        s, number, start, length = now
        size = min(8, length - start)
        if size > 0:
            assert not shards[s].insert(chunk(f"w{w}", number, start, size)).held_back
            given[w][s] += size
            at[w] = (s, number, start + size, length)
        else:
            episodes[w] += 1
            at[w] = None
        return True

    def give(r: int, s: int) -> bool:
        if not requests[r][s] or shards[s].sample(REQUEST) is None:
            return False
        requests[r][s] -= 1
        answered[r][s] += 1
        return True

    def read(r: int) -> bool:
        if min(answered[r]) == 0:
            return False
        for s in range(shards_count):
            answered[r][s] -= 1
            requests[r][s] += 1
        return True

    moves = [(write, (w,)) for w in range(writers)] + [(read, (r,)) for r in range(readers)]
    moves += [(give, (r, s)) for r in range(readers) for s in range(shards_count)]
    favourite = dice.choice(moves)
    for _ in range(1500):
        if dice.random() < 0.002:
            shards[dice.randrange(shards_count)] = new_shard()  # a crash without a snapshot
        limiter = shards[dice.randrange(shards_count)].limiter
        if dice.random() < 0.004:
            limiter.configure(
                samples_per_insert=dice.choice([0.5, 3.0, 20.0]), minimum=dice.randint(1, 200)
            )
        if dice.random() < (0.05 if limiter.preloading else 0.002):
            limiter.preload(not limiter.preloading)
        for s in range(shards_count):
            shards[s].waiting_samples = (
                sum(requests[r][s] > 0 for r in range(readers))
                if not shards[s].would_give(REQUEST)
                else 0
            )
        order = (
            [favourite, *dice.sample(moves, len(moves))]
            if dice.random() < 0.7
            else dice.sample(moves, len(moves))
        )
        for move, arguments in order:
            if move(*arguments):
                batches += move is read
                break
        else:
            pytest.fail("nobody can move")
    for shard in shards:
        assert shard.limiter.error >= -shard.limiter.band
    assert batches > 0
