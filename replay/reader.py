"""The end of the service that is in every learner."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError

from replay.calls import answer, gone
from replay.errors import ReplayError, ReplayTimeout
from replay.memory import SharedMemory, has_ended
from replay.priorities import importance_weights
from replay.ring import Rows
from replay.samplers import SAMPLERS, Draw, Window, checked_priorities
from replay.schema import Batch, Schema
from replay.server import Share
from replay.settings import ReplaySettings
from replay.shard import Request
from replay.sink import ArraySink, Sink
from replay.workload import shares

ASK_WHY_TIMEOUT_S = 1.0  # past the deadline, for all shards together
CHECK_S = 0.5  # how soon a waiting reader notices that a shard has ended


class Drawn(NamedTuple):
    """Where the B sequences of a batch come from, in their order in it."""

    shards: np.ndarray  # int64 (B,)
    ordinals: np.ndarray  # int64 (B,): the segment in its shard
    starts: np.ndarray  # int64 (B,): the step of the segment at which the window begins
    importance_weights: np.ndarray | None  # float32 (B,), the largest 1; None: uniform draws
    lives: np.ndarray  # int64 (B,): of their shard, which numbers segments anew after a restart


@dataclass
class _Pending:
    """A batch that was asked for: the shards that give a part, and a call to each."""

    sequences: list[int]  # of each shard
    numbers: list[int]
    calls: list[Any]  # None for a shard that gives nothing


class ReplayReader:
    """Draws (T, B) batches, a part of B from every shard, with several requests in flight.

    Parts are put side by side on axis 1 in the order of shards, in new arrays that the caller owns,
    in `out`, or in a `Sink`. From a shard on this machine come only the places of the steps, and
    this process copies them from the shard's memory straight into the batch; windows that were
    overwritten in the meantime are noticed and drawn again. From other machines the steps come as
    one object per batch and shard, which is copied and dropped at once. Not thread-safe: use it
    from one thread, such as a prefetcher's.

    Attributes:
        schema: Fields of a step.
        window: What is drawn.
        depth: Batches asked for ahead of use.
        timeout_s: Deadline of a read where none is given.
        importance_exponent: Beta of the importance weights; may be set between reads.
    """

    def __init__(
        self,
        shards: Sequence[ActorHandle[Any]],
        schema: Schema,
        settings: ReplaySettings,
        *,
        window: Window,
        batch_size: int,
        sampler: str | None = None,
        in_flight: int | None = None,
        by_reference: bool = True,
    ) -> None:
        """Nothing is requested before the first `read`.

        `in_flight` batches are asked for ahead of use (default: `settings.requests_in_flight`); 0
        asks when a batch is wanted and not before, so that it holds what was inserted until then.
        `by_reference=False` takes copies from all shards.
        """
        self._shards = list(shards)
        self.schema = schema
        self.window = window
        self._batch_size = batch_size
        self._sampler = settings.sampler if sampler is None else sampler
        if self._sampler not in SAMPLERS:
            raise ReplayError(f"No sampler {sampler!r}: use one of {', '.join(SAMPLERS)}.")
        if batch_size < 1 or window.length < 1 or window.stride < 1:
            raise ReplayError(
                f"batch_size, batch_length and stride must be 1 or more, got {batch_size}, "
                f"{window.length} and {window.stride}."
            )
        self.timeout_s = settings.timeout_s
        self.depth = settings.requests_in_flight if in_flight is None else in_flight
        self.importance_exponent = settings.importance_exponent
        self._rings: list[tuple[bytes, Rows] | None] = [None] * len(self._shards)
        self._by_reference = [by_reference] * len(self._shards)
        self._pending: deque[_Pending] = deque()
        self._name = os.urandom(8).hex()
        self._asked = 0
        self._numbers = [0] * len(self._shards)
        self._waits = 0
        self._wait_s = 0.0
        self._redrawn = 0
        self._closed = False

    def read(self, out: Batch | None = None, timeout_s: float | None = None) -> Batch:
        """The next batch: arrays (T, B, ...). Raises `ReplayTimeout` after `timeout_s`, saying who
        waits for whom.

        After a time-out the requests stay in flight and the call can be repeated. Raises
        `ReplayError` if a shard is gone for good, or if this reader was closed.
        """
        return self.draw(out, timeout_s)[0]

    def draw(self, out: Batch | None = None, timeout_s: float | None = None) -> tuple[Batch, Drawn]:
        """`read`, and where its sequences come from."""
        self._ask_ahead(1)
        received = self.receive(out, timeout_s)
        self._ask_ahead()
        return received

    def draw_to(self, sink: Sink, timeout_s: float | None = None) -> Drawn:
        """`draw`, with a sink in place of arrays."""
        self._ask_ahead(1)
        drawn = self._receive(sink, timeout_s)
        self.forget()
        self._ask_ahead()
        return drawn

    def ask(self, sequences: int | None = None) -> None:
        """Asks for one batch more, of `sequences` windows (default: the reader's batch size)."""
        self._require_open()
        parts = shares(sequences or self._batch_size, len(self._shards), self._asked)
        self._asked += 1
        pending = _Pending(parts, list(self._numbers), [None] * len(parts))
        for shard, part in enumerate(parts):
            if part:
                self._numbers[shard] += 1
                pending.calls[shard] = self._request(pending, shard)
        self._pending.append(pending)

    def receive(
        self, out: Batch | None = None, timeout_s: float | None = None, *, keep: bool = False
    ) -> tuple[Batch, Drawn]:
        """The batch asked for first. See `draw`. With `keep` it can be received again, until
        `forget`.
        """
        self._require_open()
        if out is None:
            out = self.schema.empty(self.window.length, sum(self._pending[0].sequences))
        drawn = self._receive(ArraySink(out), timeout_s)
        if not keep:
            self.forget()
        return out, drawn

    def _receive(self, sink: Sink, timeout_s: float | None) -> Drawn:
        begin = time.monotonic()
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        pending = self._pending[0]
        parts: dict[int, Share] = {}
        ends = np.cumsum(pending.sequences)
        # A part is copied as soon as it is there: the sooner, the fewer windows were overwritten.
        while missing := [i for i, part in enumerate(pending.sequences) if part and i not in parts]:
            shard, share = self._next_share(pending, missing, begin + timeout_s, timeout_s)
            columns = np.arange(ends[shard] - pending.sequences[shard], ends[shard])
            parts[shard] = self._copy(shard, share, sink, columns, begin + timeout_s)
        waited = time.monotonic() - begin
        if waited > 1e-3:
            self._waits += 1
            self._wait_s += waited
        return self._drawn(parts)

    def forget(self) -> None:
        """Lets go of the batch asked for first."""
        self._pending.popleft()

    def update_priorities(
        self, drawn: Drawn, priorities: np.ndarray, *, wait: bool = False
    ) -> None:
        """Sets the priorities of a batch's windows, (B,) and not negative. Those that have left
        replay meanwhile are passed over. Raises `ReplayError` for others, with nothing sent.

        With `wait` every shard has them on return, so that the next draw knows of them; raises
        `ReplayTimeout` if that takes longer than `timeout_s`.
        """
        self._require_open()
        priorities = checked_priorities(priorities, len(drawn.starts))
        calls = []
        for shard in np.unique(drawn.shards).tolist():
            mine = drawn.shards == shard
            places = drawn.ordinals[mine], drawn.starts[mine]
            given = priorities[mine], drawn.lives[mine]
            calls.append(self._shards[shard].update_priorities.remote(self.window, *places, *given))
        if wait:
            _, late = ray.wait(calls, num_returns=len(calls), timeout=self.timeout_s)
            if late:
                raise ReplayTimeout(
                    f"{len(late)} replay shards did not take new priorities within "
                    f"{self.timeout_s:g} s. Are their processes alive?"
                )
            for call in calls:
                answer(call)

    def let_go(self) -> None:
        """Lets go of the memory of shards that have ended: started again, they need it. `read` does
        the same while it waits; whoever pauses for long calls it meanwhile.
        """
        self._rings = [
            None if ring is None or ring[1].memory.abandoned else ring for ring in self._rings
        ]

    def close(self) -> None:
        """Withdraws the requests in flight; nothing can be read after that. Safe to call twice."""
        self._closed = True
        for pending in self._pending:
            for call in pending.calls:
                if call is not None:
                    ray.cancel(call)
        self._pending.clear()
        self._rings = [None] * len(self._shards)

    def stats(self) -> dict[str, float]:
        """`read_waits` and `read_wait_s`: batches that were not there when asked for, and the time
        until they were; `redrawn_sequences`: overwritten before they were copied; `mapped_shards`:
        those whose memory this process reads.
        """
        return {
            "read_waits": self._waits,
            "read_wait_s": self._wait_s,
            "redrawn_sequences": self._redrawn,
            "mapped_shards": sum(ring is not None for ring in self._rings),
        }

    def _require_open(self) -> None:
        if self._closed:
            raise ReplayError(
                "This reader was closed: make another with ReplayService.connect(...).reader()."
            )

    def _ask_ahead(self, at_least: int = 0) -> None:
        while len(self._pending) < max(at_least, self.depth):
            self.ask()

    def _request(self, pending: _Pending, shard: int) -> Any:
        request = Request(self.window, pending.sequences[shard], self._sampler)
        return self._shards[shard].sample.remote(
            request,
            self.timeout_s,
            self._name,
            pending.numbers[shard],
            self._by_reference[shard],
        )

    def _next_share(
        self, pending: _Pending, missing: list[int], deadline: float, timeout_s: float
    ) -> tuple[int, Share]:
        """The answer that comes first. Requests that a shard gave up are made again."""
        while True:
            left = max(0.0, deadline - time.monotonic())
            calls = [pending.calls[i] for i in missing]
            ready, _ = ray.wait(calls, num_returns=1, timeout=min(left, CHECK_S))
            if not ready:
                self.let_go()
                if left > 0:
                    continue
                raise ReplayTimeout(f"No batch within {timeout_s:g} s. {self._why(missing)}")
            shard = missing[calls.index(ready[0])]
            try:
                return shard, answer(ready[0])
            except (ReplayTimeout, ActorUnavailableError):
                pending.calls[shard] = self._request(pending, shard)
            except RayActorError as error:
                raise gone(shard, error) from error

    def _copy(
        self, shard: int, share: Share, sink: Sink, columns: np.ndarray, deadline: float
    ) -> Share:
        """Puts a share into its columns of the batch; windows overwritten meanwhile are drawn
        again. Returns the share as it was copied in the end.
        """
        if share.batch is not None:
            sink.copy(shard, share.batch, columns)
            return share._replace(batch=None)
        rows = self._rows(shard, share)
        if rows is None:
            # Or the shard has been started again since, and its new memory can be reached.
            self._by_reference[shard] = share.ring is not None and has_ended(share.ring[0])
            again = self._redraw(shard, len(columns), deadline)
            return self._copy(shard, again, sink, columns, deadline)
        assert share.rows is not None
        rows.memory.claim(share.rows.touched * rows.row_bytes)
        sink.gather(shard, rows, share.rows.slots, columns)
        whole = rows.generations[share.rows.slots[0]] == share.rows.generations
        sink.keep(whole)
        if not whole.all():
            stale = np.flatnonzero(~whole)
            self._redrawn += len(stale)
            again = self._redraw(shard, len(stale), deadline)
            again = self._copy(shard, again, sink, columns[stale], deadline)
            share = share._replace(
                draw=_merged(share.draw, stale, again.draw),
                lives=_replaced(share.lives, stale, again.lives),
            )
        return share

    def _redraw(self, shard: int, sequences: int, deadline: float) -> Share:
        left = max(0.1, deadline - time.monotonic())
        request = Request(self.window, sequences, self._sampler)
        call: Any = self._shards[shard].redraw.remote(request, left, self._by_reference[shard])
        try:
            return answer(call, left + 1.0)
        except (ray.exceptions.GetTimeoutError, ActorUnavailableError):
            raise ReplayTimeout(f"No batch in time. {self._why([shard])}") from None
        except RayActorError as error:
            raise gone(shard, error) from error

    def _rows(self, shard: int, share: Share) -> Rows | None:
        """The ring in which a share lies, mapped once; None if it cannot be reached from here."""
        assert share.ring is not None
        address, capacity = share.ring
        known = self._rings[shard]
        if known is not None and known[0] == address.token:
            return known[1]
        self._rings[shard] = None  # the shard was started again: let its old memory go
        memory = SharedMemory.attach(address)
        if memory is None:
            return None
        rows = Rows(self.schema, capacity, memory)
        self._rings[shard] = (address.token, rows)
        return rows

    def _drawn(self, parts: dict[int, Share]) -> Drawn:
        order = sorted(parts)
        sizes = [len(parts[shard].draw.starts) for shard in order]
        draws = [parts[shard].draw for shard in order]
        weights = None
        if all(draw.probabilities is not None for draw in draws):
            weights = importance_weights(
                np.concatenate([d.probabilities for d in draws if d.probabilities is not None]),
                sizes,
                [parts[shard].eligible for shard in order],
                self.importance_exponent,
            )
        return Drawn(
            np.repeat(order, sizes),
            np.concatenate([draw.ordinals for draw in draws]),
            np.concatenate([draw.starts for draw in draws]),
            weights,
            np.concatenate([parts[shard].lives for shard in order]),
        )

    def _why(self, shards: list[int]) -> str:
        sequences = max(1, self._batch_size // len(self._shards))
        request = Request(self.window, sequences, self._sampler)
        asked = {shard: self._shards[shard].why_not.remote(request) for shard in shards}
        answered, _ = ray.wait(
            list(asked.values()), num_returns=len(asked), timeout=ASK_WHY_TIMEOUT_S
        )
        reasons = []
        for shard, call in asked.items():
            why = "does not answer: is its process alive and its machine reachable?"
            if call in answered:
                with suppress(RayActorError):
                    why = f"{ray.get(call) or 'has just become ready'}."
            reasons.append(f"Shard {shard} {why}")
        return " ".join(reasons)


def _merged(draw: Draw, at: np.ndarray, other: Draw) -> Draw:
    """`draw` with the windows `at` replaced by those of `other`."""
    probabilities = None
    if draw.probabilities is not None and other.probabilities is not None:
        probabilities = _replaced(draw.probabilities, at, other.probabilities)
    ordinals = _replaced(draw.ordinals, at, other.ordinals)
    return Draw(ordinals, _replaced(draw.starts, at, other.starts), probabilities)


def _replaced(values: np.ndarray, at: np.ndarray, others: np.ndarray) -> np.ndarray:
    replaced = np.array(values)  # what came with a call is read-only
    replaced[at] = others
    return replaced
