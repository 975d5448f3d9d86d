"""How fast something trains: counts taken between two moments of a run, after its warm-up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import psutil


class NoProgress(RuntimeError):
    """Training made no update for too long; the message says where it stood."""


@dataclass(frozen=True)
class Counts:
    """What a run has done since it began."""

    updates: int
    agent_steps: int  # taken in the environment
    replayed_agent_steps: int  # that went into updates
    episodes: int = 0  # that ended


@dataclass(frozen=True)
class TrainingRate:
    """What a run did while it was counted."""

    updates: int
    agent_steps: int
    replayed_agent_steps: int
    seconds: float
    cpu_s: float  # of all its processes

    def as_dict(self) -> dict[str, float]:
        """Returns the counts and what follows from them, plain numbers."""
        return asdict(self) | {
            "updates_per_s": self.updates / self.seconds,
            "agent_steps_per_s": self.agent_steps / self.seconds,
            "replayed_per_s": self.replayed_agent_steps / self.seconds,
            "updates_per_cpu_s": self.updates / max(self.cpu_s, 1e-9),
            "replay_ratio": self.replayed_agent_steps / max(self.agent_steps, 1),
        }


def family_cpu_s() -> float:
    """Returns the CPU seconds so far of this process and of all that descend from it.

    Those of a process that has ended are missing, so that a difference is never too large.
    """
    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it ended meanwhile
            continue
        total += times.user + times.system
    return total


def measure_training(
    train: Callable[[], Counts],
    warm_up_updates: int,
    seconds: float,
    patience_s: float,
    whole_episodes: bool = False,
    cpu_clock: Callable[[], float] = family_cpu_s,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingRate:
    """Trains until the time is up and returns what was done after the warm-up.

    Counting begins and ends right after a call of `train` that has brought an update. Where actors
    take an episode in one go and then wait until the updates that it has earned are made, agent
    steps come in bursts, and only from the end of one episode to the end of another do they stand
    in the right proportion to updates: `whole_episodes`.

    Args:
        train: goes on for a while and returns the counts since the run began.
        warm_up_updates: updates that are not counted.
        seconds: to count at least.
        patience_s: how long no update may come.
        whole_episodes: count from the end of one episode to the end of another.
        cpu_clock: CPU seconds so far of all processes of the run.
        clock: seconds of wall-clock time.

    Raises:
        NoProgress: see `patience_s`.
    """
    start: tuple[float, float, Counts] | None = None
    updates, progressed_at = 0, clock()
    episodes: int | None = None  # ended when counts were last looked at
    while True:
        counts, now = train(), clock()
        if counts.updates == updates:
            if now - progressed_at > patience_s:
                raise NoProgress(
                    f"No update within {patience_s:.0f} s after {updates} updates and "
                    f"{counts.agent_steps} agent steps: is the machine busy with other work?"
                )
            continue
        updates, progressed_at = counts.updates, now
        ended = episodes is not None and counts.episodes > episodes
        episodes = counts.episodes
        if updates < warm_up_updates or (whole_episodes and not ended):
            continue
        if start is None:
            start = now, cpu_clock(), counts
            continue
        began, cpu_before, before = start
        if now - began >= seconds:
            return TrainingRate(
                updates=counts.updates - before.updates,
                agent_steps=counts.agent_steps - before.agent_steps,
                replayed_agent_steps=counts.replayed_agent_steps - before.replayed_agent_steps,
                seconds=now - began,
                cpu_s=cpu_clock() - cpu_before,
            )
