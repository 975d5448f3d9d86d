"""Loads tasks of dm_control, without its warnings about its own model files."""

from __future__ import annotations

from absl import logging
from dm_control import suite
from dm_control.rl import control

from actors.environments.catalog import Entry


def load_task(entry: Entry, seed: int) -> control.Environment:
    """Returns the plain task of that entry, its start states drawn from `seed` (32 bit)."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        return suite.load(entry.domain, entry.task, task_kwargs={"random": seed})
    finally:
        logging.set_verbosity(verbosity)
