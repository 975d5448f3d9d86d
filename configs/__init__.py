"""Presets as data: YAML files that `rl_system.config.load_settings` finds by name."""

from pathlib import Path

DIRECTORY = Path(__file__).parent  # where the presets lie, in a working tree as in a wheel
