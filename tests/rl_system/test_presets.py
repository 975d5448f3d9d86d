"""Presets: which there are, what they are composed of, and what a system begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.environments.catalog import NATURAL_TASKS, PAPER_TASKS
from configs import DIRECTORY
from learners.cvrl_settings import CVRLLearnerSettings
from rl_system.config import (
    SettingsError,
    default_settings,
    list_presets,
    load_settings,
    settings_from_dict,
)
from rl_system.presets import SIZES, list_systems
from rl_system.settings import Settings

PAPER = "core/cartpole-swingup/paper"


@pytest.mark.parametrize("preset", list_presets())
def test_every_preset_gives_valid_settings(preset: str) -> None:
    load_settings(preset)


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_a_preset_is_composed_of_system_task_and_size(task: str) -> None:
    name = task.removeprefix("dcs/")
    settings = load_settings(f"core/{name}/paper")
    assert settings.environment.name == task
    assert settings.environment.image_size == 100
    assert settings.learner.crop_size == 84


@pytest.mark.parametrize("task", NATURAL_TASKS)
@pytest.mark.parametrize(("benchmark", "level"), [("natural", "natural"), ("standard", "none")])
def test_cvrl_has_its_ten_tasks_on_both_of_its_benchmarks(
    task: str, benchmark: str, level: str
) -> None:
    settings = load_settings(f"cvrl/{benchmark}/{task.removeprefix('dcs/')}/paper")
    assert settings.run.system == "cvrl"
    assert settings.environment.name == task
    assert settings.environment.difficulty == level
    assert (settings.environment.image_size, settings.action_repeat) == (64, 2)
    assert settings.learner == replace(CVRLLearnerSettings(), precision="float32")


def test_every_system_takes_every_benchmark() -> None:
    distracted = load_settings("cvrl/dcs/cheetah-run/small")
    assert (distracted.environment.difficulty, distracted.action_repeat) == ("medium", 4)
    natural = load_settings("core/natural/cheetah-run/small")
    assert (natural.environment.difficulty, natural.action_repeat) == ("natural", 2)
    assert natural.run.system == "core"
    with pytest.raises(SettingsError, match="Did you mean natural"):
        load_settings("cvrl/naturall/cheetah-run/small")
    with pytest.raises(SettingsError, match="for CoRe alone"):
        load_settings("cvrl/door-panda/small")


def test_the_paper_preset_keeps_the_paper_defaults_of_model_objective_and_behavior() -> None:
    paper, default = load_settings("core/cheetah-run/paper"), Settings()
    for section in ("model", "objective", "behavior"):
        assert getattr(paper, section) == getattr(default, section)
    assert paper.environment.difficulty == "medium"
    assert paper.environment.dynamic


@pytest.mark.parametrize(("robot", "size"), [("panda", 32), ("jaco", 40)])
def test_the_door_is_composed_with_and_without_proprioception(robot: str, size: int) -> None:
    pictures = load_settings(f"core/door-{robot}/paper")
    both = load_settings(f"core/door-{robot}-proprioception/paper")
    for settings in (pictures, both):
        environment = settings.environment
        assert (environment.name, environment.difficulty) == (
            f"robosuite/door-{robot}",
            "randomized",
        )
        assert not environment.dynamic
        assert (environment.image_size, settings.learner.crop_size) == (144, 128)
        assert (settings.action_repeat, settings.episode_agent_steps) == (1, 500)
        assert settings.run.max_simulator_steps == 1_000_000
        assert settings.learner.alpha_beta1 == 0.9
        assert settings.model.conv_strides == (2, 2, 1, 1, 1)
    assert (pictures.proprioception_size, both.proprioception_size) == (0, size)
    assert (pictures.learner.weight_decay, both.learner.weight_decay) == (0.0, 1e-8)
    assert pictures.replay.capacity_agent_steps == 100_000
    assert both.replay.capacity_agent_steps == 200_000


@pytest.mark.parametrize("size", ["small", "tiny"])
def test_smaller_doors_show_the_same_part_of_the_scene_as_the_papers(size: str) -> None:
    settings = load_settings(f"core/door-panda-proprioception/{size}")
    assert settings.learner.crop_size / settings.environment.image_size == pytest.approx(128 / 144)
    assert settings.proprioception_size == 32
    assert (settings.behavior.reward_divisor, settings.objective.reward_scale) == (1.0, 1.0)


def test_the_tasks_of_the_suite_are_composed_without_anything_of_robosuite() -> None:
    settings = load_settings(PAPER)
    assert settings.learner.alpha_beta1 == Settings().learner.alpha_beta1
    assert settings.proprioception_size == 0


def test_a_file_inherits_in_order_and_wins_itself(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("run: {seed: 1, name: base}\nlearner: {batch_size: 8}\n")
    (tmp_path / "mine.yaml").write_text(
        f"inherits: [{PAPER}, base.yaml]\nrun: {{seed: 2}}\nactors:\n"
    )
    settings = load_settings(tmp_path / "mine.yaml")
    assert (settings.run.seed, settings.run.name) == (2, "base")
    assert settings.learner.batch_size == 8
    assert settings.environment.difficulty == "medium"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inherits: [mine.yaml]\n", "inherits itself"),
        ("run: 3\n", "must be a section"),
        ("- 1\n", "must hold sections"),
        ("run: [\n", "no readable YAML"),
        ("inherits: {a: 1}\n", "must be a list"),
        ("inherits: [nothing]\n", "no preset 'nothing'"),
        ("inherits: [nothing.yaml]\n", "no file nothing.yaml"),
    ],
)
def test_a_broken_file_says_what_is_wrong_in_it(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SettingsError, match=words):
        load_settings(tmp_path / "mine.yaml")


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="Did you mean default"):
        load_settings("defalt")
    with pytest.raises(SettingsError, match=r"Did you mean cheetah-run\?"):
        load_settings("core/cheetah-rum/tiny")
    with pytest.raises(SettingsError, match="Did you mean door-panda or"):
        load_settings("core/door-pand/tiny")
    with pytest.raises(SettingsError, match="has no proprioception: name the task cheetah-run"):
        load_settings("core/cheetah-run-proprioception/tiny")


def test_only_what_can_be_trained_as_it_is_is_listed() -> None:
    listed = list_presets()
    assert {"default", *list_systems()} <= set(listed)
    assert {"core/cheetah-run/tiny", "cvrl/natural/walker-walk/paper"} <= set(listed)
    parts = {
        path.relative_to(DIRECTORY).with_suffix("").as_posix()
        for path in DIRECTORY.glob("*/*.yaml")
    }
    assert {"cvrl/tiny", "sac/paper", "benchmarks/natural", "robosuite/task"} <= parts
    assert not parts & set(listed)


def test_a_part_is_inherited_by_name_and_stands_over_the_defaults_of_its_system(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.yaml").write_text("inherits: [sac/tiny, benchmarks/standard]\n")
    settings = load_settings(tmp_path / "mine.yaml")
    assert (settings.run.system, settings.environment.difficulty) == ("sac", "none")
    assert settings.model.conv_channels == (16, 32, 32)
    assert settings.environment.name == default_settings("sac").environment.name


@pytest.mark.parametrize("system", ["cvrl", "sac"])
def test_a_system_named_alone_begins_with_its_own_file(system: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"run: {{system: {system}}}\n")
    settings = load_settings(tmp_path / "mine.yaml")
    assert settings == load_settings(system) == default_settings(system)
    environment = settings.environment
    assert (environment.name, environment.difficulty) == ("dcs/walker-walk", "natural")
    assert environment.image_size == settings.learner.crop_size == 64
    assert settings.action_repeat == 2
    assert settings.replay.sampler == "episodes"


def test_what_is_said_wins_over_the_file_of_the_system() -> None:
    sections = {
        "run": {"system": "cvrl"},
        "environment": {"name": "dcs/cheetah-run", "difficulty": "none"},
    }
    settings = settings_from_dict(sections)
    assert settings.environment.name == "dcs/cheetah-run"
    assert settings.environment.difficulty == "none"
    assert settings.environment.image_size == 64
    assert sections["environment"] == {"name": "dcs/cheetah-run", "difficulty": "none"}


def test_core_named_alone_is_the_program_at_its_defaults() -> None:
    assert settings_from_dict({}) == default_settings() == default_settings("core") == Settings()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("benchmark", ["natural", "standard", "dcs"])
def test_the_released_form_of_cvrl_is_released_at_every_size(benchmark: str, size: str) -> None:
    settings = load_settings(f"cvrl-released/{benchmark}/walker-walk/{size}")
    assert settings.model.observation_code_dims == (400, 200)
    assert settings.model.state_code_dims == (200, 200)
    assert (settings.objective.score, settings.objective.contrastive_state) == ("dot", "whole")
    behavior = settings.behavior
    assert behavior.released_code
    assert (behavior.mpc, behavior.mpc_actions, behavior.mpc_iterations) == (True, "first", 1)
    assert (behavior.log_alpha_init, behavior.learn_temperature) == (0.0, False)


@pytest.mark.parametrize("system", ["cvrl", "cvrl-released", "dreamer", "sac"])
def test_the_papers_size_keeps_every_step_of_its_run(system: str) -> None:
    settings = load_settings(f"{system}/natural/walker-walk/paper")
    limit = settings.run.max_simulator_steps
    assert limit == 5_000_000
    assert settings.replay.capacity_agent_steps * settings.action_repeat == limit


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("benchmark", ["natural", "standard", "dcs"])
def test_cvrl_updates_when_the_random_steps_are_over(benchmark: str, size: str) -> None:
    settings = load_settings(f"cvrl/{benchmark}/walker-walk/{size}")
    assert settings.replay.minimum_agent_steps == settings.actors.random_agent_steps == 2500


def test_the_small_sizes_of_sac_have_one_discount_and_one_scale_of_rewards() -> None:
    tiny, small = (load_settings(f"sac/walker-walk/{size}").behavior for size in ("tiny", "small"))
    assert (tiny.discount, tiny.reward_divisor) == (small.discount, small.reward_divisor)
