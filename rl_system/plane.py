"""The data plane of one run: replay shards and weight hub, and what they need of the cluster.

Everything here is plain Ray. RLlib's processes find shards and hub by the run's name.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import (
    get_current_placement_group,
    placement_group,
    remove_placement_group,
)

from actors.environments.catalog import find, make_environment
from actors.environments.settings import EnvironmentSettings
from learners.device import choose_device
from replay.schema import step_schema
from replay.service import ReplayService
from replay.workload import Workload
from rl_system.errors import SettingsError
from rl_system.hub import start_hub
from rl_system.settings import Settings

logger = logging.getLogger(__name__)

DRIVER_CPUS = 0.01  # not 0: Tune would drop the driver's bundle and shift everybody else's
_QUIET_S = 10.0  # a longer wait for resources is told


@dataclass
class DataPlane:
    """The processes between actors and learner.

    Attributes:
        prefix: Name of the run in Ray; new for every build, so that no two runs meet.
        replay: The shards.
        hub: The weight hub.
        action_dims: Action dimensions of the task.
        snapshot: Directory of the newest snapshot of replay, to which a crashed shard goes back.
        recovery: Directory of the few notes that a crashed shard needs for it.
    """

    prefix: str
    replay: ReplayService
    hub: ActorHandle
    action_dims: int
    snapshot: Path
    recovery: Path

    @classmethod
    def start(cls, settings: Settings, prefix: str, directory: str | Path) -> DataPlane:
        """Starts shards and hub; leaves nothing behind if that fails.

        `directory` holds what crashed shards go back to, until `stop`.

        Inside a Tune trial the shards take the last bundles of its placement group, one each. Left
        to choose, they would take bundles that actors are pinned to, and the trial would wait
        for ever.

        Raises:
            SettingsError, ReplayError: the settings cannot work here; the message says what to do.
        """
        dims = action_dims(settings.environment)
        size = settings.environment.image_size
        learner, actors = settings.learner, settings.actors
        # In lock step the conductor keeps the ratio itself.
        ratio = None if settings.run.deterministic else settings.samples_per_insert
        snapshot = Path(directory).absolute() / f"{prefix}-replay"
        recovery = Path(directory).absolute() / f"{prefix}-recovery"
        replay = ReplayService.create(
            prefix,
            step_schema((size, size, 3), dims, settings.proprioception_size),
            settings.replay,
            Workload(
                samples_per_insert=ratio,
                batch_length=learner.sequence_length,
                batch_size=learner.batch_size,
                readers=max(1, learner.count),
                writers=actors.count,
                environments_per_writer=actors.environments_per_actor,
                chunk_length=actors.chunk_agent_steps,
            ),
            seed=settings.run.seed,
            recovery_path=recovery,
            bundle_indices=_last_bundles(settings),
        )
        try:
            hub = start_hub(prefix)
        except BaseException:
            replay.stop()
            raise
        return cls(prefix, replay, hub, dims, snapshot, recovery)

    def stop(self) -> None:
        """Ends shards and hub."""
        self.replay.stop()
        ray.kill(self.hub, no_restart=True)
        for path in (self.snapshot, self.recovery):
            shutil.rmtree(path, ignore_errors=True)

    def save(self, path: Path) -> None:
        """Saves replay as the new directory `path`.

        A crashed shard goes back to a snapshot by its path, and checkpoints are moved after they
        were written. So the shards write to a directory of the run, and `path` gets a second name
        of each file, or a copy on another file system.

        Raises:
            ReplayError: a shard is gone; nothing is written to `path`.
        """
        self.replay.save(self.snapshot)
        shutil.copytree(self.snapshot, path, copy_function=_link_or_copy)

    def ready(self, timeout_s: float) -> bool:
        """Returns whether every shard could give its part of a batch now."""
        work, shards = self.replay.workload, self.replay.shards
        calls = [s.why_not.remote(work.batch_length, work.share(len(shards))) for s in shards]
        return not any(ray.get(calls, timeout=timeout_s))


def new_prefix() -> str:
    """Returns a name that no other run on the cluster has."""
    return f"core-{uuid.uuid4().hex[:8]}"


def own_directory(given: str | None) -> Path:
    """Returns an empty directory that is one run's alone: `given`, or a temporary one."""
    if given is None:
        return Path(tempfile.mkdtemp(prefix="core-"))
    path = Path(given).absolute()
    shutil.rmtree(path, ignore_errors=True)  # of a life that was killed
    path.mkdir(parents=True)
    return path


def shard_bundles(settings: Settings) -> list[dict[str, float]]:
    """Returns one resource bundle for each shard; none if shards reserve no CPU."""
    cpus = settings.replay.cpus_per_shard
    return [{"CPU": cpus} for _ in range(settings.replay.shards)] if cpus else []


def required_cpus(settings: Settings) -> float:
    """Returns the CPUs that Ray must be able to give to one run of `settings`."""
    actors = settings.actors.count * settings.actors.num_cpus_per_actor
    shards = settings.replay.shards * settings.replay.cpus_per_shard
    return actors + shards + max(1, settings.learner.count) + DRIVER_CPUS


def wait_for_resources(bundles: list[dict[str, float]], timeout_s: float) -> None:
    """Waits until the cluster can give `bundles`, so that no process waits for its CPU in silence.

    Does nothing inside a Tune trial, whose resources are reserved already.

    Raises:
        SettingsError: it cannot within `timeout_s`; says what is free and what to change.
    """
    if get_current_placement_group() is not None:
        return
    trial = placement_group([bundle for bundle in bundles if any(bundle.values())])
    try:
        granted = trial.ready()
        ready, _ = ray.wait([granted], timeout=min(_QUIET_S, timeout_s))
        if not ready:
            logger.warning("Waiting up to %g s for CPUs and GPUs of Ray.", timeout_s)
            ready, _ = ray.wait([granted], timeout=timeout_s)
    finally:
        remove_placement_group(trial)
    if ready:
        return
    free, present = ray.available_resources(), ray.cluster_resources()
    wanted = {
        name: round(sum(bundle.get(name, 0) for bundle in bundles), 2) for name in ("CPU", "GPU")
    }
    raise SettingsError(
        f"The run needs {wanted['CPU']:g} CPUs and {wanted['GPU']:g} GPUs of Ray. After "
        f"{timeout_s:g} s {free.get('CPU', 0):g} of {present.get('CPU', 0):g} CPUs and "
        f"{free.get('GPU', 0):g} of {present.get('GPU', 0):g} GPUs are free. Start Ray with more "
        "(num_cpus may exceed the machine's cores), stop other runs, or lower actors.count, "
        "actors.num_cpus_per_actor or replay.cpus_per_shard."
    )


def action_dims(environment: EnvironmentSettings) -> int:
    """Returns the number of action dimensions of a task."""
    return find(environment.name).action_dims


def explain_actors(settings: Settings, error: Exception) -> None:
    """Raises what keeps actors from being made, found by making one environment in a task.

    RLlib itself only says `IndexError` then.
    """
    call: Any = ray.remote(num_cpus=0)(_try_environment).remote(settings.environment)
    reason = ray.get(call, timeout=settings.run.startup_timeout_s)
    if reason is not None:
        raise SettingsError(f"No actor could be started. {reason}") from error


def check_supported(settings: Settings) -> None:
    """Raises SettingsError for what one run cannot do."""
    if settings.learner.count > 1:
        raise SettingsError(
            f"learner.count is {settings.learner.count}: several learner processes are not built "
            "yet, use 1 (or 0 to learn inside the driver)."
        )
    if settings.learner.device == "cuda" and not _has_gpu():
        where = "Ray's cluster has none" if ray.is_initialized() else "torch sees none here"
        raise SettingsError(
            f'learner.device="cuda" needs a GPU and {where}: set learner.device=cpu, or check the '
            "driver and the torch build with `rl-system doctor`."
        )


def gpus_per_learner(settings: Settings) -> int:
    """Returns the GPUs that Ray reserves for a learner; "auto" takes one if there is any."""
    if settings.learner.device == "auto":
        return int(_has_gpu())
    return int(settings.learner.device == "cuda")


def _has_gpu() -> bool:
    """Whether a learner can have a GPU: of Ray's cluster, or of this machine if Ray is down."""
    if ray.is_initialized():
        return bool(ray.cluster_resources().get("GPU", 0) >= 1)
    return choose_device("auto").type == "cuda"


def shared_settings(settings: Settings) -> dict[str, Any]:
    """Returns the sections that actors and learner are built from, by name."""
    names = ("environment", "actors", "model", "objective", "behavior", "learner")
    return {name: getattr(settings, name) for name in names}


def _last_bundles(settings: Settings) -> list[int] | None:
    group = get_current_placement_group()
    shards = len(shard_bundles(settings))
    if group is None or not shards:
        return None
    return list(range(group.bundle_count - shards, group.bundle_count))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _try_environment(environment: EnvironmentSettings) -> str | None:
    try:
        make_environment(environment, seed=0).close()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
