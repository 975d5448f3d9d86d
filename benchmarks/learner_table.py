"""Prints the result of `benchmarks.learner` as tables in Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.learner_figures import BASES
from benchmarks.learner_profile import in_order


def print_tables(result: dict[str, Any]) -> None:
    """Prints updates, phases, the peak and ratios."""
    figures = result["figures"]
    print(
        f"{figures['size']}: {figures['batch_size']} windows of {figures['sequence_length']} steps"
        f", {figures['frame_size']} pixels, crops of {figures['crop_size']}; {figures['device']}, "
        f"{figures['threads']} threads (default {figures['default_torch_threads']}), compile "
        f"{figures['compile']}; {figures['rounds']} rounds. Medians (quartiles)."
    )
    _print_updates(figures)
    _print_phases(figures["variants"])
    _print_peak(figures["peak_gflop_per_s"])
    print()
    for name, value in result["ratios"].items():
        print(f"{name}: {'null' if value is None else value}")
    for name, reason in figures["null_because"].items():
        print(f"null {name}: {reason}")


def _print_updates(figures: dict[str, Any]) -> None:
    print(
        "\n| update | updates/s | CPU ms | GFLOP | GFLOP/s | of peak | memory, MiB (of the update) "
        f"| distance from {figures['compared_with']} | times as fast, CPU |"
    )
    print("|---" * 9 + "|")
    for name, values in figures["variants"].items():
        over = [
            f"x{ratio['wall']['median']:.3g} ({ratio['wall']['q1']:.3g}-{ratio['wall']['q3']:.3g}),"
            f" CPU x{ratio['cpu']['median']:.3g}{'' if base == 'reference' else f' of {base}'}"
            for base in BASES
            if (ratio := figures["ratios"].get(f"{name}_vs_{base}"))
        ]
        cells = [
            name.replace("_", " "),
            _spread(values["updates_per_s"]),
            _spread(values["cpu_ms"]),
            f"{values['gflop']:.4g}",
            f"{values['gflop_per_s']:.4g}",
            "-" if values["share_of_peak"] is None else f"{values['share_of_peak']:.0%}",
            (
                "-"
                if values["process_mib"] is None
                else f"{values['process_mib']:,.0f} ({values['update_mib']:,.0f})"
            ),
            "-" if values["distance"] is None else f"{values['distance']:.3g}",
            "; ".join(over) or "-",
        ]
        print(f"| {' | '.join(cells)} |")


def _print_phases(variants: dict[str, Any]) -> None:
    rows = {name: values["phases_ms"] for name, values in variants.items() if values["phases_ms"]}
    if not rows:
        return
    shown = in_order(phase for row in rows.values() for phase in row)
    print(f"\n| ms per phase | {' | '.join(shown)} |")
    print("|---" * (len(shown) + 1) + "|")
    for name, row in rows.items():
        cells = [f"{row[phase]:.4g}" if phase in row else "-" for phase in shown]
        print(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")


def _print_peak(peak: dict[str, dict[str, float]]) -> None:
    operations = list(next(iter(peak.values())))
    print(f"\n| GFLOP/s of the machine | {' | '.join(operations).replace('_', ' ')} |")
    print("|---" * (len(operations) + 1) + "|")
    for precision, rates in peak.items():
        print(f"| {precision} | {' | '.join(f'{rates[each]:.4g}' for each in operations)} |")


def _spread(values: dict[str, float]) -> str:
    return f"{values['median']:.3g} ({values['q1']:.3g}-{values['q3']:.3g})"
