from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from actors.environments.catalog import find, make_environment
from actors.environments.distractions import stream_seeds
from actors.environments.settings import EnvironmentSettings
from benchmarks import environment, moving_pictures
from benchmarks.peers import distracting_suite


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_pictures.write(tmp_path_factory.mktemp("videos"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["dcs/cheetah-run", "dcs/walker-walk"])
def test_from_one_seed_exact_draws_the_packages_pictures_and_paper_nearly(
    name: str, videos: Path
) -> None:
    entry = find(name)
    package = distracting_suite.PackageEnvironment(
        entry.domain,
        entry.task,
        videos,
        stream_seeds(5),
        action_repeat=entry.action_repeat,
        image_size=84,
    )
    exact, paper = (
        make_environment(
            EnvironmentSettings(
                name=name, difficulty="medium", image_size=84, quality=quality, videos=str(videos)
            ),
            5,
        )
        for quality in ("exact", "paper")
    )
    action = np.full(entry.action_dims, 0.4)
    pictures = [(package.reset(), exact.reset().observation, paper.reset().observation)]
    pictures += [
        (package.step(action), exact.step(action).observation, paper.step(action).observation)
        for _ in range(2)
    ]
    for reference, same, near in pictures:
        np.testing.assert_array_equal(same, reference)
        assert 0.0 < np.abs(near.astype(int) - reference).mean() <= 0.7
    for made in (package, exact, paper):
        made.close()


def test_made_up_videos_have_the_published_names_and_sizes(videos: Path) -> None:
    folders = sorted(path.name for path in videos.iterdir())
    assert folders[:2] == ["bear", "bmx-bumps"] and len(folders) == 8
    assert len(list((videos / "bear").glob("*.jpg"))) == moving_pictures.NUM_FRAMES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "dcs/cheetah-runs"], "dcs/cheetah-run"),
        (["--tasks", "robosuite/door-panda"], "no task of the package"),
        (["--videos", "/nowhere"], "/nowhere"),
    ],
)
def test_a_mistake_of_the_user_is_one_message_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert environment.main([*arguments, "--seconds", "0"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_last_line_is_one_object_with_the_promised_ratios(
    videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--json", "--seconds", "0", "--size", "64", "--videos", str(videos)]
    assert environment.main([*given, "--tasks", "dcs/cheetah-run"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(result) == {"machine", "figures", "ratios"}
    ratios = result["ratios"]
    assert set(environment.RATIOS) <= set(ratios)
    assert ratios["walker_paper"] is None  # was not among the tasks
    assert ratios["cheetah_exact"] > 2.0 and ratios["cheetah_paper"] > ratios["cheetah_exact"]
    assert ratios["reset_paper"] > 5.0
    task = result["figures"]["tasks"]["dcs/cheetah-run"]
    assert task["difference_grey_levels"]["exact"]["worst_picture"] == 0.0
    assert task["difference_grey_levels"]["paper"]["mean"] <= 0.7
    step = task["physics_only"]["step"]["cpu_ms"]
    assert step["q1"] <= step["median"] <= step["q3"] < task["fast"]["step"]["cpu_ms"]["median"]
