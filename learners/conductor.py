"""Learners that share every batch take the same steps: the first says when, the others follow."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

import torch
import torch.distributed as dist

from learners.collective import ALONE, Collective

IDLE = datetime.timedelta(days=365)  # a follower may wait as long as the run pauses

logger = logging.getLogger(__name__)


class Order(IntEnum):
    """What the first learner tells the others."""

    STEP = 0  # an update with the next batch that was drawn ahead
    STEP_AT_ONCE = 1  # an update with a batch that is drawn now
    END = 2  # no more orders will come


class Conductor:
    """Of the learners of one agent only the first is asked for updates; it conducts the others.

    Every learner makes one, at the same time, in a process that has joined torch.distributed. In a
    learner that is not the first a thread waits for orders and carries them out; between two orders
    it touches nothing, so that the process can be asked for its state while the first is at rest.

    Attributes:
        collective: For the updates: exchanges fail after `timeout_s`.

    Args:
        learners: How many there are; 1: nobody else is there, and nothing is sent.
        follow: Carries out an order, in a follower's thread.
        timeout_s: Deadline of an exchange within an update.
    """

    def __init__(self, learners: int, follow: Callable[[Order], None], timeout_s: float) -> None:
        self.collective = ALONE
        self._error: BaseException | None = None
        self._at_work = threading.Lock()
        self._rest_s = timeout_s
        self._open = learners > 1
        if learners == 1:
            return
        timeout = datetime.timedelta(seconds=timeout_s)
        self.collective = Collective(dist.new_group(timeout=timeout))
        # Orders go by way of the CPU, also where gradients go by that of GPUs.
        self._orders = dist.new_group(backend="gloo", timeout=IDLE)
        if self.collective.rank:
            threading.Thread(target=self._run, args=(follow,), name="follower", daemon=True).start()

    @property
    def leads(self) -> bool:
        """Whether this learner is the first: the one that draws up reports and publishes."""
        return self.collective.rank == 0

    def tell(self, order: Order) -> None:
        """Have the others do what this learner, the first, is about to do itself."""
        if self.collective.size > 1:
            dist.broadcast(torch.tensor(int(order)), group_src=0, group=self._orders)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Keep this learner at rest, once it has carried out the last order; where the first calls
        this it must be at rest itself. Raises TimeoutError if the last order takes too long.
        """
        if not self._at_work.acquire(timeout=self._rest_s):
            raise TimeoutError(
                f"Learner {self.collective.rank} is still at an update after {self._rest_s:g} s. "
                "Are the other learners' processes alive?"
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
        """End the others' threads; called at the first learner. Safe to call twice."""
        if self._open and self.leads:
            self._open = False
            self.tell(Order.END)

    def _run(self, follow: Callable[[Order], None]) -> None:
        order = torch.zeros((), dtype=torch.int64)
        try:
            while True:
                dist.broadcast(order, group_src=0, group=self._orders)
                if order == Order.END:
                    return
                with self._at_work:
                    follow(Order(int(order)))
        except BaseException as error:  # the first learner's next exchange fails, and tells
            self._error = error
            logger.exception("Learner %d has stopped.", self.collective.rank)
