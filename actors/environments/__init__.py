"""Pixel environments: dm_control tasks with the distractions of the Distracting Control Suite.

Start at `catalog.make_environment`. Importing this package selects an off-screen OpenGL library for
the process (see `backend`), because MuJoCo and dm_control read that choice once, when they are
first imported. Nothing here imports another room of the house.
"""

from __future__ import annotations

from actors.environments import backend

backend.select()
