"""One shard of replay, in this process: table, samplers, limiter and random generator under one
roof.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from replay.blocks import Written
from replay.cut import TableCut
from replay.errors import ReplayError
from replay.limiter import Limiter
from replay.progress import Progress
from replay.resharding import Source, merged_owner, merged_samplers
from replay.restore import Damaged, TableRestore
from replay.samplers import SAMPLERS, Draw, Prioritised, Sampler, Window
from replay.schema import Batch, Chunk
from replay.table import Store, Table

BYTES_ASIDE = 64 << 20  # copied aside by a save before new episodes are held back
SAMPLERS_KEPT = 8  # samplers followed at once: kinds and windows asked for


class Receipt(NamedTuple):
    """The answer to an insert. `held_back`: nothing was stored, offer the chunk again later. A
    repeat stores 0 agent steps.
    """

    held_back: bool
    agent_steps: int


class Request(NamedTuple):
    """What a reader wants of a shard: `sequences` windows, chosen by `sampler` (a key of
    `samplers.SAMPLERS`; None: the shard's own).
    """

    window: Window
    sequences: int
    sampler: str | None = None

    @property
    def agent_steps(self) -> int:
        """Sampled agent steps that the limiter counts."""
        return self.window.length * self.sequences


class ReplayShard:
    """Stores chunks of episodes and gives batches of windows.

    It needs no Ray, never blocks, and is not thread-safe.

        shard = ReplayShard(Ring(schema, capacity=100_000))
        shard.insert(Chunk(ChunkKey("actor-0", episode, start), steps))
        batch = shard.sample(Request(Window(length=32), sequences=16))  # None: "not yet"
    """

    def __init__(
        self,
        store: Store,
        *,
        sampler: str = "windows",
        sampler_options: Mapping[str, Mapping[str, float]] | None = None,
        limiter: Limiter | None = None,
        seed: int = 0,
    ) -> None:
        """`store` is empty and nobody else's. `sampler_options` are those of each kind of sampler.
        Without a limiter every stored window may be sampled at once.
        """
        self.schema = store.schema
        self.limiter = limiter or Limiter(None, 1, 0.0)
        self.table = Table(store)
        self.waiting_samples = 0  # requests that wait for this shard; kept by its owner
        self.skipped_agent_steps = 0  # in damaged files of snapshots that were loaded
        self._written: Written | None = None
        self._sampler = sampler
        self._options = dict(sampler_options or {})
        self._samplers: OrderedDict[tuple[str, Window], Sampler] = OrderedDict()
        self._generator = np.random.default_rng(seed)
        self._cut: TableCut | None = None  # of the last save

    def insert(self, chunk: Chunk) -> Receipt:
        """Stores a chunk at most once. Only an episode's first chunk can be held back by the
        limiter.

        Raises `ChunkError` if the chunk does not fit the schema.
        """
        self.schema.validate(chunk)
        if self.table.is_repeat(chunk.key):
            return Receipt(False, self.table.insert(chunk))
        if chunk.key.start == 0 and not self.would_admit(len(chunk)):
            return Receipt(True, 0)
        stored = self.table.insert(chunk)
        self.limiter.inserted_steps(stored)
        return Receipt(False, stored)

    def would_admit(self, agent_steps: int) -> bool:
        """Whether an episode whose first chunk has `agent_steps` may begin.

        Refused while a save has to catch up with what left the table before it was written, so that
        it does not take memory without bound; otherwise never refused while a sample request waits
        here.
        """
        if self._cut is not None and self._cut.bytes_aside > BYTES_ASIDE:
            return False
        return self.waiting_samples > 0 or self.limiter.may_insert(agent_steps)

    def would_give(self, request: Request) -> bool:
        """Whether `sample(request)` would give a batch now."""
        may = self.limiter.may_sample(request.agent_steps, self.table.agent_steps)
        return may and self.eligible(request) > 0

    def eligible(self, request: Request) -> int:
        """What there is to choose from: windows, or episodes for the sampler `episodes`."""
        return self._sampler_of(request).eligible

    def draw(self, request: Request) -> Draw | None:
        """Draws windows and counts them as sampled; None if that has to wait.

        They can be copied with `table.gather` until the next insert.
        """
        if not self.would_give(request):
            return None
        self.limiter.sampled_steps(request.agent_steps)
        return self.redraw(request)

    def redraw(self, request: Request) -> Draw:
        """Draws windows in place of others that were counted already. There must be any."""
        return self._sampler_of(request).draw(self._generator, request.sequences)

    def sample(self, request: Request, out: Batch | None = None) -> Batch | None:
        """Draws `sequences` windows of `length` steps: arrays (T, B, ...) that the caller owns, or
        None if it has to wait.

        With `out` (arrays of exactly that shape, such as pinned memory) the steps are copied there.
        """
        draw = self.draw(request)
        if draw is None:
            return None
        return self.table.gather(draw.ordinals, draw.starts, request.window.length, out)

    def update_priorities(
        self, window: Window, ordinals: np.ndarray, starts: np.ndarray, priorities: np.ndarray
    ) -> None:
        """Sets the priorities of windows (int64 (B,) each, and float64 (B,)); those that have left
        the table meanwhile are passed over.
        """
        sampler = self._sampler_of(Request(window, 1, "prioritised"))
        assert isinstance(sampler, Prioritised)
        sampler.update(ordinals, starts, priorities)

    def why_not(self, request: Request) -> str | None:
        """What a sample has to wait for, as a sentence; None if it would be given."""
        stored, limiter = self.table.agent_steps, self.limiter
        if limiter.preloading:
            return "is being preloaded: waits for the end of the preload"
        if limiter.inserted < limiter.minimum:
            return (
                f"has received {limiter.inserted} of the {limiter.minimum} agent steps it needs at "
                "first: waits for writers"
            )
        if self.eligible(request) == 0:
            return (
                f"holds no episode of {request.window.length} steps or more: waits for writers "
                "(or batch_length is above the episode length)"
            )
        if not limiter.may_sample(request.agent_steps, stored):
            ahead = request.agent_steps - limiter.band - limiter.error
            return (
                f"has a learner that is {ahead:.0f} sampled agent steps too far ahead of "
                "samples per insert: waits for writers"
            )
        return None

    def stats(self) -> dict[str, float]:
        """Counts since the beginning of the run (restored with a snapshot); plain numbers.

        Those called `limited` count since the limiter's error was last set to 0, and beyond its
        minimum; `samples_per_insert` is their ratio.
        """
        table, limiter = self.table, self.limiter
        return {
            "agent_steps": table.agent_steps,
            "episodes": table.segments,
            "finished_episodes": table.finished_episodes,
            "bytes_resident": table.store.bytes_resident,
            "bytes_capacity": table.store.bytes_capacity,
            "bytes_aside": 0 if self._cut is None else self._cut.bytes_aside,
            "inserted_agent_steps": limiter.inserted,
            "sampled_agent_steps": limiter.sampled,
            "removed_agent_steps": table.removed_agent_steps,
            "skipped_agent_steps": self.skipped_agent_steps,
            "repeated_chunks": table.repeated_chunks,
            "gaps": table.gaps,
            "limiter_error_agent_steps": limiter.error,
            "insert_waits": limiter.insert_waits,
            "insert_wait_s": limiter.insert_wait_s,
            "sample_waits": limiter.sample_waits,
            "sample_wait_s": limiter.sample_wait_s,
            "waiting_samples": self.waiting_samples,
            "limited_inserted_agent_steps": limiter.counted_inserted,
            "limited_sampled_agent_steps": limiter.counted_sampled,
            "samples_per_insert": limiter.counted_sampled / max(1, limiter.counted_inserted),
        }

    def cut(self, path: str | os.PathLike[str], progress: Progress | None = None) -> TableCut:
        """Begins to save this moment, see `TableCut`. The shard may be used meanwhile; once the
        snapshot is in its place, tell it with `saved`.
        """
        priorities = {
            _name_of(key): (sampler, {s.ordinal: sampler.priorities_of(s) for s in self.table})
            for key, sampler in self._samplers.items()
            if isinstance(sampler, Prioritised)
        }
        content = {
            "limiter": self.limiter.state_dict(),
            "generator": self._generator.bit_generator.state,
            "samplers": {name: sampler.state() for name, (sampler, _) in priorities.items()},
            "skipped_agent_steps": self.skipped_agent_steps,
        }
        arrays = {name: values for name, (_, values) in priorities.items()}
        self._cut = TableCut(
            self.table, path, content, arrays=arrays, before=self._written, progress=progress
        )
        return self._cut

    def saved(self, written: Written) -> None:
        """Notes what a finished snapshot has on disk, so that the next shares it."""
        self._written = written

    def save(self, path: str | os.PathLike[str]) -> None:
        """Saves everything, the limiter's counts and the random state included, as the directory
        `path`.
        """
        cut = self.cut(path)
        try:
            cut.begin()
            for block in cut:
                for _ in block:
                    pass
                block.write()
            cut.commit()
        finally:
            cut.close()
        self.saved(cut.written)

    def load(
        self,
        source: Source | str | os.PathLike[str],
        *,
        damaged: Damaged = "refuse",
        progress: Progress | None = None,
    ) -> None:
        """Replaces everything by what `save` wrote; `damaged` files of steps are refused or
        skipped. Raises `SnapshotError` with this shard untouched, or with it empty if the disk
        fails after everything was checked.
        """
        self.apply(TableRestore(source, self.schema, damaged=damaged, progress=progress))

    def apply(self, restore: TableRestore) -> None:
        """Puts a checked snapshot in place of what the shard holds."""
        self._samplers.clear()
        self._written = None
        restore.apply(self.table)
        owner, source = restore.owners[0], restore.source
        if not source.unchanged:
            owner = merged_owner(restore.owners, source.index, source.count, self.limiter)
        samplers = merged_samplers([owner["samplers"]]) if restore.renumbered else owner["samplers"]
        self.limiter.load_state_dict(owner["limiter"])
        self._generator.bit_generator.state = owner["generator"]
        self.skipped_agent_steps = owner["skipped_agent_steps"] + restore.skipped_agent_steps
        for name, state in samplers.items():
            sampler = self._sampler_of(_request_of(name))
            assert isinstance(sampler, Prioritised)
            sampler.restore_state(state)
            saved = restore.arrays.get(name, {})
            for segment in self.table:
                if segment.ordinal in saved:
                    sampler.restore(segment, saved[segment.ordinal])
        self._written = restore.written

    def _sampler_of(self, request: Request) -> Sampler:
        kind = request.sampler or self._sampler
        key = (kind, request.window)
        sampler = self._samplers.get(key)
        if sampler is None:
            if kind not in SAMPLERS:
                raise ReplayError(f"No sampler {kind!r}: use one of {', '.join(SAMPLERS)}.")
            sampler = SAMPLERS[kind](self.table, request.window, **self._options.get(kind, {}))
            self._samplers[key] = sampler
            # Not those that hold what a learner has told them.
            others = [k for k, s in self._samplers.items() if not isinstance(s, Prioritised)]
            if len(others) > SAMPLERS_KEPT:
                self.table.listeners.remove(self._samplers.pop(others[0]))
        self._samplers.move_to_end(key)
        return sampler


def _name_of(key: tuple[str, Window]) -> str:
    kind, window = key
    return f"{kind}-{window.length}-{window.stride}"


def _request_of(name: str) -> Request:
    """A request for the sampler that `_name_of` has named."""
    kind, length, stride = name.split("-")
    return Request(Window(int(length), int(stride)), 1, kind)
