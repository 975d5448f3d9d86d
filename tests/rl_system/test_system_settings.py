"""Settings that cannot work are refused by name, with all that is wrong, before anything begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from learners.cvrl_settings import MAX_INIT_STD, CVRLModelSettings
from learners.sections import PRIORITISED_SYSTEMS, SYSTEM_MISFITS, SYSTEM_SECTIONS
from learners.systems import SYSTEMS
from rl_system.cli import main
from rl_system.config import SettingsError, load_settings, settings_from_dict
from rl_system.settings import RunSettings, Settings

CVRL = "cvrl/natural/walker-walk/tiny"
GENERATIVE = "cvrl-generative/natural/walker-walk/tiny"
SAC = "sac/natural/walker-walk/tiny"
CORE = "core/walker-walk/tiny"


def test_a_setting_of_another_system_is_unknown() -> None:
    with pytest.raises(SettingsError, match=r"learner\.update_order"):
        load_settings("cvrl/natural/cheetah-run/tiny", ["learner.update_order=fused"])
    with pytest.raises(SettingsError, match=r"run\.system is 'planet'"):
        load_settings("core/cheetah-run/tiny", ["run.system=planet"])


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["behavior.horizon=1"], r"behavior\.horizon is 1; it must be 2 or more"),
        (["behavior.min_std=10"], r"behavior\.min_std \(10\.0\) must be below"),
        (["behavior.log_alpha_init=5"], r"above behavior\.log_alpha_max"),
        (["behavior.return_lambda=1.5"], r"behavior\.return_lambda"),
        (["behavior.mpc_iterations=0"], r"behavior\.mpc=false"),
        (["behavior.sac_scale=-1"], r"behavior\.sac_scale is -1"),
        (["objective.observation=pixels"], "contrastive, generative, none"),
        (["behavior.released_code=true", "learner.batch_size=1"], r"learner\.batch_size to 2"),
        (["behavior.released_code=true", "learner.count=2"], r"learner\.count to 1"),
        (["replay.sampler=prioritised"], "cvrl gives no priorities"),
        (["model.min_std=0"], r"model\.min_std is 0\.0; it must be above 0"),
        (["model.observation_code_dims=[]"], r"model\.observation_code_dims is empty"),
        (["model.state_code_dims=[]"], r"model\.state_code_dims is empty"),
        (["model.state_code_dims=[64, 32]"], r"observation_code_dims \(\[200\]\).* must be equal"),
        (["model.reward_dims=[64, 0]"], r"model\.reward_dims is \[64, 0\]; .* 1 unit"),
        (["model.latent_dims=0"], r"model\.latent_dims is 0; .* 1 unit"),
        (
            ["model.decoder_channels=[8, 8]"],
            r"decoder_channels has 2, .*decoder_kernels has 4",
        ),
        (["model.decoder_channels=[]", "model.decoder_kernels=[]"], r"decoder_channels is empty"),
        (["model.decoder_kernels=[5, 5, 6, 0]"], r"model\.decoder_kernels is \[5, 5, 6, 0\]"),
        (["behavior.min_std=-1e-4"], r"behavior\.min_std is -0\.0001"),
        (["behavior.init_std=0"], r"behavior\.init_std is 0\.0; .* above 0 and at most 700"),
        (["behavior.init_std=710"], r"behavior\.init_std is 710\.0; .* at most 700"),
        (["behavior.mean_scale=0"], r"behavior\.mean_scale is 0\.0; it must be above 0"),
        (["behavior.mode_samples=-1"], r"behavior\.mode_samples is -1"),
        (["behavior.mpc_step_size=-1"], r"behavior\.mpc_step_size is -1"),
        (["behavior.exploration_noise=-1"], r"behavior\.exploration_noise is -1"),
        (["behavior.mpc_actions=last"], "choose one of first, all"),
        (["behavior.value_dims=[0]"], r"behavior\.value_dims is \[0\]"),
        (["objective.free_nats=-1"], r"objective\.free_nats is -1"),
    ],
)
def test_settings_of_cvrl_that_cannot_work_are_refused(entries: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings(CVRL, entries)


@pytest.mark.parametrize("value", [1e-6, MAX_INIT_STD])
def test_the_actor_can_be_made_at_the_ends_of_its_range(value: float) -> None:
    from learners.models.policy import DreamerActor

    settings = load_settings(CVRL, [f"behavior.init_std={value}", "behavior.min_std=0"])
    assert abs(DreamerActor(settings.behavior, 3, 1).raw_init_std) < 1000


def test_a_reward_head_without_hidden_layers_is_allowed() -> None:
    assert load_settings(CVRL, ["model.reward_dims=[]"]).model.reward_dims == ()


def test_a_pixel_decoder_must_draw_what_the_encoder_sees() -> None:
    assert CVRLModelSettings().decoder_side == 64
    other = ["environment.image_size=48", "learner.crop_size=48"]
    with pytest.raises(SettingsError, match=r"draw 64 x 64 .*learner\.crop_size is 48"):
        load_settings(GENERATIVE, other)
    load_settings(CVRL, other)  # draws nothing


@pytest.mark.parametrize("frames", [10, 11])
def test_stacked_pictures_must_leave_two_steps_of_a_window(frames: int) -> None:
    with pytest.raises(SettingsError, match=r"model\.frames .*learner\.sequence_length \(10\)"):
        load_settings(SAC, [f"model.frames={frames}"])
    with pytest.raises(SettingsError, match=r"model\.frames is 0; it must be 1 or more"):
        load_settings(SAC, ["model.frames=0"])
    assert load_settings(SAC, ["model.frames=9"]).model.frames == 9
    assert load_settings(SAC, ["model.frames=1"]).model.frames == 1


@pytest.mark.parametrize("preset", [CVRL, SAC])
def test_a_border_that_would_never_be_seen_is_refused_where_pictures_are_seen_whole(
    preset: str,
) -> None:
    with pytest.raises(SettingsError, match=r"image_size \(72\).*random_crop=true") as error:
        load_settings(preset, ["environment.image_size=72"])
    assert "learner.crop_size (64)" in str(error.value)
    load_settings(preset, ["environment.image_size=72", "learner.random_crop=true"])


def test_core_may_look_at_the_middle_of_a_picture() -> None:
    settings = load_settings(CORE, ["learner.random_crop=false"])
    assert settings.learner.crop_size < settings.environment.image_size


@pytest.mark.parametrize(
    ("preset", "entries"),
    [
        (CVRL, ["learner.random_crop=true"]),
        (SAC, ["learner.random_crop=true"]),
        (CORE, ["environment.image_size=48"]),
    ],
)
def test_a_random_crop_of_the_whole_picture_is_refused(preset: str, entries: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"random_crop=true has no effect .*raise environment"):
        load_settings(preset, entries)


@pytest.mark.parametrize("system", SYSTEM_SECTIONS)
def test_priorities_are_sampled_by_where_the_learner_gives_them(system: str) -> None:
    sections = {"run": {"system": system}, "replay": {"sampler": "prioritised"}}
    if system in PRIORITISED_SYSTEMS:
        assert settings_from_dict(sections).replay.sampler == "prioritised"
    else:
        with pytest.raises(SettingsError, match=f"{system} gives no priorities"):
            settings_from_dict(sections)


def test_every_system_has_sections_and_checks_of_its_own() -> None:
    assert set(SYSTEM_SECTIONS) == set(SYSTEM_MISFITS) == set(SYSTEMS)
    assert set(SYSTEMS) >= PRIORITISED_SYSTEMS


@pytest.mark.parametrize("text", ["[a]", "{a: 1}", "null", "3", "planet"])
def test_a_system_that_is_none_is_refused_whatever_its_type(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"run: {{system: {text}}}\n")
    with pytest.raises(SettingsError, match=r"run\.system is .*core, cvrl, sac"):
        load_settings(tmp_path / "mine.yaml")


def test_sections_of_one_system_under_the_name_of_another_are_refused() -> None:
    mixed = replace(Settings(), run=RunSettings(system="sac"))
    with pytest.raises(SettingsError, match=r"model is ModelSettings.*PixelSACModelSettings"):
        mixed.validate()


def test_all_that_sections_refuse_by_themselves_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(CVRL, ["model.min_std=0", "behavior.horizon=1", "behavior.mode_samples=-1"])
    assert len(str(error.value).splitlines()) == 3


def test_nothing_is_written_where_settings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [f"run.directory={tmp_path / 'runs'}", "behavior.init_std=1e9"]
    assert main(["train", CVRL, *entries]) == 2
    assert "behavior.init_std" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
