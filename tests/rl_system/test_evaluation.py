from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from actors.environments.settings import EnvironmentSettings, view_of
from rl_system.config import load_settings
from rl_system.errors import RunError
from rl_system.evaluation import EvaluationResult, evaluate, shown_at
from rl_system.settings import Settings


class ConstantPolicy:
    """Acts by how often it was asked in this episode; remembers what it saw."""

    def __init__(self) -> None:
        self.explored: list[bool] = []
        self.batches: list[int] = []
        self.first: list[np.ndarray] = []

    def initial_state(self, count: int, /) -> np.ndarray:
        return np.zeros(count)

    def act(
        self, observation: np.ndarray, state: np.ndarray, is_first: np.ndarray, explore: bool, /
    ) -> tuple[np.ndarray, np.ndarray]:
        self.explored.append(explore)
        self.batches.append(len(observation))
        if is_first.all():
            assert (state == 0).all()
            self.first.append(observation.copy())
        return np.full((len(observation), 1), np.cos(state[0] / 5), np.float32), state + 1


@pytest.fixture
def settings() -> Settings:
    settings = load_settings(
        "core/cartpole-swingup/tiny",
        ["environment.difficulty=none", "environment.action_repeat=50", "evaluation.episodes=3",
         "learner.sequence_length=8"],
    )  # fmt: skip
    return replace(settings, evaluation=replace(settings.evaluation, parallel_episodes=2))


def test_as_many_whole_episodes_are_played_as_were_asked_for(settings: Settings) -> None:
    policy = ConstantPolicy()
    result = evaluate(policy, settings, episodes=3)
    assert len(result.returns) == 3
    assert result.agent_steps == 3 * 20
    assert policy.batches == [2] * 20 + [1] * 20
    assert policy.explored == [False] * 40
    assert result.mean == pytest.approx(np.mean(result.returns))
    assert result.se == pytest.approx(np.std(result.returns, ddof=1) / np.sqrt(3))


def test_one_episode_says_that_it_has_no_standard_error() -> None:
    one = EvaluationResult((3.0,), 20, "none", "held_out")
    assert str(one) == "3.0 (one episode, so no standard error; difficulty none)"
    two = EvaluationResult((3.0, 5.0), 40, "easy", "held_out")
    said = "4.0 ± 1.0 (mean ± s.e. of 2 episodes, difficulty easy, held_out videos)"
    assert str(two) == said


def test_the_same_seed_gives_the_same_episodes_and_another_seed_others(settings: Settings) -> None:
    again, other = ConstantPolicy(), ConstantPolicy()
    first = ConstantPolicy()
    returns = evaluate(first, settings, seed=1).returns
    assert evaluate(again, settings, seed=1).returns == returns
    np.testing.assert_array_equal(first.first[0], again.first[0])
    assert evaluate(other, settings, seed=2).returns != returns


def test_settings_say_how_many_episodes_and_arguments_win(settings: Settings) -> None:
    assert len(evaluate(ConstantPolicy(), settings).returns) == 3
    policy = ConstantPolicy()
    assert len(evaluate(policy, settings, episodes=1, explore=True).returns) == 1
    assert all(policy.explored)
    with pytest.raises(ValueError, match="at least one"):
        evaluate(ConstantPolicy(), settings, episodes=0)


def test_a_difficulty_shows_distractions_that_training_did_not_have(settings: Settings) -> None:
    clean, distracted = ConstantPolicy(), ConstantPolicy()
    evaluate(clean, settings, episodes=1)
    result = evaluate(distracted, settings, episodes=1, difficulty="easy")
    assert result.difficulty == "easy"
    assert not np.array_equal(clean.first[0], distracted.first[0])


def test_another_difficulty_keeps_the_trained_action_repeat(settings: Settings) -> None:
    environment = replace(settings.environment, difficulty="natural", action_repeat=None)
    trained = replace(settings, environment=environment)
    assert trained.action_repeat == 2  # cartpole's own is 8
    result = evaluate(ConstantPolicy(), trained, episodes=1, difficulty="none")
    assert result.agent_steps == 500
    assert shown_at(environment, "natural") is environment


def test_another_difficulty_comes_at_its_own_range() -> None:
    trained = EnvironmentSettings(difficulty="medium", intensity=0.15)
    assert shown_at(trained, "medium").intensity == 0.15
    for difficulty in ("none", "hard", "background60"):
        shown = shown_at(trained, difficulty)
        assert (shown.difficulty, shown.intensity) == (difficulty, None)
        back = replace(shown, difficulty="medium", intensity=0.15)
        assert replace(back, action_repeat=None, view=None) == trained


@pytest.mark.parametrize(("trained", "view"), [("natural", "square"), ("none", "wide")])
def test_another_difficulty_keeps_the_trained_view(trained: str, view: str) -> None:
    environment = EnvironmentSettings(difficulty=trained)
    for difficulty in ("none", "natural", "hard"):
        assert view_of(shown_at(environment, difficulty)) == view


def test_held_out_videos_are_not_those_of_training(settings: Settings) -> None:
    held_out, trained = ConstantPolicy(), ConstantPolicy()
    evaluate(held_out, settings, "held_out", episodes=1, difficulty="easy")
    evaluate(trained, settings, "train", episodes=1, difficulty="easy")
    assert not np.array_equal(held_out.first[0], trained.first[0])


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_the_first_episode_is_filmed_as_fast_as_the_world(
    settings: Settings, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / "videos" / f"film.{ending}"
    result = evaluate(ConstantPolicy(), settings, episodes=2, video_path=path)
    assert result.video == path
    frames = imageio.mimread(path, memtest=False)
    assert len(frames) == 20  # 10 simulated seconds at 0.5 s a step
    assert frames[0].shape[:2] == (240, 320 + 240)


def test_a_film_stops_after_the_seconds_that_were_asked_for(
    settings: Settings, tmp_path: Path
) -> None:
    short = replace(settings, evaluation=replace(settings.evaluation, video_seconds=2.0))
    evaluate(ConstantPolicy(), short, episodes=1, video_path=tmp_path / "film.gif")
    assert len(imageio.mimread(tmp_path / "film.gif", memtest=False)) == 4
    without = replace(settings, evaluation=replace(settings.evaluation, video_seconds=0.0))
    result = evaluate(ConstantPolicy(), without, episodes=1, video_path=tmp_path / "none.gif")
    assert result.video is None


class LatePolicy(ConstantPolicy):
    """Lets a day pass by `clock` in each step, from round `late` of episodes on."""

    def __init__(self, late: int) -> None:
        super().__init__()
        self.late = late
        self.passed_s = 0.0
        self._real = time.monotonic

    def clock(self) -> float:
        return self._real() + self.passed_s

    def act(
        self, observation: np.ndarray, state: np.ndarray, is_first: np.ndarray, explore: bool, /
    ) -> tuple[np.ndarray, np.ndarray]:
        action, after = super().act(observation, state, is_first, explore)
        if len(self.first) > self.late:
            self.passed_s += 86_400.0
        return action, after


def test_an_evaluation_at_its_deadline_keeps_the_episodes_that_ended(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = evaluate(ConstantPolicy(), settings, episodes=5)
    policy = LatePolicy(late=1)
    monkeypatch.setattr(time, "monotonic", policy.clock)
    late = evaluate(policy, settings, episodes=5, timeout_s=3600.0)
    assert late.returns == whole.returns[:2]
    assert "Only 2 of 5 episodes ended within 3600 s" in caplog.text


def test_an_evaluation_without_an_ended_episode_names_the_setting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = LatePolicy(late=0)
    monkeypatch.setattr(time, "monotonic", policy.clock)
    with pytest.raises(RunError, match=r"raise evaluation\.timeout_s"):
        evaluate(policy, settings, episodes=2, timeout_s=3600.0)


def test_a_result_reads_as_a_sentence() -> None:
    result = EvaluationResult((1.0, 3.0), 250, "none", "held_out")
    assert str(result).startswith("2.0 ± 1.0 (mean ± s.e. of 2 episodes")
    assert result.metrics()["return_max"] == 3.0
