"""The data plane of one run: replay shards and weight hub, found, started, saved and stopped.

Everything here is plain Ray. RLlib's processes find shards and hub by the run's name.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from actors.environments.catalog import find, make_environment
from actors.environments.settings import EnvironmentSettings
from replay.errors import ReplayError, ReplayTimeout
from replay.placement import NAMESPACE
from replay.restore import Damaged
from replay.schema import Schema, step_schema
from replay.service import ReplayService
from rl_system.errors import SettingsError
from rl_system.hub import start_hub
from rl_system.placement import acting_options
from rl_system.resources import shard_nodes
from rl_system.settings import Settings
from rl_system.snapshots import (
    INSIDE,
    Reference,
    Snapshots,
    link_or_copy,
    manifest_hash,
    snapshot_bytes,
)

logger = logging.getLogger(__name__)

TELL_EVERY_S = 5.0  # between two lines about one restore
# What may differ between a run and its living shards: it does not change what they hold.
_FREE = (
    "timeout_s",
    "requests_in_flight",
    "chunks_in_flight",
    "shards_per_node",
    "cpus_per_shard",
    "detached",
    "orphan_timeout_s",
    "checkpoint",
    "damaged",
)

Tell = Callable[[str], None]


@dataclass
class DataPlane:
    """The processes between actors and learner.

    Attributes:
        prefix: Name of the run in Ray: the same in all its lives, and no other run's.
        replay: The shards.
        hub: The weight hub.
        action_dims: Action dimensions of the task.
        settings: Of the run.
        snapshots: Where replay is saved to, and what crashed shards go back to.
        lasting: Whether the snapshots stay when the run ends.
        adopted: Whether the shards are those of an earlier life of the run, with what they hold.
    """

    prefix: str
    replay: ReplayService
    hub: ActorHandle
    action_dims: int
    settings: Settings
    snapshots: Snapshots
    lasting: bool
    adopted: bool

    @classmethod
    def start(cls, settings: Settings, prefix: str, folder: Path, lasting: bool) -> DataPlane:
        """Starts hub and shards; leaves nothing behind if that fails.

        Where shards of this run are alive, since the process that conducted it was killed, they are
        taken over with what they hold, if that fits the settings and is whole. `replay.shards` must
        be a number.

        Args:
            settings: Of the run.
            prefix: See `DataPlane`.
            folder: For snapshots and what crashed shards go back to; this run's alone.
            lasting: Whether `folder` and `prefix` stay the same when the run is started again.

        Raises:
            SettingsError, ReplayError: the settings cannot work here; the message says what to do.
            RunError: another process conducts this run.
        """
        dims = action_dims(settings.environment)
        size = settings.environment.image_size
        schema = step_schema((size, size, 3), dims, settings.proprioception_size)
        snapshots = Snapshots(folder.absolute())
        detached = _detached(settings, lasting)
        hub = start_hub(prefix)  # first: it is the claim on the run and on its living shards
        try:
            replay = _take_over(prefix, schema, settings, detached, snapshots)
            adopted = replay is not None
            if replay is None:
                shutil.rmtree(snapshots.recovery, ignore_errors=True)  # of shards that have ended
                replay = ReplayService.create(
                    prefix,
                    schema,
                    settings.replay,
                    settings.workload,
                    seed=settings.run.seed,
                    recovery_path=snapshots.recovery,
                    node_ids=shard_nodes(settings),
                    detached=detached,
                )
        except BaseException:
            ray.kill(hub, no_restart=True)
            raise
        return cls(prefix, replay, hub, dims, settings, snapshots, lasting, adopted)

    def stop(self) -> None:
        """Ends shards and hub. Snapshots that a checkpoint names stay."""
        self.replay.stop()
        ray.kill(self.hub, no_restart=True)
        shutil.rmtree(self.snapshots.recovery, ignore_errors=True)
        self.snapshots.newest = None
        self.snapshots.prune()

    def leave(self) -> None:
        """Ends the hub; the shards live on for `replay.orphan_timeout_s`, for the run's next life.

        If they are not detached, they are ended as well.
        """
        if not _detached(self.settings, self.lasting):
            self.stop()
            return
        ray.kill(self.hub, no_restart=True)
        logger.warning(
            "Replay shards of the run stay alive for %g s: started again on this Ray cluster, it "
            "goes on with what they hold.",
            self.settings.replay.orphan_timeout_s,
        )

    def ready(self, timeout_s: float) -> bool:
        """Returns whether every shard could give its part of a batch now."""
        return self.replay.ready(timeout_s)

    # Checkpoints --------------------------------------------------------------------------------

    def save(self, checkpoint: Path, storage: Any = None) -> None:
        """Saves replay as `replay.checkpoint` says, and writes `replay.json` into the directory
        `checkpoint`, which exists. Tune moves it to `storage` (the trial's) afterwards.

        Raises:
            ReplayError: a shard is gone; nothing is written to `checkpoint`.
        """
        how = self.settings.replay.checkpoint
        if how == "none":
            Reference(self.prefix, None).write(checkpoint)
            return
        snapshot, counts = self.snapshots.begin(), self.replay.stats()
        self.replay.save(snapshot)
        self.snapshots.newest = snapshot
        self.snapshots.end_restore()  # one that failed: what shards hold is the run's by now
        inside = how == "copy" or not self.lasting
        if inside:
            shutil.copytree(snapshot, checkpoint / INSIDE, copy_function=link_or_copy)
        Reference(
            self.prefix,
            INSIDE if inside else str(snapshot),
            manifest_hash(snapshot),
            snapshot_bytes(snapshot),
            int(counts["agent_steps"]),
            int(counts["inserted_agent_steps"]),
        ).write(checkpoint)
        if storage is not None:
            self.snapshots.filesystem = storage.storage_filesystem
        if not inside:
            self.snapshots.note(snapshot, checkpoint, next_checkpoint(storage))
        self.snapshots.prune()

    def find(self, checkpoint: Path) -> tuple[Reference, Path | None]:
        """Returns what a checkpoint says of replay, and the snapshot to load; None: load none.

        Shards of an earlier life are kept as they are if all that the checkpoint counts went
        through them. They lack some of it if that life ended before it had loaded its replay, or
        if one of them crashed and could not go back to its snapshot.

        Raises:
            CheckpointError: the checkpoint is incomplete or its snapshot is gone.
            ReplayError, ReplayTimeout: a living shard does not answer.
        """
        reference = Reference.read(checkpoint)
        if self.settings.replay.checkpoint == "none":
            return reference, None
        if self.adopted and reference.run == self.prefix:
            inserted = int(self.replay.stats()["inserted_agent_steps"])
            if inserted >= reference.inserted_agent_steps:
                return reference, None
            logger.warning(
                "Replay shards of an earlier life of this run are alive, but only %d of the %d "
                "agent steps that the checkpoint counts were ever inserted: its snapshot is loaded "
                "instead.",
                inserted,
                reference.inserted_agent_steps,
            )
        return reference, reference.locate(checkpoint)

    def restore(self, reference: Reference, snapshot: Path | None, tell: Tell) -> None:
        """Puts replay back to what `find` has returned, unless living shards hold more.

        A snapshot of elsewhere (another run's, a checkpoint's own) is linked into this run's folder
        first, so that crashed shards can go back to it whatever becomes of the other. `tell` is
        given lines for the user.

        Raises:
            SnapshotError: the snapshot is damaged; nothing has changed.
            ReplayTimeout: shards did not advance. They may still be loading: stop them, or restore
                again.
        """
        kept = self.adopted and reference.run == self.prefix and snapshot is None
        self.adopted = False
        if kept:
            tell(self._kept_line(reference))
            return
        if snapshot is None:
            stored = int(self.replay.stats()["agent_steps"])
            tell(f"Replay: nothing was restored, training goes on with {stored:,} agent steps.")
            return
        own = self.snapshots.take(snapshot)
        damaged: Damaged = "skip" if self.settings.replay.damaged == "skip" else "refuse"
        self.snapshots.begin_restore()
        # If it fails `own` stays until it is pruned, for shards may still be reading it.
        self.replay.load(own, damaged=damaged, progress=_every(TELL_EVERY_S, tell))
        self.snapshots.end_restore()
        self.snapshots.newest = own
        stats = self.replay.stats()
        line = (
            f"Replay: {int(stats['agent_steps']):,} agent steps were loaded from {snapshot} "
            f"({reference.bytes / 2**30:.2f} GiB)."
        )
        if skipped := int(stats.get("skipped_agent_steps", 0)):
            line += (
                f" {skipped:,} agent steps lay in damaged files and are lost (replay.damaged=skip)."
            )
        tell(line)

    def _kept_line(self, reference: Reference) -> str:
        stats = self.replay.stats()
        stored, inserted = int(stats["agent_steps"]), int(stats["inserted_agent_steps"])
        newer = max(0, inserted - reference.inserted_agent_steps)
        shards = len(self.replay.shards)
        which = "1 shard was" if shards == 1 else f"{shards} shards were"
        on = "goes on" if shards == 1 else "go on"
        return (
            f"Replay: {which} still alive and {on} with {stored:,} agent steps, {newer:,} of them "
            "newer than the checkpoint. Nothing was loaded; lost is only what actors had not yet "
            "sent. Samples per insert count anew from here."
        )


def place_of(
    storage: Any, run_name: str | None, directory: str | None, temporary: str
) -> tuple[str, Path, bool]:
    """Returns a run's name in Ray, its folder for replay, and whether both are the same when it is
    started again.

    Args:
        storage: Tune's `StorageContext` of the trial; None outside of Tune.
        run_name: See `SettingsBuilder.from_settings`.
        directory: As well.
        temporary: Folder of this life of the run, where there is no other.
    """
    if storage is None:
        name, folder = run_name, None if directory is None else Path(directory)
    else:
        trial = storage.trial_fs_path  # new for every experiment and trial
        name = f"core-{hashlib.sha256(trial.encode()).hexdigest()[:12]}"
        folder = Path(trial, INSIDE) if storage.storage_filesystem.type_name == "local" else None
        if directory is not None:
            folder = Path(directory, storage.experiment_dir_name, storage.trial_dir_name, INSIDE)
    lasting = name is not None and folder is not None
    return name or f"core-{uuid.uuid4().hex[:12]}", folder or Path(temporary, INSIDE), lasting


def next_checkpoint(storage: Any) -> str | None:
    """Returns the path in its file system to which Tune will move the checkpoint being written.

    Args:
        storage: As for `place_of`. None outside of Tune, where checkpoints stay: returns None.
    """
    if storage is None:
        return None
    following = copy.copy(storage)
    following.current_checkpoint_index += 1  # Tune counts on after the checkpoint was written
    return str(following.checkpoint_fs_path)


def living_shards(prefix: str) -> list[str]:
    """Returns the Ray names of the shards of a run that are alive, of whichever of its lives."""
    return [
        entry["name"]
        for entry in ray.util.list_named_actors(all_namespaces=True)
        if entry["namespace"] == NAMESPACE and entry["name"].startswith(f"{prefix}/shard-")
    ]


def action_dims(environment: EnvironmentSettings) -> int:
    """Returns the number of action dimensions of a task."""
    return find(environment.name).action_dims


def explain_actors(settings: Settings, error: Exception) -> None:
    """Raises what keeps actors from being made, found by making one environment in a task.

    RLlib itself only says `IndexError` then.
    """
    options = {"num_cpus": 0, "runtime_env": acting_options(settings.environment)}
    call: Any = ray.remote(**options)(_try_environment).remote(settings.environment)
    try:
        reason = ray.get(call, timeout=settings.run.startup_timeout_s)
    except ray.exceptions.RayError as lost:
        reason = f"Its process failed: {lost}"
    if reason is not None:
        raise SettingsError(f"No actor could be started. {reason}") from error


def shared_settings(settings: Settings) -> dict[str, Any]:
    """Returns the system's name and the sections that actors and learner are built from."""
    names = ("environment", "actors", "model", "objective", "behavior", "learner")
    return {"system": settings.run.system} | {name: getattr(settings, name) for name in names}


def _detached(settings: Settings, lasting: bool) -> bool:
    """Whether shards outlive a driver that dies."""
    return lasting and settings.replay.detached and not settings.run.deterministic


def _take_over(
    prefix: str, schema: Schema, settings: Settings, detached: bool, snapshots: Snapshots
) -> ReplayService | None:
    """Returns the living shards of an earlier life of this run, with samples per insert counting
    anew; None if there are none. Those that do not fit, or that were being restored when that life
    ended, are ended: each may hold something else, and may be loading still.
    """
    living = living_shards(prefix)
    if not living:
        return None
    why = "replay.detached is false, or run.deterministic true."
    if detached and snapshots.restore_unfinished:
        why = "the process that conducted them died, or failed, as it restored them."
    elif detached:
        try:
            replay = ReplayService.connect(prefix)
            difference = _difference(replay, schema, settings)
            if difference is None:
                with replay.preload():  # at its end the count of who is ahead begins anew
                    pass
                return replay
            why = f"{difference} differs."
        except (ReplayError, ReplayTimeout, RayActorError) as error:
            why = str(error)
    logger.warning(
        "Replay shards of an earlier life of this run are alive and are ended, for they cannot be "
        "used: %s The snapshot of the checkpoint is loaded instead.",
        why,
    )
    for name in living:
        try:
            ray.kill(ray.get_actor(name, NAMESPACE), no_restart=True)
        except ValueError:
            logger.debug("%s has ended meanwhile.", name)
    return None


def _difference(replay: ReplayService, schema: Schema, settings: Settings) -> str | None:
    """Names what keeps living shards from serving this run; None if nothing does."""
    if replay.schema != schema:
        return "the schema of the steps"
    if replay.workload != settings.workload:
        return "the workload (batch, actors or updates per agent step)"
    for name in vars(settings.replay):
        if name not in _FREE and getattr(replay.settings, name) != getattr(settings.replay, name):
            return f"replay.{name}"
    return None


def _every(seconds: float, tell: Tell) -> Callable[[str, int, int], None]:
    """Returns what tells the progress of a restore, at most every so many seconds."""
    told_at = time.monotonic()

    def progress(task: str, done: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= seconds:
            told_at = time.monotonic()
            tell(f"Restoring replay: {task} {done / 2**30:.2f} of {total / 2**30:.2f} GiB")

    return progress


def _try_environment(environment: EnvironmentSettings) -> str | None:
    try:
        make_environment(environment, seed=0).close()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
