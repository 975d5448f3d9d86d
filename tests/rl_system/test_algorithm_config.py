"""Configurations of the systems without Ray: settings, RLlib's fields and search spaces."""

from __future__ import annotations

import re

import pytest
import torch
from ray import tune

from rl_system.algorithm import CONFIGS, CoRe, CoReConfig, CVRLConfig, PixelSACConfig, required_cpus
from rl_system.config import default_settings, load_settings
from rl_system.errors import SettingsError
from rl_system.resources import describe_learners
from tests.rl_system.tiny_run import tiny_config


def test_chained_calls_change_the_settings_and_rllibs_fields_alike() -> None:
    config = (
        CoReConfig()
        .environment("dcs/cartpole-swingup", difficulty="easy")
        .env_runners(num_env_runners=8, num_envs_per_env_runner=2)
        .learners(num_learners=1)
        .learner(batch_size=16)
        .replay(capacity_agent_steps=50_000)
        .objective(kl_scale=0.1)
        .behavior(discount=0.98)
        .model_settings(recurrent_dims=128)
        .evaluation(episodes=3)
        .debugging(seed=5)
    )
    config.validate()
    settings = config.resolved()
    assert (settings.environment.name, settings.environment.difficulty) == (
        "dcs/cartpole-swingup",
        "easy",
    )
    assert (settings.actors.count, settings.actors.environments_per_actor) == (8, 2)
    assert (settings.learner.batch_size, settings.learner.count) == (16, 1)
    assert settings.replay.capacity_agent_steps == 50_000
    assert (settings.objective.kl_scale, settings.behavior.discount) == (0.1, 0.98)
    assert (settings.model.recurrent_dims, settings.evaluation.episodes) == (128, 3)
    assert settings.run.seed == 5
    assert (config.env, config.num_env_runners, config.num_learners, config.seed) == (
        "dcs/cartpole-swingup",
        8,
        1,
        5,
    )


def test_a_configuration_of_settings_gives_them_back() -> None:
    settings = tiny_config().resolved()
    assert CoReConfig.from_settings(settings).resolved() == settings


@pytest.mark.parametrize("config", CONFIGS.values())
def test_a_configuration_begins_with_the_defaults_of_its_system(config: type) -> None:
    assert config().resolved() == default_settings(config.system)


def test_configurations_of_cvrl_and_sac_begin_with_their_pictures() -> None:
    assert CVRLConfig().resolved() == load_settings("cvrl")
    assert PixelSACConfig().resolved() == load_settings("sac")
    changed = CVRLConfig().environment("dcs/cheetah-run").learner(batch_size=8).resolved()
    assert (changed.environment.name, changed.environment.image_size) == ("dcs/cheetah-run", 64)
    assert changed.environment.difficulty == "natural"


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("learner", {"bach_size": 16}, "batch_size"),
        ("lerner", {"batch_size": 16}, "learner"),
        ("environment", {"name": "dcs/cartpole-swing"}, "cartpole-swingup"),
        ("learner", {"count": 2, "batch_size": 15}, "no multiple of learner.count"),
        ("actors", {"count": 0}, "above 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(
    section: str, values: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        CoReConfig().settings_update(**{section: values}).validate()


def test_lock_step_with_several_actors_is_refused() -> None:
    config = (
        CoReConfig().env_runners(num_env_runners=2).settings_update(run={"deterministic": True})
    )
    with pytest.raises(SettingsError, match=r"actors\.count=1"):
        config.validate()


@pytest.mark.parametrize(
    ("values", "instead"),
    [
        ({"lr": 0.5}, "model_rate"),
        ({"gamma": 0.5}, r"behavior\(discount"),
        ({"train_batch_size_per_learner": 8}, "batch_size"),
        ({"shuffle_batch_per_epoch": True}, "no effect"),
    ],
)
def test_rllibs_training_options_are_refused_and_what_to_use_is_named(
    values: dict[str, object], instead: str
) -> None:
    with pytest.raises(SettingsError, match=instead):
        CoReConfig().training(**values)
    if "shuffle_batch_per_epoch" not in values:
        with pytest.raises(SettingsError, match=instead):
            CoReConfig().update_from_dict(values)


@pytest.mark.parametrize(
    ("config", "rates"),
    [
        (CVRLConfig, {"model_rate", "actor_rate", "value_rate", "critic_rate", "alpha_rate"}),
        (PixelSACConfig, {"actor_rate", "critic_rate", "alpha_rate"}),
    ],
)
def test_instead_of_rllibs_rate_the_systems_own_are_named(config: type, rates: set[str]) -> None:
    with pytest.raises(SettingsError) as error:
        config().training(lr=0.5)
    assert set(re.findall(r"\w+_rate", str(error.value))) == rates


def test_a_gpu_that_is_not_there_is_told_at_once() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SettingsError, match=r"learner\.device=cpu"):
        CoReConfig().learner(device="cuda").validate()


def test_more_learners_than_gpus_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = tiny_config().learner(device="cuda", count=2)
    with pytest.raises(SettingsError, match=r"needs 2 GPUs for 2 learners.* 1: .*count=1"):
        config.validate()
    config.learners(num_gpus_per_learner=0.5).validate()


@pytest.mark.parametrize(
    ("count", "gpus", "said"),
    [(0, 0, "1 on cpu, inside the driver"), (2, 0, "2 on cpu"), (1, 1, "1 on cuda")],
)
def test_how_many_learners_there_are_and_on_what_is_said(
    count: int, gpus: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    settings = tiny_config().learner(count=count, device="auto").resolved()
    assert describe_learners(settings) == said


def test_a_number_of_gpus_given_to_rllib_is_kept() -> None:
    config = tiny_config().learners(num_gpus_per_learner=0.5)
    config.validate()
    assert config.num_gpus_per_learner == 0.5
    copied = CoReConfig().update_from_dict(config.to_dict())
    copied.validate()
    assert copied.num_gpus_per_learner == 0.5


def test_auto_takes_a_gpu_where_torch_sees_one_before_ray_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = tiny_config().learner(device="auto")
    config.validate()
    assert config.num_gpus_per_learner == 1


def test_a_dictionary_changes_only_what_it_names() -> None:
    config = tiny_config().update_from_dict({"settings": {"learner": {"batch_size": 8}}})
    assert config.resolved().learner.batch_size == 8
    assert config.resolved().learner.sequence_length == 8


def test_a_search_space_may_stand_anywhere_until_it_is_resolved() -> None:
    config = tiny_config().learner(model_rate=tune.choice([1e-3]), batch_size=8)
    assert "model_rate" in config.to_dict()["settings"]["learner"]
    with pytest.raises(SettingsError, match="model_rate"):
        config.resolved()


def test_every_shard_has_a_bundle_of_its_own_behind_the_others() -> None:
    config = tiny_config()
    request = CoRe.default_resource_request(config.to_dict())
    settings = config.resolved()
    assert request.bundles[-2:] == [{"CPU": settings.replay.cpus_per_shard}] * 2
    # Driver, one actor, one learner: the driver's must not be empty, or Tune drops it.
    assert len(request.bundles) == 5
    assert request.bundles[0]["CPU"] > 0
    assert sum(b.get("CPU", 0) for b in request.bundles) == pytest.approx(required_cpus(settings))


def test_health_probes_do_not_hold_up_the_driver() -> None:
    assert CoReConfig().env_runner_health_probe_timeout_s <= 0.1


def test_the_name_of_a_preset_is_not_taken_for_settings() -> None:
    with pytest.raises(SettingsError, match="load_settings"):
        CoReConfig.from_settings("core/cartpole-swingup/tiny")  # type: ignore[arg-type]
