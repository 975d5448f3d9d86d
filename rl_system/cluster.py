"""Ray for one run: a cluster of its own on this machine, or one that runs already."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replay.schema import step_schema
from rl_system.errors import RunError, SettingsError
from rl_system.machine import cpus, shared_memory_bytes
from rl_system.settings import Settings

logger = logging.getLogger(__name__)

MEBIBYTE = 2**20
LEAST_STORE_MIB = 80  # Ray refuses less than 75 MiB
SPARE_STORE_MIB = 100  # weights, replies and what Ray itself keeps
_REACH_TIMEOUT_S = 10.0
_ACTION_DIMS = 64  # more than any task has; a frame outweighs it by far

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # a process per core is busy already: more threads only get in the way
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def object_store_mib(settings: Settings) -> int:
    """Return the size of Ray's object store, in MiB, for a run on this machine alone.

    Frames on their way lie in memory that the processes share, and not there: see
    `replay.workload.Workload.object_store_bytes`.

    Raises:
        SettingsError: `run.object_store_mb` is below what frames in flight need.
    """
    size = settings.environment.image_size
    schema = step_schema((size, size, 3), _ACTION_DIMS, settings.proprioception_size)
    needed = -(-settings.workload.object_store_bytes(schema, settings.replay) // MEBIBYTE)
    asked = settings.run.object_store_mb
    if asked is None:
        return max(200, needed + SPARE_STORE_MIB)
    least = max(LEAST_STORE_MIB, needed)
    if asked < least:
        raise SettingsError(
            f"run.object_store_mb is {asked}, but frames in flight need {needed} MiB and Ray at "
            f"least {LEAST_STORE_MIB}: set it to {least + SPARE_STORE_MIB} or null (computed), or "
            "lower learner.batch_size or learner.sequence_length."
        )
    return asked


@contextmanager
def ray_cluster(settings: Settings, needed_cpus: float) -> Iterator[None]:
    """Start or join Ray and leave it at the end.

    A Ray of its own counts on `run.num_cpus`, or on the CPUs of this machine but at least on those
    that the run reserves: on a small machine processes then share cores instead of never starting.

    Args:
        settings: Of the run.
        needed_cpus: CPUs that the run's processes reserve, all together.

    Raises:
        SettingsError: The run cannot fit; the message names the setting.
        RunError: Ray does not start or cannot be reached; the message says what to do.
    """
    quiet_ray()
    import ray

    if ray.is_initialized():
        raise RunError("Ray runs in this process already: call ray.shutdown() first.")
    try:
        if settings.run.address is not None:
            _join(settings.run.address)
            require_cpus(needed_cpus)
        else:
            start_ray(settings, needed_cpus)
        yield
    finally:
        ray.shutdown()


def start_ray(settings: Settings, needed_cpus: float) -> None:
    """Start a Ray of this process's own that fits the run; it ends with `ray.shutdown`.

    Raises:
        SettingsError, RunError: It cannot stand here; the message says what to do.
    """
    import ray

    run = settings.run
    store = object_store_mib(settings)
    least = int(-(-needed_cpus // 1))
    if run.num_cpus is not None and run.num_cpus < needed_cpus:
        raise SettingsError(
            f"run.num_cpus is {run.num_cpus}, but the processes of this run reserve "
            f"{needed_cpus:g}: set it to {least} or null, or lower actors.count, "
            "actors.num_cpus_per_actor or replay.cpus_per_shard."
        )
    shared = shared_memory_bytes()
    if shared is not None and shared[1] < store * MEBIBYTE:
        logger.warning(
            "/dev/shm has %d MiB free and the object store needs %d MiB: Ray will use the disk, "
            "which is slower. In Docker start the container with --shm-size=%dm.",
            shared[1] // MEBIBYTE,
            store,
            2 * store,
        )
    if run.dashboard_port is not None:
        _require_port(run.dashboard_port)
    else:  # Ray starts the process all the same and prints its log where it is slow to stand
        logging.getLogger("ray._private.services").setLevel(logging.CRITICAL)
    try:
        ray.init(
            address="local",
            num_cpus=run.num_cpus or max(cpus(), least),
            object_store_memory=store * MEBIBYTE,
            include_dashboard=run.dashboard_port is not None,
            dashboard_port=run.dashboard_port,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": WORKER_ENVIRONMENT | graphics_environment()},
        )
    except Exception as error:  # Ray raises many kinds here
        raise RunError(
            f"Ray does not start on this machine: {error}\n`rl-system doctor` shows what is "
            "missing. If it timed out, the machine may be busy with other work: try again. Ray's "
            "own logs lie under /tmp/ray/session_latest/logs."
        ) from error


def _join(address: str) -> None:
    import ray

    try:
        _reach(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Only the threads: each node chooses its own graphics, device and cache folder.
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
        )
    except Exception as error:
        raise RunError(
            f"No Ray cluster answers at run.address={address}: {error}\nStart one with "
            "`ray start --head`, or set run.address=null for one of this run's own."
        ) from error


def require_cpus(needed_cpus: float) -> None:
    """Raise RunError unless the cluster of this process has so many CPUs."""
    import ray

    present = float(ray.cluster_resources().get("CPU", 0.0))
    if present < needed_cpus:
        raise RunError(
            f"The Ray cluster has {present:g} CPUs and the processes of this run reserve "
            f"{needed_cpus:g}: add nodes, or lower actors.count or actors.num_cpus_per_actor."
        )


@contextmanager
def native_messages_to(path: Path) -> Iterator[None]:
    """Send what libraries write to the error stream past Python into a file.

    Ray's core and GL drivers write hints for developers there, across the progress display.
    `sys.stderr` stays on the terminal.
    """
    terminal = os.dup(2)
    before = sys.stderr
    before.flush()
    with path.open("ab") as file, os.fdopen(os.dup(terminal), "w", buffering=1) as stream:
        os.dup2(file.fileno(), 2)
        sys.stderr = stream
        try:
            yield
        finally:
            sys.stderr = before
            os.dup2(terminal, 2)
            os.close(terminal)


def _reach(address: str) -> None:
    """Connect once to `host:port`, since Ray itself tries for many minutes; raises `OSError`."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_TIMEOUT_S).close()


def graphics_environment() -> dict[str, str]:
    """Return this process's choice of graphics, for workers on the same machine."""
    names = ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID", "XDG_CACHE_HOME")
    return {name: os.environ[name] for name in names if name in os.environ}


def _require_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise RunError(
                f"Port {port} is in use ({error.strerror}): set run.dashboard_port to a free one, "
                "or null for no dashboard."
            ) from error


def quiet_ray() -> None:
    """Keep Ray's and RLlib's hints for developers out of a user's terminal, and Ray from starting
    by itself; called before Ray is first imported.
    """
    # Ray would start anew for whatever still calls it once it was shut down.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    for name in ("ray", "ray.rllib", "ray.tune", "ray._common", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", module=r"ray\..*|gymnasium\..*")
