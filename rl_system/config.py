"""Configuration in and out: presets, files, command-line overrides, plain dictionaries.

settings = load_settings("core/cheetah-run/paper", ["run.seed=3", "learner.batch_size=16"])
save_settings(settings, "settings.yaml")       # one file that alone gives the same settings
settings_from_dict(settings_to_dict(settings)) == settings
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rl_system.errors import SettingsError
from rl_system.fields import fields_of, kind_text, nearest, read_value
from rl_system.presets import Sections, list_presets, merge, read_preset
from rl_system.settings import EvaluationSettings, RunSettings, Settings, sections_of

__all__ = [
    "EvaluationSettings",
    "RunSettings",
    "Settings",
    "SettingsError",
    "default_settings",
    "describe",
    "list_presets",
    "load_settings",
    "override",
    "save_settings",
    "sections_of",
    "settings_from_dict",
    "settings_to_dict",
]

_WIDTH = 100


def load_settings(preset_or_file: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Return checked settings.

    Args:
        preset_or_file: Name of a preset (`rl_system.presets` says how names are found) or path of
            a YAML file.
        overrides: `section.key=value` each, the value as YAML; they win over the file.

    Raises:
        SettingsError: No such preset, unknown section or key (the nearest known one is named), a
            value of a wrong type, or settings that do not fit each other.
    """
    sections = read_preset(str(preset_or_file))
    return settings_from_dict(merge(sections, parse_overrides(overrides, system_of(sections))))


def override(settings: Settings, overrides: Sequence[str]) -> Settings:
    """Return `settings` with `section.key=value` applied; raises as `load_settings`."""
    plain = settings_to_dict(settings)
    return settings_from_dict(merge(plain, parse_overrides(overrides, settings.run.system)))


def system_of(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the system that sections are of: what they say, or the default."""
    run = sections.get("run", {})
    return run.get("system", RunSettings.system) if isinstance(run, Mapping) else RunSettings.system


def parse_overrides(overrides: Sequence[str], system: str = RunSettings.system) -> Sections:
    """Return `section.key=value` entries as sections; the later of two for one key wins.

    The keys are those of `system`, or of the one that an entry `run.system=...` names.

    Raises:
        SettingsError: An entry has another form, or names no known section and key.
    """
    sections: Sections = {}
    named = [e.partition("=")[2].strip() for e in overrides if e.startswith("run.system=")]
    kinds = sections_of(named[-1] if named else system)
    for entry in overrides:
        path, equals, text = entry.partition("=")
        section, dot, key = path.strip().partition(".")
        if not equals or not dot:
            raise SettingsError(
                f"{entry!r} is no setting: write section.key=value, for example run.seed=1."
            )
        kind = _field(kinds, section, key).kind
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if isinstance(value, bool | int | float) and kind in (str, str | None):
            value = text  # run.name=007 and environment.gl=off mean the text
        sections.setdefault(section, {})[key] = value
    return sections


def settings_from_dict(sections: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Return checked settings from nested plain dictionaries.

    What is absent keeps the default of the system that `run.system` names: of CoRe that of the
    program, of another system what `configs/SYSTEM.yaml` says over it, such as its task and the
    size of its pictures. `{}` is thus CoRe at the paper's size on clean pictures, and
    `{"run": {"system": "cvrl"}}` is CVRL as the paper ran it on Natural MuJoCo.

    Raises:
        SettingsError: As for `load_settings`.
    """
    system = system_of(sections)
    kinds = sections_of(system)
    for section, values in sections.items():
        _section(kinds, section)
        if not isinstance(values, Mapping):
            raise SettingsError(f"{section} is {values!r}; expected a section with fields.")
    given: Sections = {name: dict(values) for name, values in sections.items()}
    if system != RunSettings.system:
        given = merge(read_preset(system), given)
    built: dict[str, Any] = {}
    problems: list[str] = []
    for section, kind in kinds.items():
        read = {
            key: read_value(f"{section}.{key}", _field(kinds, section, key).kind, value)
            for key, value in given.get(section, {}).items()
        }
        try:
            built[section] = kind(**read)
        except (ValueError, RuntimeError) as error:  # a room's own check of its fields
            problems.append(str(error))
    if problems:
        raise SettingsError("\n".join(problems))
    return Settings(**built).validate()


def default_settings(system: str = RunSettings.system) -> Settings:
    """Return the settings of a system about which nothing is said; see `settings_from_dict`.

    Raises:
        SettingsError: There is no such system.
    """
    return settings_from_dict({"run": {"system": system}})


def settings_to_dict(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return nested dictionaries of plain values (tuples as lists) that YAML and JSON can hold."""
    return {
        section: {
            key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
        }
        for section, values in dataclasses.asdict(settings).items()
    }


def save_settings(settings: Settings, path: str | Path) -> None:
    """Write every setting with its comment to one YAML file that inherits nothing.

    Raises:
        OSError: The file cannot be written.
    """
    lines = [
        "# All settings of a run. `rl-system train` with this file runs them again.",
        "# Fields at the default of the system, which is the paper's number, say nothing;",
        "# the others name that default in brackets.",
    ]
    kinds = sections_of(settings.run.system)
    defaults = settings_to_dict(default_settings(settings.run.system))
    for section, values in settings_to_dict(settings).items():
        lines += ["", f"{section}:"]
        for name, item in fields_of(kinds[section]).items():
            note = item.comment
            default = defaults[section][name]
            if values[name] != default:
                note += f" [{_yaml(default)}]"
            entry = f"  {name}: {_yaml(values[name])}"
            if len(entry) + len(note) + 4 <= _WIDTH:
                lines.append(f"{entry}  # {note}")
            else:
                wrapped = textwrap.wrap(note, _WIDTH - 4)
                lines += [*(f"  # {line}" for line in wrapped), entry]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe(section: str | None = None, system: str = RunSettings.system) -> str:
    """Return the fields of a system with their types, defaults and comments as text, one section
    or all.

    Raises:
        SettingsError: No such section or system.
    """
    kinds = sections_of(system)
    defaults = settings_to_dict(default_settings(system))
    names = [section] if section else list(kinds)
    lines = []
    for name in names:
        kind = _section(kinds, name)
        lines += [f"{name}: {(kind.__doc__ or '').strip().splitlines()[0]}"]
        for item in fields_of(kind).values():
            default = _yaml(defaults[name][item.name])
            lines.append(f"  {name}.{item.name}={default}  ({kind_text(item.kind)})")
            lines += [f"      {line}" for line in textwrap.wrap(item.comment, _WIDTH - 6)]
        lines.append("")
    return "\n".join(lines)


def _section(kinds: dict[str, type], name: str) -> type:
    if name not in kinds:
        raise SettingsError(
            f"There is no section {name!r}.{nearest(name, kinds)} Sections: {', '.join(kinds)}."
        )
    return kinds[name]


def _field(kinds: dict[str, type], section: str, key: str) -> Any:
    fields = fields_of(_section(kinds, section))
    if key not in fields:
        own = nearest(key, fields)
        elsewhere = [f"{name}.{key}" for name, kind in kinds.items() if key in fields_of(kind)]
        if elsewhere:
            own = f" Did you mean {' or '.join(elsewhere)}?"
        raise SettingsError(
            f"There is no setting {section}.{key}.{own} Known: {', '.join(fields)}."
        )
    return fields[key]


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...").strip()
