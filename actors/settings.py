"""Every option of the acting side: how many actors, what they send, how they follow the weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ActorSettings:
    """The `actors` section of the configuration; the defaults are the paper's single actor.

    Raises:
        ValueError: a value is outside its range; the message names the field and what it may be.
    """

    count: int = 1  # actor processes
    environments_per_actor: int = 1  # environments that one actor steps with one batched policy
    random_agent_steps: int = 1000  # uniformly random agent steps at the start, all actors together
    chunk_agent_steps: int = 25  # agent steps of one environment in one message to replay
    weights_poll_agent_steps: int = 25  # agent steps between two looks for newer weights
    timeout_s: float = 120.0  # deadline of every call that an actor waits for
    num_cpus_per_actor: float = 1.0  # CPUs that Ray reserves for an actor

    def __post_init__(self) -> None:
        for name in ("environments_per_actor", "chunk_agent_steps", "weights_poll_agent_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"actors.{name} is {getattr(self, name)}; it must be 1 or more.")
        for name in ("count", "random_agent_steps", "num_cpus_per_actor"):
            if getattr(self, name) < 0:
                raise ValueError(f"actors.{name} is {getattr(self, name)}; it must be 0 or more.")
        if self.timeout_s <= 0:
            raise ValueError(f"actors.timeout_s is {self.timeout_s}; it must be above 0 seconds.")
