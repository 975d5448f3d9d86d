"""The figures of a report, as SVG text: returns, losses, pace."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rl_system.report.runs import Group

COLORS = ("#2563eb", "#d9480f", "#0f8a5f", "#8b3fc4", "#b8860b", "#c2255c", "#0b7285", "#5c5f66")
INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "lines.linewidth": 1.8,
}

# (metric, title): what a small panel shows
LOSSES = (
    ("loss/contrastive", "contrastive (nats)"),
    ("loss/reconstruction", "reconstruction (nats)"),
    ("kl/nats", "KL before the floor (nats)"),
    ("loss/reward", "reward prediction"),
    ("loss/inverse", "inverse dynamics"),
    ("loss/critic", "critic"),
    ("loss/actor", "actor"),
    ("policy/entropy", "policy entropy (nats)"),
    ("value/mean", "mean value"),
    ("imagination/return", "imagined return"),
    ("imagination/value", "imagined value"),
)
PACE = (
    ("rate/updates_per_s", "updates per second"),
    ("rate/agent_steps_per_s", "agent steps per second"),
    ("learner/busy_percent", "learner busy (%)"),
    ("actor/busy_percent", "actors busy (%)"),
    ("weights/age_updates", "weight age (updates)"),
    ("replay/fill_percent", "replay full (%)"),
    ("replay/samples_per_insert", "samples per insert"),
    ("wait/actors_for_learner_percent", "actors wait for learner (%)"),
    ("wait/learner_for_actors_percent", "learner waits for actors (%)"),
    ("wait/learner_for_replay_percent", "learner waits for replay (%)"),
    ("learner/mapped_shards", "shards read directly"),
)


def returns(groups: Sequence[Group]) -> str:
    """Draw the return over agent steps and over minutes, with the trivial policies as lines."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        for axis, over in zip(axes, ("agent_steps", "minutes"), strict=True):
            for color, group in zip(_colors(groups), groups, strict=True):
                _draw_group(axis, group, over, color, named=len(groups) > 1)
            _draw_trivial(axis, groups[0], named=over == "minutes")
            axis.set_xlim(left=0)
            axis.set_xlabel("agent steps" if over == "agent_steps" else "minutes of training")
            axis.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes[0].set_ylabel("return of an episode")
        axes[0].set_ylim(bottom=min(0.0, axes[0].get_ylim()[0]))
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            axes[0].legend(handles, labels, loc="upper left", fontsize=8)

    return _svg(draw, 10.5, 4.1, "returns")


def losses(groups: Sequence[Group]) -> str | None:
    """Draw the losses in small panels; None if no run has any."""
    return _panels(groups, LOSSES, "updates", "losses")


def pace(groups: Sequence[Group]) -> str | None:
    """Draw rates, waits and fill in small panels; None if no run has any."""
    return _panels(groups, PACE, "minutes", "pace")


def _draw_group(axis: Axes, group: Group, over: str, color: str, named: bool) -> None:
    name = f"{group.label}: " if named else ""
    seeds = f" (mean of {len(group.runs)} seeds)" if len(group.runs) > 1 else ""
    if len(group.runs) > 1:
        for run in group.runs:
            axis.plot(*run.series("eval/return_mean", over), color=color, alpha=0.25, linewidth=1)
    training = group.curve("train/return_mean", over)
    if training is not None:
        label = f"{name}training, sampled actions{seeds}"
        axis.plot(training.x, training.mean, color=color, alpha=0.45, linewidth=1.2, label=label)
        low, high = training.mean - training.se, training.mean + training.se
        axis.fill_between(training.x, low, high, color=color, alpha=0.12, linewidth=0)
    measured = group.curve("eval/return_mean", over)
    if measured is not None:
        label = f"{name}evaluation, mean ± s.e.{seeds}"
        if len(group.runs) == 1:
            axis.errorbar(
                measured.x,
                measured.mean,
                measured.se,
                color=color,
                marker="o",
                markersize=4,
                capsize=2.5,
                elinewidth=1.2,
                label=label,
            )
        else:
            axis.plot(measured.x, measured.mean, color=color, label=label)
            low, high = measured.mean - measured.se, measured.mean + measured.se
            axis.fill_between(measured.x, low, high, color=color, alpha=0.25, linewidth=0)
    twin = group.final("twin/return")
    if twin is not None:
        x = max(run.series("eval/return_mean", over)[0][-1] for run in group.runs)
        axis.errorbar(
            [x],
            [twin[0]],
            [twin[1]],
            color=color,
            marker="D",
            markersize=5,
            capsize=2.5,
            markerfacecolor="white",
            linestyle="none",
            label=f"{name}same policy, distracted",
        )


def _draw_trivial(axis: Axes, group: Group, named: bool) -> None:
    best = group.best_trivial
    if best is None:
        return
    for name, (mean, _) in sorted(group.trivial.items(), key=lambda item: item[1][0]):
        highest = name == best[0]
        axis.axhline(
            mean,
            color=INK if highest else FAINT,
            linewidth=1.3 if highest else 0.7,
            linestyle=(0, (4, 2)) if highest else (0, (1, 2)),
            zorder=1,
        )
    if named:
        axis.annotate(
            f"best trivial: {best[0].replace('_', ' ')}, {best[1]:.0f}",
            (1.0, best[1]),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=INK,
        )


def _panels(
    groups: Sequence[Group], wanted: Sequence[tuple[str, str]], over: str, salt: str
) -> str | None:
    shown = [
        (name, title)
        for name, title in wanted
        if any(group.curve(name, over) is not None for group in groups)
    ]
    if not shown:
        return None
    rows = -(-len(shown) // 4)

    def draw(figure: Figure) -> None:
        axes = np.atleast_1d(figure.subplots(rows, 4)).ravel()
        for axis, (name, title) in zip(axes, shown, strict=False):
            for color, group in zip(_colors(groups), groups, strict=True):
                curve = group.curve(name, over)
                if curve is None:
                    continue
                axis.plot(curve.x, curve.mean, color=color, linewidth=1.4)
                if curve.se.any():
                    low, high = curve.mean - curve.se, curve.mean + curve.se
                    axis.fill_between(curve.x, low, high, color=color, alpha=0.2, linewidth=0)
            if name == "loss/contrastive":
                _draw_log_pairs(axis, groups[0])
            if name.endswith("_percent"):
                axis.set_ylim(0, 105)
            axis.set_title(title)
            axis.set_xlim(left=0)
            axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.xaxis.set_major_formatter(FuncFormatter(_thousands))
            axis.yaxis.set_major_locator(MaxNLocator(5))
            axis.set_xlabel(over, fontsize=8, color=FAINT)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)

    return _svg(draw, 10.5, 2.25 * rows, salt)


def _draw_log_pairs(axis: Axes, group: Group) -> None:
    curve = group.curve("contrastive/log_pairs", "updates")
    if curve is not None:
        axis.axhline(curve.mean[-1], color=FAINT, linewidth=0.9, linestyle=(0, (4, 2)))
        axis.annotate(
            "log N",
            (1.0, curve.mean[-1]),
            xycoords=("axes fraction", "data"),
            ha="right",
            xytext=(0, -9),
            textcoords="offset points",
            fontsize=7,
            color=FAINT,
        )
        axis.set_ylim(bottom=0)


def _svg(draw: Callable[[Figure], None], width: float, height: float, salt: str) -> str:
    style: Any = {**_STYLE, "svg.hashsalt": salt}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _colors(groups: Sequence[Group]) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(len(groups))]


def _thousands(value: float, _: int) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"
