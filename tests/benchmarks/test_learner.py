from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import learner
from benchmarks.learner_figures import make_result
from benchmarks.learner_measurement import Measured, make_variants
from benchmarks.learner_profile import PHASES
from benchmarks.learner_subject import SIZES
from benchmarks.learner_table import print_tables
from benchmarks.learner_trial import Trial
from benchmarks.rounds import Timing
from rl_system.config import load_settings

ROOT = Path(__file__).parents[2]
VARIANTS = (
    "reference",
    "reference_keeping",
    "sequential_float32",
    "sequential_bfloat16",
    "fused_float32",
    "fused_bfloat16",
)
QUICK = ("--size", "tiny", "--quick", "--threads", "1", "--device", "cpu", "--json")
# Third parties that the benchmark may import: torch, NumPy, and what comes with torch.
ALLOWED = (
    "torch", "torchgen", "functorch", "numpy", "typing_extensions", "sympy", "mpmath", "networkx",
    "jinja2", "markupsafe", "filelock", "fsspec",
)  # fmt: skip
# Makes every other package in site-packages one that is not installed.
BARE_MACHINE = f"""
import sys
from importlib.machinery import PathFinder

class BareMachine(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        if path is not None or spec is None or name in {ALLOWED!r}:
            return spec
        return None if "site-packages" in str(spec.origin) else spec

sys.meta_path[sys.meta_path.index(PathFinder)] = BareMachine
"""


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_sizes_have_the_numbers_of_the_presets(name: str) -> None:
    settings, size = load_settings(f"core/cartpole-swingup/{name}"), SIZES[name]
    assert (size.model, size.objective, size.behavior) == (
        settings.model,
        settings.objective,
        settings.behavior,
    )
    assert size.frame_size == settings.environment.image_size
    pace = {"update_order", "updates_per_agent_step", "precision"}
    given, preset = asdict(size.learner), asdict(settings.learner)
    assert {key for key in given if given[key] != preset[key]} <= pace


def check_result(result: dict[str, Any], variants: tuple[str, ...]) -> None:
    assert set(result) == {"machine", "figures", "ratios"}
    assert result["machine"]["python"] == platform.python_version()
    figures = result["figures"]
    assert tuple(figures["variants"]) == variants
    assert (figures["rounds"], figures["threads"], figures["device"]) == (3, 1, "cpu")
    for name, values in figures["variants"].items():
        assert values["updates_per_s"]["median"] > 0.0 and values["gflop_per_s"] > 0.0
        assert 0.0 < values["share_of_peak"] < 1.0
        assert values["process_mib"] is None  # a trial in this process
        assert (values["phases_ms"] is None) == name.startswith("reference")
    assert list(figures["variants"]["fused_float32"]["phases_ms"]) == [*PHASES, "other"]
    assert figures["variants"]["sequential_float32"]["distance"] < 0.02
    names = {
        f"{order}_vs_{base}{ending}{clock}"
        for order in ("fused", "sequential")
        for base in ("reference", "reference_keeping")
        for ending in ("", "_float32")
        for clock in ("", "_cpu")
    }
    assert set(result["ratios"]) == names
    assert all(value > 0.0 for value in result["ratios"].values())


def test_the_last_line_is_one_object_with_the_promised_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "profile"
    given = [*QUICK, "--precision", "float32", "--profile", str(folder)]
    assert learner.main([*given, "--profile-order", "fused"]) == 0
    captured = capsys.readouterr()
    assert "warming up" in captured.err  # progress is no part of the tables
    *tables, last = captured.out.splitlines()
    assert any(line.startswith("| fused float32 | ") for line in tables)
    result = json.loads(last)
    check_result(result, tuple(name for name in VARIANTS if "bfloat16" not in name))
    assert result["ratios"]["fused_vs_reference"] == result["ratios"]["fused_vs_reference_float32"]
    assert result["figures"]["profiled"] == "fused_float32"
    assert str(folder / "trace.json") in captured.out and str(folder / "table.txt") in captured.out
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert "phase/encode" in (folder / "table.txt").read_text()


@pytest.mark.slow
def test_torch_and_numpy_are_all_that_it_needs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BARE_MACHINE)
    done = subprocess.run(
        [sys.executable, "-m", "rl_system", "bench", "learner", *QUICK],
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    check_result(result, VARIANTS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threads", "0"], "--threads"),
        (["--seconds", "-3"], "--seconds: -3 is no number of seconds from 0 on"),
        (["--seconds", "inf"], "--seconds"),
        (["--size", "huge"], "paper"),
        (["--precision", "half"], "bfloat16"),
        (["--compile", "everything"], "kernels"),
    ],
)
def test_an_option_that_is_none_is_refused_with_what_there_is(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        learner.main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_message_and_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert learner.main(["--device", "cuda"]) == 2
    message = capsys.readouterr().err
    assert "torch sees no GPU" in message and "--device cpu" in message


def test_a_folder_that_cannot_be_made_is_found_out_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert learner.main(["--profile", str(tmp_path / "file")]) == 2
    message = capsys.readouterr().err
    assert "--profile" in message and "trying" not in message


def make_options(**changed: Any) -> argparse.Namespace:
    options = {
        "size": "paper",
        "device": "cpu",
        "precision": "auto",
        "compile": "off",
        "no_graph": False,
        "reference": False,
        "threads": 2,
        "seconds": 0.0,
        "quick": False,
        "profile": None,
    }
    return argparse.Namespace(**options | changed)


def make_measured(**options: Any) -> Measured:
    """Returns a measurement of made-up times: each variant takes 10 ms less than the one before."""
    given = make_options(**options)
    variants = make_variants(given)
    start = torch.zeros(3)
    return Measured(
        options=given,
        size=SIZES["paper"],
        precision="bfloat16",
        variants=variants,
        trials={
            name: Trial(start, start + 2.0 - number, 600.0, 1000.0, 400.0)
            for number, name in enumerate(variants)
        },
        timings={
            name: Timing(cpu_ms=[200.0 - 20 * number] * 3, wall_ms=[100.0 - 10 * number] * 3)
            for number, name in enumerate(variants)
        },
        peak_gflop={each: {"matrix": 10.0, "convolution": 5.0} for each in ("float32", "bfloat16")},
        peak_timings={
            "float32": {"matrix": Timing([1.0], [1.0]), "convolution": Timing([1.0], [1.0])},
            "bfloat16": {"matrix": Timing([1.0], [1.0]), "convolution": Timing([0.1], [0.1])},
        },
        rounds=3,
        phases_ms={"fused_float32": {"encode": 1.0}},
        profiled=None,
    )


def test_ratios_are_of_the_default_precision_and_of_float32_by_both_clocks() -> None:
    result = make_result(make_measured())
    ratios = result["ratios"]
    assert ratios["sequential_vs_reference_float32"] == pytest.approx(100 / 80, abs=1e-3)
    assert ratios["sequential_vs_reference"] == pytest.approx(100 / 70, abs=1e-3)
    assert ratios["sequential_vs_reference_keeping"] == pytest.approx(90 / 70, abs=1e-3)
    assert ratios["fused_vs_reference_float32_cpu"] == pytest.approx(200 / 120, abs=1e-3)
    assert ratios["fused_vs_reference_cpu"] == pytest.approx(200 / 100, abs=1e-3)
    assert result["figures"]["null_because"] == {}


def test_rates_shares_and_distances_follow_from_times_flop_and_parameters() -> None:
    figures = make_result(make_measured())["figures"]
    reference, fused = (figures["variants"][name] for name in ("reference", "fused_bfloat16"))
    assert reference["updates_per_s"]["median"] == 10.0 and reference["gflop_per_s"] == 6000.0
    assert reference["share_of_peak"] == pytest.approx(0.6)  # of the matrix product
    assert fused["share_of_peak"] == pytest.approx(0.24)  # of the convolution
    assert figures["peak_gflop_per_s"]["bfloat16"]["best"] == 50_000.0
    assert (reference["distance"], fused["distance"]) == (0.0, 2.5)
    assert (fused["process_mib"], fused["update_mib"]) == (1000.0, 400.0)


def test_without_float32_its_ratios_are_null_and_the_result_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = make_result(make_measured(precision="bfloat16"))
    ratios = result["ratios"]
    assert ratios["fused_vs_reference"] > 1.0 and ratios["fused_vs_reference_float32"] is None
    assert "float32" in result["figures"]["null_because"]
    print_tables(result)
    printed = capsys.readouterr().out
    assert "fused_vs_reference_float32: null" in printed and "--precision bfloat16" in printed


def test_on_a_gpu_ours_are_compared_with_the_eager_update_there_and_no_reference(
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = make_measured(device="cuda")
    eager, fused = measured.variants["eager"], measured.variants["fused_bfloat16"]
    assert (eager.precision, eager.graph, fused.graph) == ("float32", False, True)
    result = make_result(measured)
    ratios, figures = result["ratios"], result["figures"]
    assert ratios["fused_vs_reference"] is None and ratios["sequential_vs_reference_cpu"] is None
    assert ratios["sequential_vs_eager_float32"] == pytest.approx(100 / 90, abs=1e-3)
    assert figures["compared_with"] == "eager"
    assert "--reference" in figures["null_because"]["vs_reference"]
    print_tables(result)
    assert "of eager" in capsys.readouterr().out


def test_a_gpu_can_be_compared_with_the_reference_on_the_cpu() -> None:
    result = make_result(make_measured(device="cuda", reference=True))
    assert result["ratios"]["fused_vs_reference"] == pytest.approx(100 / 50, abs=1e-3)
    reference = result["figures"]["variants"]["reference"]
    assert reference["share_of_peak"] is None and reference["distance"] is None
