"""Notices a run that stands still or an actor that fails again and again, and says so."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ray.exceptions import RayTaskError

from replay.errors import ReplayError
from rl_system.errors import RunError
from rl_system.settings import Settings

logger = logging.getLogger(__name__)

ERRORS_IN_A_ROW = 3  # an actor that fails so often ends the run


class Watch:
    """Keeps an eye on the reports of actors and learner.

    Attributes:
        patience_s: Seconds after which waiting for an actor or the learner is an error: longer than
            any of them may wait by itself, so that their own, clearer errors come first.
    """

    def __init__(self, settings: Settings) -> None:
        self._actors = settings.actors.count
        self.patience_s = 60.0 + 2.0 * max(settings.actors.timeout_s, settings.replay.timeout_s)
        self._errors: defaultdict[int, int] = defaultdict(int)
        self._counts: tuple[int, ...] = ()
        self._moved_at = time.monotonic()
        self._waiting: str | None = None

    def actor(self, report: Mapping[str, Any]) -> None:
        """Takes an actor's report.

        Raises:
            RuntimeError: the actor failed `ERRORS_IN_A_ROW` times in a row; its first line says how
                at last, and behind it comes the traceback.
        """
        actor, error = report["actor"], report["error"]
        if error is None:
            self._errors[actor] = 0
            return
        self._errors[actor] += 1
        count = self._errors[actor]
        logger.warning("Actor %d failed (%d in a row):\n%s", actor, count, error)
        if count >= ERRORS_IN_A_ROW:
            last = error.strip().rpartition("\n")[2]
            raise RuntimeError(
                f"Actor {actor} failed {count} times in a row, at last with {last}\n{error}"
            )

    def learner(self, report: Mapping[str, Any]) -> None:
        """Takes the learner's report."""
        self._waiting = report["waiting"]

    def restart(self) -> None:
        """Begins to count the time anew, after something that took long."""
        self._moved_at = time.monotonic()

    def progress(self, counts: tuple[int, ...], healthy_actors: int) -> None:
        """Takes the counters of both sides.

        Raises:
            TimeoutError: none has changed for `patience_s`; says what each side waits for.
        """
        if counts != self._counts:
            self._counts = counts
            self.restart()
            return
        stood_s = time.monotonic() - self._moved_at
        if stood_s > self.patience_s:
            raise TimeoutError(
                f"For {stood_s:.0f} s no actor took a step and the learner made no update. "
                f"{healthy_actors} of {self._actors} actors answer. "
                f"{self._waiting or 'The learner does not say that it waits for data.'} "
                "If everything is just slow, raise actors.timeout_s and replay.timeout_s."
            )


def explain_learner(error: RayTaskError, learners: int) -> RunError | None:
    """What to raise where one of several learners has failed because another is gone; None where
    `error` says itself what to do.

    Learners hear of each other's death by their exchanges, before Ray tells.
    """
    cause = error.cause
    if learners < 2 or not isinstance(cause, RuntimeError) or isinstance(cause, ReplayError):
        return None
    return RunError(
        "A learner has failed while several shared an update; most likely another learner's "
        f"process has ended. Go on with `rl-system resume`. ({cause})"
    )
