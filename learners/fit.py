"""What a system's sections must have in common, with each other and with the picture.

Every function takes `model`, `objective`, `behavior`, `learner` and the side of the picture in
pixels, and returns a sentence for each thing that does not fit.
"""

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
from learners.settings import (
    BehaviorSettings,
    LearnerSettings,
    ModelSettings,
    ObjectiveSettings,
    TrainingSettings,
)


def core_misfits(
    model: ModelSettings,
    objective: ObjectiveSettings,
    behavior: BehaviorSettings,
    learner: LearnerSettings,
    image_size: int,
) -> list[str]:
    """Return nothing: CoRe's sections fit each other. It may look at the middle of a picture."""
    return []


def cvrl_misfits(
    model: CVRLModelSettings,
    objective: CVRLObjectiveSettings,
    behavior: CVRLBehaviorSettings,
    learner: CVRLLearnerSettings,
    image_size: int,
) -> list[str]:
    """Return what does not fit in CVRL and its variants, which see whole pictures."""
    problems = _unseen_border(learner, image_size)
    if objective.observation == "generative" and model.decoder_side != learner.crop_size:
        side = model.decoder_side
        problems.append(
            f"objective.observation=generative: model.decoder_kernels draw {side} x {side} pixels, "
            f"and learner.crop_size is {learner.crop_size}: set learner.crop_size={side}, or other "
            "model.decoder_kernels and model.decoder_channels."
        )
    if behavior.released_code and (learner.batch_size < 2 or learner.count > 1):
        problems.append(
            "behavior.released_code=true pairs a window with the next one of the batch: set "
            "learner.batch_size to 2 or more and learner.count to 1."
        )
    return problems


def sac_misfits(
    model: PixelSACModelSettings,
    objective: PixelSACObjectiveSettings,
    behavior: PixelSACBehaviorSettings,
    learner: PixelSACLearnerSettings,
    image_size: int,
) -> list[str]:
    """Return what does not fit in SAC on pixels, which sees whole pictures, several at once."""
    problems = _unseen_border(learner, image_size)
    most = learner.sequence_length - 1
    if model.frames > most:
        problems.append(
            f"model.frames ({model.frames}) leaves no two steps to learn from in a window of "
            f"learner.sequence_length ({learner.sequence_length}): set the first to {most} or "
            f"less, or the second to {model.frames + 1} or more."
        )
    return problems


def _unseen_border(learner: TrainingSettings, image_size: int) -> list[str]:
    if learner.random_crop or learner.crop_size >= image_size:
        return []
    return [
        f"learner.crop_size ({learner.crop_size}) is below environment.image_size ({image_size}) "
        "and learner.random_crop is false, so that the pictures' border would never be seen: set "
        "both to one size, or learner.random_crop=true."
    ]
