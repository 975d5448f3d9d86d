"""The process around a shard: a Ray actor whose calls wait without blocking it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable

from replay.cut import TableRestore
from replay.errors import ReplayTimeout, SnapshotError
from replay.limiter import Limiter
from replay.recovery import Recovery
from replay.schema import Batch, Chunk, Schema
from replay.seeds import seed_for
from replay.settings import ReplaySettings
from replay.shard import Receipt, ReplayShard
from replay.workload import Workload

logger = logging.getLogger(__name__)


class ShardServer:
    """Serves one `ReplayShard`. Made into a Ray actor by `ReplayService.create`; all state is
    touched by one event loop only.

    Ray starts it again after a crash (`max_restarts=-1`) and sends unanswered calls again, so every
    call may be repeated: inserts are exactly-once by the chunk's identity, the others change
    nothing that a repeat would spoil. After a restart the shard loads the snapshot registered last,
    or begins empty, and says so in `stats`.
    """

    def __init__(
        self,
        index: int,
        schema: Schema,
        settings: ReplaySettings,
        workload: Workload,
        seed: int,
        recovery_path: str,
    ) -> None:
        """Shard `index` of `settings.shards`; `seed` is the run's root seed."""
        self._index = index
        self._settings = settings
        self._workload = workload
        limiter = Limiter(
            workload.samples_per_insert, settings.shard_minimum_agent_steps, workload.band(settings)
        )
        self._shard = ReplayShard(
            schema,
            settings.shard_capacity_agent_steps(schema.bytes_per_step),
            sampler=settings.sampler,
            limiter=limiter,
            seed=seed_for(seed, "replay", "shard", index),
        )
        self._recovery = Recovery(recovery_path, index)
        self._changed = asyncio.Condition()
        self._saving = asyncio.Lock()
        # Ray may hand over a reader's calls in another order than they were made in. They are
        # served by number, so that equal seeds give equal batches.
        self._turn: dict[str, int] = {}  # reader -> the number to be served next
        self._over: defaultdict[str, set[int]] = defaultdict(set)  # served or given up before
        self._checked: tuple[str, TableRestore] | None = None
        if self._recovery.restarts:
            self._go_back()

    def describe(self) -> tuple[Schema, ReplaySettings, Workload]:
        """What `ReplayService.connect` needs to know."""
        return self._shard.schema, self._settings, self._workload

    async def pid(self) -> int:
        """The id of this shard's process, for whoever watches or tests it."""
        return os.getpid()

    async def insert(self, chunks: list[Chunk], waited_s: float = 0.0) -> Receipt:
        """Stores consecutive chunks of one episode; the first may be held back, and then none is
        stored.

        `waited_s` is how long the writer was held back before this call, for the statistics.
        """
        stored = 0
        for chunk in chunks:
            receipt = self._shard.insert(chunk)
            if receipt.held_back:
                return receipt
            stored += receipt.agent_steps
        if waited_s > 0:
            self._shard.limiter.insert_waited(waited_s)
        self._recovery.inserted(self._shard.limiter.inserted)
        await self._notify()
        return Receipt(False, stored)

    async def admission(self, agent_steps: int, timeout_s: float) -> bool:
        """Returns True as soon as a new episode may begin here, or False after `timeout_s`."""
        try:
            await self._until(lambda: self._shard.would_admit(agent_steps), timeout_s)
        except TimeoutError:
            return False
        return True

    async def sample(
        self, length: int, sequences: int, timeout_s: float, reader: str, number: int
    ) -> Batch:
        """A batch share (T, sequences, ...), waiting up to `timeout_s`. Raises `ReplayTimeout`.

        `reader` numbers its requests to this shard 0, 1, 2, ... and is served in that order. (After
        a restart of the shard in any order: some numbers were served in its earlier life.)
        """

        def ready() -> bool:
            in_turn = self._recovery.restarts > 0 or number <= self._turn.get(reader, 0)
            return in_turn and self._shard.would_give(length, sequences)

        waits = not ready()
        self._shard.waiting_samples += waits
        begin = time.monotonic()
        try:
            if waits:
                await self._notify()  # writers held back may go on now
                await self._until(ready, timeout_s)
            batch = self._shard.sample(length, sequences)
            assert batch is not None
        except TimeoutError:
            why = self._shard.why_not(length, sequences)
            raise ReplayTimeout(f"shard {self._index} {why}") from None
        finally:
            self._shard.waiting_samples -= waits
            self._end_turn(reader, number)
            if waits:
                self._shard.limiter.sample_waited(time.monotonic() - begin)
        await self._notify()
        return batch

    async def why_not(self, length: int, sequences: int) -> str | None:
        """See `ReplayShard.why_not`."""
        return self._shard.why_not(length, sequences)

    async def stats(self) -> dict[str, float]:
        """See `ReplayShard.stats`; with the restarts and what they lost."""
        lives = {
            "restarts": self._recovery.restarts,
            "lost_agent_steps": self._recovery.lost_agent_steps,
        }
        return self._shard.stats() | lives

    async def save(self, path: str) -> None:
        """Saves this moment to the directory `path`; inserts and samples go on meanwhile."""
        async with self._saving:
            cut = self._shard.cut(path)
            try:
                for _ in cut:
                    await asyncio.sleep(0)  # lets waiting calls in between two episodes
                await asyncio.to_thread(cut.commit)
            finally:
                cut.close()

    async def register(self, path: str) -> None:
        """Names the snapshot to go back to after a crash."""
        self._recovery.register(path)

    async def check(self, path: str) -> None:
        """Reads and checks the snapshot at `path` without applying it; `load` of the same path then
        applies it at once.
        """
        self._checked = (path, await asyncio.to_thread(TableRestore, path, self._shard.schema))

    async def load(self, path: str) -> None:
        """Replaces everything by the snapshot at `path`. Raises `SnapshotError`, with nothing
        changed, if it is damaged.
        """
        async with (
            self._saving
        ):  # a save in progress ends first: its cut would lose the steps it has yet to write
            if self._checked is None or self._checked[0] != path:
                await self.check(path)
            assert self._checked is not None
            self._shard.apply(self._checked[1])
            self._checked = None
            self._recovery.register(path)
            self._recovery.inserted(self._shard.limiter.inserted)
        await self._notify()

    def _go_back(self) -> None:
        snapshot = self._recovery.snapshot
        source = "empty: no snapshot was ever saved" if snapshot is None else f"from {snapshot}"
        if snapshot is not None:
            try:
                self._shard.load(snapshot)
            except SnapshotError as error:
                source = f"empty: {error}"
        self._recovery.restored(self._shard.limiter.inserted)
        logger.warning(
            "Replay shard %d was started again (%s): %d agent steps stored, %d lost so far.",
            self._index,
            source,
            self._shard.table.agent_steps,
            self._recovery.lost_agent_steps,
        )

    def _end_turn(self, reader: str, number: int) -> None:
        over, turn = self._over[reader], self._turn.get(reader, 0)
        if number >= turn:
            over.add(number)
        while turn in over:
            over.remove(turn)
            turn += 1
        self._turn[reader] = turn

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Waits for a change that makes `ready()` true. Raises `TimeoutError` after `timeout_s`."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(ready)
