"""Which settings each system is made from, by its name. Imports no torch."""

from __future__ import annotations

from learners.cvrl_settings import (
    CVRLBehaviorSettings,
    CVRLLearnerSettings,
    CVRLModelSettings,
    CVRLObjectiveSettings,
)
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
