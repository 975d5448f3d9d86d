"""The driver's part in a run: it asks actors and learner to go on, and adds up what they report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl_system.checkpointed import answers
from rl_system.evaluator import EvaluationSchedule
from rl_system.plane import DataPlane
from rl_system.settings import Settings
from rl_system.tally import Tally
from rl_system.watch import Watch

ACTOR_SLICE_S = 0.5  # one call of an actor; the next is queued already
LEARNER_SLICE_S = 2.0  # one call of the learner; the next is queued already
LOCAL_LEARNER_SLICE_S = 0.5  # the same in the driver, where actors wait for their next call
DRIVER_WAIT_S = 0.25  # how long the driver waits for an answer of the actors


class Conducting:
    """Conducts the groups of actors and learners that RLlib gives to the class it is mixed into.

    In lock step (`run.deterministic`) they take turns.
    """

    learner_group: Any
    env_runner_group: Any
    _settings: Settings
    _plane: DataPlane
    _tally: Tally
    _watch: Watch
    _schedule: EvaluationSchedule
    _generation: int
    _first_update_agent_steps: int | None

    def training_step(self) -> None:
        """Asks everybody to go on and takes in what they report; never does their work."""
        before = (self._tally.agent_steps, self._tally.episodes)
        if self._settings.run.deterministic:
            self._take_turns()
        else:
            self._learn_on()
            self._act_on()
        self._watch.progress(
            (self._tally.agent_steps, self._tally.updates),
            self.env_runner_group.num_healthy_remote_env_runners(),
        )
        self._evaluate_on()
        self._log(*before)

    def _learn_on(self) -> None:
        """Asks the learner to go on and takes in what it reports, without waiting."""
        raise NotImplementedError

    def _log(self, agent_steps: int, episodes: int) -> None:
        """Keeps RLlib's usual names filled; the arguments are the counts before this step."""
        raise NotImplementedError

    def _learn(self, **arguments: Any) -> None:
        """Has the learner run one slice and waits for it."""
        results = self.learner_group.foreach_learner(
            lambda learner: learner.update(**arguments), timeout_seconds=self._watch.patience_s
        )
        # One of them: others follow the first and have nothing to report.
        reports = [report for report in answers(results) if report is not None]
        if not reports:
            raise TimeoutError(f"The learner did not answer within {self._watch.patience_s:.0f} s.")
        self._take_learner(reports[0])

    def _act_on(self) -> None:
        # One new call for every actor that has room for one; an actor works while its next waits.
        reports = self.env_runner_group.foreach_env_runner_async_fetch_ready(
            func="sample",
            tag="sample",
            kwargs=self._orders() | {"seconds": ACTOR_SLICE_S},
            timeout_seconds=DRIVER_WAIT_S,
        )
        for report in reports:
            self._take_actor(report)

    def _take_turns(self) -> None:
        """Lets the one actor act with known weights, then the learner learn from known data."""
        tally, settings = self._tally, self._settings
        reports = self.env_runner_group.foreach_env_runner(
            "sample",
            kwargs=self._orders()
            | {"rounds": settings.actors.chunk_agent_steps, "weights_updates": tally.updates},
            timeout_seconds=self._watch.patience_s,
        )
        for report in reports:
            self._take_actor(report)
        if self._first_update_agent_steps is None:
            if not self._plane.ready(settings.replay.timeout_s):
                return
            self._first_update_agent_steps = tally.agent_steps
        earned = tally.agent_steps - self._first_update_agent_steps
        owed = int(earned * settings.learner.updates_per_agent_step) - tally.updates
        if owed > 0:
            self._learn(updates=owed)

    def _orders(self) -> dict[str, Any]:
        return {"generation": self._generation, "agent_steps": dict(self._tally.agent_steps_of)}

    def _take_actor(self, report: Mapping[str, Any]) -> None:
        if report["generation"] == self._generation:  # else: steps of before a restore
            self._tally.add_actor(report)
            self._watch.actor(report)

    def _take_learner(self, report: Mapping[str, Any]) -> None:
        self._tally.add_learner(report)
        self._watch.learner(report)

    def _evaluate_on(self) -> None:
        if self._tally.updates:
            wait = self._settings.run.deterministic
            result = self._schedule.go_on(self._tally.agent_steps, wait)
            if result is not None:
                self._tally.add_evaluation(result)
