from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from learners.sections import SYSTEM_SECTIONS
from rl_system.config import (
    SettingsError,
    describe,
    load_settings,
    override,
    save_settings,
    sections_of,
    settings_from_dict,
    settings_to_dict,
)
from rl_system.fields import fields_of
from rl_system.settings import Settings

PAPER = "core/cartpole-swingup/paper"  # the one preset whose numbers never change
DOOR = "core/door-panda/paper"


def test_overrides_win_over_the_preset_and_the_last_one_over_the_others() -> None:
    settings = load_settings(PAPER, ["run.seed=1", "learner.batch_size=8", "run.seed=2"])
    assert settings.run.seed == 2
    assert settings.learner.batch_size == 8


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("learner.model_rate=1e-3", 0.001),
        ("learner.model_rate=1", 1.0),
        ("run.max_updates=1e5", 100_000),
        ("run.max_updates=100_000", 100_000),
        ("run.max_updates=null", None),
        ("run.deterministic=true", True),
        ("run.name=007", "007"),
        ("run.name=a=b", "a=b"),
        ("model.conv_channels=[8, 16, 16, 16]", (8, 16, 16, 16)),
        ("model.conv_channels=8,16,16,16", (8, 16, 16, 16)),
        ("environment.distractions=background", ("background",)),
        ("environment.distractions=[]", ()),
    ],
)
def test_a_value_gets_the_type_of_its_field(entry: str, value: object) -> None:
    settings = load_settings(PAPER, [entry])
    section, key = entry.partition("=")[0].split(".")
    found = getattr(getattr(settings, section), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("learner.bach_size=3", ["learner.bach_size", "batch_size"]),
        ("lerner.batch_size=3", ["lerner", "Did you mean learner?"]),
        ("replay.batch_size=3", ["Did you mean learner.batch_size?"]),
        ("learner.batch_size", ["section.key=value"]),
        ("batch_size=3", ["section.key=value"]),
        ("learner.batch_size=many", ["learner.batch_size", "a whole number"]),
        ("learner.batch_size=1.5", ["a whole number"]),
        ("run.deterministic=1", ["true or false"]),
        ("learner.model_rate=null", ["learner.model_rate", "a number"]),
        ("model.conv_channels=[a, b]", ["a list of whole numbers"]),
        ("objective.negatives=some", ["objective.negatives", "same_sequence"]),
        ("learner.update_order=both", ["sequential", "fused"]),
        ("environment.difficulty=hardest", ["environment.difficulty", "none, easy, medium, hard"]),
        ("environment.name=dcs/cheetah-walk", ["dcs/cheetah-walk", "dcs/cheetah-run"]),
        ("replay.shards=-1", ["replay.shards"]),
        ("actors.chunk_agent_steps=0", ["actors.chunk_agent_steps"]),
    ],
)
def test_a_wrong_override_says_what_is_right(entry: str, words: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(PAPER, [entry])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["learner.crop_size=101"], ["learner.crop_size (101)", "environment.image_size (100)"]),
        (["learner.sequence_length=126"], ["126", "125 agent steps"]),
        (["learner.model_clip=-1"], ["learner.model_clip is -1", "above 0"]),
        (["learner.prefetch_batches=0"], ["learner.prefetch_batches", "above 0"]),
        (["learner.critic_rate=-1"], ["learner.critic_rate", "0 or more"]),
        (["learner.count=-1"], ["learner.count is -1"]),
        (["learner.alpha_beta1=2"], ["learner.alpha_beta1", "below 1"]),
        (["learner.alpha_beta1=-0.1"], ["learner.alpha_beta1", "from 0"]),
        (["learner.model_rate=.inf"], ["learner.model_rate is inf", "a number of 0 or more"]),
        (["behavior.discount=1.5"], ["behavior.discount is 1.5", "from 0 to 1"]),
        (["behavior.target_rate=-1"], ["behavior.target_rate", "from 0 to 1"]),
        (
            ["learner.mirror_replay=true", "replay.compression=zstd"],
            ["learner.mirror_replay needs steps as they are"],
        ),
        (["learner.batch_size=15", "learner.count=2"], ["learner.count (2)", "Set it to 16"]),
        (
            ["replay.minimum_agent_steps=20", "replay.shards=2"],
            ["replay.minimum_agent_steps", "64"],
        ),
        (["replay.capacity_agent_steps=1000", "replay.shards=8"], ["two episodes"]),
        (["model.conv_kernels=[3, 3]"], ["model.conv_kernels has 2", "model.conv_channels has 4"]),
        (["learner.crop_size=2"], ["leave nothing"]),
        (["run.deterministic=true", "actors.count=2"], ["actors.count=1"]),
        (["run.deterministic=true", "replay.checkpoint=none"], ["replay.checkpoint=reference"]),
        (["replay.checkpoint=link"], ["replay.checkpoint", "reference, copy, none"]),
        (["actors.count=0"], ["actors.count is 0"]),
    ],
)
def test_settings_that_do_not_fit_each_other_name_both_and_say_what_to_do(
    entries: list[str], words: list[str]
) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(PAPER, entries)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("preset", "entry", "words"),
    [
        (PAPER, "environment.difficulty=randomized", ["environment.difficulty", "background60"]),
        (PAPER, "evaluation.difficulty=randomized", ["evaluation.difficulty", "natural"]),
        (DOOR, "environment.difficulty=medium", ["robosuite/door-panda", "none, randomized."]),
        (DOOR, "evaluation.distracted_twin=hard", ["evaluation.distracted_twin", "randomized."]),
        (PAPER, "environment.proprioception=true", ["pictures alone", "robosuite"]),
        (DOOR, "model.proprioception_dims=[200, 0]", ["model.proprioception_dims", "1 unit"]),
        (DOOR, "learner.crop_size=145", ["learner.crop_size (145)", "image_size (144)"]),
        (DOOR, "learner.crop_size=8", ["8 x 8 crop", "model.conv_strides"]),
        (DOOR, "learner.weight_decay=-1", ["learner.weight_decay", "0 or more"]),
    ],
)
def test_what_the_environment_does_not_have_is_refused_with_what_it_has(
    preset: str, entry: str, words: list[str]
) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(preset, [entry])
    for word in words:
        assert word in str(error.value)


def test_proprioception_without_layers_of_its_own_is_allowed() -> None:
    settings = load_settings(f"{DOOR}", ["model.proprioception_dims=[]"])
    assert settings.model.observation_dims(32) == 50 + 32
    assert load_settings(DOOR).model.observation_dims(32) == 250
    assert load_settings(DOOR).model.observation_dims() == 50


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(PAPER, ["learner.crop_size=101", "replay.minimum_agent_steps=20"])
    assert len(str(error.value).splitlines()) == 2


def test_the_saved_file_alone_gives_the_same_settings(tmp_path: Path) -> None:
    settings = load_settings("default", ["learner.model_rate=1e-5", "environment.distractions=[]"])
    save_settings(settings, tmp_path / "settings.yaml")
    assert load_settings(tmp_path / "settings.yaml") == settings
    assert "inherits" not in yaml.safe_load((tmp_path / "settings.yaml").read_text())


@pytest.mark.parametrize("system", SYSTEM_SECTIONS)
def test_the_saved_file_has_every_field_with_its_comment(tmp_path: Path, system: str) -> None:
    save_settings(settings_from_dict({"run": {"system": system}}), tmp_path / "settings.yaml")
    text = " ".join((tmp_path / "settings.yaml").read_text().replace("#", "").split())
    for section, kind in sections_of(system).items():
        assert f"{section}:" in text
        for name, item in fields_of(kind).items():
            assert f"{name}:" in text
            assert item.comment in text


@pytest.mark.parametrize("system", SYSTEM_SECTIONS)
def test_every_field_of_every_section_is_commented(system: str) -> None:
    kinds = sections_of(system).items()
    items = [(section, item) for section, kind in kinds for item in fields_of(kind).values()]
    assert not [f"{section}.{item.name}" for section, item in items if not item.comment]


def test_settings_survive_the_way_through_plain_dictionaries() -> None:
    settings = load_settings("core/walker-walk/small")
    plain = settings_to_dict(settings)
    assert settings_from_dict(plain) == settings
    assert plain["model"]["conv_channels"] == list(settings.model.conv_channels)
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain


def test_a_dictionary_in_part_leaves_the_rest_at_the_defaults() -> None:
    settings = settings_from_dict({"learner": {"batch_size": 16}})
    assert settings.learner.batch_size == 16
    assert settings.model == Settings().model


def test_an_unknown_key_in_a_dictionary_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="Did you mean batch_size"):
        settings_from_dict({"learner": {"batchsize": 16}})


def test_override_changes_only_what_it_names() -> None:
    settings = load_settings(PAPER)
    changed = override(settings, ["run.seed=9"])
    assert changed.run.seed == 9
    assert changed.learner == settings.learner


@pytest.mark.parametrize("system", SYSTEM_SECTIONS)
def test_describe_lists_every_setting_with_its_default(system: str) -> None:
    text = describe(system=system)
    for section, kind in sections_of(system).items():
        for name in fields_of(kind):
            assert f"{section}.{name}=" in text
    assert "learner.batch_size=32" in describe("learner")


def test_derived_numbers_follow_the_task() -> None:
    assert load_settings(PAPER).episode_agent_steps == 125
    assert load_settings("core/walker-walk/tiny").episode_agent_steps == 500
    settings = load_settings(PAPER, ["learner.updates_per_agent_step=0.25"])
    assert settings.samples_per_insert == 0.25 * 32 * 32


def test_defaults_that_are_named_are_those_of_the_system(tmp_path: Path) -> None:
    save_settings(load_settings("cvrl", ["run.seed=7"]), tmp_path / "settings.yaml")
    text = (tmp_path / "settings.yaml").read_text()
    assert re.findall(r"(\w+): .*# .*\[(.*)\]$", text, re.MULTILINE) == [("seed", "0")]
    text = describe("environment", "cvrl")
    assert "environment.image_size=64" in text
    assert "environment.name=dcs/walker-walk" in text
