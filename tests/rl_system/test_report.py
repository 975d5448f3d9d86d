from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rl_system.config import load_settings, save_settings
from rl_system.errors import UserError
from rl_system.report import write_report
from rl_system.report.runs import changed_settings, group_by_settings, load_run
from rl_system.run_directory import RunDirectory, write_json


def make_run(
    root: Path, name: str, *overrides: str, level: float = 100.0, settings: bool = True
) -> Path:
    path = root / name
    path.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {
            "agent_steps": 100 * index, "simulator_steps": 800 * index, "updates": 50 * index,
            "episodes": index, "elapsed_s": 5.0 * index, "train/return_mean": level + index,
            "train/return_se": 2.0, "loss/contrastive": 5.0 - index / 10,
            "contrastive/log_pairs": 5.48, "rate/updates_per_s": 10.0,
        }
        for index in range(1, 20)
    ]  # fmt: skip
    lines[9] |= {"eval/return_mean": level + 5, "eval/return_se": 1.0}
    lines[-1] |= {"eval/return_mean": level + 9, "eval/return_se": 1.5}
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if settings:
        save_settings(load_settings("default", overrides), path / "settings.yaml")
    return path


def test_a_report_needs_only_the_lines_of_metrics(tmp_path: Path) -> None:
    path = make_run(tmp_path, "old-seed3", settings=False)
    text = write_report([path], tmp_path / "report.html").read_text()
    assert "109 ± 2" in text
    assert "<h1>old-seed3</h1>" in text


def test_a_report_is_one_file_that_loads_nothing_else(tmp_path: Path) -> None:
    path = make_run(tmp_path, "run")
    (path / "videos").mkdir()
    (path / "videos" / "final.mp4").write_bytes(b"film")
    record = {
        "name": "final", "difficulty": "none", "split": "held_out", "mean": 1.0, "se": 0.1,
        "returns": [1.0], "video": "videos/final.mp4",
    }  # fmt: skip
    RunDirectory(path).note(
        evaluations=[record], machine={"cpus": 2}, versions={"ray": "2.60.0"}, command=["a", "<b>"]
    )
    text = write_report([path], path / "report.html").read_text()
    assert "data:video/mp4;base64,ZmlsbQ==" in text
    assert "2.60.0" in text
    assert "a &lt;b&gt;" in text
    assert 'src="http' not in text
    assert "href=" not in text


def test_one_episode_is_reported_without_a_standard_error(tmp_path: Path) -> None:
    path = make_run(tmp_path, "run")
    line = {"eval/return_mean": 77.0, "eval/return_se": 0.0, "eval/episodes": 1}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line))
    text = write_report([path], path / "report.html").read_text()
    assert "one episode: no standard error" in text
    assert "77 ±" not in text


def test_a_report_says_how_many_learners_trained(tmp_path: Path) -> None:
    path = make_run(tmp_path, "run")
    RunDirectory(path).note(machine={"cpus": 2}, learners="2 on cpu")
    assert "2 on cpu" in write_report([path], path / "report.html").read_text()


def test_a_report_says_when_pictures_had_no_shadows(tmp_path: Path) -> None:
    for quality in ("fast", "paper"):
        path = make_run(tmp_path / quality, "run", f"environment.quality={quality}")
        text = write_report([path], path / "report.html").read_text()
        assert ("pictures without shadows (quality fast)" in text) == (quality == "fast")


def test_a_comparison_says_when_some_pictures_had_no_shadows(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / quality, "run", f"environment.quality={quality}")
        for quality in ("fast", "paper")
    ]
    text = write_report(paths, tmp_path / "report.html").read_text()
    assert "some pictures without shadows (quality fast)" in text


def test_the_best_trivial_policy_is_named_with_the_ratio(tmp_path: Path) -> None:
    path = make_run(tmp_path, "run")
    write_json(path / "trivial.json", {"zero": [50.0, 1.0], "random": [20.0, 1.0]})
    text = write_report([path], tmp_path / "report.html").read_text()
    assert "zero; the policy has 2.2 times this" in text
    assert "zero 50 ± 1, random 20 ± 1" in text


def test_runs_that_differ_in_their_seed_alone_are_taken_together(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path, f"a-seed{seed}", f"run.seed={seed}", level=100.0 + 10 * seed)
        for seed in range(3)
    ]
    paths.append(make_run(tmp_path, "b", "learner.batch_size=8"))
    groups = group_by_settings([load_run(path) for path in paths])
    assert [len(group.runs) for group in groups] == [3, 1]
    final = groups[0].final()
    assert final is not None
    mean, error, count = final
    assert (mean, count) == (119.0, 3)
    assert error == pytest.approx(10.0 / np.sqrt(3))
    assert groups[1].label == "batch_size=8"
    text = write_report(paths, tmp_path / "all.html").read_text()
    assert "119.0 ± 5.8" in text


def test_the_curve_of_several_seeds_is_their_mean_and_standard_error(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path, f"a{seed}", f"run.seed={seed}", level=100.0 + 10 * seed)
        for seed in range(2)
    ]
    (group,) = group_by_settings([load_run(path) for path in paths])
    curve = group.curve("train/return_mean")
    assert curve is not None
    np.testing.assert_allclose(curve.mean, 105.0 + curve.x / 100.0)
    np.testing.assert_allclose(curve.se, 5.0)
    assert group.curve("no/such") is None


def test_only_settings_away_from_their_defaults_count_as_changed() -> None:
    from rl_system.config import settings_to_dict

    plain = settings_to_dict(load_settings("core/cheetah-run/paper", ["run.seed=4"]))
    changed = changed_settings(plain)
    assert changed["run.seed"] == (4, 0)
    assert "model.latent_dims" not in changed


def test_a_run_without_metrics_cannot_be_reported(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="nothing to report"):
        write_report([tmp_path], tmp_path / "report.html")
