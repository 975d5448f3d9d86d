from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import representation, representation_experiment
from benchmarks.representation_episodes import (
    CLEAN,
    HELD_OUT,
    QUANTITIES,
    START_RANGES,
    TRAINED_ON,
    Episodes,
    collect,
    load,
    save,
    smooth_actions,
    start_states,
)
from benchmarks.representation_experiment import ARMS, Experiment, Run, Setup, plan
from benchmarks.representation_probe import ALPHAS, RidgeProbe, filter_episodes, r2
from benchmarks.representation_table import COLUMNS, report, table

# isort: split
import torch

TINY = Setup(
    updates=4,
    episodes=6,
    test_episodes=5,
    agent_steps=14,
    batch_size=2,
    sequence_length=5,
)
RUN = Run("contrastive", TRAINED_ON, 0)


@pytest.fixture(scope="module")
def sets() -> dict[str, Episodes]:
    counts = {"train": TINY.episodes, "test": TINY.test_episodes}
    return {
        name: collect(name, count, TINY.agent_steps, TINY.action_repeat, num_videos=1)
        for name, count in counts.items()
    }


@pytest.fixture
def folder(sets: dict[str, Episodes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of an experiment whose episodes are there, with a checkpoint after every two updates."""
    monkeypatch.setattr(representation_experiment, "CHECKPOINT_UPDATES", 2)
    monkeypatch.setattr(representation_experiment, "TEST_BATCHES", 2)
    for name, episodes in sets.items():
        save(episodes, tmp_path / "episodes" / name)
    return tmp_path


class TestEpisodes:
    def test_start_states_have_one_in_each_part_of_every_range(self) -> None:
        starts, (low, high) = start_states(40, seed=3), np.array(START_RANGES).T
        parts = np.floor((starts - low) / (high - low) * 40).astype(int)
        assert all(sorted(column) == list(range(40)) for column in parts.T)
        assert abs(np.corrcoef(starts.T) - np.eye(4)).max() < 0.5  # no coordinate follows another
        assert not np.isin(starts, start_states(40, seed=4)).any()

    def test_actions_are_smooth_and_drive_neither_way(self) -> None:
        actions = smooth_actions(200, 60, seed=0)
        assert actions.shape == (200, 60, 1) and actions.dtype == np.float32
        assert abs(actions).max() <= 1.0 and 0.3 < actions.std() < 0.5
        assert abs(actions.mean()) < 1e-6
        assert np.corrcoef(actions[:, 1:].ravel(), actions[:, :-1].ravel())[0, 1] > 0.8

    def test_pictures_of_a_set_show_the_same_trajectories(self, sets: dict[str, Episodes]) -> None:
        test = sets["test"].pictures
        robot = test[CLEAN][..., 0] > 100  # the pixels that Natural MuJoCo keeps
        assert 0.003 < robot.mean() < 0.1
        for kind in (TRAINED_ON, HELD_OUT):
            assert np.array_equal(test[kind][robot], test[CLEAN][robot])
        apart = (test[TRAINED_ON] != test[HELD_OUT]).any(-1)
        assert apart[~robot].mean() > 0.95

    def test_states_are_those_of_the_pictures(self, sets: dict[str, Episodes]) -> None:
        train = sets["train"]
        assert train.states[:, 0, 0] == pytest.approx(start_states(6, seed=1)[:, 0], abs=1e-6)
        assert np.hypot(train.states[..., 1], train.states[..., 2]) == pytest.approx(1.0)
        # One agent step is 0.02 s: positions follow velocities.
        moved = np.diff(train.states[..., 0], axis=1) / 0.02
        assert np.corrcoef(moved.ravel(), train.states[:, 1:, 3].ravel())[0, 1] > 0.98
        # Columns where most of the rows of the rail are lit: the cart, not the thin pole.
        lit = (train.pictures[CLEAN][:, 0, 29:35, :, 0] > 100).sum(1) >= 3
        found = [np.flatnonzero(row).mean() for row in lit]
        assert np.corrcoef(found, train.states[:, 0, 0])[0, 1] > 0.95

    def test_both_sets_have_the_same_distribution_of_states(self) -> None:
        train, test = (
            collect(name, count, 20, 4, image_size=8, num_videos=1).states.reshape(-1, 5)
            for name, count in (("train", 60), ("test", 40))
        )
        scores = r2(np.broadcast_to(train.mean(0), test.shape), test)
        assert (scores > -0.05).all() and (scores <= 0.0).all()
        assert train.std(0) == pytest.approx(test.std(0), rel=0.15)

    def test_a_saved_set_is_loaded_as_it_was(
        self, sets: dict[str, Episodes], tmp_path: Path
    ) -> None:
        save(sets["test"], tmp_path / "test")
        found = load(tmp_path / "test")
        assert list(tmp_path.iterdir()) == [tmp_path / "test"]
        assert found.pictures.keys() == sets["test"].pictures.keys()
        assert np.array_equal(found.pictures[HELD_OUT], sets["test"].pictures[HELD_OUT])
        assert np.array_equal(found.rewards, sets["test"].rewards)

    def test_windows_are_cut_from_one_episode_each(self, sets: dict[str, Episodes]) -> None:
        train = sets["train"]
        batch = train.windows(CLEAN, 8, 5, seed=[1, 2])
        assert batch["observation"].shape == (5, 8, 64, 64, 3)
        rewards = np.lib.stride_tricks.sliding_window_view(train.rewards, 5, axis=1)
        for window in range(8):
            episode, at = np.argwhere((rewards == batch["reward"][:, window]).all(-1))[0]
            cut = slice(at, at + 5)
            assert np.array_equal(batch["action"][:, window], train.actions[episode, cut])
            pictures = train.pictures[CLEAN][episode, cut]
            assert np.array_equal(batch["observation"][:, window], pictures)
        other = train.windows(TRAINED_ON, 8, 5, seed=[1, 2])
        assert np.array_equal(batch["action"], other["action"])


class TestProbe:
    def _linear(self, noise: float) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(0)
        states = generator.standard_normal((40, 25, 6)) * [1, 10, 0.1, 1, 1, 0] + 3.0
        truth = states @ generator.standard_normal((6, 2)) + 5.0
        return states, truth + noise * generator.standard_normal(truth.shape)

    def test_a_linear_map_is_found(self) -> None:
        states, truth = self._linear(noise=0.0)
        probe = RidgeProbe.fit(states[:30], truth[:30])
        assert probe.score(states[30:], truth[30:]) == pytest.approx([1.0, 1.0], abs=1e-6)
        assert probe.predict(states[35]) == pytest.approx(truth[35], abs=1e-2)

    def test_noise_bounds_what_is_found(self) -> None:
        states, truth = self._linear(noise=4.0)
        share = 1.0 - 16.0 / truth.reshape(-1, 2).var(0)
        probe = RidgeProbe.fit(states[:30], truth[:30])
        assert probe.score(states[30:], truth[30:]) == pytest.approx(share, abs=0.1)

    def test_what_is_not_there_is_not_found_and_has_the_largest_penalty(self) -> None:
        generator = np.random.default_rng(1)
        # Ten episodes with a constant quantity each: leaving out steps would not show the overfit.
        states = np.repeat(generator.standard_normal((10, 1, 50)), 20, 1)
        truth = np.repeat(generator.standard_normal((10, 1, 1)), 20, 1)
        probe = RidgeProbe.fit(states, truth)
        assert probe.alphas[0] >= ALPHAS[-3]
        other = generator.standard_normal((10, 20, 50)), generator.standard_normal((10, 20, 1))
        assert -0.5 < probe.score(*other)[0] < 0.1

    def test_too_few_episodes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"4 episodes .* 5 folds.*--episodes"):
            RidgeProbe.fit(np.zeros((4, 3, 2)), np.zeros((4, 3, 1)))

    def test_r2_is_one_for_the_truth_and_zero_for_its_mean(self) -> None:
        truth = np.random.default_rng(0).standard_normal((50, 3))
        assert r2(truth, truth) == pytest.approx([1.0] * 3)
        assert r2(np.broadcast_to(truth.mean(0), truth.shape), truth) == pytest.approx([0.0] * 3)

    def test_states_of_an_episode_do_not_depend_on_those_after_it(
        self, folder: Path, sets: dict[str, Episodes]
    ) -> None:
        agent = Experiment(folder, TINY)._begin(ARMS["contrastive"], seed=0).agent
        pictures, actions = sets["test"].pictures[CLEAN], sets["test"].actions
        states = filter_episodes(agent, pictures, actions)
        assert states.shape == (5, 14, 16 + 64) and states.dtype == np.float32
        # Noise is drawn for all steps at once, so an episode is not cut but changed at its end.
        changed = pictures.copy()
        changed[:, 9:] = 0
        again = filter_episodes(agent, changed, actions)
        assert np.array_equal(states[:, :9], again[:, :9])
        assert not np.allclose(states[:, 9:], again[:, 9:])


def _without_clocks(result: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in result.items() if name not in ("cpu_s", "wall_s")}
    training = {
        name: value
        for name, value in result["figures"]["training"].items()
        if not name.endswith("_s_per_update")
    }
    return kept | {"figures": result["figures"] | {"training": training}}


class TestExperiment:
    def test_a_killed_training_goes_on_to_the_same_result(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = Experiment(folder, TINY).make(RUN)
        for path in (folder / "runs").iterdir():
            path.unlink()
        step, made = representation_experiment.ModelUpdate.step, []

        def step_until_killed(update: Any, batch: Any) -> Any:
            if len(made) == 3:
                raise KeyboardInterrupt
            made.append(update.updates)
            return step(update, batch)

        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr(representation_experiment.ModelUpdate, "step", step_until_killed)
            Experiment(folder, TINY).make(RUN)
        assert Experiment(folder, TINY).result(RUN) is None
        made.clear()

        def step_and_count(update: Any, batch: Any) -> Any:
            made.append(update.updates)
            return step(update, batch)

        monkeypatch.setattr(representation_experiment.ModelUpdate, "step", step_and_count)
        resumed = Experiment(folder, TINY).make(RUN)
        assert made == [2, 3]  # the third was lost with the kill
        assert _without_clocks(resumed) == _without_clocks(whole)

    def test_a_finished_run_is_not_made_again(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = Experiment(folder, TINY).make(RUN)
        monkeypatch.setattr(representation_experiment.ModelUpdate, "step", None)
        assert Experiment(folder, TINY).make(RUN) == made

    def test_training_changes_the_model_alone(self, folder: Path) -> None:
        experiment = Experiment(folder, TINY)
        begun = experiment._begin(ARMS["generative"], seed=0).agent
        trained = experiment._train(Run("generative", CLEAN, 0))[0].agent
        changed = [
            name
            for name, value in begun.named_parameters()
            if not torch.equal(value, trained.get_parameter(name))
        ]
        assert all(name.startswith("model.") for name in changed)
        # Below the free nats the prior learns nothing yet.
        for part in ("encoder", "rssm.cell", "rssm.posterior_head", "reward", "observation_term"):
            assert any(name.startswith(f"model.{part}") for name in changed), part

    @pytest.mark.parametrize("arm", ARMS)
    def test_every_arm_gives_figures_of_its_tests(self, folder: Path, arm: str) -> None:
        result = Experiment(folder, TINY).make(Run(arm, TRAINED_ON, 1))
        assert list(result["figures"]) == ["training", TRAINED_ON, HELD_OUT]
        for tested_on, figures in result["figures"].items():
            assert {f"r2/{name}" for name in QUANTITIES} <= figures.keys()
            assert np.isfinite(list(figures.values())).all()
            if tested_on != "training":
                term = "reconstruction" if arm == "generative" else "contrastive"
                assert {f"loss/{term}", "kl/nats"} <= figures.keys()
        assert len(result["curve"]) == (0 if arm == "untrained" else 2)
        assert ("wall_s_per_update" in result["figures"]["training"]) == (arm != "untrained")

    def test_a_clean_model_is_tested_on_clean_pictures(self, folder: Path) -> None:
        result = Experiment(folder, TINY).make(Run("untrained", CLEAN, 0))
        assert list(result["figures"]) == ["training", CLEAN]

    def test_other_numbers_in_the_same_folder_are_refused(self, folder: Path) -> None:
        Experiment(folder, TINY)
        with pytest.raises(ValueError, match=r"begun with \{'updates': 4,.*another --out"):
            Experiment(folder, Setup())

    def test_a_report_says_that_it_is_partial_until_all_runs_are_there(self, folder: Path) -> None:
        experiment = Experiment(folder, TINY)
        runs = plan(["untrained"], [0, 1])
        for run in runs[:3]:
            experiment.make(run)
        summary = report(experiment, runs, "command")
        assert summary["partial"] and summary["missing"] == ["untrained-clean-1"]
        assert json.loads((folder / "representation.json").read_text()) == summary
        with (folder / "representation.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {row["partial"] for row in rows if row["pictures"] == TRAINED_ON} == {"False"}
        assert {row["partial"] for row in rows if row["pictures"] == CLEAN} == {"True"}
        experiment.make(runs[3])
        assert not report(experiment, runs, "command")["partial"]


class TestTable:
    def test_rows_are_means_with_standard_errors(self) -> None:
        runs = [Run("contrastive", CLEAN, seed) for seed in range(4)]
        values = [0.5, 0.7, 0.9]
        results: list[Any] = [{"figures": {CLEAN: {"r2/pole_sine": value}}} for value in values]
        (row,) = table(runs, [*results, None])
        assert tuple(row) == COLUMNS
        assert row["mean"] == pytest.approx(0.7)
        assert row["standard_error"] == pytest.approx(0.2 / 3**0.5)
        assert row["seeds"] == 3 and row["partial"]
        assert not table(runs[:3], results)[0]["partial"]

    def test_one_seed_has_no_standard_error(self) -> None:
        (row,) = table([RUN], [{"figures": {TRAINED_ON: {"kl/nats": 3.0}}}])
        assert row["standard_error"] is None and not row["partial"]

    def test_no_result_gives_no_row(self) -> None:
        assert table([RUN], [None]) == []

    def test_all_arms_of_a_seed_come_before_the_next_and_the_released_form_last(self) -> None:
        runs = plan(tuple(ARMS), (0, 1))
        assert [run.name for run in runs[:3]] == [
            "contrastive-natural-0",
            "generative-natural-0",
            "untrained-natural-0",
        ]
        assert [run.seed for run in runs] == [0] * 6 + [1] * 6 + [0, 0, 1, 1]
        assert {run.arm for run in runs[12:]} == {"released"}


class TestMain:
    def test_the_command_makes_tables_and_one_line_of_json(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = ["--out", str(folder), "--arms", "untrained", "--seeds", "3", "--json"]
        given += ["--updates", "4", "--episodes", "6", "--test-episodes", "5"]
        given += ["--agent-steps", "14", "--batch-size", "2", "--sequence-length", "5"]
        assert representation.main(given) == 0
        lines = capsys.readouterr().out.splitlines()
        found = json.loads(lines[-1])
        assert found.keys() == {"machine", "figures", "ratios"} and not found["figures"]["partial"]
        assert "PARTIAL: 1 runs are missing." in lines
        assert (folder / "representation.csv").exists()
        assert representation.main(given) == 0  # nothing is left to do: the table once
        again = capsys.readouterr().out.splitlines()
        assert sum(line == "R2" for line in again) == 1
        assert json.loads(again[-1])["figures"]["rows"] == found["figures"]["rows"]

    def test_an_unknown_arm_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            representation.main(["--out", "nowhere", "--arms", "contrastive,denoising"])
        assert "no arm is called denoising; choose from contrastive" in capsys.readouterr().err
