"""The end of the service that is in every actor."""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from replay.calls import answer, gone
from replay.errors import ChunkError, ReplayError, ReplayTimeout
from replay.schema import Chunk, ChunkKey, Schema
from replay.settings import ReplaySettings
from replay.staging import StagedChunk, Staging

IDLE_EPISODES_KEPT = 1024  # routes of episodes that never ended (their environment was rebuilt)


class _Waiting(NamedTuple):
    """A chunk that was not acknowledged, and the block in which it lies."""

    chunk: Chunk
    block: int


@dataclass
class _Route:
    """One episode on its way to one shard."""

    shard: int
    # Not acknowledged, in order; those in `sent` are its first.
    backlog: deque[_Waiting] = field(default_factory=deque)
    sent: int = 0
    call: Any = None  # the call that carries them
    admitted: bool = False  # the shard has taken the first chunk: the rest follows it there
    held_back_by: set[int] = field(default_factory=set)
    held_back_at: float = 0.0


class ReplayWriter:
    """Streams one actor's episodes to the shards, with a bounded amount in flight. Each chunk that
    is written once is stored once, however often calls are repeated on the way.

    An episode goes to one shard: the one this writer has given the fewest agent steps, ties in
    favour of the shard numbered like the actor. If that shard's limiter holds new episodes back, it
    goes to the next that does not; if all hold back, `write` waits (back-pressure). Chunks of one
    episode are sent one call after the other, so they arrive in order; after a shard restart Ray
    repeats the unanswered call, and the shard drops what it had. Shards on this machine pick a
    chunk up from the writer's memory; to others it travels through Ray's object store. Use one
    writer per process; it is not thread-safe.
    """

    def __init__(
        self,
        shards: Sequence[ActorHandle[Any]],
        schema: Schema,
        settings: ReplaySettings,
        *,
        actor: str,
        actor_index: int = 0,
        environments: int = 1,
        chunk_length: int = 32,
    ) -> None:
        """Up to `environments` x `settings.chunks_in_flight` chunks are unacknowledged at once.
        `chunk_length` is the longest chunk to be expected, in agent steps.

        A process that is started again counts its episodes from 0 again, so every writer adds a
        random mark of its own to the actor's name; no new episode is ever taken for a repeat of an
        old one.
        """
        self._shards = list(shards)
        self._schema = schema
        self._timeout_s = settings.timeout_s
        self._limit = settings.chunks_in_flight * environments
        # Calls that are on their way together may be served in another order than they were made
        # in. With one environment nothing is gained by several, and equal seeds fill equal tables.
        self._in_order = environments == 1
        self._staging = Staging(schema, chunk_length, self._limit)
        self._by_value: set[int] = set()  # shards that cannot reach this process's memory
        self._mark = f"#{os.urandom(4).hex()}"
        self._actor = actor
        self._order = [(actor_index + i) % len(self._shards) for i in range(len(self._shards))]
        self._given = [0] * len(self._shards)
        self._routes: OrderedDict[tuple[str, int], _Route] = OrderedDict()
        self._admissions: dict[int, Any] = {}  # shard -> pending answer to "may an episode begin?"
        self._in_flight = 0
        self._closed = False
        self._waits = 0
        self._wait_s = 0.0

    def write(self, chunk: Chunk, timeout_s: float | None = None) -> None:
        """Sends a chunk; returns while it is on its way. The caller may reuse the arrays at once.

        Raises `ChunkError` at once if the chunk does not fit the schema, `ReplayTimeout` if there
        is no room in flight within `timeout_s` (default: the service's; the chunk is then not
        taken: the call can be repeated), `ReplayError` if a shard is gone for good or this writer
        was closed.
        """
        self._require_open()
        self._schema.validate(chunk)
        self._advance(0.0)
        if self._in_flight >= self._limit:
            self._wait(self._limit - 1, "to send a chunk", timeout_s)
        key = chunk.key
        route = self._routes.get((key.actor, key.episode))
        if route is None:
            route = self._routes[key.actor, key.episode] = _Route(self._preferred(set()))
        marked = ChunkKey(key.actor + self._mark, key.episode, key.start)
        block, staged = self._staging.put(Chunk(marked, chunk.steps))
        route.backlog.append(_Waiting(staged, block))
        self._given[route.shard] += len(chunk)
        self._in_flight += 1
        self._send(route)
        self._forget_idle()

    def poll(self) -> None:
        """Takes in what shards have answered and sends what had to wait for it; never blocks.

        `write` does the same. An actor that pauses between two chunks (an evaluation, a reset that
        takes seconds) calls it meanwhile, so that a chunk queued behind another does not lie still.
        """
        self._require_open()
        self._advance(0.0)

    def flush(self, timeout_s: float | None = None) -> None:
        """Waits until every chunk is acknowledged. Raises `ReplayTimeout` after `timeout_s`
        (default: the service's).
        """
        self._require_open()
        self._wait(0, "for the last chunks", timeout_s)

    def close(self) -> None:
        """Flushes; nothing can be written after that. Episodes that have not ended stay in replay
        as they are. Safe to call twice; after an error the writer is still open.
        """
        if self._closed:
            return
        self.flush()
        self._closed = True
        for call in self._admissions.values():
            ray.cancel(call)
        self._admissions.clear()

    def stats(self) -> dict[str, float]:
        """`write_waits`, `write_wait_s` (time that `write` and `flush` were blocked),
        `chunks_in_flight`; `shards_by_value`: those that cannot map this process's memory.
        """
        return {
            "write_waits": self._waits,
            "write_wait_s": self._wait_s,
            "chunks_in_flight": self._in_flight,
            "shards_by_value": len(self._by_value),
        }

    def _require_open(self) -> None:
        if self._closed:
            raise ReplayError(
                f"The writer of {self._actor} was closed: make another with "
                "ReplayService.connect(...).writer(...)."
            )

    def _preferred(self, without: set[int]) -> int:
        return min((s for s in self._order if s not in without), key=lambda s: self._given[s])

    def _send(self, route: _Route) -> None:
        if (
            route.call is not None
            or not route.backlog
            or len(route.held_back_by) == len(self._shards)
            or (self._in_order and route is not self._oldest(route.shard))
        ):
            return
        # All in one call. If the first is held back, none is stored, and all may go elsewhere; only
        # frames that travel by themselves are not sent in vain.
        alone = not route.admitted and route.shard in self._by_value
        route.sent = 1 if alone else len(route.backlog)
        chunks = [route.backlog[i] for i in range(route.sent)]
        waited_s = time.monotonic() - route.held_back_at if route.held_back_at else 0.0
        parcel = [self._parcel(each, route.shard) for each in chunks]
        route.call = self._shards[route.shard].insert.remote(parcel, waited_s)

    def _oldest(self, shard: int) -> _Route | None:
        """The episode begun first of those with something to send, or on its way, to `shard`."""
        routes = self._routes.values()
        return next((route for route in routes if route.backlog and route.shard == shard), None)

    def _parcel(self, waiting: _Waiting, shard: int) -> Chunk | StagedChunk:
        if shard in self._by_value:
            return waiting.chunk
        return self._staging.describe(waiting.chunk, waiting.block) or waiting.chunk

    def _advance(self, timeout_s: float) -> None:
        """Takes in what the shards have answered, waiting up to `timeout_s` for a first answer, and
        sends what follows.
        """
        calls = {route.call: route for route in self._routes.values() if route.call is not None}
        admissions = {call: shard for shard, call in self._admissions.items()}
        waiting = [*calls, *admissions]
        if not waiting:
            self._send_in_order()
            return
        if timeout_s > 0:
            ray.wait(waiting, num_returns=1, timeout=timeout_s)
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0)
        for call in ready:
            if call in admissions:
                self._admitted(admissions[call])
            else:
                self._answered(calls[call])
        self._send_in_order()

    def _send_in_order(self) -> None:
        """Sends what had to let an older episode go first."""
        if self._in_order:
            for shard in self._order:
                if (route := self._oldest(shard)) is not None:
                    self._send(route)

    def _answered(self, route: _Route) -> None:
        call, route.call = route.call, None
        chunks = [route.backlog[i].chunk for i in range(route.sent)]
        try:
            receipt = answer(call)
        except ActorUnavailableError:
            self._send(route)
            return
        except RayActorError as error:
            raise gone(route.shard, error) from error
        except (ChunkError, ReplayError, RayTaskError):  # the episode's other chunks are of no use
            self._drop(route)
            raise
        if receipt is None:  # it cannot see this memory: another machine, container or user
            self._by_value.add(route.shard)
            self._send(route)
            return
        if receipt.held_back:
            route.held_back_at = route.held_back_at or time.monotonic()
            route.held_back_by.add(route.shard)
            if len(route.held_back_by) < len(self._shards):
                self._move(route, self._preferred(route.held_back_by))
                self._send(route)
            else:
                self._ask_for_admission(len(chunks[0]))
            return
        for _ in chunks:
            self._staging.give_back(route.backlog.popleft().block)
        self._in_flight -= len(chunks)
        route.admitted = True
        route.held_back_at = 0.0
        if chunks[-1].is_last and not route.backlog:
            last = chunks[-1].key
            del self._routes[last.actor.removesuffix(self._mark), last.episode]
        else:
            self._send(route)

    def _move(self, route: _Route, shard: int) -> None:
        """Lets an episode that no shard has taken yet go to `shard`."""
        agent_steps = sum(len(waiting.chunk) for waiting in route.backlog)
        self._given[route.shard] -= agent_steps
        self._given[shard] += agent_steps
        route.shard = shard

    def _drop(self, route: _Route) -> None:
        for waiting in route.backlog:
            self._staging.give_back(waiting.block)
        self._in_flight -= len(route.backlog)
        self._routes = OrderedDict(
            (key, other) for key, other in self._routes.items() if other is not route
        )

    def _ask_for_admission(self, agent_steps: int) -> None:
        for shard in self._order:
            if shard not in self._admissions:
                self._admissions[shard] = self._shards[shard].admission.remote(
                    agent_steps, self._timeout_s
                )

    def _admitted(self, shard: int) -> None:
        """Shard `shard` may take an episode again (or has grown tired of the question): offer it
        the longest waiting.
        """
        call = self._admissions.pop(shard)
        try:
            granted = answer(call)
        except ActorUnavailableError:
            granted = False
        except RayActorError as error:
            raise gone(shard, error) from error
        everywhere = set(range(len(self._shards)))
        waiting = [
            route
            for route in self._routes.values()
            if route.held_back_by == everywhere and route.call is None
        ]
        if not waiting:
            return
        if not granted:
            self._ask_for_admission(len(waiting[0].backlog[0].chunk))
            return
        self._move(waiting[0], shard)
        waiting[0].held_back_by = everywhere - {shard}
        self._send(waiting[0])
        if len(waiting) > 1:
            self._ask_for_admission(len(waiting[1].backlog[0].chunk))

    def _wait(self, at_most: int, what: str, timeout_s: float | None = None) -> None:
        """Waits until at most `at_most` chunks are in flight."""
        begin = time.monotonic()
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            while self._in_flight > at_most:
                left = begin + timeout_s - time.monotonic()
                if left <= 0:
                    why = self._why()
                    raise ReplayTimeout(f"{self._actor} waited {timeout_s:g} s {what}: {why}")
                self._advance(left)
        finally:
            waited = time.monotonic() - begin
            if waited > 1e-4:
                self._waits += 1
                self._wait_s += waited

    def _why(self) -> str:
        held_back = any(
            len(route.held_back_by) == len(self._shards) for route in self._routes.values()
        )
        if held_back:
            return (
                "all replay shards hold new episodes back, because the learner has sampled less "
                "than samples per insert asks for. "
                "Is a learner running? If its updates are just slow, raise replay.timeout_s."
            )
        shards = sorted({route.shard for route in self._routes.values() if route.call is not None})
        names = ", ".join(map(str, shards))
        return (
            f"replay shard {names} does not answer. Is its process alive and its machine reachable?"
        )

    def _forget_idle(self) -> None:
        if len(self._routes) > IDLE_EPISODES_KEPT:
            for key, route in list(self._routes.items()):
                if not route.backlog and len(self._routes) > IDLE_EPISODES_KEPT:
                    del self._routes[key]
