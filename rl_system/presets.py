"""Presets: named YAML files under `configs/`, files of one's own, and what they inherit.

A file is a mapping of sections to fields. Its optional key `inherits` lists presets or files that
are read first; later ones win over earlier ones, and the file itself over all. Paths in `inherits`
are relative to the file when they end in .yaml.

`SYSTEM/TASK/SIZE`, for example `core/cheetah-run/paper`, needs no file of its own: it is
`configs/SYSTEM.yaml`, then the size, then `environment.name: dcs/TASK`. Sizes are those of the
system that the file trains: `configs/core/SIZE.yaml`, `configs/cvrl/SIZE.yaml` or
`configs/sac/SIZE.yaml`.
`SYSTEM/BENCHMARK/TASK/SIZE`, for example `cvrl/natural/walker-walk/tiny`, has
`configs/benchmarks/BENCHMARK.yaml` before the size: any system on the pictures of any benchmark.

For a task of robosuite `configs/robosuite/SIZE.yaml` comes behind the size, and behind that, for
`TASK-proprioception`, `configs/robosuite/proprioception.yaml`.

Files in folders (sizes, benchmarks, robosuite) are parts: a file of one's own can inherit them by
name, such as `core/tiny`. Read alone, a part stands over the defaults of its system, whose task it
leaves as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from actors.environments.catalog import (
    NATURAL_TASKS,
    PAPER_TASKS,
    PREFIX,
    ROBOSUITE_PREFIX,
    Entry,
    list_environments,
)
from configs import DIRECTORY
from rl_system.errors import SettingsError
from rl_system.fields import nearest

Sections = dict[str, dict[str, Any]]

CORE = "core"
SIZES = ("tiny", "small", "paper")
BENCHMARKS = "benchmarks"
ROBOSUITE = "robosuite"
PROPRIOCEPTION = "proprioception"


def list_presets() -> list[str]:
    """Return what can be trained as it is: `default` and every system, and by composition CoRe on
    the six tasks of the Distracting Control Suite and on robosuite's, and CVRL on its ten tasks.

    More can be composed: every system takes every benchmark, and every task that it has.
    """
    files = [path.stem for path in sorted(DIRECTORY.glob("*.yaml"))]
    doors = [
        entry.name.removeprefix(ROBOSUITE_PREFIX) + suffix
        for entry in list_environments()
        if entry.family == ROBOSUITE
        for suffix in ("", f"-{PROPRIOCEPTION}")
    ]
    tasks = [f"core/{task}" for task in [*(n.removeprefix(PREFIX) for n in PAPER_TASKS), *doors]]
    tasks += [
        f"cvrl/{benchmark}/{task.removeprefix(PREFIX)}"
        for benchmark in ("natural", "standard")
        for task in NATURAL_TASKS
    ]
    return [*files, *(f"{task}/{size}" for task in tasks for size in SIZES)]


def list_systems() -> list[str]:
    """Return what can stand first in a composed name: the files that name a system."""
    return [path.stem for path in sorted(DIRECTORY.glob("*.yaml")) if path.stem != "default"]


def list_benchmarks() -> list[str]:
    """Return what can stand second in a composed name of four parts."""
    return [path.stem for path in sorted((DIRECTORY / BENCHMARKS).glob("*.yaml"))]


def read_preset(name: str, beside: Path | None = None) -> Sections:
    """Return the sections of a preset or file with all it inherits, unchecked.

    Args:
        name: Name of a preset, or path of a YAML file.
        beside: Folder that a relative path is looked up in first; None is the working directory.

    Raises:
        SettingsError: There is no such preset or file, it is no YAML mapping of sections, or
            presets inherit each other in a circle.
    """
    return _read(name, beside, ())


def merge(base: Sections, over: Sections) -> Sections:
    """Return the fields of both; where both have one, that of `over`."""
    names = [*base, *(name for name in over if name not in base)]
    return {name: {**base.get(name, {}), **over.get(name, {})} for name in names}


def _read(name: str, beside: Path | None, parents: tuple[str, ...]) -> Sections:
    path = _find_file(name, beside)
    if path is None:
        return _compose(name, parents)
    key = str(path)
    if key in parents:
        circle = " -> ".join(Path(part).name for part in (*parents, key))
        raise SettingsError(f"{path} inherits itself: {circle}. Remove one `inherits` entry.")
    content = _load_yaml(path)
    inherited = content.pop("inherits", [])
    if isinstance(inherited, str):
        inherited = [inherited]
    if not isinstance(inherited, list) or not all(isinstance(part, str) for part in inherited):
        raise SettingsError(f"{path}: `inherits` must be a list of presets or files.")
    sections: Sections = {}
    for part in inherited:
        sections = merge(sections, _read(part, path.parent, (*parents, key)))
    return merge(sections, content)


def _find_file(name: str, beside: Path | None) -> Path | None:
    if name.endswith((".yaml", ".yml")):
        for candidate in ((beside or Path()) / name, Path(name), DIRECTORY / name):
            if candidate.is_file():
                return candidate.resolve()
        raise SettingsError(f"There is no file {name}. `rl-system train --list` lists the presets.")
    candidate = DIRECTORY / f"{name}.yaml"
    return candidate if candidate.is_file() else None


def _compose(name: str, parents: tuple[str, ...]) -> Sections:
    parts = name.split("/")
    if len(parts) in (3, 4) and parts[0] in list_systems() and parts[-1] in SIZES:
        system, *benchmark, task, size = parts
        if benchmark and benchmark[0] not in list_benchmarks():
            near = nearest(benchmark[0], list_benchmarks())
            raise SettingsError(
                f"There is no benchmark {benchmark[0]!r}.{near} "
                f"Benchmarks: {', '.join(list_benchmarks())}."
            )
        entry, with_proprioception = _task(task)
        sections = _read(system, None, parents)
        trained = sections.get("run", {}).get("system", CORE)
        names = [*(f"{BENCHMARKS}/{each}" for each in benchmark), f"{trained}/{size}"]
        if entry.family == ROBOSUITE:
            if trained != CORE or benchmark:
                raise SettingsError(
                    f"{name}: robosuite's tasks have sizes for CoRe alone, as core/{task}/{size}. "
                    f"For {trained} write a file that inherits {system} and sets what it needs."
                )
            names.append(f"{ROBOSUITE}/{size}")
        if with_proprioception:
            names.append(f"{ROBOSUITE}/{PROPRIOCEPTION}")
        for part in names:
            sections = merge(sections, _read(part, None, parents))
        return merge(sections, {"environment": {"name": entry.name}})
    if Path(name).is_file():
        raise SettingsError(f"{name} is a file, but no YAML file: give it the ending .yaml.")
    raise SettingsError(
        f"There is no preset {name!r}.{nearest(name, list_presets(), 3)} "
        "`rl-system train --list` lists all; a file of your own ends in .yaml."
    )


def _task(name: str) -> tuple[Entry, bool]:
    """Return the environment of a preset's TASK and whether it is to show proprioception."""
    plain = name.removesuffix(f"-{PROPRIOCEPTION}")
    entries = list_environments()
    for entry in entries:
        if entry.name.partition("/")[2] == plain:
            if plain != name and not entry.proprioception_dims:
                raise SettingsError(f"{entry.name} has no proprioception: name the task {plain}.")
            return entry, plain != name
    tasks = [entry.name.partition("/")[2] for entry in entries]
    raise SettingsError(
        f"No environment is called {plain!r}.{nearest(plain, tasks, 3)} `rl-system envs` lists all."
    )


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is no readable YAML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(
            f"{path} must hold sections with fields, not a {type(content).__name__}."
        )
    for section, values in content.items():
        if values is None:
            content[section] = {}
        elif section != "inherits" and not isinstance(values, dict):
            raise SettingsError(
                f"{path}: `{section}` must be a section with indented fields, not {values!r}."
            )
    return content
