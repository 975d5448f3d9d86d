"""The shards of one run as named Ray actors: started, found, saved and stopped together."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import EllipsisType
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError

from replay.calls import answer
from replay.errors import ReplayError, ReplayTimeout, SnapshotError
from replay.following import follow
from replay.placement import (
    NAMESPACE,
    alive_nodes,
    check_name,
    check_settings,
    shard_name,
    shard_options,
)
from replay.progress import Tell
from replay.reader import ReplayReader
from replay.recovery import forget
from replay.resharding import Source
from replay.restore import Damaged
from replay.samplers import Window
from replay.schema import Schema
from replay.server import ShardServer
from replay.settings import ReplaySettings
from replay.shard import Request
from replay.snapshot import MANIFEST, SnapshotWriter, read_manifest, read_snapshot, writable
from replay.workload import Workload, shares
from replay.writer import ReplayWriter

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0  # at least, for a shard's process to come up


class ReplayService:
    """A handle on all shards of a run.

    Shards live until `stop`. Unless they were created `detached`, they also end with the process
    that created them, and with the service object that `create` returned: keep it.
    """

    def __init__(
        self,
        prefix: str,
        shards: Sequence[ActorHandle[Any]],
        schema: Schema,
        settings: ReplaySettings,
        workload: Workload,
        recovery_path: str | None = None,
    ) -> None:
        """Use `create` or `connect`."""
        self.prefix = prefix
        self.schema = schema
        self.settings = settings
        self.workload = workload
        self._shards = list(shards)
        self._recovery_path = recovery_path  # to be removed by `stop`

    @classmethod
    def create(
        cls,
        prefix: str,
        schema: Schema,
        settings: ReplaySettings,
        workload: Workload,
        *,
        seed: int = 0,
        recovery_path: str | os.PathLike[str] | None = None,
        node_ids: Sequence[str] | None = None,
        detached: bool = False,
    ) -> ReplayService:
        """Starts `settings.shards` shards named `PREFIX/shard-0`, ... and waits until they answer.

        Args:
            prefix: New in the cluster; for Tune one per trial.
            schema: Fields of a step.
            settings: If they leave the number of shards open, every node gets `shards_per_node`.
            workload: Who will use the service and how much.
            seed: The run's root seed.
            recovery_path: Folder for the few bytes that a shard started again must know; on several
                machines a shared one (default: a temporary folder).
            node_ids: The node of each shard, where the caller has reserved its CPUs; shards reserve
                none then. Default: all nodes in turn. Inside a Tune trial always give them, or
                shards take the bundles of env runners and the trial never starts.
            detached: Whether shards outlive the process that calls this, so that a run that is
                started again can `connect` to them. They end once nobody has called them for
                `settings.orphan_timeout_s`.

        Raises:
            ReplayError: The settings cannot work here (nothing was started then), or the name is
                taken.
            ReplayTimeout: A shard does not start.
        """
        nodes = alive_nodes()
        settings = settings.on_nodes(len(nodes))
        check_settings(schema, settings, workload, nodes, node_ids)
        check_name(prefix)
        if recovery_path is not None:
            forget(recovery_path)
        temporary = recovery_path is None
        recovery = str(
            tempfile.mkdtemp(prefix="replay-recovery-")
            if recovery_path is None
            else Path(recovery_path).absolute()
        )
        arguments = (schema, settings, workload, seed, recovery, detached)
        shards: list[ActorHandle[Any]] = []
        try:
            for index in range(settings.shards):
                node = (node_ids or nodes)[index % len(node_ids or nodes)]
                options = shard_options(prefix, index, node, settings, node_ids is not None)
                lifetime = "detached" if detached else None
                actor: Any = ray.remote(ShardServer).options(lifetime=lifetime, **options)
                shards.append(actor.remote(index, *arguments))
            service = cls(
                prefix, shards, schema, settings, workload, recovery if temporary else None
            )
            patience_s = max(settings.timeout_s, START_TIMEOUT_S)
            service._call("describe", what="to start", timeout_s=patience_s)
        except ValueError as error:
            _kill(shards)
            raise ReplayError(
                f"A replay service named {prefix!r} is running already: stop it or choose another "
                f"prefix ({error})."
            ) from None
        except BaseException:
            _kill(shards)
            raise
        return service

    @classmethod
    def connect(cls, prefix: str, timeout_s: float = 60.0) -> ReplayService:
        """Finds the shards of `prefix` from any process of the cluster."""
        try:
            first = ray.get_actor(shard_name(prefix, 0), NAMESPACE)
            call: Any = first.describe.remote()
            schema, settings, workload = answer(call, timeout_s)
            others = [
                ray.get_actor(shard_name(prefix, index), NAMESPACE)
                for index in range(1, settings.shards)
            ]
        except ValueError:
            raise ReplayError(
                f"No replay service named {prefix!r} runs in this Ray cluster. Was it stopped, "
                "or is the prefix of another run?"
            ) from None
        except GetTimeoutError:
            raise ReplayTimeout(
                f"Shard 0 of replay service {prefix!r} did not answer within {timeout_s:g} s."
            ) from None
        return cls(prefix, [first, *others], schema, settings, workload)

    @property
    def shards(self) -> list[ActorHandle[Any]]:
        """The shards' actor handles, in order."""
        return list(self._shards)

    def writer(
        self, actor: str, actor_index: int = 0, environments: int | None = None
    ) -> ReplayWriter:
        """A writer for the actor process called `actor`; `environments` is how many episodes it has
        open at once.
        """
        open_episodes = (
            self.workload.environments_per_writer if environments is None else environments
        )
        return ReplayWriter(
            self._shards,
            self.schema,
            self.settings,
            actor=actor,
            actor_index=actor_index,
            environments=open_episodes,
            chunk_length=self.workload.chunk_length,
        )

    def reader(
        self,
        batch_size: int | None = None,
        batch_length: int | None = None,
        *,
        stride: int = 1,
        sampler: str | None = None,
        in_flight: int | None = None,
        by_reference: bool = True,
    ) -> ReplayReader:
        """A reader of (T, B) batches, by default of the workload's; see `ReplayReader`.

        `stride`: windows begin at every so manieth step of their episode.
        """
        return ReplayReader(
            self._shards,
            self.schema,
            self.settings,
            window=Window(
                self.workload.batch_length if batch_length is None else batch_length, stride
            ),
            batch_size=self.workload.batch_size if batch_size is None else batch_size,
            sampler=sampler,
            in_flight=in_flight,
            by_reference=by_reference,
        )

    def limit(
        self,
        *,
        samples_per_insert: float | EllipsisType | None = ...,
        minimum_agent_steps: int | None = None,
        band_agent_steps: float | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Changes the limiter of all shards while they serve; what is not given stays.

        `samples_per_insert` None takes it off. `minimum_agent_steps` and `band_agent_steps` (of
        inserts) are those of all shards together. With another ratio or minimum the count of who is
        ahead starts anew: what was owed at the old ratio is not made up for.
        """
        shards = len(self._shards)
        changes: dict[str, Any] = {}
        if samples_per_insert is not ...:
            changes["samples_per_insert"] = samples_per_insert
        if minimum_agent_steps is not None:
            if minimum_agent_steps > self._capacity_agent_steps:
                raise ReplayError(
                    f"minimum_agent_steps ({minimum_agent_steps}) is above what replay holds "
                    f"({self._capacity_agent_steps} agent steps): no batch could ever be given. "
                    "Give a lower one."
                )
            changes["minimum"] = -(-minimum_agent_steps // shards)
        if samples_per_insert is not ...:
            self.workload = replace(self.workload, samples_per_insert=samples_per_insert)
        self._call(
            "limit",
            arguments=[(changes, band_agent_steps)] * shards,
            what="to take the new limit",
            timeout_s=timeout_s,
        )

    @contextmanager
    def preload(self, timeout_s: float | None = None) -> Iterator[None]:
        """For the length of a `with` block inserts are never held back and nothing is sampled:

            with service.preload():
                for chunk in demonstrations:
                    writer.write(chunk)
                writer.flush()

        What was inserted in it does not count for samples per insert. What did not fit, so that the
        oldest had to leave, is told by a warning at the end.
        """

        def turn(on: bool) -> list[int]:
            arguments = [(on,)] * len(self._shards)
            what = "to begin the preload" if on else "to end the preload"
            return self._call("preload", arguments=arguments, what=what, timeout_s=timeout_s)

        before = turn(True)
        try:
            yield
        finally:
            # A shard that was started again meanwhile may count less than before.
            removed = sum(max(0, now - then) for now, then in zip(turn(False), before, strict=True))
            if removed:
                logger.warning(
                    "%d agent steps left replay during the preload, the oldest first: it holds %d. "
                    "Raise replay.capacity_agent_steps (or replay.bytes_per_shard) to keep all.",
                    removed,
                    self._capacity_agent_steps,
                )

    def ready(self, timeout_s: float | None = None) -> bool:
        """Whether every shard could give its part of a batch of the workload now."""
        work = self.workload
        window = Window(work.batch_length)
        parts = shares(work.batch_size, len(self._shards), 0)
        asked = [(Request(window, max(1, part)),) for part in parts]
        return not any(self._call("why_not", arguments=asked, what="to say", timeout_s=timeout_s))

    def waiting_for(self, timeout_s: float | None = None) -> list[str]:
        """Who has to wait for whom at each shard now, as a sentence each."""
        return self._call("waiting_for", what="to say who waits", timeout_s=timeout_s)

    def shard_stats(self, timeout_s: float | None = None) -> list[dict[str, float]]:
        """Each shard's counts, in order."""
        return self._call("stats", what="for its counts", timeout_s=timeout_s)

    def stats(self, timeout_s: float | None = None) -> dict[str, float]:
        """The sums over the shards; `samples_per_insert` is the measured ratio of the sums. Plain
        numbers.
        """
        shards = self.shard_stats(timeout_s)
        totals = {name: sum(shard[name] for shard in shards) for name in shards[0]}
        totals["samples_per_insert"] = totals["limited_sampled_agent_steps"] / max(
            1, totals["limited_inserted_agent_steps"]
        )
        return totals

    def save(self, path: str | os.PathLike[str], timeout_s: float | None = None) -> None:
        """Saves all shards as the directory `path`, each writing its own part, while inserts and
        samples go on.

        The directory appears whole or not at all; one of the same name is replaced. It must lie
        where every shard's machine can write. Steps that the snapshot before holds already are not
        written again. Shards started again after a crash go back to it.
        Raises `ReplayTimeout` if no shard writes on for `timeout_s`, or `ReplayError` if nothing
        can be written there, a shard is gone or has written elsewhere; an earlier snapshot at
        `path` is then untouched.
        """
        with writable(path), SnapshotWriter(path) as writer:
            parts = [str(writer.staging / _part(index)) for index in range(len(self._shards))]
            self._call(
                "save",
                arguments=[(part,) for part in parts],
                what="to save",
                timeout_s=timeout_s,
                long=True,
            )
            for index, part in enumerate(parts):
                try:
                    writer.adopt(f"{_part(index)}/{MANIFEST}")
                except FileNotFoundError as error:
                    raise ReplayError(
                        f"{shard_name(self.prefix, index)} has saved {part}, which cannot be seen "
                        "here: its machine writes elsewhere. Give a shared folder that all "
                        "machines mount at the same path (run.directory)."
                    ) from error
            writer.commit({"shards": len(self._shards), "schema": self.schema.to_json()})
        finals = [(str(writer.path / _part(index)),) for index in range(len(self._shards))]
        self._call("register", arguments=finals, what="to note the snapshot", timeout_s=timeout_s)

    def load(
        self,
        path: str | os.PathLike[str],
        timeout_s: float | None = None,
        *,
        damaged: Damaged = "refuse",
        progress: Tell | None = None,
    ) -> None:
        """Puts back what `save` wrote, limiter counts and random states included.

        Every shard checks all that it needs before any applies: on `SnapshotError` nothing has
        changed. Damaged files of steps are refused, or with `damaged="skip"` left out with a
        warning and counted as `skipped_agent_steps`; a damaged manifest is always refused.

        What N shards have saved, M shards can load: whole episodes are divided evenly, the counts
        of all shards together stay, and random states follow from the saved ones. What does not
        fit leaves, oldest first, with a warning.

        `progress` is told now and then what is being done, and how many bytes of how many are.
        Raises `ReplayTimeout` if no shard advances for `timeout_s`.
        """
        content = read_snapshot(path)
        if "shards" not in content:
            raise SnapshotError(f"{path} is what one shard has saved: give the folder around it.")
        folder = read_manifest(path).folder
        parts = tuple(str(folder / _part(index)) for index in range(content["shards"]))
        count = len(self._shards)
        if len(parts) == count:
            sources = [Source((part,)) for part in parts]
        else:
            sources = [Source(parts, index, count) for index in range(count)]
        for method, what in (("check", "to check"), ("load", "to load")):
            self._call(
                method,
                arguments=[(source, damaged) for source in sources],
                what=f"{what} its snapshot",
                timeout_s=timeout_s,
                long=True,
                tell=progress,
            )

    def stop(self) -> None:
        """Ends all shards; what they hold is gone. Safe to call twice."""
        _kill(self._shards)
        if self._recovery_path is not None:
            shutil.rmtree(self._recovery_path, ignore_errors=True)

    @property
    def _capacity_agent_steps(self) -> int:
        of_shard = self.settings.shard_capacity_agent_steps(self.schema.bytes_per_step)
        return of_shard * len(self._shards)

    def _call(
        self,
        method: str,
        *,
        what: str,
        arguments: Sequence[tuple[Any, ...]] | None = None,
        timeout_s: float | None = None,
        long: bool = False,
        tell: Tell | None = None,
    ) -> list[Any]:
        """Calls `method` on every shard and returns the answers in order; all of them or an error
        that names the shard. A `long` call may take longer than `timeout_s` while it advances.
        """
        timeout_s = self.settings.timeout_s if timeout_s is None else timeout_s
        given = arguments or [()] * len(self._shards)
        calls = [
            getattr(shard, method).remote(*args)
            for shard, args in zip(self._shards, given, strict=True)
        ]
        if long:
            missing = follow(calls, self._shards, timeout_s, tell)
        else:
            _, missing = ray.wait(calls, num_returns=len(calls), timeout=timeout_s)
        if missing:
            late = ", ".join(shard_name(self.prefix, calls.index(call)) for call in missing)
            hint = (
                f" Ray has free: {ray.available_resources().get('CPU', 0):g} CPUs."
                if method == "describe"
                else ""
            )
            raise ReplayTimeout(
                f"Waited {timeout_s:g} s for {late} {what}.{hint} Is the process alive? Else raise "
                "replay.timeout_s."
            )
        try:
            return [answer(call) for call in calls]
        except RayActorError as error:
            raise ReplayError(
                f"A shard of replay service {self.prefix!r} is gone: {error}"
            ) from error


def _part(index: int) -> str:
    return f"shard-{index}"


def _kill(shards: Sequence[ActorHandle[Any]]) -> None:
    for shard in shards:
        ray.kill(shard, no_restart=True)
