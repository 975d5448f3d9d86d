"""Every option of the replay service."""

from __future__ import annotations

from dataclasses import dataclass, replace

from replay.errors import ReplayError
from replay.ring import SLOT_BYTES

SAMPLERS = ("windows", "episodes", "prioritised", "recency")
COMPRESSIONS = ("none", "zstd")
CHECKPOINTS = ("reference", "copy", "none")
DAMAGED = ("refuse", "skip")


@dataclass(frozen=True)
class ReplaySettings:
    """The replay section of the configuration; defaults are the paper preset of CoRe."""

    # replay processes; 0 = shards_per_node on every node of the cluster
    shards: int = 0
    # replay processes on each node, where shards = 0
    shards_per_node: int = 1
    # agent steps kept, all shards together; the oldest episodes leave first
    capacity_agent_steps: int = 100_000
    # bound on what a shard stores, in bytes; null = bounded by capacity_agent_steps alone
    bytes_per_shard: int | None = None
    # agent steps received, all shards together, before the first batch is given
    minimum_agent_steps: int = 1_000
    # windows = uniform over windows; episodes = uniform over episodes, one window each (as in
    # CoRe's code); prioritised = by the priorities that the learner gives; recency = newer oftener
    sampler: str = "windows"
    # prioritised: how far priorities count, 0 (not at all) to 1 (alpha of Schaul et al. 2016)
    priority_exponent: float = 0.6
    # prioritised: how far importance weights make up for it, 0 to 1 (beta)
    importance_exponent: float = 0.4
    # recency: agent steps of age, all shards together, that halve a window's chance
    recency_half_life_agent_steps: float = 50_000.0
    # none, or zstd: chunks that shrink to less than 1/1.5 are kept compressed, and readers get
    # copies instead of mapping the shard's memory; for clean pictures on machines short of memory
    compression: str = "none"
    # inserted agent steps that a shard may be off the ratio; null = computed
    limiter_band_agent_steps: float | None = None
    # deadline of every blocking call: a write held back, a batch, a save
    timeout_s: float = 120.0
    # batches a reader has asked for ahead of use
    requests_in_flight: int = 3
    # chunks a writer has sent and not seen acknowledged, per environment
    chunks_in_flight: int = 8
    # CPUs that Ray reserves for a shard
    cpus_per_shard: float = 0.5
    # whether shards outlive a driver or learner that dies, so that the run, when it is started
    # again on the same Ray cluster, goes on with what they hold; never with run.deterministic
    detached: bool = True
    # seconds without any call after which a shard that outlived its run ends itself
    orphan_timeout_s: float = 1800.0
    # reference = a checkpoint names a snapshot in the run's own folder; copy = it holds the
    # snapshot, and can be moved by itself; none = a run that goes on begins with empty replay
    checkpoint: str = "reference"
    # damaged files of a snapshot: refuse to load it, or skip their agent steps
    damaged: str = "refuse"

    def __post_init__(self) -> None:
        """Refuses values that cannot work, naming the setting."""
        positive = (
            "shards_per_node",
            "capacity_agent_steps",
            "minimum_agent_steps",
            "timeout_s",
            "requests_in_flight",
            "chunks_in_flight",
            "recency_half_life_agent_steps",
            "orphan_timeout_s",
        )
        for name in positive:
            if getattr(self, name) <= 0:
                raise ReplayError(f"replay.{name} must be positive, got {getattr(self, name)}.")
        for name in ("shards", "cpus_per_shard"):
            if getattr(self, name) < 0:
                raise ReplayError(f"replay.{name} must not be negative, got {getattr(self, name)}.")
        for name in ("priority_exponent", "importance_exponent"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ReplayError(f"replay.{name} must be in [0, 1], got {getattr(self, name)}.")
        if self.bytes_per_shard is not None and self.bytes_per_shard <= 0:
            raise ReplayError(
                f"replay.bytes_per_shard must be positive or null, got {self.bytes_per_shard}."
            )
        if self.limiter_band_agent_steps is not None and self.limiter_band_agent_steps <= 0:
            raise ReplayError(
                "replay.limiter_band_agent_steps must be positive or null (computed), got "
                f"{self.limiter_band_agent_steps}."
            )
        choices = {
            "sampler": SAMPLERS,
            "compression": COMPRESSIONS,
            "checkpoint": CHECKPOINTS,
            "damaged": DAMAGED,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ReplayError(
                    f"replay.{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}."
                )
        if self.minimum_agent_steps > self.capacity_agent_steps:
            raise ReplayError(
                f"replay.minimum_agent_steps ({self.minimum_agent_steps}) is above "
                "replay.capacity_agent_steps "
                f"({self.capacity_agent_steps}): no batch could ever be given. Lower the first or "
                "raise the second."
            )

    def on_nodes(self, nodes: int) -> ReplaySettings:
        """These settings with `shards` as a number, for a cluster of `nodes` nodes."""
        return self if self.shards else replace(self, shards=self.shards_per_node * nodes)

    def shard_capacity_agent_steps(self, bytes_per_step: int) -> int:
        """Agent steps one shard holds at `bytes_per_step`, the tighter of the step bound and the
        byte bound.
        """
        capacity = -(-self.capacity_agent_steps // self.shards)
        if self.bytes_per_shard is not None:
            capacity = min(capacity, self.bytes_per_shard // (bytes_per_step + SLOT_BYTES))
        if capacity < self.shard_minimum_agent_steps:
            raise ReplayError(
                f"A shard holds {capacity} agent steps of {bytes_per_step} bytes, but its share of "
                "replay.minimum_agent_steps is "
                f"{self.shard_minimum_agent_steps}: raise replay.bytes_per_shard or lower "
                "replay.minimum_agent_steps."
            )
        return capacity

    def shard_bytes(self, bytes_per_step: int) -> int:
        """Bytes one shard may hold: `bytes_per_shard`, or what its share of the capacity takes
        uncompressed.
        """
        if self.bytes_per_shard is not None:
            return self.bytes_per_shard
        capacity = self.shard_capacity_agent_steps(bytes_per_step)
        return capacity * (bytes_per_step + SLOT_BYTES)

    @property
    def shard_minimum_agent_steps(self) -> int:
        """One shard's share of `minimum_agent_steps`."""
        return -(-self.minimum_agent_steps // self.shards)

    @property
    def sampler_options(self) -> dict[str, dict[str, float]]:
        """The options of one shard's samplers, by kind."""
        half_life = self.recency_half_life_agent_steps / self.shards
        return {
            "prioritised": {"exponent": self.priority_exponent},
            "recency": {"half_life": half_life},
        }
