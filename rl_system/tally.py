"""The counters of a run and the one flat dictionary of metrics that is made from them.

Names and units are listed in rl_system/metrics.py. This file knows neither Ray nor RLlib: the
Algorithm hands it the reports of actors, learner and evaluator.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

RECENT_EPISODES = 20  # episodes that train/return_mean is taken over

_STATE = ("agent_steps", "simulator_steps", "episodes", "updates", "elapsed_s", "restarts")


class Tally:
    """Adds up reports and gives metrics over the time since they were last asked for."""

    def __init__(self) -> None:
        self.agent_steps = 0
        self.simulator_steps = 0
        self.episodes = 0
        self.updates = 0
        self.elapsed_s = 0.0  # seconds of training, earlier lives of the run included
        self.restarts = 0  # times that an actor began anew: after an error, or as a new process
        self.agent_steps_of: defaultdict[int, int] = defaultdict(int)  # by actor
        self._returns: deque[float] = deque(maxlen=RECENT_EPISODES)
        self._losses: dict[str, float] = {}
        self._evaluation: dict[str, float] = {}
        self._published = -1
        self._weights_of: dict[int, int] = {}
        self._life_of: dict[int, str] = {}  # by actor: changes with its process
        self._writers: dict[int, Mapping[str, float]] = {}  # by actor
        self._reader: Mapping[str, float] = {}
        self._sample_wait_s: float | None = None  # of all shards, when metrics were last taken
        self.begin()

    def begin(self) -> None:
        """Begins a new window for rates and shares of time."""
        self._window_began = time.monotonic()
        self._counts_before = (self.agent_steps, self.updates)
        self._wall = {"actor": 0.0, "learner": 0.0}
        self._wait = {"actor": 0.0, "learner": 0.0}
        self._driver_wait = {"actor": 0.0, "learner": 0.0}
        self._ages = {"agent_steps": 0, "sum": 0.0, "max": 0.0}  # of the weights that took steps
        self._policy_s, self._policy_agent_steps = 0.0, 0

    # Reports ------------------------------------------------------------------------------------

    def add_actor(self, report: Mapping[str, Any]) -> None:
        """Adds what `actors.runner.StreamingEnvRunner.sample` returned."""
        actor = int(report["actor"])
        for name in ("agent_steps", "simulator_steps", "episodes"):
            setattr(self, name, getattr(self, name) + int(report[name]))
        self.agent_steps_of[actor] += int(report["agent_steps"])
        self.restarts += report["error"] is not None
        self.restarts += self._life_of.get(actor, report["life"]) != report["life"]
        self._life_of[actor] = report["life"]
        self._returns.extend([*report["random_returns"], *report["returns"]])
        self._weights_of[actor] = int(report["weights_updates"])
        self._writers[actor] = report["writer"]
        if report["weights_age"] is not None:
            for name, merge in (("agent_steps", sum), ("sum", sum), ("max", max)):
                self._ages[name] = merge((self._ages[name], report["weights_age"][name]))
        self._policy_s += report["policy_s"]
        self._policy_agent_steps += report["policy_agent_steps"]
        self._add_times("actor", report)

    def add_learner(self, report: Mapping[str, Any]) -> None:
        """Adds what `learners.learner.SystemLearner.update` returned."""
        self.updates = int(report["updates"])
        self._published = int(report["published"])
        self._losses.update(report["metrics"])
        self._reader = report["reader"]
        self._add_times("learner", report)

    def add_evaluation(self, report: Mapping[str, float]) -> None:
        """Adds an evaluation's flat numbers, to be named `eval/...`."""
        self._evaluation = {f"eval/{name}": float(value) for name, value in report.items()}

    def _add_times(self, side: str, report: Mapping[str, Any]) -> None:
        self._wall[side] += report["wall_s"]
        self._wait[side] += report["wait_s"]
        self._driver_wait[side] += report["driver_wait_s"]

    # Metrics ------------------------------------------------------------------------------------

    @property
    def return_mean(self) -> float | None:
        """Mean return of the recent episodes, exploration included; None before the first."""
        return sum(self._returns) / len(self._returns) if self._returns else None

    def take_metrics(
        self, replay: Mapping[str, float], capacity_agent_steps: int
    ) -> dict[str, Any]:
        """Returns the flat dictionary and begins a new window for its rates.

        A name is left out while there is nothing to say: no return before the first episode, no
        loss before the first update. An evaluation appears once, in the first dictionary after it.

        Args:
            replay: `ReplayService.stats()`, or nothing if the shards did not answer.
            capacity_agent_steps: Agent steps that replay can hold.
        """
        seconds = max(1e-9, time.monotonic() - self._window_began)
        self.elapsed_s += seconds
        agent_steps, updates = self._counts_before
        flat: dict[str, Any] = {
            "agent_steps": self.agent_steps,
            "simulator_steps": self.simulator_steps,
            "episodes": self.episodes,
            "updates": self.updates,
            "elapsed_s": self.elapsed_s,
            "rate/agent_steps_per_s": (self.agent_steps - agent_steps) / seconds,
            "rate/updates_per_s": (self.updates - updates) / seconds,
            "actor/restarts": self.restarts,
        }
        for side in ("actor", "learner"):
            wall, wait, driver = self._wall[side], self._wait[side], self._driver_wait[side]
            flat[f"{side}/wait_s"] = wait
            flat[f"{side}/driver_wait_s"] = driver
            if wall > 0:
                flat[f"{side}/busy_percent"] = 100.0 * max(0.0, 1.0 - (wait + driver) / wall)
        if self._policy_agent_steps:
            flat["actor/policy_ms"] = 1e3 * self._policy_s / self._policy_agent_steps
        flat |= self._who_waits(replay)
        for name in ("write_waits", "write_wait_s", "chunks_in_flight"):
            flat[f"actor/{name}"] = sum(writer.get(name, 0) for writer in self._writers.values())
        for name in ("read_waits", "read_wait_s", "mapped_shards", "uploaded_agent_steps"):
            if name in self._reader:
                flat[f"learner/{name}"] = self._reader[name]
        if self._returns:
            flat["train/return_mean"] = self.return_mean
            flat["train/return_se"] = standard_error(self._returns)
        if self._published >= 0:
            flat["weights/version"] = self._published
            # An actor that hears nothing of the hub shows up by what it still uses.
            in_use = [self.updates - used for used in self._weights_of.values() if used >= 0]
            count, oldest = self._ages["agent_steps"], max([self._ages["max"], *in_use])
            if count or in_use:
                mean = self._ages["sum"] / count if count else sum(in_use) / len(in_use)
                flat["weights/age_updates"] = max(0.0, mean)
                flat["weights/age_updates_max"] = max(0.0, oldest)
        flat |= self._losses | self._evaluation
        if replay:
            flat |= {f"replay/{name}": value for name, value in replay.items()}
            flat["replay/fill_percent"] = 100.0 * replay["agent_steps"] / capacity_agent_steps
        self._evaluation = {}
        self.begin()
        return flat

    def _who_waits(self, replay: Mapping[str, float]) -> dict[str, float]:
        """Returns shares of the time of each side, in percent, by what it waited for."""
        actor, learner = self._wait["actor"], self._wait["learner"]
        # The learner waits for actors as far as shards held its batches back meanwhile: the wait
        # for batches that are held back now has not been counted yet.
        before, self._sample_wait_s = self._sample_wait_s, replay.get("sample_wait_s")
        held_s = (self._sample_wait_s or 0.0) - (before or 0.0)
        for_actors = learner if replay.get("waiting_samples") else min(learner, max(0.0, held_s))
        waits = {
            "actors_for_learner": ("actor", actor),
            "actors_for_driver": ("actor", self._driver_wait["actor"]),
            "learner_for_actors": ("learner", for_actors),
            "learner_for_replay": ("learner", learner - for_actors),
            "learner_for_driver": ("learner", self._driver_wait["learner"]),
        }
        return {
            f"wait/{name}_percent": min(100.0, 100.0 * seconds / self._wall[side])
            for name, (side, seconds) in waits.items()
            if self._wall[side] > 0
        }

    # State --------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Returns every counter, plain."""
        state = {name: getattr(self, name) for name in _STATE}
        state["elapsed_s"] += time.monotonic() - self._window_began
        return state | {
            "agent_steps_of": dict(self.agent_steps_of),
            "returns": list(self._returns),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from `state_dict()`."""
        for name in _STATE:
            setattr(self, name, state[name])
        self.agent_steps_of = defaultdict(int, state["agent_steps_of"])
        self._returns = deque(state["returns"], maxlen=RECENT_EPISODES)
        self._losses, self._evaluation, self._weights_of = {}, {}, {}
        self._writers, self._reader, self._sample_wait_s = {}, {}, None
        self.begin()


def standard_error(values: Sequence[float] | deque[float]) -> float:
    """Returns the standard error of the mean; 0 for fewer than two values."""
    count = len(values)
    if count < 2:
        return 0.0
    mean = sum(values) / count
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
