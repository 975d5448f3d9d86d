from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dm_control import suite
from dm_control.mujoco.wrapper import core
from PIL import Image

from actors.environments import distractions, published
from actors.environments.background import LoopingClock, SkyVideo, SwingingClock
from actors.environments.catalog import PAPER_TASKS, find, make_environment
from actors.environments.settings import EnvironmentSettings
from actors.environments.videos import open_videos


def _package(settings: EnvironmentSettings, seed: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The unmodified wrappers of the package, given the seeds of our streams."""
    alias = property(lambda model: model.tex_data)  # the only thing today's MuJoCo lacks
    monkeypatch.setattr(core.MjModel, "tex_rgb", alias, raising=False)
    entry, seeds = find(settings.name), distractions.stream_seeds(seed)
    scale = published.SCALES[settings.difficulty]
    environment: Any = suite.load(entry.domain, entry.task, task_kwargs={"random": seeds["task"]})
    kwargs = published.suite_utils.get_background_kwargs(
        entry.domain, settings.num_videos, settings.dynamic, settings.videos, "train",
        video_alpha=settings.background_blend,
    )  # fmt: skip
    environment = published.background.DistractingBackgroundEnv(
        environment, seed=seeds["background"], **kwargs
    )
    kwargs = published.suite_utils.get_camera_kwargs(entry.domain, scale, settings.dynamic)
    environment = published.camera.DistractingCameraEnv(
        environment, camera_id=0, seed=seeds["camera"], **kwargs
    )
    kwargs = published.suite_utils.get_color_kwargs(scale, settings.dynamic)
    return published.color.DistractingColorEnv(environment, seed=seeds["color"], **kwargs)


@pytest.mark.parametrize(
    ("name", "dynamic", "blend"),
    [
        *((name, True, 1.0) for name in PAPER_TASKS),
        ("dcs/reacher-easy", True, 0.5),
        ("dcs/cartpole-swingup", False, 1.0),
    ],
)
def test_exact_quality_equals_the_published_package(
    name: str,
    dynamic: bool,
    blend: float,
    tmp_path: Path,
    write_video,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for video, num_frames in (("bear", 3), ("bmx-bumps", 5)):
        write_video(tmp_path / video, num_frames)
        (tmp_path / video / "Thumbs.db").unlink()  # the package stops at files that are no pictures
    settings = EnvironmentSettings(
        name=name, difficulty="medium", dynamic=dynamic, videos=str(tmp_path), num_videos=2,
        background_blend=blend, quality="exact",
    )  # fmt: skip
    ours, theirs = make_environment(settings, 11), _package(settings, 11, monkeypatch)
    generator = np.random.default_rng(0)
    # With a blend, the package mixes the second episode over the last frame of the first.
    for _ in range(2 if blend == 1.0 else 1):
        picture, reward = ours.reset().observation, 0.0
        theirs.reset()
        for _ in range(4):
            expected = Image.fromarray(theirs.physics.render(240, 320, camera_id=0))
            np.testing.assert_array_equal(
                picture, np.asarray(expected.resize((100, 100), Image.Resampling.BILINEAR))
            )
            for ours_, theirs_ in (
                (ours.physics.data.cam_xpos, theirs.physics.data.cam_xpos),
                (ours.physics.data.cam_xmat, theirs.physics.data.cam_xmat),
                (ours.physics.model.mat_rgba, theirs.physics.model.mat_rgba),
            ):
                np.testing.assert_array_equal(ours_, theirs_)
            action = generator.uniform(-1, 1, ours.action_spec().shape).astype(np.float32)
            time_step = ours.step(action)
            picture = time_step.observation
            reward = sum(theirs.step(action).reward for _ in range(ours.action_repeat))
            assert time_step.reward == reward
    ours.close()
    theirs.physics.free()


@pytest.mark.parametrize("difficulty", ["none", "medium"])
@pytest.mark.parametrize("name", PAPER_TASKS)
def test_paper_quality_is_within_0_7_grey_levels_of_exact_on_average(
    name: str, difficulty: str
) -> None:
    exact, paper = (
        make_environment(EnvironmentSettings(name=name, difficulty=difficulty, quality=quality), 5)
        for quality in ("exact", "paper")
    )
    differences = []
    for seed in (5, 6, 7):
        exact.reset(seed=seed)
        paper.reset(seed=seed)
        pictures = [each.step(np.full(each.action_spec().shape, 0.4)) for each in (exact, paper)]
        differences.append(
            np.abs(pictures[0].observation.astype(float) - pictures[1].observation).mean()
        )
    assert np.mean(differences) < 0.7 and max(differences) < 1.0
    exact.close()
    paper.close()


def test_fast_quality_shows_the_same_scene_as_exact() -> None:
    settings = [
        EnvironmentSettings(difficulty="medium", quality=quality) for quality in ("exact", "fast")
    ]
    exact, fast = (
        make_environment(setting, 5).reset().observation.astype(float) for setting in settings
    )
    assert np.abs(exact - fast).mean() < 5.0  # 16 to 35 with the frustum of a square picture


def test_the_background_runs_back_at_either_end_and_shows_the_last_frame_twice() -> None:
    clock = SwingingClock(open_videos("procedural", "train", 1, 16), True, 0)
    clock.reset()
    clock.frame, clock.direction = 45, 1
    shown = []
    for _ in range(5):
        clock.tick()
        shown.append(clock.frame)
    assert shown == [46, 47, 47, 46, 45]
    clock.frame, clock.direction = 1, -1
    shown = []
    for _ in range(3):
        clock.tick()
        shown.append(clock.frame)
    assert shown == [0, 1, 2]


def test_a_natural_background_runs_forward_from_its_second_frame_and_starts_over() -> None:
    source = open_videos("procedural", "train", 2, 16)
    clock = LoopingClock(source, True, 0)
    clock.reset()
    shown = [clock.frame]
    for _ in range(len(source.frames(clock.video)) + 1):
        clock.tick()
        shown.append(clock.frame)
    assert shown[:3] == [1, 2, 3] and shown[-3:] == [0, 1, 2]


@pytest.mark.parametrize("kind", [SwingingClock, LoopingClock])
def test_a_static_background_stays_for_the_episode_and_changes_with_it(kind: type) -> None:
    clock = kind(open_videos("procedural", "train", None, 16), False, 0)
    seen = set()
    for _ in range(5):
        clock.reset()
        before = (clock.video, clock.frame)
        clock.tick()
        assert (clock.video, clock.frame) == before
        seen.add(before)
    assert len(seen) > 1


def test_blending_mixes_video_and_sky_by_weight() -> None:
    source = open_videos("procedural", "train", 1, 16)
    clock = SwingingClock(source, True, 0)
    video = SkyVideo(clock, 0.25, np.full((16, 16, 3), 100, np.uint8))
    clock.reset()
    expected = 0.25 * source.frames(0)[clock.frame] + 75.0
    np.testing.assert_allclose(video.texture(), expected, atol=1.0)


def test_each_stream_of_randomness_has_its_own_seed_from_one() -> None:
    seeds = distractions.stream_seeds(2**62 + 5)
    assert len(set(seeds.values())) == 4 and seeds == distractions.stream_seeds(2**62 + 5)
    with pytest.raises(ValueError, match="0 or more"):
        distractions.stream_seeds(-1)
