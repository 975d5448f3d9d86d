"""The shards of one run as named Ray actors: started, found, saved and stopped together."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import PlacementGroup, get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from replay.client import ReplayReader, ReplayWriter
from replay.errors import ReplayError, ReplayTimeout, SnapshotError
from replay.ring import check_memory
from replay.schema import Schema
from replay.server import ShardServer
from replay.settings import ReplaySettings
from replay.snapshot import MANIFEST, SnapshotWriter, read_snapshot
from replay.workload import Workload

START_TIMEOUT_S = 60.0  # at least, for a shard's process to come up
CONCURRENT_CALLS = 10_000  # calls that may wait in a shard at once; waiting costs it nothing


class ReplayService:
    """A handle on all shards of a run.

    Shards live until `stop`, until the process that created them ends, or until the service object
    that `create` returned is dropped: keep it.
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
        placement_group: PlacementGroup | None = None,
        bundle_indices: Sequence[int] | None = None,
    ) -> ReplayService:
        """Starts `settings.shards` shards named `PREFIX/shard-0`, ... and waits until they answer.

        `prefix` must be new in this Ray namespace (for Tune: one per trial). `recovery_path` is a
        folder for the few bytes that a shard started again must know; on several machines it must
        be shared (default: a temporary folder). `bundle_indices` pins shard i to a bundle of
        `placement_group` (default: the current one): inside a Tune trial always give them, or
        shards take the bundles of env runners and the trial never starts. Raises `ReplayError`
        before anything is started if the settings cannot work here.
        """
        workload.share(settings.shards)
        workload.band(settings)
        capacity = settings.shard_capacity_agent_steps(schema.bytes_per_step)
        check_object_store(schema, settings, workload)
        if len([node for node in ray.nodes() if node["Alive"]]) == 1:
            check_memory(
                settings.shards * capacity * schema.bytes_per_step,
                "The arrays of all replay shards",
            )
        temporary = recovery_path is None
        recovery = str(
            tempfile.mkdtemp(prefix="replay-recovery-")
            if recovery_path is None
            else Path(recovery_path).absolute()
        )
        options: dict[str, Any] = {
            "num_cpus": settings.cpus_per_shard,
            "max_restarts": -1,
            "max_task_retries": -1,  # every call may be repeated, see ShardServer
            "max_concurrency": CONCURRENT_CALLS,
        }
        group = placement_group or (
            get_current_placement_group() if bundle_indices is not None else None
        )
        if bundle_indices is not None and (group is None or len(bundle_indices) != settings.shards):
            raise ReplayError(
                "bundle_indices needs a placement group and one index for each of "
                f"{settings.shards} shards."
            )
        shards: list[ActorHandle[Any]] = []
        try:
            for index in range(settings.shards):
                if group is not None:
                    bundle = -1 if bundle_indices is None else bundle_indices[index]
                    options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, bundle)
                actor: Any = ray.remote(ShardServer).options(
                    name=shard_name(prefix, index), **options
                )
                shards.append(actor.remote(index, schema, settings, workload, seed, recovery))
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
        """Finds the shards of `prefix` from any process of the same Ray namespace."""
        try:
            first = ray.get_actor(shard_name(prefix, 0))
            call: Any = first.describe.remote()
            schema, settings, workload = ray.get(call, timeout=timeout_s)
            others = [
                ray.get_actor(shard_name(prefix, index)) for index in range(1, settings.shards)
            ]
        except ValueError:
            raise ReplayError(
                f"No replay service named {prefix!r} runs in this Ray namespace. Was it stopped, "
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
        )

    def reader(
        self, batch_size: int | None = None, batch_length: int | None = None
    ) -> ReplayReader:
        """A reader of (T, B) batches, by default of the workload's."""
        return ReplayReader(
            self._shards,
            self.settings,
            batch_length=batch_length or self.workload.batch_length,
            batch_size=batch_size or self.workload.batch_size,
        )

    def shard_stats(self, timeout_s: float | None = None) -> list[dict[str, float]]:
        """Each shard's counts, in order."""
        return self._call("stats", what="for its counts", timeout_s=timeout_s)

    def stats(self, timeout_s: float | None = None) -> dict[str, float]:
        """The sums over the shards; `samples_per_insert` is the measured ratio of the sums. Plain
        numbers.
        """
        shards = self.shard_stats(timeout_s)
        totals = {name: sum(shard[name] for shard in shards) for name in shards[0]}
        minimum = self.settings.shard_minimum_agent_steps * len(shards)
        totals["samples_per_insert"] = totals["sampled_agent_steps"] / max(
            1, totals["inserted_agent_steps"] - minimum
        )
        return totals

    def save(self, path: str | os.PathLike[str], timeout_s: float | None = None) -> None:
        """Saves all shards as the directory `path`, each writing its own part, while inserts and
        samples go on.

        The directory appears whole or not at all; one of the same name is replaced. It must lie
        where every shard's machine can write. Shards started again after a crash go back to it.
        Raises `ReplayTimeout`, or `ReplayError` if a shard is gone or has written elsewhere; an
        earlier snapshot at `path` is then untouched.
        """
        with SnapshotWriter(path) as writer:
            parts = [str(writer.staging / _part(index)) for index in range(len(self._shards))]
            self._call(
                "save", arguments=[(part,) for part in parts], what="to save", timeout_s=timeout_s
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

    def load(self, path: str | os.PathLike[str], timeout_s: float | None = None) -> None:
        """Puts back what `save` wrote, limiter counts and random states included.

        Every shard checks its whole part before any applies: on `SnapshotError` nothing has
        changed.
        """
        content = read_snapshot(path)
        if content["shards"] != len(self._shards):
            raise SnapshotError(
                f"{path} was saved by {content['shards']} replay shards, this run has "
                f"{len(self._shards)}: "
                f"set replay.shards={content['shards']}."
            )
        parts = [(str(Path(path).absolute() / _part(index)),) for index in range(len(self._shards))]
        self._call("check", arguments=parts, what="to check its snapshot", timeout_s=timeout_s)
        self._call("load", arguments=parts, what="to load its snapshot", timeout_s=timeout_s)

    def stop(self) -> None:
        """Ends all shards; what they hold is gone. Safe to call twice."""
        _kill(self._shards)
        if self._recovery_path is not None:
            shutil.rmtree(self._recovery_path, ignore_errors=True)

    def _call(
        self,
        method: str,
        *,
        what: str,
        arguments: Sequence[tuple[Any, ...]] | None = None,
        timeout_s: float | None = None,
    ) -> list[Any]:
        """Calls `method` on every shard and returns the answers in order; all of them or an error
        that names the shard.
        """
        timeout_s = self.settings.timeout_s if timeout_s is None else timeout_s
        given = arguments or [()] * len(self._shards)
        calls = [
            getattr(shard, method).remote(*args)
            for shard, args in zip(self._shards, given, strict=True)
        ]
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
            return list(ray.get(calls))
        except RayActorError as error:
            raise ReplayError(
                f"A shard of replay service {self.prefix!r} is gone: {error}"
            ) from error


def shard_name(prefix: str, index: int) -> str:
    """The Ray actor name of a shard."""
    return f"{prefix}/shard-{index}"


def check_object_store(schema: Schema, settings: ReplaySettings, workload: Workload) -> None:
    """Raises `ReplayError` if the cluster's object store cannot hold what will be in flight."""
    needed = workload.object_store_bytes(schema, settings)
    present = int(ray.cluster_resources().get("object_store_memory", 0))
    if needed > present:
        raise ReplayError(
            f"Frames in flight need about {needed / 2**20:.0f} MiB of Ray's object store, which "
            f"has {present / 2**20:.0f} MiB. Start Ray "
            "with a larger object_store_memory (and /dev/shm: docker run --shm-size), or lower "
            "replay.requests_in_flight, "
            "replay.chunks_in_flight, the batch, or the number of actors."
        )


def _part(index: int) -> str:
    return f"shard-{index}"


def _kill(shards: Sequence[ActorHandle[Any]]) -> None:
    for shard in shards:
        ray.kill(shard, no_restart=True)
