"""The page of a report: what came out, the curves, the films, what it ran on."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_system.metrics import warnings, who_waits
from rl_system.progress import duration
from rl_system.report import figures
from rl_system.report.runs import Group, Run, changed_settings, group_by_settings, load_run
from rl_system.report.style import CSS

MAX_FILM_BYTES = 16 * 2**20  # a larger film is named, not embedded
_MEDIA = {".mp4": "video/mp4", ".gif": "image/gif", ".webp": "image/webp"}


def write_report(directories: Sequence[str | Path], output: str | Path) -> Path:
    """Write the report of one run, or of several compared, as one file; return its path.

    Runs with the same settings but for their seed are taken together. Only metrics.jsonl has to be
    in a directory; what else is absent is left out.

    Raises:
        UserError: A directory is no run, or holds no metrics.
    """
    runs = [load_run(Path(directory)) for directory in directories]
    text = render(group_by_settings(runs))
    output = Path(output).absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(output)
    return output


def render(groups: Sequence[Group]) -> str:
    """Return the HTML of a report over groups of runs."""
    first = groups[0].runs[0]
    several = len(groups) > 1 or len(groups[0].runs) > 1
    parts = [_head(groups), _cards(groups[0]) if len(groups) == 1 else ""]
    if several:
        parts.append(_section("Runs", _comparison(groups)))
    parts.append(_section("Return", _figure(figures.returns(groups)) + _returns_note(groups[0])))
    parts.append(_films([run for group in groups for run in group.runs]))
    parts.append(_warnings(groups))
    for title, drawing, note in (
        ("Losses", figures.losses(groups), ""),
        ("Pace", figures.pace(groups), _waits(groups)),
    ):
        if drawing is not None:
            parts.append(_section(title, note + _figure(drawing)))
    parts.append(_machine(first))
    parts.append(_settings(first))
    title = html.escape(f"{_task(first)}: report")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(groups: Sequence[Group]) -> str:
    first = groups[0].runs[0]
    count = sum(len(group.runs) for group in groups)
    environment = first.settings.get("environment", {})
    described = [f"{count} runs"] if count > 1 else [first.name]
    if len(groups) == 1 and environment:
        difficulty = environment.get("difficulty", "none")
        motion = "moving" if environment.get("dynamic") else "static"
        clean = difficulty == "none"
        described.append(
            "trained without distractions"
            if clean
            else f"trained with {motion} distractions, {difficulty}"
        )
    qualities = {group.runs[0].settings.get("environment", {}).get("quality") for group in groups}
    if "fast" in qualities:
        some = "" if len(qualities) == 1 else "some "
        described.append(f"{some}pictures without shadows (quality fast)")
    if count == 1 and "seed" in first.facts:
        described.append(f"seed {first.facts['seed']}")
    if first.facts.get("started"):
        described.append(str(first.facts["started"])[:10])
    if count == 1 and first.facts.get("status") in ("failed", "interrupted"):
        described.append(f"{first.facts['status']}: not at its end")
    lead = html.escape(" · ".join(described))
    return f'<h1>{html.escape(_task(first))}</h1><p class="lead">{lead}</p>'


def _cards(group: Group) -> str:
    cards = []
    final, best, twin = group.final(), group.best_trivial, group.final("twin/return")
    over = f"over {len(group.runs)} seeds" if len(group.runs) > 1 else "over its episodes"
    if final is not None and len(group.runs) == 1 and group.runs[0].last("eval/episodes") == 1:
        note = "last evaluation, one episode: no standard error"
        cards.append(_card("return", f"{final[0]:.0f}", note, main=True))
    elif final is not None:
        note = f"last evaluation, mean ± s.e. {over}"
        cards.append(_card("return", f"{final[0]:.0f} ± {final[1]:.0f}", note, main=True))
    if best is not None:
        note = best[0].replace("_", " ")
        if final is not None and best[1] > 0:
            note += f"; the policy has {final[0] / best[1]:.1f} times this"
        cards.append(_card("best trivial policy", f"{best[1]:.0f} ± {best[2]:.0f}", note))
    if twin is not None:
        difficulty = group.runs[0].settings.get("evaluation", {}).get("distracted_twin", "")
        cards.append(
            _card("same policy, distracted", f"{twin[0]:.0f} ± {twin[1]:.0f}", str(difficulty))
        )
    run = group.runs[0]
    steps, simulator = run.last("agent_steps"), run.last("simulator_steps")
    if steps is not None:
        note = f"{simulator:,.0f} simulator steps" if simulator is not None else ""
        cards.append(_card("agent steps", f"{steps:,.0f}", note))
    updates, elapsed = run.last("updates"), run.last("elapsed_s")
    if updates is not None:
        note = f"{updates / elapsed:.1f} per second" if elapsed else ""
        cards.append(_card("updates", f"{updates:,.0f}", note))
    if elapsed is not None:
        cards.append(
            _card("training time", duration(elapsed), "without start and evaluation at the end")
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(name: str, value: str, note: str, main: bool = False) -> str:
    return (
        f'<div class="card{" main" if main else ""}"><div class="name">{html.escape(name)}</div>'
        f'<div class="value">{html.escape(value)}</div>'
        f'<div class="note">{html.escape(note)}</div></div>'
    )


def _comparison(groups: Sequence[Group]) -> str:
    """Return a table of groups with their runs beneath."""
    rows = []
    for index, group in enumerate(groups):
        color = figures.COLORS[index % len(figures.COLORS)]
        swatch = f'<span class="swatch" style="background:{color}"></span>'
        if len(group.runs) > 1:
            rows.append(_row(f"{swatch}<b>{html.escape(group.label)}</b>", group))
        for run in group.runs:
            name = html.escape(run.name)
            alone = len(group.runs) == 1
            rows.append(_row(f"{swatch}<b>{name}</b>" if alone else name, Group("", [run])))
    head = "".join(
        f'<th class="{"number" if index else ""}">{name}</th>'
        for index, name in enumerate(
            ("run", "return", "distracted", "best trivial", "agent steps", "updates", "time")
        )
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _row(name: str, group: Group) -> str:
    final, twin, best = group.final(), group.final("twin/return"), group.best_trivial
    run = group.runs[0]
    one = len(group.runs) == 1
    elapsed = run.last("elapsed_s")
    cells = [
        f"{final[0]:.1f} ± {final[1]:.1f}" if final else "",
        f"{twin[0]:.1f} ± {twin[1]:.1f}" if twin else "",
        f"{best[1]:.1f} ± {best[2]:.1f}" if best else "",
        f"{run.last('agent_steps') or 0:,.0f}" if one else f"{len(group.runs)} seeds",
        f"{run.last('updates') or 0:,.0f}" if one else "",
        duration(elapsed) if one and elapsed is not None else "",
    ]
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f"<tr><td>{name}</td>{numbers}</tr>"


def _returns_note(group: Group) -> str:
    if not group.trivial:
        return ""
    listed = ", ".join(
        f"{name.replace('_', ' ')} {mean:.0f} ± {error:.0f}"
        for name, (mean, error) in sorted(group.trivial.items(), key=lambda item: -item[1][0])
    )
    return (
        '<p class="lead" style="margin:10px 0 0">Dashed: the best of the policies that look at '
        f"nothing; dotted: the others ({html.escape(listed)}). Returns are undiscounted, over "
        "whole episodes; evaluations use their own seeds and start states.</p>"
    )


def _films(runs: Sequence[Run]) -> str:
    figures_ = []
    for run in runs:
        for entry in run.facts.get("evaluations", []):
            video = entry.get("video")
            if not video:
                continue
            path = run.path / video
            media = _MEDIA.get(path.suffix)
            if media is None or not path.is_file():
                continue
            count = len(entry["returns"])
            of_all = f"{entry['mean']:.0f} ± {entry['se']:.0f} over {count} episodes, this one "
            caption = (
                f"{entry['name']}: distractions {entry['difficulty']}, {entry['split']} videos; "
                f"{of_all if count > 1 else 'return '}{entry['returns'][0]:.0f}. Left the scene, "
                "right what the policy sees."
            )
            if len(runs) > 1:
                caption = f"{run.name}, {caption}"
            figures_.append(
                f"<figure>{_film(path, media)}<figcaption>{html.escape(caption)}</figcaption>"
                "</figure>"
            )
        if len(figures_) >= 6:
            break
    if not figures_:
        return ""
    return _section("The policy at work", f'<div class="films">{"".join(figures_)}</div>')


def _film(path: Path, media: str) -> str:
    if path.stat().st_size > MAX_FILM_BYTES:
        return f"<p>{html.escape(str(path))} is too large to be embedded.</p>"
    source = f"data:{media};base64,{base64.b64encode(path.read_bytes()).decode()}"
    if media.startswith("video/"):
        return f'<video controls loop muted autoplay playsinline src="{source}"></video>'
    return f'<img alt="film of one episode" src="{source}">'


def _warnings(groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        for run in group.runs:
            trained = [line for line in run.lines if "learner/busy_percent" in line]
            for text in warnings(trained):
                name = f"<b>{html.escape(run.name)}</b>: " if len(groups) > 1 else ""
                rows.append(f'<div class="warning">{name}{html.escape(text)}</div>')
    return _section("Warnings at the end", "".join(rows)) if rows else ""


def _waits(groups: Sequence[Group]) -> str:
    """Who waited for whom from the first update on, a line for each run."""
    rows = []
    for group in groups:
        for run in group.runs:
            text = who_waits([line for line in run.lines if line.get("updates", 0) > 0])
            if text is not None:
                several = len(groups) > 1 or len(group.runs) > 1
                name = f"<b>{html.escape(run.name)}</b>: " if several else ""
                rows.append(f'<p class="lead">{name}{html.escape(text)}</p>')
    return "".join(rows)


def _machine(run: Run) -> str:
    machine, versions = run.facts.get("machine", {}), run.facts.get("versions", {})
    if not machine and not versions:
        return ""
    facts = {name.replace("_", " "): _plain(value) for name, value in machine.items()}
    if learners := run.facts.get("learners"):
        facts["learners"] = str(learners)
    command = run.facts.get("command")
    shown = f"<pre>{html.escape(' '.join(map(str, command)))}</pre>" if command else ""
    body = (
        f'<div class="columns">{_table(facts)}{_table(versions)}</div>'
        f'<p class="lead" style="margin:14px 0 0">started by</p>{shown}'
    )
    return _section("What it ran on", body)


def _settings(run: Run) -> str:
    if not run.settings:
        return ""
    changed = changed_settings(run.settings)
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(_plain(value))}</td>"
        f"<td>{html.escape(_plain(default))}</td></tr>"
        for name, (value, default) in changed.items()
    )
    table = f"<table><tr><th>setting</th><th>here</th><th>default</th></tr>{rows}</table>"
    complete = "\n".join(
        f"{section}.{key}={_plain(value)}"
        for section, values in run.settings.items()
        for key, value in values.items()
    )
    body = (
        f"<details open><summary>{len(changed)} that differ from the defaults, which are the "
        f'paper\'s numbers</summary><div class="scroll">{table}</div></details>'
        f"<details><summary>all</summary><pre>{html.escape(complete)}</pre></details>"
    )
    return _section("Settings", body)


def _table(facts: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{html.escape(_plain(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f"<div><table>{rows}</table></div>"


def _figure(svg: str) -> str:
    encoded = base64.b64encode(svg.encode()).decode()
    return f'<img class="figure" alt="curves" src="data:image/svg+xml;base64,{encoded}">'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def _task(run: Run) -> str:
    name = str(run.settings.get("environment", {}).get("name", run.name))
    return name.rpartition("/")[2]


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return ", ".join(map(str, value)) if value else "none"
    return str(value)
