from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.learner_measurement import make_variants
from benchmarks.learner_peak import make_works
from benchmarks.learner_process import SubjectProcess
from benchmarks.learner_profile import PHASES, Profile, in_order
from benchmarks.learner_subject import OURS, SIZES, Subject, Variant, small_batch
from benchmarks.learner_trial import try_apart, try_here
from tests.benchmarks.test_learner import make_options

SMALL = small_batch(SIZES["tiny"])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm())


def test_all_variants_begin_with_the_references_weights_and_move() -> None:
    start = Subject(Variant("reference"), SMALL).parameters()
    for order in OURS:
        subject = Subject(Variant(order, "bfloat16"), SMALL)
        assert torch.equal(subject.parameters(), start)
        subject.run(1)
        assert distance(subject.parameters(), start) > 0.0


def test_sequential_in_float32_ends_where_the_reference_does_and_fused_elsewhere() -> None:
    reference = try_here(Variant("reference"), SMALL)
    way = distance(reference.end, reference.start)
    assert distance(try_here(Variant("sequential"), SMALL).end, reference.end) < 0.01 * way
    assert distance(try_here(Variant("fused"), SMALL).end, reference.end) > 0.1 * way


def test_a_trial_counts_the_flop_of_one_update_and_the_fused_one_has_fewer() -> None:
    reference, sequential, fused = (
        try_here(Variant(order), SMALL) for order in ("reference", *OURS)
    )
    assert sequential.gflop == pytest.approx(reference.gflop, rel=0.05)
    assert 0.0 < fused.gflop < 0.75 * sequential.gflop
    assert fused.process_mib is None and fused.update_mib is None


@pytest.mark.slow
def test_a_trial_apart_ends_alike_and_knows_its_memory() -> None:
    apart, here = (
        try_apart(Variant("sequential"), SMALL, threads=1),
        try_here(Variant("sequential"), SMALL),
    )
    assert torch.equal(apart.end, here.end) and apart.gflop == here.gflop
    assert apart.process_mib is not None and apart.update_mib is not None
    assert 0.0 < apart.update_mib < apart.process_mib
    assert 50.0 < apart.process_mib < 2000.0  # torch itself is most of it


@pytest.mark.slow
def test_updates_in_a_process_of_their_own_are_timed_by_its_clocks() -> None:
    process = SubjectProcess(threads=1, keeps_memory=True)
    process.add("fused", Variant("fused"), SMALL)
    process.run("fused", 1)
    wall_s, cpu_s = process.run("fused", 3)
    process.close()
    assert 0.0 < cpu_s < 1.5 * wall_s + 0.1  # one thread


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", sorted(SIZES))
def test_the_peak_counts_the_flop_that_torch_counts(size: str, precision: str) -> None:
    works = make_works(small_batch(SIZES[size]), precision, "cpu", sides=(64, 32))
    assert list(works) == ["matrix_64", "matrix_32", "convolution"]
    for work in works.values():
        with FlopCounterMode(display=False) as counter:
            work.run(2)
        assert counter.get_total_flops() / 1e9 == pytest.approx(2 * work.gflop)


def test_the_convolution_of_the_paper_is_three_by_three_over_32_channels() -> None:
    work = make_works(small_batch(SIZES["paper"]), "float32", "cpu", sides=())["convolution"]
    pictures = 4 * 4
    assert work.gflop == pytest.approx(2e-9 * pictures * 39 * 39 * 32 * 32 * 9)


def test_phases_divide_an_update_and_are_saved_as_trace_and_table(tmp_path: Path) -> None:
    subject = Subject(Variant("sequential"), SMALL)
    subject.run(1)
    profile = Profile(subject, "cpu")
    phases = profile.phases_ms()
    assert list(phases) == [*PHASES, "other"]
    assert all(value > 0.0 for value in phases.values())
    assert phases["backward"] > phases["prepare"]
    assert [path.name for path in profile.save(tmp_path)] == ["trace.json", "table.txt"]
    assert (tmp_path / "trace.json").stat().st_size > 10_000
    assert "Self CPU" in (tmp_path / "table.txt").read_text()


def test_the_reference_has_no_phases() -> None:
    subject = Subject(Variant("reference"), SMALL)
    assert Profile(subject, "cpu").phases_ms() == {}


def test_phases_are_named_in_the_order_of_an_update_and_new_ones_are_kept() -> None:
    names = in_order(["other", "exchange", "backward", "prepare", "backward"])
    assert names == ["prepare", "backward", "exchange", "other"]


def test_a_precision_that_is_named_is_measured_alone() -> None:
    named = make_variants(make_options(precision="float32"))
    names = ["reference", "reference_keeping", "sequential_float32", "fused_float32"]
    assert list(named) == names


def test_only_the_reference_runs_in_a_process_that_gives_memory_back() -> None:
    variants = make_variants(make_options())
    assert [name for name, each in variants.items() if not each.keeps_memory] == ["reference"]


def test_options_reach_the_variants_of_ours_and_no_other() -> None:
    variants = make_variants(make_options(device="cuda", compile="kernels", no_graph=True))
    assert variants["eager"] == Variant("sequential", "float32", "cuda")
    assert variants["fused_bfloat16"] == Variant("fused", "bfloat16", "cuda", "kernels", False)
    assert replace(variants["fused_bfloat16"], compile="off").device == "cuda"
