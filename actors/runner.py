"""RLlib's view of an actor: an EnvRunner whose `sample` steps for a while and streams to replay.

No frame and no weight passes through RLlib: `sample` returns counts. Replay and the weight hub are
found by the run's name in Ray.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

# Chooses the OpenGL library, before RLlib imports dm_control.
from actors.environments.catalog import make_environment

# isort: split
import gymnasium as gym
import numpy as np
import ray
import torch
from ray.exceptions import RayError
from ray.rllib.algorithms import algorithm as rllib_algorithm
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from actors.environments.spaces import space_of
from actors.following import FollowingPolicy
from actors.stream import ChunkStream
from actors.weights import WeightFeed
from actors.worker import Report, Worker
from replay.errors import ReplayTimeout
from replay.placement import NAMESPACE
from replay.seeds import seed_for
from replay.service import ReplayService
from replay.writer import ReplayWriter

logger = logging.getLogger(__name__)

WRITE_WAIT_S = 0.5  # how long one `sample` lets itself be held back by replay


class ActorGroup(EnvRunnerGroup):
    """RLlib's group of env runners, with the runtime environment that `config.plane` asks for.

    RLlib has no option for it. A local env runner, which is in the driver, is left as it is.
    """

    def _make_worker(self, *, worker_index: int, **values: Any) -> Any:
        plane = getattr(self._remote_config, "plane", {})
        if worker_index > 0 and plane.get("runtime_env"):
            self._remote_args["runtime_env"] = plane["runtime_env"]
        return super()._make_worker(worker_index=worker_index, **values)


@contextlib.contextmanager
def actor_groups() -> Iterator[None]:
    """Has RLlib make an `ActorGroup` wherever it makes a group of env runners.

    The class of a group is named in no configuration, but looked up here at that moment.
    """
    former = rllib_algorithm.EnvRunnerGroup
    rllib_algorithm.EnvRunnerGroup = ActorGroup
    try:
        yield
    finally:
        rllib_algorithm.EnvRunnerGroup = former


class StreamingEnvRunner(EnvRunner):
    """Steps several environments with a recurrent policy and sends the steps to replay.

    Its options are `config.plane`, a plain dictionary that the Algorithm fills: `prefix` (name of
    the run in Ray), `seed`, `environment` and `actors` (settings objects), `deterministic`, and for
    `ActorGroup` `runtime_env` (of the actors' processes in Ray; absent or empty: that of the rest).

    Every life of the process has a new name in the chunk identities, so an episode that a crash cut
    short ends there and nothing is ever stored twice.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        torch.set_num_threads(1)
        self._plane: dict[str, Any] = self.config.plane
        self._actors = self._plane["actors"]
        self._index = int(self.worker_index or 0)
        self._generation = -1
        self._worker: Worker | None = None
        self._writer: ReplayWriter | None = None
        self._policy: FollowingPolicy | None = None
        self._life = os.urandom(4).hex()
        self._blocked_since: float | None = None
        self._reported_at: float | None = None
        self.module: Any = None
        self.environments: list[Any] = []
        self._episode_seed = 0
        self.make_env()
        self.make_module()

    # What the Algorithm calls -------------------------------------------------------------------

    def sample(
        self,
        *,
        generation: int = 0,
        agent_steps: dict[int, int] | None = None,
        seconds: float | None = 0.5,
        rounds: int | None = None,
        weights_updates: int | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Steps for `seconds`, or `rounds` rounds in lock step, and returns counts.

        Args:
            generation: Grows when the run was put back to a checkpoint; the actor then forgets its
                episodes and begins anew.
            agent_steps: Agent steps that each actor has taken in the run; read once, when this
                process begins.
            seconds: How long to step.
            rounds: Steps in every environment; used with `weights_updates`.
            weights_updates: Wait for weights of exactly so many updates before the first step.

        Returns:
            The fields of `actors.worker.Report` and `actor`, `life` (new for every process),
            `generation`, `wall_s` (time since the last call ended), `driver_wait_s` (of it, the
            time until this call began), `weights_updates` (updates behind the weights in use; -1:
            none yet), `weights_age` (see `FollowingPolicy.take_ages`), `writer` (see
            `ReplayWriter.stats`; empty: none yet) and `error` (None or a traceback; the actor then
            begins anew with the next call).
        """
        called = time.monotonic()
        last = called if self._reported_at is None else self._reported_at
        error = None
        report = Report()
        try:
            worker = self._ready(generation, (agent_steps or {}).get(self._index, 0))
            assert self._policy is not None
            if weights_updates is not None:
                self._policy.take_exactly(weights_updates)
            worker.run(seconds=None if rounds is not None else seconds, rounds=rounds)
            if self._plane["deterministic"]:
                self._flush()
            report = worker.take_report()
            self._watch_back_pressure(worker)
        except Exception:
            error = traceback.format_exc()
            logger.exception("Actor %d failed and begins anew.", self._index)
            if self._worker is not None:
                report = self._worker.take_report()
            self._worker = None
            with contextlib.suppress(Exception):  # what failed may be an environment
                self._close_environments()
        self._reported_at = time.monotonic()
        return asdict(report) | {
            "actor": self._index,
            "life": self._life,
            "generation": generation,
            "wall_s": self._reported_at - last,
            "driver_wait_s": called - last,
            "weights_updates": -1 if self._policy is None else self._policy.updates,
            "weights_age": None if self._policy is None else self._policy.take_ages(),
            "writer": {} if self._writer is None else self._writer.stats(),
            "error": error,
        }

    def get_spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        """Returns observation and action space, as RLlib asks for them."""
        environment = self.environments[0]
        spaces = (space_of(environment.observation_spec()), space_of(environment.action_spec()))
        return {INPUT_ENV_SPACES: spaces, DEFAULT_MODULE_ID: spaces}

    def assert_healthy(self) -> None:
        """Raises AssertionError unless environments and policy stand."""
        assert self.environments and self.module is not None, "The actor was not built."

    def get_metrics(self) -> dict[str, Any]:
        """Returns nothing: counts come with `sample`."""
        return {}

    def get_state(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Returns nothing: an actor's counts are kept by the Algorithm."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Ignores RLlib's pushes: weights come from the hub, counts with `sample`."""

    def pid(self) -> int:
        """Returns the process id, for fault tests."""
        return os.getpid()

    def stop(self) -> None:
        """Ends the stream and closes the environments."""
        if self._writer is not None:
            with contextlib.suppress(ReplayTimeout, RayError):
                self._writer.close()
            self._writer = None
        self._worker = None
        self._close_environments()

    # Parts --------------------------------------------------------------------------------------

    def make_env(self) -> None:
        """Makes the environments anew, seeded by this actor's index and life."""
        self._close_environments()
        for number in range(self._actors.environments_per_actor):
            names = ("actor", self._index, "environment", number, "from", self._episode_seed)
            seed = seed_for(self._plane["seed"], *names)
            self.environments.append(make_environment(self._plane["environment"], seed))

    def _close_environments(self) -> None:
        closing, self.environments = self.environments, []
        for environment in closing:
            environment.close()

    def make_module(self) -> None:
        """Builds the policy, an RLModule named by the configuration."""
        spaces = self.get_spaces()
        self.module = self.config.get_rl_module_spec(spaces=spaces, inference_only=True).build()

    def _ready(self, generation: int, agent_steps: int) -> Worker:
        """Returns the stepping loop, made anew at a start, after an error and for a generation."""
        if self._worker is not None and generation == self._generation:
            return self._worker
        plane, settings = self._plane, self._actors
        count, put_back = settings.environments_per_actor, self._generation not in (-1, generation)
        # Fewer than there should be: making them failed before, and shall say why again.
        if put_back or agent_steps != self._episode_seed or len(self.environments) != count:
            self._episode_seed = agent_steps
            self.make_env()  # other start states than in the life before
        if put_back and self._policy is not None:
            self._policy.forget()
        self._generation = generation
        name = f"actor-{self._index}"
        torch.manual_seed(seed_for(plane["seed"], name, "policy", agent_steps))
        timeout_s = 10.0 if plane["deterministic"] else WRITE_WAIT_S
        service = ReplayService.connect(plane["prefix"], timeout_s=settings.timeout_s)
        writer = ReplayWriter(
            service.shards,
            service.schema,
            replace(service.settings, timeout_s=timeout_s),
            actor=name,
            actor_index=self._index - 1,
            environments=count,
            chunk_length=settings.chunk_agent_steps,
        )
        self._writer = writer
        if self._policy is None:
            self._policy = FollowingPolicy(
                self.module,
                WeightFeed(ray.get_actor(f"{plane['prefix']}/weights", NAMESPACE)),
                environments=count,
                poll_agent_steps=settings.weights_poll_agent_steps,
                timeout_s=settings.timeout_s,
            )
        self._blocked_since = None
        self._worker = Worker(
            self.environments,
            self._policy,
            [
                ChunkStream(
                    writer.write, service.schema, f"{name}/{number}", settings.chunk_agent_steps
                )
                for number in range(count)
            ],
            generator=np.random.default_rng(seed_for(plane["seed"], name, "random", agent_steps)),
            random_agent_steps=-(-settings.random_agent_steps // settings.count),
            agent_steps=agent_steps,
            between=self._flush if plane["deterministic"] else self._policy.look,
        )
        return self._worker

    def _flush(self) -> None:
        """Waits until replay has every chunk, so that in lock step they come in one order.

        Not inside `ChunkStream`'s write, which offers a chunk again after a `ReplayTimeout`: a
        chunk that the writer has taken must not be offered twice.
        """
        assert self._writer is not None
        self._writer.flush(self._actors.timeout_s)

    def _watch_back_pressure(self, worker: Worker) -> None:
        """Raises `ReplayTimeout` when replay has held this actor back for `actors.timeout_s`."""
        now = time.monotonic()
        if not worker.blocked:
            self._blocked_since = None
            return
        if self._blocked_since is None:
            self._blocked_since = now
        elif now - self._blocked_since > self._actors.timeout_s:
            raise ReplayTimeout(
                f"Actor {self._index} has been held back by replay for "
                f"{now - self._blocked_since:.0f} s: all shards wait for the learner to sample. "
                "Is a learner running? If its updates are just slow, raise actors.timeout_s."
            )
