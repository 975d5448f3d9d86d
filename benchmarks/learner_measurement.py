"""Runs what `benchmarks.learner` compares: trials, interleaved rounds, profiles."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.learner_peak import DTYPES, QUICK_SIDES, SIDES, make_works
from benchmarks.learner_process import SubjectProcess, timed_run
from benchmarks.learner_profile import Profile
from benchmarks.learner_subject import OURS, SIZES, Size, Subject, Variant, small_batch
from benchmarks.learner_trial import Trial, try_apart, try_here
from benchmarks.rounds import Timing, interleave
from learners.allocator import keep_freed_memory
from learners.device import choose_precision

# Buffers, compiled code and on a GPU the recorded graph are made in them.
_WARM_UPS = {"cpu": 1, "cuda": 5}
_MEASURED_S = {False: 0.3, True: 0.05}  # least of one measurement, by --quick

# Does something some times; returns seconds of wall-clock and of CPU time.
Timed = Callable[[int], tuple[float, float]]
# A name, what is done, and where its cost is noted.
Run = tuple[str, Timed, Timing]


class TrialFailed(Exception):
    """A process that tried an update died; the message says what to change."""


@dataclass(frozen=True)
class Measured:
    """Everything that was measured.

    Attributes:
        options: Of the command line, with the device that was taken.
        size: What the updates worked on.
        precision: The one of ours that ratios are of by default.
        variants: By name.
        trials: Of each variant.
        timings: Of one update of each variant.
        peak_gflop: Of each operation, by precision.
        peak_timings: Of each operation, by precision.
        rounds: How many.
        phases_ms: Of each variant of ours.
        profiled: The variant whose trace was saved, None where none was asked for.
    """

    options: argparse.Namespace
    size: Size
    precision: str
    variants: Mapping[str, Variant]
    trials: Mapping[str, Trial]
    timings: Mapping[str, Timing]
    peak_gflop: Mapping[str, Mapping[str, float]]
    peak_timings: Mapping[str, Mapping[str, Timing]]
    rounds: int
    phases_ms: Mapping[str, Mapping[str, float]]
    profiled: str | None


def measure(options: argparse.Namespace) -> Measured:
    """Measures what the options name, `options.device` being "cpu" or "cuda".

    Raises:
        TrialFailed: a process died.
    """
    torch.set_num_threads(options.threads)
    size = small_batch(SIZES[options.size]) if options.quick else SIZES[options.size]
    variants = make_variants(options)
    trials = {name: _try(name, variant, size, options) for name, variant in variants.items()}

    timings = {name: Timing() for name in variants}
    with ExitStack() as processes:
        places = _place(variants, size, options, processes)
        runs: list[Run] = [(name, places[name], timings[name]) for name in variants]
        rounds, peak_gflop, peak_timings = _compare(runs, variants, size, options)

    if options.device == "cpu" and not options.quick:
        keep_freed_memory()  # what follows is of ours
    precision = _default_precision(options)
    profiled = f"{options.profile_order}_{precision}" if options.profile else None
    return Measured(
        options,
        size,
        precision,
        variants,
        trials,
        timings,
        peak_gflop,
        peak_timings,
        rounds,
        _phases(variants, size, options, profiled),
        profiled,
    )


def _place(
    variants: Mapping[str, Variant],
    size: Size,
    options: argparse.Namespace,
    processes: ExitStack,
) -> dict[str, Timed]:
    """Makes every update where it is to run and returns how it is timed there."""
    if options.device != "cpu" or options.quick:
        subjects = {name: Subject(variant, size) for name, variant in variants.items()}
        return {name: partial(timed_run, subject) for name, subject in subjects.items()}
    kinds: dict[bool, SubjectProcess] = {}
    places: dict[str, Timed] = {}
    for name, variant in variants.items():
        keeps = variant.keeps_memory
        if keeps not in kinds:
            kinds[keeps] = SubjectProcess(options.threads, keeps)
            processes.callback(kinds[keeps].close)
        kinds[keeps].add(name, variant, size)
        places[name] = partial(kinds[keeps].run, name)
    return places


def _compare(
    runs: list[Run], variants: Mapping[str, Variant], size: Size, options: argparse.Namespace
) -> tuple[int, dict[str, dict[str, float]], dict[str, dict[str, Timing]]]:
    """Times updates and the machine's peak in turn; returns rounds, and GFLOP and timings of what
    the peak is taken from, by precision.
    """
    sides = QUICK_SIDES if options.quick else SIDES[options.device]
    peak_gflop: dict[str, dict[str, float]] = {}
    peak_timings: dict[str, dict[str, Timing]] = {}
    here = {variant.precision for variant in variants.values() if variant.device == options.device}
    for precision in sorted(here, reverse=True):
        works = make_works(size, precision, options.device, sides)
        peak_gflop[precision] = {name: work.gflop for name, work in works.items()}
        peak_timings[precision] = {name: Timing() for name in works}
        runs += [
            (f"{name} in {precision}", partial(timed_run, work), peak_timings[precision][name])
            for name, work in works.items()
        ]
    return _rounds(runs, options), peak_gflop, peak_timings


def make_variants(options: argparse.Namespace) -> dict[str, Variant]:
    """Returns what is compared, by name: first what ours are compared with."""
    device = options.device
    variants: dict[str, Variant] = {}
    if device == "cpu" or options.reference:
        variants["reference"] = Variant("reference", keeps_memory=False)
    if device == "cpu":
        variants["reference_keeping"] = Variant("reference")
    if device != "cpu":
        variants["eager"] = Variant("sequential", device=device)
    for order in OURS:
        for precision in DTYPES if options.precision == "auto" else (options.precision,):
            variants[f"{order}_{precision}"] = Variant(
                order,
                precision,
                device,
                options.compile,
                graph=device == "cuda" and not options.no_graph,
            )
    return variants


def _default_precision(options: argparse.Namespace) -> str:
    chosen = choose_precision(options.precision, torch.device(options.device))
    return next(name for name, dtype in DTYPES.items() if dtype is chosen)


def _try(name: str, variant: Variant, size: Size, options: argparse.Namespace) -> Trial:
    _say(f"{name}: trying ...")
    if options.quick:
        return try_here(variant, size)
    try:
        return try_apart(variant, size, options.threads)
    except BrokenProcessPool as error:
        raise TrialFailed(
            f"The process that tried {name} died, most likely for want of memory: free some, or "
            "measure --size tiny."
        ) from error


def _rounds(runs: Sequence[Run], options: argparse.Namespace) -> int:
    """Times everything in turn and returns the number of rounds."""
    rounds_of: dict[str, Callable[[], None]] = {}
    for name, run, timing in runs:
        _say(f"{name}: warming up ...")
        times = _enough(run, _WARM_UPS[options.device], _MEASURED_S[options.quick])
        rounds_of[name] = partial(_note, timing, run, times)
    _say(f"rounds, {options.seconds:g} s or three ...")
    return interleave(rounds_of, options.seconds)


def _enough(run: Timed, warm_ups: int, least_s: float) -> int:
    """Returns how often something is to be done to last long enough; warms up meanwhile."""
    run(warm_ups)
    times = 1
    while True:
        took_s, _ = run(times)
        if took_s >= least_s:
            return times
        times = max(times + 1, math.ceil(times * min(8.0, least_s / took_s)))


def _note(timing: Timing, run: Timed, times: int) -> None:
    """Notes what doing something once costs among `times`, which end with one wait."""
    wall_s, cpu_s = run(times)
    timing.wall_ms.append(wall_s * 1e3 / times)
    timing.cpu_ms.append(cpu_s * 1e3 / times)


def _phases(
    variants: Mapping[str, Variant],
    size: Size,
    options: argparse.Namespace,
    profiled: str | None,
) -> dict[str, dict[str, float]]:
    """Returns phases of ours; writes trace and table of one of them where that is asked for."""
    phases = {}
    for name, variant in variants.items():
        if variant.order == "reference":
            continue
        _say(f"{name}: profiling ...")
        subject = Subject(variant, size)
        subject.run(_WARM_UPS[options.device])
        profile = Profile(subject, variant.device)
        if name == profiled:
            for path in profile.save(Path(options.profile)):
                print(f"{name}: {path}")
        if variant.graph:
            unrecorded = Subject(replace(variant, graph=False), size)
            unrecorded.run(1)
            profile = Profile(unrecorded, variant.device)
        phases[name] = profile.phases_ms()
    return phases


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
