"""What is looked at before a run begins: what cannot work is refused with nothing written."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from actors.environments.backend import GraphicsUnavailable
from actors.environments.catalog import Split, make_environment
from actors.environments.robosuite import RobosuiteMissing
from actors.environments.videos import VideoFolderError
from rl_system.cluster import native_messages_to, quiet_ray, ray_cluster, require_cpus
from rl_system.errors import SettingsError
from rl_system.settings import Settings

logger = logging.getLogger(__name__)


def check_environment(settings: Settings) -> None:
    """Make one environment of each kind, so that what is wrong with them shows before Ray starts.

    A run that joins a cluster draws on the cluster's nodes: that this machine cannot is then only
    warned of, since the measurements at the end are made here.

    Raises:
        GraphicsUnavailable, VideoFolderError, RobosuiteMissing: Nothing can be drawn, there are no
            videos, or the robots' simulator is not installed.
        SettingsError: The settings do not fit the task.
    """
    try:
        _make_environments(settings)
    except (GraphicsUnavailable, RobosuiteMissing, VideoFolderError) as error:
        if settings.run.address is None:
            raise
        logger.warning(
            "This machine cannot make the environment: %s\nTraining on the cluster at %s can do "
            "without. The measurements at its end cannot: make `rl-system resume` do them on a "
            "node, or set evaluation.final_episodes=0.",
            error,
            settings.run.address,
        )


def check_resources(settings: Settings) -> None:
    """Look whether learners can have the device that they are to use, and all processes their CPUs.

    A run on this machine alone finds its GPUs here. Of a cluster any node may have them and this
    machine none: it is joined, looked at, and left again.

    Raises:
        SettingsError: `learner.device` asks for more GPUs than there are.
        RunError: No cluster answers at `run.address`, or it has too few CPUs.
    """
    if settings.run.address is None:
        if settings.learner.device == "cuda":
            quiet_ray()  # before its first import
            from rl_system.resources import check_supported

            check_supported(settings)
        return
    with native_messages_to(Path(os.devnull)), ray_cluster(settings, 0.0):
        from rl_system.resources import check_supported, required_cpus

        require_cpus(required_cpus(settings))
        check_supported(settings)


def _make_environments(settings: Settings) -> None:
    environment = settings.environment
    # A folder may hold training videos and no held-out ones; procedural ones are always there.
    splits: tuple[Split, ...] = ("train",)
    if environment.difficulty != "none" and environment.videos != "procedural":
        splits = ("train", "held_out")
    for split in splits:
        try:
            make_environment(environment, 0, split).close()
        except VideoFolderError:  # a ValueError, too
            raise
        except ValueError as error:
            raise SettingsError(str(error)) from error
