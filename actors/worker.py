"""The stepping loop: a few environments, one policy, one stream of steps for each environment.

    for every environment that begins an episode:  reset
    actions, state = policy.act(observations, state, is_first, explore=True)
    for every environment:                         step, append the step to its stream

This file knows no RLlib and no learner. Environments and the policy are whatever follows the two
protocols below.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import dm_env
import numpy as np

from actors.environments.interface import Observation
from actors.stream import ChunkStream


class Policy(Protocol):
    """Acts in N environments at once and carries a state for each.

    The observations that it is given are not to be changed and hold until its next `act`.

    `is_first[i]` tells that environment i shows the first observation of an episode: the policy
    begins anew there, whatever the state holds.
    """

    def initial_state(self, count: int, /) -> Any:
        """Returns states to begin with for `count` environments."""
        ...

    def act(
        self, observation: Observation, state: Any, is_first: np.ndarray, explore: bool, /
    ) -> tuple[np.ndarray, Any]:
        """Maps observations, states and bool (N,) to float32 (N, A) in [-1, 1] and states.

        Observations are uint8 (N, H, W, 3), or a dictionary of that as `observation` and float32
        (N, P) `proprioception` (see `stack_observations`).
        """
        ...


class Environment(Protocol):
    """What the loop needs of an environment; `actors.environments` makes them."""

    simulator_steps: int  # simulator steps of the last agent step

    def observe_into(self, memory: Observation, /) -> None:
        """Offers memory for the observation of the next time step, which may hold it then."""
        ...

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode."""
        ...

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        """Takes one agent step."""
        ...

    def action_spec(self) -> Any:
        """Returns the shape of actions, float32 in [-1, 1]."""
        ...


def stack_observations(
    observations: Sequence[Observation], out: Observation | None = None
) -> Observation:
    """Returns the observations of N environments as arrays (N, ...), by name if they are
    dictionaries: new ones, or `out` if that is given, such as an earlier answer.
    """
    if isinstance(observations[0], dict):
        named = cast(Sequence[dict[str, np.ndarray]], observations)
        into = cast(dict[str, np.ndarray], out or {})
        return {
            name: np.stack([each[name] for each in named], out=into.get(name)) for name in named[0]
        }
    return np.stack(cast(Sequence[np.ndarray], observations), out=cast(np.ndarray | None, out))


def observation_fields(observation: Observation) -> dict[str, np.ndarray]:
    """Returns an observation as fields of a step (replay/schema.py): a picture alone is
    `observation`.
    """
    return observation if isinstance(observation, dict) else {"observation": observation}


def observation_memory(fields: dict[str, np.ndarray]) -> Observation:
    """Returns the part of a step's fields that is an observation, in the form of one."""
    if "proprioception" in fields:
        return {name: fields[name] for name in ("observation", "proprioception")}
    return fields["observation"]


@dataclass
class Report:
    """What a worker did since its last report."""

    agent_steps: int = 0
    simulator_steps: int = 0
    episodes: int = 0  # episodes that ended
    returns: list[float] = field(default_factory=list)  # undiscounted, one per ended episode
    random_returns: list[float] = field(default_factory=list)  # those of the random first episodes
    wait_s: float = 0.0  # seconds in which replay held the worker back
    policy_s: float = 0.0  # seconds in which the policy chose actions
    policy_agent_steps: int = 0  # agent steps that it chose them for


class Worker:
    """Steps its environments in turn with one batched policy.

    An environment draws a frame straight into the chunk that will carry it to replay. The policy of
    a single environment reads it there, too; those of several are gathered in one array, which
    every round uses again.

    Args:
        environments: At least one; each keeps its own episodes.
        policy: Chooses the actions.
        streams: One per environment, in the same order.
        generator: Source of the random first actions.
        random_agent_steps: Episodes that begin before this worker has taken so many agent steps act
            uniformly at random, to their end.
        agent_steps: Agent steps that this actor took in earlier lives.
        between: Called before every round of steps: the place to look for new weights.
    """

    def __init__(
        self,
        environments: Sequence[Environment],
        policy: Policy,
        streams: Sequence[ChunkStream],
        *,
        generator: np.random.Generator,
        random_agent_steps: int = 0,
        agent_steps: int = 0,
        between: Callable[[], None] | None = None,
    ) -> None:
        if not environments or len(environments) != len(streams):
            raise ValueError(
                f"A worker needs one stream per environment, got {len(environments)} environments "
                f"and {len(streams)} streams."
            )
        self._environments = list(environments)
        self._policy = policy
        self._streams = list(streams)
        self._generator = generator
        self._random_agent_steps = random_agent_steps
        self._between = between or (lambda: None)
        count = len(self._environments)
        self._state = policy.initial_state(count)
        self._observations: list[Observation | None] = [None] * count  # None: begin an episode
        self._batch: Observation | None = None  # the last round's, to be written over
        self._is_first = np.ones(count, bool)
        self._random = np.zeros(count, bool)
        self._returns = np.zeros(count)
        self._action_shape = tuple(self._environments[0].action_spec().shape)
        self._next_episode = 0
        self.agent_steps = agent_steps
        self._report = Report()

    def run(self, *, seconds: float | None = None, rounds: int | None = None) -> None:
        """Steps until `seconds` have passed or `rounds` rounds are done, or replay holds it back.

        A round is one agent step in every environment; at least one is made unless a stream is
        blocked. Whatever was begun continues with the next call.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        done = 0
        while self._free() and (rounds is None or done < rounds):
            self._between()
            self._round()
            done += 1
            if deadline is not None and time.monotonic() >= deadline:
                break

    @property
    def blocked(self) -> bool:
        """Whether replay holds this worker back."""
        return any(stream.blocked for stream in self._streams)

    def take_report(self) -> Report:
        """Returns what was done since the last call."""
        report, self._report = self._report, Report()
        return report

    def _free(self) -> bool:
        if not self.blocked:
            return True
        begin = time.monotonic()
        free = all([stream.retry() for stream in self._streams])
        self._report.wait_s += time.monotonic() - begin
        return free

    def _round(self) -> None:
        for index, observation in enumerate(self._observations):
            if observation is None:
                self._begin(index)
        observations = [value for value in self._observations if value is not None]
        actions = self._actions(self._stack(observations))
        for index, observation in enumerate(observations):
            self._step(index, observation, actions[index])

    def _stack(self, observations: list[Observation]) -> Observation:
        if len(observations) > 1:
            self._batch = stack_observations(observations, self._batch)
            return self._batch
        (alone,) = observations
        if isinstance(alone, dict):
            return {name: array[None] for name, array in alone.items()}
        return alone[None]

    def _begin(self, index: int) -> None:
        environment, stream = self._environments[index], self._streams[index]
        stream.begin(self._next_episode)
        self._next_episode += 1
        environment.observe_into(observation_memory(stream.memory()))
        self._observations[index] = environment.reset().observation
        self._is_first[index] = True
        self._random[index] = self.agent_steps < self._random_agent_steps
        self._returns[index] = 0.0

    def _actions(self, observations: Observation) -> np.ndarray:
        count = len(self._environments)
        actions = np.empty((count, *self._action_shape), np.float32)
        if not self._random.all():
            # Random episodes pass through as well: their state is never used.
            begin = time.perf_counter()
            chosen, self._state = self._policy.act(observations, self._state, self._is_first, True)
            actions[:] = chosen
            self._report.policy_s += time.perf_counter() - begin
            self._report.policy_agent_steps += count
        if self._random.any():
            shape = (int(self._random.sum()), *self._action_shape)
            actions[self._random] = self._generator.uniform(-1.0, 1.0, shape)
        return actions

    def _step(self, index: int, observation: Observation, action: np.ndarray) -> None:
        environment, stream = self._environments[index], self._streams[index]
        environment.observe_into(observation_memory(stream.memory(ahead=1)))
        time_step = environment.step(action)
        begin = time.monotonic()
        stream.append(
            **observation_fields(observation),
            action=action,
            reward=time_step.reward,
            is_first=self._is_first[index],
            is_last=time_step.last(),
            discount=time_step.discount,
        )
        waited = time.monotonic() - begin
        if stream.blocked:
            self._report.wait_s += waited
        self._is_first[index] = False
        self._returns[index] += time_step.reward
        self._observations[index] = None if time_step.last() else time_step.observation
        self.agent_steps += 1
        self._report.agent_steps += 1
        self._report.simulator_steps += environment.simulator_steps
        if time_step.last():
            self._report.episodes += 1
            returns = self._report.random_returns if self._random[index] else self._report.returns
            returns.append(float(self._returns[index]))
