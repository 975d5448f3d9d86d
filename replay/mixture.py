"""Batches from several tables, such as demonstrations and what the actors bring in."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from replay.errors import ReplayError
from replay.reader import Drawn, ReplayReader
from replay.schema import Batch


@dataclass(frozen=True)
class Source:
    """One table of a mixture: its reader, and its part of the sequences."""

    reader: ReplayReader
    weight: float


class MixtureReader:
    """Reads batches of which each source gives its part: the first B_1 sequences come from the
    first source, the next B_2 from the second, and so on.

        demonstrations = ReplayService.connect("demonstrations").reader()
        on_policy = ReplayService.connect("replay").reader()
        reader = MixtureReader(
            {"demonstrations": Source(demonstrations, 0.25), "on_policy": Source(on_policy, 0.75)},
            batch_size=32,
        )
        batch, drawn = reader.draw()  # 8 demonstrations and 24 others

    Every table has a limiter, samplers and a schema of its own; the schemas must be equal, and so
    must the readers' window lengths. A weight that is no whole number of sequences is kept on
    average: what a source was short of in one batch it gets in the next. Not thread-safe.
    """

    def __init__(
        self, sources: Mapping[str, Source], batch_size: int, in_flight: int | None = None
    ) -> None:
        """`in_flight` batches are asked for ahead of use (default: as the first source's reader).

        Raises `ReplayError` if the sources cannot be mixed. The readers must be fresh and are this
        object's from now on.
        """
        if not sources:
            raise ReplayError("A mixture needs at least one source.")
        self._names = list(sources)
        self._readers = [source.reader for source in sources.values()]
        weights = np.array([source.weight for source in sources.values()], np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ReplayError(
                f"The weights of a mixture must be numbers from 0 on, not all 0, got {weights}."
            )
        first = self._readers[0]
        for name, reader in zip(self._names, self._readers, strict=True):
            if reader.schema != first.schema or reader.window.length != first.window.length:
                raise ReplayError(
                    f"The tables {self._names[0]!r} and {name!r} cannot be mixed: they need equal "
                    "fields and window lengths."
                )
        self._rates = weights / weights.sum() * batch_size
        self._batch_size = batch_size
        self._depth = first.depth if in_flight is None else in_flight
        self._owed = np.zeros(len(weights))
        self._pending: deque[list[int]] = deque()

    def read(self, out: Batch | None = None, timeout_s: float | None = None) -> Batch:
        """The next batch: arrays (T, B, ...). Raises as `ReplayReader.read`; the message names the
        source.
        """
        return self.draw(out, timeout_s)[0]

    def draw(
        self, out: Batch | None = None, timeout_s: float | None = None
    ) -> tuple[Batch, dict[str, Drawn]]:
        """`read`, and where the sequences of each source come from; a source that gives none this
        time is left out.

        Priorities go back by `update_priorities` of the source's own reader.
        """
        while len(self._pending) < max(1, self._depth):
            self._ask()
        first = self._readers[0]
        if out is None:
            out = first.schema.empty(first.window.length, self._batch_size)
        timeout_s = first.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        parts, drawn, end = self._pending[0], {}, 0
        # Parts stay in their readers until all are there, so that the call can be repeated.
        for name, reader, part in zip(self._names, self._readers, parts, strict=True):
            begin, end = end, end + part
            if part:
                columns = {field: array[:, begin:end] for field, array in out.items()}
                try:
                    _, drawn[name] = reader.receive(
                        columns, max(0.0, deadline - time.monotonic()), keep=True
                    )
                except TimeoutError as error:
                    raise type(error)(f"Of the table {name!r}: {error}") from None
        for reader, part in zip(self._readers, parts, strict=True):
            if part:
                reader.forget()
        self._pending.popleft()
        while len(self._pending) < self._depth:
            self._ask()
        return out, drawn

    def close(self) -> None:
        """Withdraws the requests in flight, of all sources."""
        for reader in self._readers:
            reader.close()
        self._pending.clear()

    def _ask(self) -> None:
        self._owed += self._rates
        parts = [max(0, math.floor(owed + 1e-9)) for owed in self._owed]
        left = self._batch_size - sum(parts)
        # What is left over goes to those that are owed most.
        for source in np.argsort(-(self._owed - parts), kind="stable")[:left]:
            parts[source] += 1
        self._owed -= parts
        for reader, part in zip(self._readers, parts, strict=True):
            if part:
                reader.ask(part)
        self._pending.append(parts)
