"""Evaluation beside training: one actor that fetches the newest weights and rolls episodes.

This is an actor of its own and not an RLlib evaluation runner, because RLlib's parallel evaluation
belongs to one `train()` call, which then lasts as long as the evaluation does. This one goes on
across iterations, and training never waits for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorHandle

from rl_system.hub import find_hub
from rl_system.placement import acting_options
from rl_system.policy import build_agent

if TYPE_CHECKING:
    from rl_system.settings import Settings


logger = logging.getLogger(__name__)


class Evaluator:
    """Measures the newest published policy. Made into a Ray actor by `start_evaluator`."""

    def __init__(self, prefix: str, settings: Settings, action_dims: int) -> None:
        import torch

        torch.set_num_threads(1)
        self._hub = find_hub(prefix)
        self._settings = settings
        self._agent = build_agent(settings, action_dims).eval()

    def evaluate(self, number: int, episodes: int) -> dict[str, float]:
        """Rolls `episodes` episodes with the newest weights and returns flat numbers.

        Evaluation number n of a run has its own seed, so that no two see the same episodes.

        Raises:
            RuntimeError: no weights were ever published.
        """
        from replay.seeds import seed_for
        from rl_system.evaluation import evaluate

        found = ray.get(self._hub.newest.remote(None), timeout=self._settings.actors.timeout_s)
        if found is None:
            raise RuntimeError("No weights were published yet: evaluate after the first update.")
        _, updates, (reference,) = found
        weights = ray.get(reference, timeout=self._settings.actors.timeout_s)
        self._agent.acting_weights().load(weights)
        result = evaluate(
            self._agent,
            self._settings,
            episodes=episodes,
            seed=seed_for(self._settings.run.seed, "evaluation", number),
        )
        return result.metrics() | {"updates": float(updates)}


def start_evaluator(prefix: str, settings: Settings, action_dims: int) -> ActorHandle:
    """Starts the evaluator of a run, in the Python that acts.

    It reserves no CPU: it lives on what the others leave.
    """
    options: dict[str, Any] = {
        "num_cpus": 0,
        "max_restarts": -1,
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}
        | acting_options(settings.environment),
    }
    return ray.remote(Evaluator).options(**options).remote(prefix, settings, action_dims)


class EvaluationSchedule:
    """Begins an evaluation every so many agent steps and collects its result when it is there.

    One that has not ended within `evaluation.timeout_s` is given up with a warning, and the next
    gets an evaluator of its own. `start` makes evaluators.
    """

    def __init__(
        self,
        prefix: str,
        settings: Settings,
        action_dims: int,
        start: Callable[[str, Settings, int], ActorHandle] = start_evaluator,
    ) -> None:
        self._start = lambda: start(prefix, settings, action_dims)
        self._settings = settings
        self._every = settings.evaluation.every_agent_steps
        self._next = self._every
        self._count = 0
        self._evaluator: ActorHandle | None = None
        self._pending: Any = None
        self._began_at = 0.0

    def go_on(self, agent_steps: int, wait: bool) -> dict[str, float] | None:
        """Begins the evaluation that is due; returns the numbers of one that has ended.

        Args:
            agent_steps: Of the run so far.
            wait: Wait for the evaluation in progress, up to `evaluation.timeout_s`.
        """
        if self._pending is None and self._next is not None and agent_steps >= self._next:
            assert self._every is not None
            self._pending = self._begin(self._settings.evaluation.episodes)
            self._began_at = time.monotonic()
            self._next = (agent_steps // self._every + 1) * self._every
        if self._pending is None:
            return None
        timeout_s = self._settings.evaluation.timeout_s
        left = max(0.0, self._began_at + timeout_s - time.monotonic())
        ready, _ = ray.wait([self._pending], timeout=left if wait else 0)
        if not ready:
            if wait or left <= 0:
                logger.warning(
                    "An evaluation has not ended within %g s and is left out. If it is just slow, "
                    "raise evaluation.timeout_s or lower evaluation.episodes.",
                    timeout_s,
                )
                self.stop()
            return None
        pending, self._pending = self._pending, None
        try:
            return ray.get(pending)
        except ray.exceptions.RayError as error:
            logger.warning("An evaluation failed and is left out: %s", error)
            return None

    def now(self, episodes: int) -> dict[str, float]:
        """Evaluates and waits for the numbers; one in progress goes on before.

        Raises:
            ray.exceptions.GetTimeoutError: not ended within `evaluation.timeout_s`.
            ray.exceptions.RayError: the evaluation failed.
        """
        answer = self._begin(episodes)
        try:
            return ray.get(answer, timeout=self._settings.evaluation.timeout_s)
        except ray.exceptions.GetTimeoutError:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the evaluator and what it does."""
        self._pending = None
        if self._evaluator is not None:
            ray.kill(self._evaluator, no_restart=True)
            self._evaluator = None

    def state_dict(self) -> dict[str, Any]:
        """Returns which evaluation comes next and when."""
        return {"count": self._count, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict()`; an evaluation in progress is forgotten."""
        self._count = state["count"]
        self._next = state["next"] if self._every is not None else None
        self._pending = None

    def _begin(self, episodes: int) -> Any:
        if self._evaluator is None:
            self._evaluator = self._start()
        answer = self._evaluator.evaluate.remote(self._count, episodes)
        self._count += 1
        return answer
