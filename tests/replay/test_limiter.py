from __future__ import annotations

import random

import pytest

from replay import Limiter, ReplayError, ReplaySettings, ReplayShard, Workload
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
    limiter.inserted_steps(1000)
    assert limiter.may_insert(1000)
    assert limiter.may_sample(10**9, stored=10)
    assert not limiter.may_sample(1, stored=9)


def test_counts_and_waits_come_back_from_a_state_dict() -> None:
    limiter = Limiter(2.0, 10, 8.0)
    limiter.inserted_steps(30)
    limiter.sampled_steps(44)
    limiter.insert_waited(1.5)
    limiter.sample_waited(0.5)
    other = Limiter(2.0, 10, 8.0)
    other.load_state_dict(limiter.state_dict())
    assert other.state_dict() == limiter.state_dict()
    assert other.error == -4.0


def test_a_changed_ratio_repays_no_debt_of_the_old_one() -> None:
    limiter = Limiter(2.0, 10, 8.0)
    limiter.inserted_steps(10_000)
    limiter.sampled_steps(19_980)
    other = Limiter(4.0, 10, 8.0)
    other.load_state_dict(limiter.state_dict())
    assert other.error == 0.0
    other.inserted_steps(1)
    assert other.error == 4.0


def test_a_band_too_narrow_for_both_sides_to_move_is_refused_with_the_least_that_works() -> None:
    workload = Workload(samples_per_insert=4.0, batch_length=8, batch_size=4, chunk_length=8)
    with pytest.raises(ReplayError, match=r"limiter_band_agent_steps is 5.*at least 6,"):
        workload.band(ReplaySettings(limiter_band_agent_steps=5))
    assert workload.band(ReplaySettings(limiter_band_agent_steps=6)) == 24.0


def test_a_batch_that_does_not_divide_over_the_shards_names_both_settings() -> None:
    with pytest.raises(ReplayError, match=r"batch_size 16 .* replay\.shards 3"):
        Workload(batch_size=16).share(3)


def test_only_the_first_chunk_of_an_episode_is_held_back() -> None:
    shard = ReplayShard(SCHEMA, 100, limiter=Limiter(1.0, 4, 8.0))
    assert not shard.insert(chunk("a", 0, 0, 8)).held_back
    assert shard.insert(chunk("a", 1, 0, 8)).held_back
    assert not shard.insert(chunk("a", 0, 8, 8)).held_back
    assert shard.insert(chunk("a", 0, 0, 8)) == (False, 0)  # a repeat is answered, not held back
    assert shard.sample(4, 5) is not None
    assert not shard.insert(chunk("a", 1, 0, 8)).held_back


def test_nothing_is_held_back_while_a_sample_request_waits() -> None:
    shard = ReplayShard(SCHEMA, 100, limiter=Limiter(1.0, 1, 8.0))
    shard.insert(chunk("a", 0, 0, 8))
    assert shard.insert(chunk("a", 1, 0, 8)).held_back
    shard.waiting_samples = 1
    assert not shard.insert(chunk("a", 1, 0, 8)).held_back


@pytest.mark.parametrize("seed", range(25))
def test_no_interleaving_of_writers_readers_and_crashes_deadlocks(seed: int) -> None:
    """Plays the protocol of `ReplayWriter` and `ReplayReader` on real shards in random order."""
    dice = random.Random(seed)
    shards_count = dice.choice([1, 2, 3])
    settings = ReplaySettings(
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
            workload.samples_per_insert, settings.shard_minimum_agent_steps, workload.band(settings)
        )
        return ReplayShard(SCHEMA, 600, limiter=limiter)

    shards = [new_shard() for _ in range(shards_count)]
    given = [[0] * shards_count for _ in range(writers)]
    at: list[tuple[int, int, int, int] | None] = [None] * writers  # shard, episode, start, length
    episodes = [0] * writers
    requests = [
        [settings.requests_in_flight] * shards_count for _ in range(readers)
    ]  # open, per shard
    answered = [[0] * shards_count for _ in range(readers)]
    batches, crashes = 0, 0

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
        if not requests[r][s] or shards[s].sample(6, 2) is None:
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
            crashes += 1
        for s in range(shards_count):
            shards[s].waiting_samples = (
                sum(requests[r][s] > 0 for r in range(readers))
                if not shards[s].would_give(6, 2)
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
        assert (
            shard.limiter.error
            >= -shard.limiter.band
            - settings.shard_minimum_agent_steps * shard.limiter.samples_per_insert
        )
    assert batches > 0
