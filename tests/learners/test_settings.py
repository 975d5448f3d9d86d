"""Sections of settings refuse by themselves, where they are made, what cannot work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from learners.checks import Section
from learners.pixel_sac_settings import PixelSACLearnerSettings, PixelSACModelSettings
from learners.sections import SYSTEM_SECTIONS
from learners.settings import BehaviorSettings, LearnerSettings, ModelSettings, ObjectiveSettings

MODELS = [sections["model"] for sections in SYSTEM_SECTIONS.values()]
LEARNERS = [sections["learner"] for sections in SYSTEM_SECTIONS.values()]
BEHAVIORS = [sections["behavior"] for sections in SYSTEM_SECTIONS.values()]


def refusal(kind: type, **values: Any) -> str:
    with pytest.raises(ValueError) as error:
        kind(**values)
    return str(error.value)


@pytest.mark.parametrize("system", SYSTEM_SECTIONS)
def test_the_defaults_of_every_section_work(system: str) -> None:
    for name, kind in SYSTEM_SECTIONS[system].items():
        made = kind()
        if isinstance(made, Section):
            assert made.section == name
            assert made.problems() == []


def test_every_problem_of_a_section_has_a_line() -> None:
    said = refusal(LearnerSettings, batch_size=0, device="tpu", model_rate=-1.0)
    assert said.splitlines() == [
        "learner.device='tpu': choose one of auto, cpu, cuda.",
        "learner.batch_size is 0; it must be above 0.",
        "learner.model_rate is -1.0; it must be a number of 0 or more.",
    ]


def test_a_changed_copy_is_looked_at_as_well() -> None:
    with pytest.raises(ValueError, match=r"learner\.crop_size is 0"):
        replace(LearnerSettings(), crop_size=0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"conv_kernels": (3,)}, "model.conv_channels has 4, model.conv_kernels has 1"),
        ({"conv_strides": (2, 0, 1, 1)}, "model.conv_strides is [2, 0, 1, 1]"),
        ({"conv_paddings": (0, 0, 0, -1)}, "each entry must be 0 or more"),
        ({"conv_channels": (8, 0, 8, 8)}, "model.conv_channels is [8, 0, 8, 8]"),
        ({"proprioception_dims": (0,)}, "model.proprioception_dims is [0]"),
    ],
)
def test_every_encoder_refuses_shapes_that_are_none(
    model: type, values: dict[str, Any], said: str
) -> None:
    assert said in refusal(model, **values)


def test_a_model_without_convolutions_is_refused() -> None:
    none = dict.fromkeys(("conv_channels", "conv_kernels", "conv_strides", "conv_paddings"), ())
    assert (
        refusal(ModelSettings, **none)
        == "model.conv_channels is empty; it needs one layer or more."
    )


@pytest.mark.parametrize(("side", "left"), [(100, 43), (84, 35), (9, 0), (3, -1)])
def test_what_convolutions_leave_of_a_side_is_counted(side: int, left: int) -> None:
    assert ModelSettings().side_left(side) == left


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_needs_pairs_of_steps_and_equal_parts(learner: type) -> None:
    assert "learner.sequence_length is 1; it must be 2 or more" in refusal(
        learner, sequence_length=1
    )
    assert "Set it to 16" in refusal(learner, batch_size=15, count=2)
    assert "learner.alpha_clip is 0.0" in refusal(learner, alpha_clip=0.0)
    assert "learner.precision='float8'" in refusal(learner, precision="float8")


@pytest.mark.parametrize("behavior", BEHAVIORS)
def test_every_behavior_has_rates_and_shares_between_bounds(behavior: type) -> None:
    assert "behavior.discount is 1.1; it must be from 0 to 1" in refusal(behavior, discount=1.1)
    assert "behavior.reward_divisor is 0.0" in refusal(behavior, reward_divisor=0.0)
    assert "behavior.critic_dims is [8, 0]" in refusal(behavior, critic_dims=(8, 0))


def test_bounds_of_the_actor_that_cross_are_refused() -> None:
    said = refusal(BehaviorSettings, log_std_min=3.0)
    assert "behavior.log_std_min (3.0) is above behavior.log_std_max (2.0)" in said


def test_a_share_of_the_kl_is_one_between_0_and_1() -> None:
    assert "objective.kl_balance is 1.5" in refusal(ObjectiveSettings, kl_balance=1.5)


@pytest.mark.parametrize("learner", [LearnerSettings, PixelSACLearnerSettings])
def test_a_moving_average_that_would_never_move_is_refused(learner: type) -> None:
    assert "learner.alpha_beta1 is 1.0; it must be from 0 to below 1" in refusal(
        learner, alpha_beta1=1.0
    )


@pytest.mark.parametrize("model", [ModelSettings, PixelSACModelSettings])
def test_an_unknown_initialisation_names_the_known(model: type) -> None:
    assert "delta_orthogonal, kaiming" in refusal(model, conv_init="zeros")
