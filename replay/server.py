"""The process around a shard: a Ray actor whose calls wait without blocking it."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import ray

from replay.blocks import Written
from replay.errors import ReplayError, ReplayTimeout, SnapshotError
from replay.limiter import Limiter
from replay.memory import Address, check_memory
from replay.packed import PackedStore
from replay.progress import Progress
from replay.recovery import Recovery
from replay.resharding import Source
from replay.restore import Damaged, TableRestore
from replay.ring import Ring, RowsDrawn
from replay.samplers import Draw, Window
from replay.schema import Batch, Chunk, Schema
from replay.seeds import seed_for
from replay.settings import ReplaySettings
from replay.shard import Receipt, ReplayShard, Request
from replay.staging import StagedChunk, StagingReader
from replay.workload import Workload

logger = logging.getLogger(__name__)


Method = TypeVar("Method", bound=Callable[..., Any])


def _counted(method: Method) -> Method:
    """A call that shows, while it lasts and when it ends, that somebody wants the shard."""

    @functools.wraps(method)
    async def call(self: ShardServer, *arguments: Any, **named: Any) -> Any:
        self._calls += 1
        try:
            return await method(self, *arguments, **named)
        finally:
            self._calls -= 1
            self._called_at = time.monotonic()

    return cast(Method, call)


class Share(NamedTuple):
    """A shard's part of a batch: the steps themselves, or where they lie in its ring."""

    draw: Draw
    eligible: int  # what was chosen from
    lives: np.ndarray  # int64 (B,): the shard's life in which each window was drawn
    batch: Batch | None = None  # (T, B, ...)
    rows: RowsDrawn | None = None
    ring: tuple[Address, int] | None = None  # its memory and its capacity


class ShardServer:
    """Serves one `ReplayShard`. Made into a Ray actor by `ReplayService.create`; all state is
    touched by one event loop only.

    Ray starts it again after a crash (`max_restarts=-1`) and sends unanswered calls again, so every
    call may be repeated: inserts are exactly-once by the chunk's identity; a repeated sample draws,
    and counts, again; the others change nothing that a repeat would spoil. After a restart the
    shard loads the snapshot registered last, or begins empty, and says so in `stats`; limits that
    were set while it served hold again.
    """

    def __init__(
        self,
        index: int,
        schema: Schema,
        settings: ReplaySettings,
        workload: Workload,
        seed: int,
        recovery_path: str,
        detached: bool = False,
    ) -> None:
        """Shard `index` of `settings.shards`; `seed` is the run's root seed. If `detached` it ends
        itself once nobody has called it for `settings.orphan_timeout_s`.
        """
        self._index = index
        self._settings = settings
        self._workload = workload
        self._recovery = Recovery(recovery_path, index)
        if not self._recovery.restarts:  # else readers may still hold what its last life has left
            check_memory(settings.shard_bytes(schema.bytes_per_step))
        limiter = Limiter(
            workload.samples_per_insert, settings.shard_minimum_agent_steps, workload.band(settings)
        )
        self._shard = ReplayShard(
            _store(schema, settings),
            sampler=settings.sampler,
            sampler_options=settings.sampler_options,
            limiter=limiter,
            seed=seed_for(seed, "replay", "shard", index),
        )
        self._staged = StagingReader(schema)
        self._redrawn = 0
        self._life = self._recovery.restarts << 32  # and one more with each `load`
        self._changed = asyncio.Condition()
        self._saving = asyncio.Lock()
        # Ray may hand over a reader's calls in another order than they were made in. They are
        # served by number, so that equal seeds give equal batches.
        self._turn: dict[str, int] = {}  # reader -> the number to be served next
        self._over: defaultdict[str, set[int]] = defaultdict(set)  # served or given up before
        self._checked: tuple[Source, Damaged, TableRestore] | None = None
        self._unregistered: Written | None = None  # of a save whose place is not known yet
        self._progress = Progress()
        if self._recovery.restarts:
            self._go_back()
        self._calls = 0  # in progress
        self._called_at = time.monotonic()
        if detached:
            threading.Thread(target=self._watch_owner, name="orphan", daemon=True).start()

    def describe(self) -> tuple[Schema, ReplaySettings, Workload]:
        """What `ReplayService.connect` needs to know."""
        self._called_at = time.monotonic()
        return self._shard.schema, self._settings, self._workload

    @_counted
    async def pid(self) -> int:
        """The id of this shard's process, for whoever watches or tests it."""
        return os.getpid()

    @_counted
    async def insert(
        self, chunks: list[Chunk | StagedChunk], waited_s: float = 0.0
    ) -> Receipt | None:
        """Stores consecutive chunks of one episode; the first may be held back, and then none is
        stored. None: a staged chunk cannot be reached from here, send the chunks themselves.

        `waited_s` is how long the writer was held back before this call, for the statistics.
        """
        stored = 0
        for given in chunks:
            chunk = self._staged.find(given) if isinstance(given, StagedChunk) else given
            if chunk is None:
                return None
            receipt = self._shard.insert(chunk)
            if receipt.held_back:
                return receipt
            stored += receipt.agent_steps
        if waited_s > 0:
            self._shard.limiter.insert_waited(waited_s)
        self._recovery.inserted(self._shard.limiter.inserted)
        await self._notify()
        return Receipt(False, stored)

    @_counted
    async def admission(self, agent_steps: int, timeout_s: float) -> bool:
        """Returns True as soon as a new episode may begin here, or False after `timeout_s`."""
        try:
            await self._until(lambda: self._shard.would_admit(agent_steps), timeout_s)
        except TimeoutError:
            return False
        return True

    @_counted
    async def sample(
        self, request: Request, timeout_s: float, reader: str, number: int, by_reference: bool
    ) -> Share:
        """A share of a batch, waiting up to `timeout_s`. Raises `ReplayTimeout`.

        `reader` numbers its requests to this shard 0, 1, 2, ... and is served in that order. (After
        a restart of the shard in any order: some numbers were served in its earlier life.)
        """

        def ready() -> bool:
            in_turn = self._recovery.restarts > 0 or number <= self._turn.get(reader, 0)
            return in_turn and self._shard.would_give(request)

        waits = not ready()
        self._shard.waiting_samples += waits
        begin = time.monotonic()
        try:
            if waits:
                await self._notify()  # writers held back may go on now
                await self._until(ready, timeout_s)
            draw = self._shard.draw(request)
            assert draw is not None
            share = self._share(request, draw, by_reference)
        except TimeoutError:
            why = self._shard.why_not(request)
            raise ReplayTimeout(f"shard {self._index} {why}") from None
        finally:
            self._shard.waiting_samples -= waits
            self._end_turn(reader, number)
            if waits:
                self._shard.limiter.sample_waited(time.monotonic() - begin)
        await self._notify()
        return share

    @_counted
    async def redraw(self, request: Request, timeout_s: float, by_reference: bool) -> Share:
        """Other windows for a reader whose drawn ones were overwritten before it had copied them:
        not counted again. Raises `ReplayTimeout` if there is none within `timeout_s`.
        """
        try:
            await self._until(lambda: self._shard.eligible(request) > 0, timeout_s)
        except TimeoutError:
            why = self._shard.why_not(request)
            raise ReplayTimeout(f"shard {self._index} {why}") from None
        self._redrawn += request.sequences
        return self._share(request, self._shard.redraw(request), by_reference)

    @_counted
    async def update_priorities(
        self,
        window: Window,
        ordinals: np.ndarray,
        starts: np.ndarray,
        priorities: np.ndarray,
        lives: np.ndarray,
    ) -> None:
        """See `ReplayShard.update_priorities`. Windows drawn before a restart or a `load` are
        passed over: their segments' numbers may stand for others by now.
        """
        same = lives == self._life
        self._shard.update_priorities(window, ordinals[same], starts[same], priorities[same])

    @_counted
    async def limit(self, changes: dict[str, Any], band_agent_steps: float | None = None) -> None:
        """See `Limiter.configure`; for everyone who waits the new numbers count at once.

        `band_agent_steps` is the band in inserted agent steps, at the ratio that holds then.
        """
        limiter = self._shard.limiter
        if band_agent_steps is not None:
            ratio = changes.get("samples_per_insert", limiter.samples_per_insert)
            changes = changes | {"band": band_agent_steps * (ratio or 1.0)}
        limiter.configure(**changes)
        self._note_limits()
        await self._notify()

    @_counted
    async def preload(self, on: bool) -> int:
        """See `Limiter.preload`. Returns the agent steps removed since the beginning of the run."""
        self._shard.limiter.preload(on)
        self._note_limits()
        await self._notify()
        return self._shard.table.removed_agent_steps

    @_counted
    async def why_not(self, request: Request) -> str | None:
        """See `ReplayShard.why_not`."""
        return self._shard.why_not(request)

    @_counted
    async def waiting_for(self) -> str:
        """See `Limiter.waiting_for`."""
        return self._shard.limiter.waiting_for()

    @_counted
    async def stats(self) -> dict[str, float]:
        """See `ReplayShard.stats`; with the restarts and what they lost."""
        lives = {
            "restarts": self._recovery.restarts,
            "lost_agent_steps": self._recovery.lost_agent_steps,
            "redrawn_sequences": self._redrawn,
        }
        return self._shard.stats() | lives

    @_counted
    async def save(self, path: str) -> None:
        """Saves this moment to the directory `path`; inserts and samples go on meanwhile. Raises
        `SnapshotError` if the disk does not take it.
        """
        async with self._saving:
            self._progress = Progress(f"Replay shard {self._index}")
            try:
                self._unregistered = await self._write(path)
            except OSError as error:
                raise SnapshotError(
                    f"Shard {self._index} could not save to {path} ({error}). The snapshot before "
                    "is untouched. Is the disk full, or the folder not writable?"
                ) from None

    async def _write(self, path: str) -> Written:
        cut = self._shard.cut(path, self._progress)
        try:
            await asyncio.to_thread(cut.begin)
            for block in cut:
                for _ in block:
                    await asyncio.sleep(0)  # lets waiting calls in
                await asyncio.to_thread(block.write)
                await self._notify()  # new episodes may have waited for it
            await asyncio.to_thread(cut.commit)
        finally:
            cut.close()
        return cut.written

    @_counted
    async def register(self, path: str) -> None:
        """Names the snapshot to go back to after a crash: what `save` wrote, now in this place."""
        self._recovery.register(Source((path,)))
        if self._unregistered is not None:
            self._shard.saved(self._unregistered._replace(folder=Path(path)))
            self._unregistered = None

    @_counted
    async def progress(self) -> tuple[str, int, int]:
        """What the save or load at work, or the last one, is doing: task, bytes done, bytes in
        all.
        """
        return self._progress.task, self._progress.done, self._progress.total

    @_counted
    async def check(self, source: Source, damaged: Damaged) -> None:
        """Reads and checks `source` without applying it; `load` of the same then applies it at
        once.
        """
        self._progress = Progress(f"Replay shard {self._index}")
        restore = await asyncio.to_thread(
            TableRestore,
            source,
            self._shard.schema,
            damaged=damaged,
            progress=self._progress,
        )
        self._checked = (source, damaged, restore)

    @_counted
    async def load(self, source: Source, damaged: Damaged) -> None:
        """Replaces everything by `source`, see `ReplayShard.load`."""
        async with (
            self._saving
        ):  # a save in progress ends first: its cut would lose the steps it has yet to write
            if self._checked is None or self._checked[:2] != (source, damaged):
                await self.check(source, damaged)
            assert self._checked is not None
            _, _, restore = self._checked
            self._checked = None
            self._shard.apply(restore)
            self._life += 1
            self._unregistered = None
            self._recovery.register(source)
            self._recovery.inserted(self._shard.limiter.inserted)
        await self._notify()

    def _go_back(self) -> None:
        snapshot = self._recovery.snapshot
        source = "empty: no snapshot was ever saved"
        # Twice before damage is believed: a save may have replaced the snapshot as it was read.
        attempts: tuple[Damaged, ...] = ("refuse", "refuse", "skip")
        for damaged in attempts:
            if snapshot is None:
                break
            try:
                progress = Progress(f"Replay shard {self._index}")
                self._shard.load(snapshot, damaged=damaged, progress=progress)
                source = f"from {snapshot}"
                break
            except (ReplayError, OSError) as error:
                source = f"empty: {error}"
        noted = self._recovery.limits
        if noted is not None:
            self._shard.limiter.configure(**noted["limits"])
            self._shard.limiter.preload(noted["preloading"])
        self._recovery.restored(self._shard.limiter.inserted)
        logger.warning(
            "Replay shard %d was started again (%s): %d agent steps stored, %d lost so far.",
            self._index,
            source,
            self._shard.table.agent_steps,
            self._recovery.lost_agent_steps,
        )

    def _share(self, request: Request, draw: Draw, by_reference: bool) -> Share:
        eligible, length = self._shard.eligible(request), request.window.length
        lives = np.full(len(draw.starts), self._life)
        store = self._shard.table.store
        if by_reference and isinstance(store, Ring) and store.memory.address is not None:
            ring = store.memory.address, store.capacity
            rows = store.locate(draw.ordinals, draw.starts, length)
            return Share(draw, eligible, lives, rows=rows, ring=ring)
        batch = self._shard.table.gather(draw.ordinals, draw.starts, length)
        return Share(draw, eligible, lives, batch=batch)

    def _watch_owner(self) -> None:
        patience_s = self._settings.orphan_timeout_s
        never = threading.Event()
        while (left := self._called_at + patience_s - time.monotonic()) > 0 or self._calls:
            never.wait(max(left, patience_s / 10))
        logger.warning(
            "Replay shard %d ends itself: nobody has called it for %g s (replay.orphan_timeout_s).",
            self._index,
            patience_s,
        )
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)

    def _note_limits(self) -> None:
        limiter = self._shard.limiter
        self._recovery.limit({"limits": limiter.limits(), "preloading": limiter.preloading})

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


def _store(schema: Schema, settings: ReplaySettings) -> Ring | PackedStore:
    capacity = settings.shard_capacity_agent_steps(schema.bytes_per_step)
    if settings.compression == "none":
        return Ring(schema, capacity)
    agent_steps = -(-settings.capacity_agent_steps // settings.shards)
    return PackedStore(schema, settings.shard_bytes(schema.bytes_per_step), capacity=agent_steps)
