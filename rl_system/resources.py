"""What a run reserves of the Ray cluster: CPUs, GPUs, and the nodes of its replay shards."""

from __future__ import annotations

import logging
from dataclasses import replace

import ray
import torch
from ray.util.placement_group import (
    get_current_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from rl_system.errors import SettingsError
from rl_system.settings import Settings

logger = logging.getLogger(__name__)

DRIVER_CPUS = 0.01  # not 0: Tune would drop the driver's bundle and shift everybody else's
_QUIET_S = 10.0  # a longer wait for resources is told


def shard_bundles(settings: Settings) -> list[dict[str, float]]:
    """Returns one resource bundle for each shard; none if shards reserve no CPU."""
    cpus = settings.replay.cpus_per_shard
    return [{"CPU": cpus} for _ in range(shard_count(settings))] if cpus else []


def shard_count(settings: Settings) -> int:
    """Returns the number of replay shards on the present cluster."""
    nodes = sum(node["Alive"] for node in ray.nodes()) if ray.is_initialized() else 1
    return settings.replay.on_nodes(nodes).shards


def required_cpus(settings: Settings) -> float:
    """Returns the CPUs that Ray must be able to give to one run of `settings`."""
    actors = settings.actors.count * settings.actors.num_cpus_per_actor
    shards = shard_count(settings) * settings.replay.cpus_per_shard
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
        "actors.num_cpus_per_actor, replay.cpus_per_shard or learner.count."
    )


def settled(settings: Settings, other_bundles: int, living: int) -> Settings:
    """Returns the settings with `replay.shards` as a number.

    Inside a Tune trial it is the number of bundles that were reserved for shards, whatever nodes
    have come and gone since; `other_bundles` of the trial's bundles are not theirs. Elsewhere, and
    if no number is asked for, it is that of the run's `living` shards, if there are any.
    """
    group, shards = get_current_placement_group(), settings.replay.shards
    if group is not None and settings.replay.cpus_per_shard:
        shards = group.bundle_count - other_bundles
    shards = shards or living or shard_count(settings)
    return replace(settings, replay=replace(settings.replay, shards=shards))


def shard_nodes(settings: Settings) -> list[str] | None:
    """Returns the nodes on which the shards of a Tune trial have their bundles; None elsewhere.

    The shards run on these nodes, but outside the trial's placement group: a group takes everything
    in it along when it ends, and shards are to outlive a driver that dies. Where they reserve no
    CPU they go over all nodes in turn.
    """
    group = get_current_placement_group()
    if group is None:
        return None
    shards = settings.replay.shards
    if not settings.replay.cpus_per_shard:
        nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
        return [nodes[index % len(nodes)] for index in range(shards)]
    node_of = placement_group_table(group)["bundles_to_node_id"]
    return [node_of[index] for index in range(group.bundle_count - shards, group.bundle_count)]


def check_supported(settings: Settings, gpus_of_learner: float | None = None) -> None:
    """Raises SettingsError for what one run cannot do.

    `gpus_of_learner` is what RLlib is told to reserve for each learner; None: one.
    """
    if settings.learner.device != "cuda":
        return
    needed = max(1, settings.learner.count) * (1 if gpus_of_learner is None else gpus_of_learner)
    found = _gpus()
    if found and found >= needed:
        return
    where = "Ray's cluster has" if ray.is_initialized() else "torch sees here"
    wanted = "a GPU" if needed <= 1 else f"{needed:g} GPUs for {settings.learner.count} learners"
    fewer = f", or learner.count={int(found)}" if found >= 1 else ""
    raise SettingsError(
        f"learner.device=cuda needs {wanted}, and {where} {f'{found:g}' if found else 'none'}: set "
        f"learner.device=cpu{fewer}, or check the driver and the torch build with `rl-system "
        "doctor`."
    )


def gpus_per_learner(settings: Settings) -> int:
    """Returns the GPUs that Ray reserves for a learner; "auto" takes one if there is any."""
    if settings.learner.device == "auto":
        return int(_gpus() >= 1)
    return int(settings.learner.device == "cuda")


def describe_learners(settings: Settings) -> str:
    """Returns how many learners there will be and on what, for the user: "2 on cpu"."""
    device = "cuda" if gpus_per_learner(settings) else "cpu"
    if not settings.learner.count:
        return f"1 on {device}, inside the driver"
    return f"{settings.learner.count} on {device}"


def _gpus() -> float:
    """The GPUs that learners can have: of Ray's cluster, or of this machine if Ray is down."""
    if ray.is_initialized():
        return float(ray.cluster_resources().get("GPU", 0))
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
