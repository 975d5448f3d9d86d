"""Saving a run to a directory and going on from it, as a part of the Algorithm.

A checkpoint is of one moment only if nobody is at work while it is written or applied. RLlib's
classes are known here by their methods only.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rl_system.errors import CheckpointError
from rl_system.evaluator import EvaluationSchedule
from rl_system.plane import DataPlane
from rl_system.policy import MODULE_STATE
from rl_system.tally import Tally
from rl_system.watch import Watch

TALLY = "tally"  # key of the counters in the Algorithm's state
LEARNER_PARTS = (MODULE_STATE, Path("learner_group/learner/state.pkl"))

Take = Callable[[Mapping[str, Any]], None]

logger = logging.getLogger(__name__)


class Checkpointed:
    """The half of an Algorithm that saves and restores; stands before RLlib's in its bases.

    Checkpoints hold weights, optimisers, random states, counters, and replay or where its snapshot
    lies (`replay.checkpoint`).

    Attributes:
        tell: Is given lines for the user about a restore.
    """

    learner_group: Any
    env_runner_group: Any
    _tally: Tally
    _watch: Watch
    _plane: DataPlane
    _schedule: EvaluationSchedule
    _generation: int  # grows when the run is put back to a checkpoint
    _first_update_agent_steps: int | None
    _storage: Any  # Tune's, of the trial; None outside of Tune
    tell: Callable[[str], None] = staticmethod(logger.warning)

    def _take_actor(self, report: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _take_learner(self, report: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's state with the counters of the run."""
        state: dict[str, Any] = super().get_state(*args, **kwargs)  # type: ignore[misc]
        return state | {
            TALLY: self._tally.state_dict()
            | {
                "evaluation": self._schedule.state_dict(),
                "first_update_agent_steps": self._first_update_agent_steps,
            }
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`; replay is restored by `restore_from_path`."""
        super().set_state(state)  # type: ignore[misc]
        if TALLY in state:
            tally = state[TALLY]
            self._tally.load_state_dict(tally)
            self._schedule.load_state_dict(tally["evaluation"])
            self._first_update_agent_steps = tally["first_update_agent_steps"]

    def save_to_path(self, path: str | Path | None = None, **kwargs: Any) -> str:
        """Saves everything that the run depends on as the directory `path`.

        Actors and learner finish their slices first, so that all counters are of one moment.

        Raises:
            ReplayError, CheckpointError: a part could not be saved; the directory is incomplete and
                must not be used.
        """
        self._come_to_rest()
        directory = Path(path if path is not None else tempfile.mkdtemp(prefix="core-checkpoint-"))
        directory.mkdir(parents=True, exist_ok=True)
        self._plane.save(directory, self._storage)
        saved: str = super().save_to_path(str(directory), **kwargs)  # type: ignore[misc]
        require_learner(directory)
        return saved

    def restore_from_path(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Continues from what `save_to_path` wrote: same counters, same replay.

        Replay is checked whole before anything is applied. Where the process that conducted this
        run was killed and its shards live on, they keep what they hold. On return the restored
        weights are published: actors forget theirs with their next call and take no step before
        they have them.

        Raises:
            SnapshotError, CheckpointError: a part is missing or damaged.
        """
        if kwargs.get("component") is not None:
            super().restore_from_path(path, *args, **kwargs)  # type: ignore[misc]
            return
        reference, snapshot = self._plane.find(Path(path).absolute())
        self._come_to_rest()
        # The learner draws ahead even at rest; a batch drawn after the load would count as sampled.
        answers(
            self.learner_group.foreach_learner(
                lambda learner: learner.shutdown(), timeout_seconds=self._watch.patience_s
            )
        )
        self._plane.restore(reference, snapshot, self.tell)
        super().restore_from_path(path, *args, **kwargs)  # type: ignore[misc]
        self._generation += 1
        self._watch.restart()
        require_updates(Path(path), self._reconnect(), self._tally.updates)

    def _come_to_rest(self) -> None:
        come_to_rest(
            self.env_runner_group,
            self.learner_group,
            self._take_actor,
            self._take_learner,
            self._watch.patience_s,
        )

    def _reconnect(self) -> list[int]:
        """Has the learner publish its weights and draw anew; returns where it stands."""
        results = self.learner_group.foreach_learner(
            lambda learner: learner.reconnect(), timeout_seconds=self._watch.patience_s
        )
        return answers(results)


def come_to_rest(
    actors: Any, learners: Any, take_actor: Take, take_learner: Take, patience_s: float
) -> None:
    """Waits until every call that was sent to actors and learner is answered.

    Args:
        actors: RLlib's EnvRunnerGroup.
        learners: RLlib's LearnerGroup.
        take_actor: Takes in an actor's report.
        take_learner: Takes in the learner's report.
        patience_s: Deadline.

    Raises:
        TimeoutError: somebody is still at work at the deadline.
    """
    deadline = time.monotonic() + patience_s
    # RLlib has no public way to fetch answers without sending the next call.
    manager = getattr(learners, "_worker_manager", None)
    while time.monotonic() < deadline:
        for _, report in actors.fetch_ready_async_reqs(timeout_seconds=0.5):
            if isinstance(report, Mapping) and "agent_steps" in report:
                take_actor(report)
        if manager is not None:
            for report in answers(manager.fetch_ready_async_reqs(timeout_seconds=0.5)):
                if report is not None:  # one of those that follow the first
                    take_learner(report)
        at_work = actors.num_in_flight_async_reqs()
        at_work += 0 if manager is None else manager.num_outstanding_async_reqs()
        if not at_work:
            return
    raise TimeoutError(f"Actors or learner did not finish their slice within {patience_s:.0f} s.")


def answers(results: Iterable[Any]) -> list[Any]:
    """Returns the values of RLlib's call results, or raises the first error among them."""
    values = []
    for result in results:
        value = result.get()
        if not result.ok:
            raise value
        values.append(value)
    return values


def require_learner(path: Path) -> None:
    """Raises CheckpointError unless the learner has written its parts."""
    for part in LEARNER_PARTS:
        if not any((path / part).parent.glob(part.stem + ".*")):  # .pkl or .msgpack
            raise CheckpointError(
                f"The learner did not save {part} in {path}. Is its process alive? Resume from the "
                "checkpoint before."
            )


def require_updates(path: Path, learners: list[int], run: int) -> None:
    """Raises CheckpointError unless every learner stands where the run's counters do."""
    if not learners or set(learners) != {run}:
        raise CheckpointError(
            f"After restoring {path} the learner stands at {learners} updates and the run at "
            f"{run}: the checkpoint is damaged. Resume from another."
        )
