"""Making a door in this process, behind a check that it can draw."""

from __future__ import annotations

import importlib.util
import logging
import sys
from typing import Any

from actors.environments.robosuite_process.errors import GraphicsError


def make_door(arguments: dict[str, Any]) -> Any:
    """Returns a `Door`.

    Args:
        arguments: what `Door` takes.

    Raises:
        ModuleNotFoundError: this Python has no robosuite, or no MuJoCo.
        GraphicsError, RuntimeError: see `Door`.
    """
    # At import it warns that its developers' own file of macros is not there.
    logging.getLogger("robosuite_logs").addFilter(lambda record: "macro" not in record.getMessage())
    import mujoco

    from actors.environments.robosuite_process.door import Door

    mujoco.set_mju_user_warning(lambda text: print(text, file=sys.stderr))  # else into a file
    return Door(**arguments)


def check_graphics(path: str) -> None:
    """Draws a known scene.

    Args:
        path: of the file `self_check.py` that describes it and knows how it must look.

    Raises:
        ModuleNotFoundError: this Python has no MuJoCo.
        GraphicsError: this process cannot draw it, or draws it wrong.
    """
    self_check = _load(path)
    try:
        import mujoco  # opens the display

        context = mujoco.GLContext(self_check.SIDE, self_check.SIDE)
        try:
            context.make_current()
            fault = self_check.find_fault_here()
        finally:
            context.free()
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever the OpenGL library and its Python layer raise
        raise GraphicsError(error) from error
    if fault is not None:
        raise GraphicsError(f"it draws wrong pictures: {fault}")


def _load(path: str) -> Any:
    """Imports one file, which need not be where modules are found."""
    spec = importlib.util.spec_from_file_location("self_check", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
