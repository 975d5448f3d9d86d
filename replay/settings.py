"""Every option of the replay service."""

from __future__ import annotations

from dataclasses import dataclass

from replay.errors import ReplayError

SAMPLERS = ("episodes", "windows")


@dataclass(frozen=True)
class ReplaySettings:
    """The replay section of the configuration; defaults are the paper preset of CoRe."""

    # replay processes; batch_size must be a multiple of it
    shards: int = 2
    # agent steps kept, all shards together; the oldest episodes leave first
    capacity_agent_steps: int = 100_000
    # bound on a shard's step data in bytes; null = bounded by capacity_agent_steps alone
    bytes_per_shard: int | None = None
    # agent steps stored, all shards together, before the first batch is given
    minimum_agent_steps: int = 1_000
    # episodes = uniform over episodes, one window each (as in CoRe's code);
    # windows = uniform over windows
    sampler: str = "episodes"
    # inserted agent steps that a shard may be off the ratio; null = computed
    limiter_band_agent_steps: float | None = None
    # deadline of every blocking call: a write held back, a batch, a save
    timeout_s: float = 120.0
    # batches a reader has asked for ahead of use
    requests_in_flight: int = 3
    # chunks a writer has sent and not seen acknowledged, per environment
    chunks_in_flight: int = 4
    # CPUs that Ray reserves for a shard
    cpus_per_shard: float = 0.5

    def __post_init__(self) -> None:
        """Refuses values that cannot work, naming the setting."""
        positive = (
            "shards",
            "capacity_agent_steps",
            "minimum_agent_steps",
            "timeout_s",
            "requests_in_flight",
            "chunks_in_flight",
        )
        for name in positive:
            if getattr(self, name) <= 0:
                raise ReplayError(f"replay.{name} must be positive, got {getattr(self, name)}.")
        if self.cpus_per_shard < 0:
            raise ReplayError(
                f"replay.cpus_per_shard must not be negative, got {self.cpus_per_shard}."
            )
        if self.bytes_per_shard is not None and self.bytes_per_shard <= 0:
            raise ReplayError(
                f"replay.bytes_per_shard must be positive or null, got {self.bytes_per_shard}."
            )
        if self.limiter_band_agent_steps is not None and self.limiter_band_agent_steps <= 0:
            raise ReplayError(
                "replay.limiter_band_agent_steps must be positive or null (computed), got "
                f"{self.limiter_band_agent_steps}."
            )
        if self.sampler not in SAMPLERS:
            raise ReplayError(
                f"replay.sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}."
            )
        if self.minimum_agent_steps > self.capacity_agent_steps:
            raise ReplayError(
                f"replay.minimum_agent_steps ({self.minimum_agent_steps}) is above "
                "replay.capacity_agent_steps "
                f"({self.capacity_agent_steps}): no batch could ever be given. Lower the first or "
                "raise the second."
            )

    def shard_capacity_agent_steps(self, bytes_per_step: int) -> int:
        """Agent steps one shard holds at `bytes_per_step`, the tighter of the step bound and the
        byte bound.
        """
        capacity = -(-self.capacity_agent_steps // self.shards)
        if self.bytes_per_shard is not None:
            capacity = min(capacity, self.bytes_per_shard // bytes_per_step)
        if capacity < self.shard_minimum_agent_steps:
            raise ReplayError(
                f"A shard holds {capacity} agent steps of {bytes_per_step} bytes, but its share of "
                "replay.minimum_agent_steps is "
                f"{self.shard_minimum_agent_steps}: raise replay.bytes_per_shard or lower "
                "replay.minimum_agent_steps."
            )
        return capacity

    @property
    def shard_minimum_agent_steps(self) -> int:
        """One shard's share of `minimum_agent_steps`."""
        return -(-self.minimum_agent_steps // self.shards)
