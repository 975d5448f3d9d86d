"""The weight hub: one small actor that owns the published weights.

The learner hands its acting weights to the hub, the hub puts them into the object store, and actors
fetch the reference when it is new to them. The hub, not the learner, is the owner of the stored
object: an object dies with the process that put it, and weights must outlive a crashed learner.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import ray
from ray.actor import ActorHandle

from replay.placement import NAMESPACE
from rl_system.errors import RunError

Weights = Any  # of which the hub knows nothing; see learners/weights.py
CLAIM_TIMEOUT_S = 15.0  # for the hub of a driver that was killed to be gone
CLAIM_EVERY_S = 0.2

Publication = tuple[str, int, list[ray.ObjectRef]]  # mark, updates, [reference to the weights]


class WeightHub:
    """Keeps the newest publication. Made into a Ray actor by `start_hub`.

    A publication carries a mark, which is new each time, and the number of updates behind the
    weights. Marks are compared for equality only, so that readers also follow a learner that went
    back to an older checkpoint and a hub that was started again.
    """

    def __init__(self) -> None:
        self._life = os.urandom(4).hex()
        self._count = 0
        self._newest: Publication | None = None
        self._learner_updates = -1

    def publish(self, updates: int, weights: Weights, learner_updates: int | None = None) -> str:
        """Replaces the newest weights by a copy of `weights` and returns the publication's mark.

        Readers that still hold the reference of an older publication can go on reading it.

        Args:
            updates: Behind the weights.
            weights: Arrays in it are copied once, and read in place on this machine from then on.
            learner_updates: Those that the learner has made by now, if it went on meanwhile.
        """
        self._count += 1
        mark = f"{self._life}-{self._count}"
        self._newest = (mark, updates, [ray.put(weights)])
        self._learner_updates = updates if learner_updates is None else learner_updates
        return mark

    def count(self, updates: int) -> None:
        """Notes how many updates the learner has made, whatever it has published."""
        self._learner_updates = updates

    def newest(self, known_mark: str | None) -> Publication | None:
        """Returns the newest publication, or None if the caller knows it or there is none."""
        if self._newest is None or self._newest[0] == known_mark:
            return None
        return self._newest

    def news(self, known_mark: str | None) -> tuple[int, Publication | None]:
        """Returns the learner's updates (-1: none known) and what `newest` returns."""
        return self._learner_updates, self.newest(known_mark)


def hub_name(prefix: str) -> str:
    """The Ray actor name of the hub of the run called `prefix`."""
    return f"{prefix}/weights"


def start_hub(prefix: str) -> ActorHandle:
    """Starts the hub of a run; it ends with the driver or by `ray.kill`.

    It reserves no CPU: it only copies a few megabytes now and then. Since it is the one named actor
    that lives as long as its driver and no longer, its name is also the claim on the run: two
    processes of a cluster never conduct the same one.

    Raises:
        RunError: another process conducts the run called `prefix`.
    """
    actor = ray.remote(WeightHub)
    options = {
        "name": hub_name(prefix),
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": 3,
    }
    deadline, pause = time.monotonic() + CLAIM_TIMEOUT_S, threading.Event()
    while True:
        try:
            return actor.options(**options).remote()
        except ValueError:  # the name is taken
            if time.monotonic() > deadline:
                raise RunError(
                    f"Another process of this Ray cluster conducts the run {prefix!r}: its weight "
                    "hub is alive. Wait for its end, or stop it with Ctrl-C there (it saves first)."
                ) from None
            pause.wait(CLAIM_EVERY_S)


def find_hub(prefix: str) -> ActorHandle:
    """Returns the hub of the run called `prefix`; raises ValueError if there is none."""
    return ray.get_actor(hub_name(prefix), NAMESPACE)
