"""The live display of a run: rates, returns, losses, replay, time left, warnings.

On a terminal it is a panel that is redrawn; elsewhere plain lines.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rl_system.metrics import Line, warnings, who_waits
from rl_system.settings import RunSettings

_MISSING = "-"
_LINE_EVERY_S = 10.0  # seconds between two plain lines
# Losses by the ends of their names, of which a system has some.
_LOSSES = ("contrastive", "reconstruction", "kl", "reward", "inverse", "critic", "value", "actor")
_HISTORY = 2000  # lines kept for the warnings


class Limits:
    """How far a run is on its way to the first of its limits."""

    def __init__(self, run: RunSettings) -> None:
        self._bounds: dict[str, float] = {
            name: float(bound)
            for name, bound in (
                ("agent_steps", run.max_agent_steps),
                ("simulator_steps", run.max_simulator_steps),
                ("updates", run.max_updates),
                ("elapsed_s", None if run.max_minutes is None else 60.0 * run.max_minutes),
            )
            if bound is not None
        }

    def reached(self, metrics: Line) -> bool:
        """Tell whether the run is at its end."""
        return self.share(metrics) >= 1.0

    def share(self, metrics: Line) -> float:
        """Return the share of the way to the nearest limit, 0 to 1; 0 without limits."""
        shares = [metrics.get(name, 0) / bound for name, bound in self._bounds.items() if bound > 0]
        return min(1.0, max(shares, default=0.0))

    def seconds_left(self, metrics: Line, began: Line) -> float | None:
        """Return the seconds to the first limit at the pace since `began`; None if unknown."""
        seconds = metrics.get("elapsed_s", 0.0) - began.get("elapsed_s", 0.0)
        left = [
            (bound - metrics.get(name, 0)) * seconds / gained
            for name, bound in self._bounds.items()
            if (gained := metrics.get(name, 0) - began.get(name, 0)) > 0
        ]
        return max(0.0, min(left)) if left else None


class Progress:
    """Shows metrics as they come. A context manager; `show` takes one line of metrics.

    Args:
        title: Name of the run.
        limits: What ends it.
        console: Where to write; None is the standard output.
    """

    def __init__(self, title: str, limits: Limits, console: Console | None = None) -> None:
        self._title = title
        self._limits = limits
        self._console = console or Console()
        self._live: Live | None = None
        self._history: list[Line] = []
        self._evaluation: Line = {}
        self._warnings: list[str] = []
        self._warned: set[str] = set()
        self._notice = "starting"
        self._started = time.monotonic()
        self._printed_at = -_LINE_EVERY_S

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            # Asked for anew at each refresh, so that the clock goes on while Ray starts.
            self._live = Live(
                get_renderable=self._panel, console=self._console, refresh_per_second=2
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._notice = ""  # the last picture stays on the terminal
        if self._live is not None:
            self._live.stop()

    def notice(self, text: str) -> None:
        """Say what is going on beside training."""
        self._notice = text
        if self._live is not None:
            self._live.refresh()
        elif text:
            self._console.print(text, highlight=False)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def show(self, metrics: Line) -> None:
        """Show one iteration."""
        self._history = [*self._history[-_HISTORY:], metrics]
        if "eval/return_mean" in metrics:
            self._evaluation = metrics
        self._notice = ""
        self._warnings = warnings(self._history)
        if self._live is not None:
            self._live.refresh()
            return
        now = time.monotonic()
        if now - self._printed_at >= _LINE_EVERY_S or "eval/return_mean" in metrics:
            self._printed_at = now
            self._console.print(self._line(metrics), highlight=False, soft_wrap=True)
        for text in self._warnings:
            key = text[:40]
            if key not in self._warned:  # once each: a log is no panel
                self._warned.add(key)
                self._console.print(f"WARNING: {text}", highlight=False, soft_wrap=True)

    def _left(self, metrics: Line) -> str:
        began = self._history[0] if len(self._history) > 1 else {}
        seconds = self._limits.seconds_left(metrics, began)
        return _MISSING if seconds is None else duration(seconds)

    def _line(self, metrics: Line) -> str:
        parts = [
            f"{duration(metrics.get('elapsed_s', 0))} (left {self._left(metrics)})",
            f"agent_steps {metrics.get('agent_steps', 0)}",
            f"updates {metrics.get('updates', 0)}",
            f"{_number(metrics, 'rate/updates_per_s')} updates/s",
            f"return {_pair(metrics, 'train/return')}",
        ]
        if "eval/return_mean" in metrics:
            parts.append(f"EVAL {_pair(metrics, 'eval/return')}")
        for name in _LOSSES:
            if f"loss/{name}" in metrics:
                parts.append(f"{name} {_loss(metrics, name)}")
        parts.append(f"learner {_number(metrics, 'learner/busy_percent', 0)} % busy")
        parts.append(f"replay {_number(metrics, 'replay/fill_percent')} %")
        if (waits := who_waits([metrics])) is not None:
            parts.append(waits)
        return "  ".join(parts)

    def _panel(self) -> Panel:
        metrics = self._history[-1] if self._history else {}
        share = self._limits.share(metrics)
        top = Table.grid(expand=True)
        top.add_column(width=22)
        top.add_column(ratio=1)
        top.add_column(justify="right", width=26)
        if "elapsed_s" in metrics:
            clock = f"{duration(metrics['elapsed_s'])} of training"
        else:
            clock = f"{duration(time.monotonic() - self._started)} since the start"
        top.add_row(
            clock,
            ProgressBar(total=1.0, completed=share),
            f"  {100 * share:.0f} %, left {self._left(metrics)}",
        )
        grid = Table.grid(padding=(0, 3))
        for _ in range(3):
            grid.add_column(justify="left")
        grid.add_row(self._counters(metrics), self._losses(metrics), self._waits(metrics))
        rows: list[Any] = [top, Text(), grid]
        if (waits := who_waits([metrics])) is not None:
            rows.append(Text(f"\n{waits}", style="dim"))
        if self._notice:
            rows.append(Text(f"\n{self._notice} ...", style="cyan"))
        for text in self._warnings:
            rows.append(Text(f"\n! {text}", style="yellow"))
        return Panel(Group(*rows), title=self._title, border_style="dim", padding=(1, 2))

    def _counters(self, metrics: Line) -> Table:
        return _block(
            "returns and counters",
            {
                "return (training)": _pair(metrics, "train/return"),
                "return (evaluation)": _pair(self._evaluation, "eval/return"),
                "agent steps": _whole(metrics, "agent_steps"),
                "simulator steps": _whole(metrics, "simulator_steps"),
                "episodes": _whole(metrics, "episodes"),
                "updates": _whole(metrics, "updates"),
            },
        )

    def _losses(self, metrics: Line) -> Table:
        rows = {name: _loss(metrics, name) for name in _LOSSES if f"loss/{name}" in metrics}
        if "contrastive" in rows and metrics.get("contrastive/log_pairs"):
            rows["contrastive"] += f" (log N {_number(metrics, 'contrastive/log_pairs', 2)})"
        return _block("losses", rows)

    def _waits(self, metrics: Line) -> Table:
        return _block(
            "pace",
            {
                "agent steps/s": _number(metrics, "rate/agent_steps_per_s"),
                "updates/s": _number(metrics, "rate/updates_per_s"),
                "learner busy": _number(metrics, "learner/busy_percent", 0, " %"),
                "actors busy": _number(metrics, "actor/busy_percent", 0, " %"),
                "replay full": _number(metrics, "replay/fill_percent", 1, " %"),
                "age of weights": _number(metrics, "weights/age_updates", 0, " updates"),
            },
        )


def duration(seconds: float) -> str:
    """Return seconds as `m:ss`, or as `h:mm:ss` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def summary(rows: Sequence[tuple[str, str]]) -> Text:
    """Return lines of names and values for the end of a run; print them with `soft_wrap`, so that
    no path is cut.
    """
    width = max((len(name) for name, _ in rows), default=0)
    lines = [Text.assemble((f"{name:{width}}", "dim"), f"  {value}") for name, value in rows]
    return Text("\n").join(lines)


def _block(title: str, rows: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_row(Text(title, style="bold"), "")
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _number(metrics: Line, name: str, digits: int = 1, unit: str = "") -> str:
    value = metrics.get(name)
    return _MISSING if value is None else f"{value:.{digits}f}{unit}"


def _loss(metrics: Line, name: str) -> str:
    value = metrics.get(f"loss/{name}")  # three digits: reward losses are small, KL is not
    return _MISSING if value is None else f"{value:.3g}"


def _whole(metrics: Line, name: str) -> str:
    return f"{metrics[name]:,}" if name in metrics else _MISSING


def _pair(metrics: Line, name: str) -> str:
    mean = metrics.get(f"{name}_mean")
    if mean is None:
        return _MISSING
    counter = "eval/episodes" if name.startswith("eval/") else "episodes"
    if metrics.get(counter) == 1:  # one episode has no standard error
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {metrics.get(f'{name}_se', 0.0):.1f}"
