"""The stepping loop and its streams, mostly with small made-up environments and policies."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import dm_env
import numpy as np
import pytest
from dm_env import specs

from actors.environments.catalog import make_environment
from actors.environments.interface import Observation
from actors.environments.settings import EnvironmentSettings
from actors.stream import ChunkStream
from actors.worker import Worker, observation_fields, stack_observations
from replay.errors import ReplayTimeout
from replay.schema import Chunk, Schema, step_schema

SCHEMA = step_schema((4, 4, 3), 2)
WITH_PROPRIOCEPTION = step_schema((4, 4, 3), 2, 3)


class Counting:
    """Shows the number of its step in every pixel; ends after `length` steps."""

    def __init__(self, length: int = 7, terminates: bool = False) -> None:
        self.length, self.terminates = length, terminates
        self.simulator_steps = 0
        self.actions: list[np.ndarray] = []
        self.number = 0

    def _frame(self) -> Observation:
        return np.full((4, 4, 3), self.number, np.uint8)

    def observe_into(self, memory: Observation, /) -> None:
        """Ignores the offer, as an environment may."""

    def reset(self) -> dm_env.TimeStep:
        self.number, self.simulator_steps = 0, 0
        return dm_env.restart(self._frame())

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        self.actions.append(action.copy())
        self.number += 1
        self.simulator_steps = 3
        if self.number < self.length:
            return dm_env.transition(float(self.number), self._frame())
        end = dm_env.termination if self.terminates else dm_env.truncation
        return end(float(self.number), self._frame())

    def action_spec(self) -> Any:
        return specs.BoundedArray((2,), np.float32, -1, 1)


class Feeling(Counting):
    """Shows the number of its step in every pixel and a quarter of it in proprioception."""

    def _frame(self) -> Observation:
        picture = np.full((4, 4, 3), self.number, np.uint8)
        return {
            "observation": picture,
            "proprioception": np.full(3, self.number / 4, np.float32),
        }


class Drawing(Counting):
    """A `Counting` with larger pictures that are written into the memory that is offered."""

    def __init__(self, length: int = 7, size: int = 4) -> None:
        super().__init__(length)
        self._size = size
        self._memory: np.ndarray | None = None
        self.drawn: list[np.ndarray] = []

    def observe_into(self, memory: Observation, /) -> None:
        assert isinstance(memory, np.ndarray)
        assert memory.shape == (self._size, self._size, 3) and memory.dtype == np.uint8
        self._memory = memory

    def _frame(self) -> Observation:
        assert self._memory is not None, "memory is offered for every time step"
        picture, self._memory = self._memory, None
        picture[...] = self.number
        self.drawn.append(picture)
        return picture


class Remembering:
    """Acts with the number of steps it remembers of the episode, divided by 100."""

    def __init__(self) -> None:
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []

    def initial_state(self, count: int) -> np.ndarray:
        return np.zeros(count)

    def act(
        self, observation: np.ndarray, state: np.ndarray, is_first: np.ndarray, explore: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        state = np.where(is_first, 0.0, state + 1)
        self.seen.append((observation[:, 0, 0, 0].copy(), state.copy()))
        return np.repeat(state[:, None] / 100, 2, axis=1).astype(np.float32), state


class Sink:
    """Takes chunks, or refuses as long as `full`."""

    def __init__(self, schema: Schema = SCHEMA) -> None:
        self.schema = schema
        self.chunks: list[Chunk] = []
        self.full = False

    def __call__(self, chunk: Chunk) -> None:
        if self.full:
            raise ReplayTimeout("full")
        self.schema.validate(chunk)
        self.chunks.append(chunk)


def _worker(
    environments: Sequence[Any], policy: Any, sink: Sink, length: int = 3, **more: Any
) -> Worker:
    streams = [ChunkStream(sink, sink.schema, f"a/{n}", length) for n in range(len(environments))]
    generator = np.random.default_rng(0)
    return Worker(environments, policy, streams, generator=generator, **more)


def test_chunks_of_an_episode_join_without_gap_and_close_with_its_end() -> None:
    sink = Sink()
    worker = _worker([Counting(7)], Remembering(), sink)
    worker.run(rounds=14)
    keys = [(c.key.actor, c.key.episode, c.key.start, len(c)) for c in sink.chunks]
    assert keys == [
        ("a/0", episode, start, n) for episode in (0, 1) for start, n in ((0, 3), (3, 3), (6, 1))
    ]
    assert [c.is_last for c in sink.chunks] == [False, False, True] * 2


def test_a_step_holds_the_frame_acted_on_and_the_reward_that_the_action_earned() -> None:
    sink = Sink()
    environment = Counting(4)
    _worker([environment], Remembering(), sink, length=8).run(rounds=4)
    (chunk,) = sink.chunks
    steps = chunk.steps
    assert steps["observation"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert steps["reward"].tolist() == [1, 2, 3, 4]
    assert np.array_equal(steps["action"], np.stack(environment.actions))
    assert steps["is_first"].tolist() == [True, False, False, False]
    assert steps["discount"].tolist() == [1, 1, 1, 1]


class Watching(Remembering):
    """Keeps copies of the observations that it acts on."""

    def __init__(self) -> None:
        super().__init__()
        self.observed: list[Observation] = []

    def act(
        self, observation: Any, state: np.ndarray, is_first: np.ndarray, explore: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        self.observed.append({name: array.copy() for name, array in observation.items()})
        return super().act(observation["observation"], state, is_first, explore)


def test_the_policy_sees_proprioception_stacked_beside_the_pictures_of_all_environments() -> None:
    policy = Watching()
    _worker([Feeling(3), Feeling(5)], policy, Sink(WITH_PROPRIOCEPTION)).run(rounds=4)
    for observed in policy.observed:
        assert isinstance(observed, dict)
        assert observed["observation"].shape == (2, 4, 4, 3)
        assert observed["proprioception"].shape == (2, 3)
        assert observed["proprioception"].dtype == np.float32
        pictured = observed["observation"][:, 0, 0, 0]
        np.testing.assert_array_equal(observed["proprioception"][:, 0], pictured / 4)
    assert [observed["observation"][0, 0, 0, 0] for observed in policy.observed] == [0, 1, 2, 0]


def test_a_step_holds_the_proprioception_that_was_acted_on_as_a_field_of_its_own() -> None:
    sink = Sink(WITH_PROPRIOCEPTION)
    _worker([Feeling(4)], Watching(), sink, length=8).run(rounds=4)
    (chunk,) = sink.chunks
    assert chunk.steps["observation"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert chunk.steps["proprioception"][:, 2].tolist() == [0.0, 0.25, 0.5, 0.75]
    assert chunk.steps["reward"].tolist() == [1, 2, 3, 4]


def test_stacked_observations_are_new_arrays() -> None:
    single = Feeling()._frame()
    assert isinstance(single, dict)
    stacked = stack_observations([single, single])
    assert isinstance(stacked, dict)
    single["observation"][...] = 9
    single["proprioception"][...] = 9
    assert stacked["observation"].max() == 0 and stacked["proprioception"].max() == 0


@pytest.mark.parametrize("kind", [Counting, Feeling])
def test_observations_can_be_stacked_into_an_earlier_answer(kind: type[Counting]) -> None:
    environment = kind()
    first = stack_observations([environment._frame()] * 2)
    environment.number = 5
    second = stack_observations([environment._frame()] * 2, first)
    pairs = zip(*(observation_fields(each).values() for each in (first, second)), strict=True)
    assert all(old is new for old, new in pairs)
    assert observation_fields(second)["observation"].tolist() == np.full((2, 4, 4, 3), 5).tolist()


def _steps(chunks: list[Chunk]) -> list[tuple[Any, dict[str, Any]]]:
    return [(c.key, {name: array.tolist() for name, array in c.steps.items()}) for c in chunks]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("count", [1, 2])
def test_pictures_drawn_into_chunks_are_streamed_like_pictures_in_arrays_of_their_own(
    count: int, chunk: int
) -> None:
    sinks = []
    for kind in (Counting, Drawing):
        sinks.append(Sink())
        environments = [kind(length) for length in (6, 7)[:count]]
        _worker(environments, Remembering(), sinks[-1], chunk).run(rounds=25)
    assert _steps(sinks[0].chunks) == _steps(sinks[1].chunks)
    assert len(sinks[0].chunks) > 2


@pytest.mark.parametrize("chunk", [1, 3, 20])
def test_a_picture_lies_in_its_chunk_from_the_start(chunk: int) -> None:
    sink, environment = Sink(), Drawing(7)
    _worker([environment], Remembering(), sink, chunk).run(rounds=14)
    drawn = {picture.ctypes.data for picture in environment.drawn}
    sent = [row for chunk in sink.chunks for row in chunk.steps["observation"]]
    assert len(sent) == 14
    assert {row.ctypes.data for row in sent} <= drawn


def test_what_was_sent_is_never_written_again() -> None:
    class Copying(Sink):
        def __init__(self) -> None:
            super().__init__()
            self.copies: list[dict[str, np.ndarray]] = []

        def __call__(self, chunk: Chunk) -> None:
            super().__call__(chunk)
            self.copies.append({name: array.copy() for name, array in chunk.steps.items()})

    sink = Copying()
    worker = _worker([Drawing(7), Drawing(4)], Remembering(), sink)
    for full in (False, True, True, False, False):
        sink.full = full
        worker.run(rounds=5)
    assert len(sink.chunks) > 6
    for chunk, copy in zip(sink.chunks, sink.copies, strict=True):
        for name, array in chunk.steps.items():
            np.testing.assert_array_equal(array, copy[name])


def test_the_policy_of_one_environment_reads_pictures_where_they_were_drawn() -> None:
    class Looking(Remembering):
        def act(self, observation: np.ndarray, *more: Any) -> tuple[np.ndarray, np.ndarray]:
            assert observation.shape == (1, 4, 4, 3)
            assert np.shares_memory(observation, environment.drawn[-1])
            return super().act(observation, *more)

    environment, policy = Drawing(), Looking()
    _worker([environment], policy, Sink()).run(rounds=9)
    assert [int(frame[0]) for frame, _ in policy.seen] == [0, 1, 2, 3, 4, 5, 6, 0, 1]


@pytest.mark.parametrize("count", [1, 3])
def test_a_round_that_begins_no_chunk_makes_no_array_of_a_pictures_size(count: int) -> None:
    size, length, rounds = 64, 200, 60
    sink = Sink(step_schema((size, size, 3), 2))
    environments = [Drawing(length, size) for _ in range(count)]
    worker = _worker(environments, Remembering(), sink, length)
    worker.run(rounds=10)
    peaks = []
    tracemalloc.start()
    for _ in range(rounds):
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        worker.run(rounds=1)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert max(peaks) < size * size * 3 / 2


def test_an_actor_streams_the_pictures_that_a_real_environment_draws() -> None:
    class Still(Remembering):
        def act(self, observation: Any, *_: Any) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros((1, 1), np.float32), np.zeros(1)

    settings = EnvironmentSettings("dcs/cartpole-swingup", image_size=32, quality="fast")
    environment, twin = make_environment(settings, 3), make_environment(settings, 3)
    sink = Sink(step_schema((32, 32, 3), 1))
    _worker([environment], Still(), sink, length=4).run(rounds=9)
    pictures = [twin.reset().observation]
    pictures += [twin.step(np.zeros(1)).observation for _ in range(7)]
    streamed = np.concatenate([chunk.steps["observation"] for chunk in sink.chunks])
    np.testing.assert_array_equal(streamed, pictures)
    environment.close()
    twin.close()


def test_values_written_into_a_streams_memory_are_not_copied() -> None:
    sink = Sink()
    stream = ChunkStream(sink, SCHEMA, "a", 2)
    stream.begin(0)
    rows = [stream.memory()["observation"], stream.memory(ahead=1)["observation"]]
    for number, row in enumerate(rows):
        row[...] = 10 + number
    for number, row in enumerate(rows):
        after = stream.memory(ahead=1)["observation"]  # of the next chunk, from the second on
        assert not np.shares_memory(after, row)
        step = {"action": np.zeros(2), "reward": 0.0, "is_last": False, "discount": 1.0}
        stream.append(observation=row, is_first=number == 0, **step)
    (chunk,) = sink.chunks
    sent = chunk.steps["observation"]
    assert sent[:, 0, 0, 0].tolist() == [10, 11]
    assert [row.ctypes.data for row in sent] == [row.ctypes.data for row in rows]
    assert not np.shares_memory(after, sent)
    assert np.shares_memory(stream.memory()["observation"], after)


@pytest.mark.parametrize(("terminates", "discount"), [(True, 0.0), (False, 1.0)])
def test_the_discount_is_zero_only_where_the_task_truly_ended(
    terminates: bool, discount: float
) -> None:
    sink = Sink()
    _worker([Counting(3, terminates)], Remembering(), sink).run(rounds=3)
    assert sink.chunks[-1].steps["discount"][-1] == discount


def test_each_environment_carries_its_own_state_and_restarts_it_with_its_episode() -> None:
    policy = Remembering()
    _worker([Counting(3), Counting(5)], policy, Sink()).run(rounds=8)
    for frames, states in policy.seen:
        assert np.array_equal(frames, states)  # both count the steps of the episode


def test_random_episodes_end_whole_and_leave_the_policy_unasked() -> None:
    policy = Remembering()
    environment = Counting(4)
    worker = _worker([environment], policy, Sink(), random_agent_steps=6)
    worker.run(rounds=8)
    assert policy.seen == []
    assert np.std(np.stack(environment.actions)) > 0.3
    worker.run(rounds=4)
    assert len(policy.seen) == 4
    report = worker.take_report()
    assert (len(report.random_returns), len(report.returns)) == (2, 1)
    assert report.policy_agent_steps == 4 and report.policy_s > 0.0


def test_steps_of_earlier_lives_count_as_random_steps() -> None:
    policy = Remembering()
    _worker([Counting(4)], policy, Sink(), random_agent_steps=6, agent_steps=6).run(rounds=1)
    assert len(policy.seen) == 1


def test_a_full_replay_holds_the_worker_back_and_nothing_is_lost() -> None:
    sink = Sink()
    worker = _worker([Counting(7)], Remembering(), sink)
    sink.full = True
    worker.run(rounds=10)
    assert worker.blocked and worker.agent_steps == 3
    worker.run(rounds=10)
    assert worker.agent_steps == 3
    sink.full = False
    worker.run(rounds=4)
    assert not worker.blocked
    starts = [(c.key.episode, c.key.start) for c in sink.chunks]
    assert starts == [(0, 0), (0, 3), (0, 6)]


def test_a_report_counts_what_was_done_since_the_last() -> None:
    worker = _worker([Counting(4), Counting(4)], Remembering(), Sink())
    worker.run(rounds=6)
    report = worker.take_report()
    assert (report.agent_steps, report.simulator_steps, report.episodes) == (12, 36, 2)
    assert report.returns == [10.0, 10.0]
    assert worker.take_report().agent_steps == 0


def test_new_weights_are_looked_for_before_every_round() -> None:
    looks = []
    _worker([Counting()], Remembering(), Sink(), between=lambda: looks.append(1)).run(rounds=5)
    assert len(looks) == 5


def test_a_time_out_between_rounds_is_an_error_and_sends_no_chunk_again() -> None:
    sink = Sink()

    def confirm() -> None:
        if sink.chunks:
            raise ReplayTimeout("shard 0 does not answer")

    worker = _worker([Counting(7)], Remembering(), sink, between=confirm)
    for _ in range(2):
        with pytest.raises(ReplayTimeout, match="shard 0"):
            worker.run(rounds=10)
    assert len(sink.chunks) == 1


def test_a_run_of_seconds_makes_at_least_one_round() -> None:
    worker = _worker([Counting()], Remembering(), Sink())
    worker.run(seconds=0.0)
    assert worker.agent_steps == 1


def test_environments_and_streams_must_match() -> None:
    with pytest.raises(ValueError, match="one stream per environment"):
        Worker([Counting()], Remembering(), [], generator=np.random.default_rng(0))


def test_an_episode_that_was_cut_short_goes_out_without_an_end() -> None:
    sink = Sink()
    stream = ChunkStream(sink, SCHEMA, "a", 5)
    step = {
        "observation": np.zeros((4, 4, 3), np.uint8),
        "action": np.zeros(2, np.float32),
        "reward": 0.0,
        "is_first": True,
        "is_last": False,
        "discount": 1.0,
    }
    with pytest.raises(RuntimeError, match="call begin"):
        stream.append(**step)
    stream.begin(0)
    stream.append(**step)
    stream.begin(1)
    (chunk,) = sink.chunks
    assert (chunk.key.episode, len(chunk), chunk.is_last) == (0, 1, False)
