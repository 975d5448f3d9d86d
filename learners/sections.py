"""Which settings each system is made from, by its name. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable

from learners.cvrl_settings import (
    CVRLBehaviorSettings,
    CVRLLearnerSettings,
    CVRLModelSettings,
    CVRLObjectiveSettings,
)
from learners.fit import core_misfits, cvrl_misfits, sac_misfits
from learners.pixel_sac_settings import (
    PixelSACBehaviorSettings,
    PixelSACLearnerSettings,
    PixelSACModelSettings,
    PixelSACObjectiveSettings,
)
from learners.settings import BehaviorSettings, LearnerSettings, ModelSettings, ObjectiveSettings

AnyModelSettings = ModelSettings | CVRLModelSettings | PixelSACModelSettings
AnyObjectiveSettings = ObjectiveSettings | CVRLObjectiveSettings | PixelSACObjectiveSettings
AnyBehaviorSettings = BehaviorSettings | CVRLBehaviorSettings | PixelSACBehaviorSettings
AnyLearnerSettings = LearnerSettings | CVRLLearnerSettings | PixelSACLearnerSettings

SYSTEM_SECTIONS: dict[str, dict[str, type]] = {
    "core": {
        "model": ModelSettings,
        "objective": ObjectiveSettings,
        "behavior": BehaviorSettings,
        "learner": LearnerSettings,
    },
    "cvrl": {
        "model": CVRLModelSettings,
        "objective": CVRLObjectiveSettings,
        "behavior": CVRLBehaviorSettings,
        "learner": CVRLLearnerSettings,
    },
    "sac": {
        "model": PixelSACModelSettings,
        "objective": PixelSACObjectiveSettings,
        "behavior": PixelSACBehaviorSettings,
        "learner": PixelSACLearnerSettings,
    },
}

# Says what of a system's sections, in this order, and of the picture's side does not fit.
SYSTEM_MISFITS: dict[str, Callable[..., list[str]]] = {
    "core": core_misfits,
    "cvrl": cvrl_misfits,
    "sac": sac_misfits,
}

# Those whose learner gives priorities to windows: replay.sampler=prioritised.
PRIORITISED_SYSTEMS = frozenset({"core", "sac"})
