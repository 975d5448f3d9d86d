"""From what `benchmarks.learner_measurement` measured to one object of plain values."""

from __future__ import annotations

import platform
import statistics
from typing import Any

import torch

from benchmarks.learner_measurement import Measured
from benchmarks.learner_subject import OURS
from benchmarks.learner_trial import Trial
from benchmarks.rounds import ratios, spread
from learners.settings import LearnerSettings
from rl_system.machine import cpus, describe_machine, gpus, versions

BASES = ("reference", "reference_keeping", "eager")  # what ours are compared with
# What torch counts for an update of the released code at the paper's size.
RELEASED_CODE_GFLOP = 605


def make_result(measured: Measured) -> dict[str, Any]:
    """Returns the object of machine, figures and ratios."""
    by_round = _by_round(measured)
    peak = _peak(measured)
    return {
        "machine": _machine(),
        "figures": _settings(measured)
        | {
            "variants": {name: _variant(name, measured, peak) for name in measured.variants},
            "peak_gflop_per_s": peak,
            "ratios": {
                name: {clock: spread(values) for clock, values in clocks.items()}
                for name, clocks in by_round.items()
            },
            "null_because": _null_because(measured),
        },
        "ratios": _ratios(measured, by_round),
    }


def _settings(measured: Measured) -> dict[str, Any]:
    size, options, defaults = measured.size, measured.options, LearnerSettings()
    released = RELEASED_CODE_GFLOP if options.size == "paper" and not options.quick else None
    return {
        "size": options.size,
        "sequence_length": size.learner.sequence_length,
        "batch_size": size.learner.batch_size,
        "frame_size": size.frame_size,
        "crop_size": size.learner.crop_size,
        "action_dims": size.action_dims,
        "released_code_gflop": released,
        "device": options.device,
        "compile": options.compile,
        "threads": options.threads,
        "default_torch_threads": defaults.torch_threads,
        "default_update_order": defaults.update_order,
        "default_precision": measured.precision,
        "compared_with": _base(measured),
        "seconds": options.seconds,
        "rounds": measured.rounds,
        "profiled": measured.profiled,
    }


def _variant(name: str, measured: Measured, peak: dict[str, dict[str, float]]) -> dict[str, Any]:
    variant, trial = measured.variants[name], measured.trials[name]
    timing = measured.timings[name]
    per_s = [1e3 / wall for wall in timing.wall_ms]
    rate = statistics.median(per_s) * trial.gflop
    here = variant.device == measured.options.device
    return {
        "updates_per_s": spread(per_s),
        **timing.summary(),
        "gflop": round(trial.gflop, 4),
        "gflop_per_s": round(rate, 3),
        "share_of_peak": round(rate / peak[variant.precision]["best"], 4) if here else None,
        "process_mib": _rounded(trial.process_mib),
        "update_mib": _rounded(trial.update_mib),
        "distance": _distance(trial, measured.trials[_base(measured)]) if here else None,
        "phases_ms": dict(measured.phases_ms.get(name, {})) or None,
    }


def _peak(measured: Measured) -> dict[str, dict[str, float]]:
    """Returns GFLOP/s of each operation and the best of them, by precision."""
    peak: dict[str, dict[str, float]] = {}
    for precision, timings in measured.peak_timings.items():
        rates = {
            name: round(
                measured.peak_gflop[precision][name] * 1e3 / statistics.median(timing.wall_ms), 2
            )
            for name, timing in timings.items()
        }
        peak[precision] = rates | {"best": max(rates.values())}
    return peak


def _by_round(measured: Measured) -> dict[str, dict[str, list[float]]]:
    """Returns, by name and clock, how many times as long a base took in each round."""
    return {
        f"{name}_vs_{base}": ratios(measured.timings[base], timing)
        for base in BASES
        if base in measured.timings
        for name, timing in measured.timings.items()
        if name not in BASES
    }


def _ratios(
    measured: Measured, by_round: dict[str, dict[str, list[float]]]
) -> dict[str, float | None]:
    """Returns a median per order, base, precision and clock; None for what was not measured."""
    found: dict[str, float | None] = {}
    for base in dict.fromkeys(("reference", "reference_keeping", _base(measured))):
        if base not in measured.variants and base != "reference":
            continue
        for precision, ending in ((measured.precision, ""), ("float32", "_float32")):
            for clock, suffix in (("wall", ""), ("cpu", "_cpu")):
                for order in reversed(OURS):
                    clocks = by_round.get(f"{order}_{precision}_vs_{base}")
                    found[f"{order}_vs_{base}{ending}{suffix}"] = (
                        round(statistics.median(clocks[clock]), 3) if clocks else None
                    )
    return found


def _null_because(measured: Measured) -> dict[str, str]:
    """Returns why which ratios and figures have no value."""
    reasons = {}
    if "reference" not in measured.variants:
        reasons["vs_reference"] = "on a GPU the reference is measured with --reference alone"
    if measured.options.precision == "bfloat16":
        reasons["float32"] = "--precision bfloat16 leaves ours in float32 out"
    if measured.options.quick:
        reasons["process_mib"] = "--quick measures no memory, and updates of a small batch"
    return reasons


def _base(measured: Measured) -> str:
    """Returns the variant whose parameters the others' are compared with."""
    return "reference" if measured.options.device == "cpu" else "eager"


def _distance(trial: Trial, base: Trial) -> float:
    """Returns how far apart both ended, relative to the way that the base went."""
    apart, way = (trial.end - base.end).norm(), (base.end - base.start).norm()
    return float(f"{(apart / way).item():.4g}")


def _rounded(mib: float | None) -> float | None:
    return None if mib is None else round(mib, 1)


def _machine() -> dict[str, Any]:
    try:
        machine = describe_machine()
    except ImportError:  # it asks psutil for the memory; a bare machine need not have it
        machine = {
            "cpus": cpus(),
            "gpus": gpus(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "python": platform.python_version(),
        }
    capability = torch.backends.cpu.get_cpu_capability()
    return machine | {"cpu_capability": capability, "versions": versions()}
