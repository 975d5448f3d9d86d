"""RLlib's view of the learner: a TorchLearner that draws its own batches and runs updates.

`update` carries no data. It runs updates for a slice of time on batches that a thread has drawn
from replay, publishes weights to the hub, and returns counts; the Algorithm keeps the next call
queued, so the learner never waits for the driver.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.learner.torch.torch_learner import TorchLearner

from learners.allocator import keep_freed_memory
from learners.conductor import Conductor
from learners.feed import Arrays, Batch, BatchFeed
from learners.mirror import ReplayMirror
from learners.prefetch import NoBatch
from learners.priorities import PriorityReturn
from learners.publisher import WeightPublisher
from learners.systems import SYSTEMS
from learners.update import IMPORTANCE
from learners.weights import Published
from replay.placement import NAMESPACE
from replay.reader import Drawn, ReplayReader
from replay.seeds import seed_for
from replay.service import ReplayService

CORE = "core"  # key of optimisers, counters and random states in the learner's state
PUBLISH_TIMEOUT_S = 60.0
PREPARE_S = 0.2  # for a follower's batch, when the first learner has its own
EXCHANGE_TIMEOUT_S = 120.0  # of gradients between learners, and of their consent to an update
OTHERS_WAIT = "Another learner waits for its part of a batch."
COUNT_EVERY_S = 0.1  # how often the hub hears how many updates were made

logger = logging.getLogger(__name__)


class SystemLearnerGroup(LearnerGroup):
    """RLlib's group of learner processes, ended at once if one of them cannot be built.

    RLlib ends such a group when it is collected. Where the error is still held then, that is after
    Ray was shut down, and Ray would be started once more for it.
    """

    def __init__(self, **values: Any) -> None:
        """Starts and builds the learners; raises what their `build` raises."""
        try:
            super().__init__(**values)
        except BaseException:
            try:
                self.shutdown()
            except Exception:  # the error that counts is the one of the build
                logger.warning("The learners did not end.", exc_info=True)
            self._is_shut_down = True  # nothing is left for RLlib to end
            raise


class SystemLearner(TorchLearner):
    """Trains one `AgentModule` with the updates of its system.

    Its options are `config.plane` (see actors/runner.py) with `system`, and its `learner`,
    `objective` and `behavior` settings. Optimisers live in the system's `Update`; RLlib's own are
    not used.
    """

    _complete = False  # until `build` has come to its end

    def build(self) -> None:
        """Builds the module and the update on this process's device."""
        plane: dict[str, Any] = self.config.plane
        settings = plane["learner"]
        self._plane, self._settings = plane, settings
        torch.set_num_threads(settings.torch_threads)
        on_cpu = not self.config.num_gpus_per_learner
        # A learner inside the driver leaves the driver's memory as it is.
        if on_cpu and settings.keep_freed_memory and self.config.num_learners:
            keep_freed_memory()
        torch.manual_seed(seed_for(plane["seed"], "learner", "weights"))
        super().build()
        self._agent = self.module[DEFAULT_MODULE_ID].unwrapped().agent
        self._conductor = Conductor(
            max(1, self.config.num_learners), self._prepare, self._follow, EXCHANGE_TIMEOUT_S
        )
        self._conductor.collective.broadcast(self._agent.state_dict().values())
        self._core = SYSTEMS[plane["system"]].update(
            self._agent,
            settings,
            plane["objective"],
            plane["behavior"],
            device=self._device,
            seed=seed_for(plane["seed"], "learner", "updates"),
            learners=self._conductor.collective,
        )
        self._service: ReplayService | None = None
        self._feed: BatchFeed[Drawn] | None = None
        self._feed_reader: ReplayReader | None = None  # the feed's thread has it to itself
        self._mirror: ReplayMirror | None = None  # the feed's
        self._held: tuple[Batch, Drawn] | None = None  # of the feed, not used yet
        self._drawn_arrays: Arrays | None = None  # of lock step
        self._drawn_mirrored: tuple[ReplayMirror, Batch] | None = None  # of lock step
        self._hub: Any = None
        weights = self._agent.acting_weights()
        self._publisher = WeightPublisher(weights, self._send_weights, retry_on=RayError)
        self._counted_at = 0.0
        self._measured_updates = 0
        self._slice_ended: float | None = None
        self._complete = True

    # What the Algorithm calls -------------------------------------------------------------------

    def update(
        self, *, seconds: float = 2.0, updates: int | None = None, **_: Any
    ) -> dict[str, Any] | None:
        """Runs updates for `seconds`, or exactly `updates` of them in lock step.

        In lock step nothing is drawn ahead of use, and the weights are at the hub on return; it is
        for a learner alone. Of several the first is to be asked, which takes the others along. They
        return None.

        Returns:
            `updates` (of the whole run), `new_updates`, `metrics` (losses; means since they were
            last read, possibly empty), `wait_s` (time without a batch), `wall_s` (time since the
            last slice ended), `driver_wait_s` (of it, the time until this call began), `waiting`
            (why there was no batch, or None), `published` (updates behind the newest weights that
            the hub has taken), `reader` (see `ReplayReader.stats`).

        Raises:
            TimeoutError: in lock step, no batch within `replay.timeout_s`.
            ReplayError: a shard is gone for good.
        """
        if not self._conductor.leads:
            self._conductor.check()
            return None
        called = time.monotonic()
        last = called if self._slice_ended is None else self._slice_ended
        self._connect()
        before, wait_s = self._core.updates, 0.0
        waiting = None
        if updates is not None:
            for _number in range(updates):
                self._step(*self._draw(), self._lock_step_priorities)
                self._lock_step_priorities.flush()
            self._publisher.publish(self._core.updates, PUBLISH_TIMEOUT_S)
        else:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                begin = time.monotonic()
                try:
                    self._hold(max(0.0, deadline - begin))
                    waiting = None if self._conductor.begin() else OTHERS_WAIT
                except NoBatch as error:
                    waiting = str(error)
                wait_s += time.monotonic() - begin
                if waiting is None:
                    self._step_with_held()
                    self._tell_hub()
        self._publisher.look()
        metrics = self._read_metrics(updates is not None)
        self._slice_ended = time.monotonic()
        return {
            "updates": self._core.updates,
            "new_updates": self._core.updates - before,
            "metrics": metrics,
            "wait_s": wait_s,
            "wall_s": self._slice_ended - last,
            "driver_wait_s": called - last,
            "waiting": waiting,
            "published": self._publisher.published,
            "reader": self._reader_stats(),
        }

    def reconnect(self) -> int:
        """Begins a life or goes on from restored weights: publishes them, and drops what was drawn
        from replay before. Returns the updates so far.

        On return the hub holds the weights, so that no actor needs to step with others.
        """
        with self._conductor.at_rest():
            self._connect()
            self._close_feed()
            if self._conductor.leads:
                self._publisher.publish(self._core.updates, PUBLISH_TIMEOUT_S)
            self._slice_ended = None
            return self._core.updates

    def shutdown(self) -> None:
        """Ends the threads that read batches and send weights, if `build` has come so far."""
        if not self._complete:
            return
        with self._conductor.at_rest():
            self._close_feed()
            self._publisher.close()

    def end(self) -> None:
        """Ends all threads of this learner; it takes no part in anything after that."""
        self.shutdown()
        if self._complete:
            self._conductor.close()

    # State --------------------------------------------------------------------------------------

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Returns weights, and optimisers, counters and random states under `core`.

        RLlib asks with `inference_only` when it wants to push weights to env runners: those
        come from the hub here, so the answer is empty and no weight passes through the driver.
        """
        if kwargs.get("inference_only"):
            return {"rl_module": {}, "weights_seq_no": self._weights_seq_no}
        skipped = {"optimizer", "metrics_logger"} | _names(not_components)
        state = super().get_state(components, not_components=skipped, **kwargs)
        if self._check_component(CORE, components, not_components):
            state[CORE] = self._core.state_dict() | {"torch": torch.get_rng_state()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from `get_state`."""
        with self._conductor.at_rest():
            super().set_state(state)
            if CORE in state:
                core = dict(state[CORE])
                torch.set_rng_state(core.pop("torch"))
                self._core.load_state_dict(core)

    # RLlib's own optimisation, not used ---------------------------------------------------------

    def configure_optimizers(self) -> None:
        """Registers none: the system's `Update` owns the optimisers."""

    def compute_loss_for_module(self, **_: Any) -> Any:
        """Refuses: losses are computed by the system's `Update`."""
        raise NotImplementedError("Losses are computed by the system's `Update`.")

    # Parts --------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._service is None:
            self._service = ReplayService.connect(self._plane["prefix"])
            self._hub = ray.get_actor(f"{self._plane['prefix']}/weights", NAMESPACE)
            self._reader = self._service.reader(in_flight=0)  # this thread's
            self._priorities = PriorityReturn(self._reader.update_priorities)
            # The next draw is to know of these.
            update = partial(self._reader.update_priorities, wait=True)
            self._lock_step_priorities = PriorityReturn(update)

    def _make_modules_ddp_if_necessary(self) -> None:
        """Leaves the module as it is: the `Update` averages gradients itself, once per backward."""

    def _prepare(self) -> bool:
        """Whether this learner, which follows the first, has a batch for an update."""
        self._connect()
        try:
            self._hold(PREPARE_S)
        except NoBatch:
            return False
        return True

    def _follow(self) -> None:
        """Takes part in an update of the first learner's."""
        self._step_with_held()

    def _hold(self, timeout_s: float) -> None:
        """Draws the next batch, unless one is held that others had no part for."""
        if self._held is None:
            self._held = self._batches().get(timeout_s)

    def _step_with_held(self) -> None:
        assert self._held is not None
        batch, drawn = self._held
        self._held = None
        self._step(batch, drawn, self._priorities)

    def _step(self, batch: Batch, drawn: Drawn, back: PriorityReturn[Drawn]) -> None:
        priorities = self._core.step(batch)
        if priorities is not None:
            back.add(drawn, priorities)

    def _batches(self) -> BatchFeed[Drawn]:
        if self._feed is None:
            assert self._service is not None
            mirrored = self._settings.mirror_replay
            mirror = self._mirror = self._new_mirror() if mirrored else None
            reader = self._feed_reader = self._service.reader()
            self._feed = BatchFeed(
                partial(_draw_mirrored, reader, mirror) if mirror else partial(_draw_into, reader),
                self._empty_batch,
                self._device,
                self._settings.prefetch_batches,
                idle=reader.let_go,
                on_device=mirrored,
            )
        return self._feed

    def _close_feed(self) -> None:
        """Forgets what is on its way from and to replay."""
        if self._feed is not None and self._feed_reader is not None:
            self._feed.close(timeout_s=30.0)
            self._feed_reader.close()
            self._feed = self._feed_reader = self._held = None
            if self._mirror is not None:
                self._mirror.close()
                self._mirror = None
        if self._service is not None:
            self._priorities.clear()
            self._lock_step_priorities.clear()

    def _draw(self) -> tuple[Batch, Drawn]:
        """Draws one batch now, and nothing ahead; the next call fills the same memory."""
        if self._settings.mirror_replay:
            if self._drawn_mirrored is None:
                empty = self._empty_batch().items()
                batch = {n: torch.from_numpy(a).to(self._device) for n, a in empty}
                self._drawn_mirrored = self._new_mirror(), batch
            mirror, batch = self._drawn_mirrored
            return batch, _draw_mirrored(self._reader, mirror, batch)
        arrays = self._drawn_arrays = self._drawn_arrays or self._empty_batch()
        drawn = _draw_into(self._reader, arrays)
        # On a GPU a copy that is done on return, before the arrays can be filled again.
        return {n: torch.from_numpy(a).to(self._device) for n, a in arrays.items()}, drawn

    def _empty_batch(self) -> Arrays:
        service = self._service
        assert service is not None
        work = service.workload
        arrays = service.schema.empty(work.batch_length, work.batch_size)
        if service.settings.sampler == "prioritised":
            arrays[IMPORTANCE] = np.empty(work.batch_size, np.float32)
        return arrays

    def _new_mirror(self) -> ReplayMirror:
        service = self._service
        assert service is not None
        work = service.workload
        agent_steps = work.batch_length * work.batch_size
        return ReplayMirror(
            service.schema, service.settings, self._device, batch_agent_steps=agent_steps
        )

    def _reader_stats(self) -> dict[str, float]:
        if self._feed_reader is not None:
            reader, mirror = self._feed_reader, self._mirror
        else:
            reader, mirror = self._reader, self._drawn_mirrored and self._drawn_mirrored[0]
        uploaded = {"uploaded_agent_steps": mirror.uploaded_agent_steps} if mirror else {}
        return reader.stats() | uploaded

    def _tell_hub(self) -> None:
        """Hands weights or at least the count of updates to the hub, if due; never waits."""
        updates = self._core.updates
        self._publisher.look()
        if updates - self._publisher.published >= self._settings.publish_updates:
            self._publisher.offer(updates)
        now = time.monotonic()
        if now - self._counted_at >= COUNT_EVERY_S:
            self._hub.count.remote(updates)
            self._counted_at = now

    def _send_weights(self, updates: int, weights: Published) -> None:
        """Has the hub keep weights; called by the publisher's thread."""
        # Not by `ray.put` here: the weights would be gone with this process.
        answer = self._hub.publish.remote(updates, weights, self._core.updates)
        ray.get(answer, timeout=PUBLISH_TIMEOUT_S)

    def _read_metrics(self, now: bool) -> dict[str, float]:
        if not now and self._core.updates - self._measured_updates < self._settings.report_updates:
            return {}
        self._measured_updates = self._core.updates
        return self._core.metrics()


def _names(components: str | Collection[str] | None) -> set[str]:
    if components is None:
        return set()
    return {components} if isinstance(components, str) else set(components)


def _draw_into(reader: ReplayReader, arrays: Arrays, timeout_s: float | None = None) -> Drawn:
    steps = {name: array for name, array in arrays.items() if name != IMPORTANCE}
    _, drawn = reader.draw(steps, timeout_s)
    if IMPORTANCE in arrays:
        arrays[IMPORTANCE][...] = drawn.importance_weights
    return drawn


def _draw_mirrored(
    reader: ReplayReader, mirror: ReplayMirror, batch: Batch, timeout_s: float | None = None
) -> Drawn:
    steps = {name: value for name, value in batch.items() if name != IMPORTANCE}
    drawn = reader.draw_to(mirror.into(steps), timeout_s)
    if drawn.importance_weights is not None and IMPORTANCE in batch:
        mirror.upload(drawn.importance_weights, batch[IMPORTANCE])
    return drawn
