"""Learners that share every batch take the same steps: the first says when, the others follow."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist

from learners.collective import ALONE, Collective

IDLE = datetime.timedelta(days=365)  # a follower may wait as long as the run pauses
_END_TIMEOUT = datetime.timedelta(seconds=5)  # of the last order: who has failed does not listen
_STEP, _END = 0, 1  # orders
_LOST = "onnection"  # in what gloo says when a process is gone

logger = logging.getLogger(__name__)


class Conductor:
    """Of the learners of one agent only the first is asked for updates; it conducts the others.

    Every learner makes one, at the same time, in a process that has joined torch.distributed. In a
    learner that is not the first a thread waits for orders and carries them out; between two orders
    it touches nothing, so that the process can be asked for its state while the first is at rest.

        first:      wait for a batch;  if conductor.begin(): update
        others:     prepare() when the first begins;  follow() if all are prepared

    Attributes:
        collective: For the updates: exchanges fail after `timeout_s`.

    Args:
        learners: How many there are; 1: nobody else is there, and nothing is sent.
        prepare: Returns whether this follower has what an update needs; in its thread.
        follow: Takes part in an update; in its thread.
        timeout_s: Deadline of an exchange.
    """

    def __init__(
        self,
        learners: int,
        prepare: Callable[[], bool],
        follow: Callable[[], None],
        timeout_s: float,
    ) -> None:
        self.collective = ALONE
        self._prepare, self._follow = prepare, follow
        self._error: BaseException | None = None
        self._at_work = threading.Lock()
        self._timeout = datetime.timedelta(seconds=timeout_s)
        self._thread: threading.Thread | None = None
        self._open = learners > 1
        if learners == 1:
            return
        self.collective = Collective(dist.new_group(timeout=self._timeout))
        # Orders go by way of the CPU, also where gradients go by that of GPUs.
        self._orders = dist.new_group(backend="gloo", timeout=IDLE)
        self._consent = dist.new_group(backend="gloo", timeout=self._timeout)
        if self.collective.rank:
            self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
            self._thread.start()

    @property
    def leads(self) -> bool:
        """Whether this learner is the first: the one that draws up reports and publishes."""
        return self.collective.rank == 0

    def begin(self) -> bool:
        """Ask the others for an update; returns whether all have what it needs, and then they are
        on their way and the caller must make it, too. Otherwise everybody keeps what they have.

        Raises:
            RuntimeError: Another learner is gone, or does not answer in time.
        """
        if self.collective.size == 1:
            return True
        self._tell(_STEP)
        return self._all_ready(True)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Keep this learner at rest, once it has carried out the last order; where the first calls
        this it must be at rest itself. Raises TimeoutError if the last order takes too long.
        """
        if not self._at_work.acquire(timeout=self._timeout.total_seconds()):
            raise TimeoutError(
                f"Learner {self.collective.rank} is still at an update after "
                f"{self._timeout.total_seconds():g} s. Are the other learners' processes alive?"
            )
        try:
            yield
        finally:
            self._at_work.release()

    def check(self) -> None:
        """Raise what has stopped this follower, if anything has."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the followers' threads; called by every learner, the first one too. Safe to call
        twice.
        """
        if self._open and self.leads:
            with suppress(RuntimeError):  # a follower that has failed does not listen any more
                self._tell(_END, min(self._timeout, _END_TIMEOUT))
        self._open = False
        if self._thread is not None:
            self._thread.join(self._timeout.total_seconds())

    def _tell(self, order: int, timeout: datetime.timedelta | None = None) -> None:
        work = dist.broadcast(torch.tensor(order), group_src=0, group=self._orders, async_op=True)
        assert work is not None
        work.wait(timeout or self._timeout)

    def _all_ready(self, ready: bool) -> bool:
        flag = torch.tensor(int(ready))
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=self._consent)
        return bool(flag)

    def _run(self) -> None:
        order = torch.zeros((), dtype=torch.int64)
        while True:
            try:
                dist.broadcast(order, group_src=0, group=self._orders)
            except RuntimeError as error:  # the first learner has ended without a word
                if _LOST not in str(error):
                    self._error = error
                logger.info("Learner %d ends: %s", self.collective.rank, error)
                return
            if order == _END:
                return
            try:
                with self._at_work:
                    if self._all_ready(self._prepare()):
                        self._follow()
            except BaseException as error:  # the first learner's next exchange fails, and tells
                self._error = error
                logger.exception("Learner %d has stopped.", self.collective.rank)
                return
