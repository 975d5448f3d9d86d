"""The systems that can be trained: which agent and which update each of them is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from learners.agent import Agent
from learners.core import CoReAgent
from learners.core_update import CoReUpdate
from learners.cvrl import CVRLAgent
from learners.cvrl_update import CVRLUpdate
from learners.pixel_sac import PixelSACAgent
from learners.pixel_sac_update import PixelSACUpdate
from learners.update import Update


@dataclass(frozen=True)
class System:
    """What is trained together, and how; made from the settings sections of its name."""

    agent: Callable[..., Agent]
    update: Callable[..., Update]


SYSTEMS: dict[str, System] = {
    "core": System(CoReAgent, CoReUpdate),
    "cvrl": System(CVRLAgent, CVRLUpdate),
    "sac": System(PixelSACAgent, PixelSACUpdate),
}
