"""Which OpenGL library draws the pictures: EGL (GPU or CPU), else OSMesa (CPU), else none.

MuJoCo and dm_control read `MUJOCO_GL` and `MUJOCO_EGL_DEVICE_ID` once per process, at their first
import. `select` sets a sensible `MUJOCO_GL` before that; `require` later draws a known scene, turns
from an EGL that cannot to OSMesa, and says what to install or to set when neither can. A process
draws with one library only: contexts of two disturb each other.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from typing import Any, Literal

Backend = Literal["egl", "osmesa"]

INSTALL_HINTS: dict[str, str] = {
    "egl": "apt-get install -y libegl1 libopengl0 libgl1-mesa-dri",
    "osmesa": "apt-get install -y libosmesa6 libopengl0",
}
_LIBRARIES: dict[str, tuple[str, ...]] = {
    "egl": ("libEGL.so.1", "libOpenGL.so.0"),
    "osmesa": ("libOSMesa.so.8",),
}
_NO_RENDERER = "disabled"
_checked: set[str] = set()  # libraries whose pictures are right in this process
_failures: list[str] = []  # why others were given up


class GraphicsUnavailable(RuntimeError):
    """No picture can be drawn in this process; the message says what to install or to set."""


def missing_libraries(backend: str) -> list[str]:
    """Returns the libraries of `backend` ("egl" or "osmesa") that this machine cannot load."""
    missing = []
    for name in _LIBRARIES[backend]:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    return missing


def select() -> str:
    """Sets `MUJOCO_GL` if it is unset: "egl" if its libraries load, else "osmesa", else "disabled".

    With "disabled" physics still runs and `require` raises. A value that the user has set is kept.
    Also asks Mesa for no helper threads (`LP_NUM_THREADS=0`) unless that is set: one actor draws
    one small picture at a time, and on a many-core node helper threads only get in the way of other
    actors.

    Returns:
        The value of `MUJOCO_GL` from now on.
    """
    os.environ.setdefault("LP_NUM_THREADS", "0")
    chosen = os.environ.get("MUJOCO_GL")
    if not chosen:
        usable = [name for name in ("egl", "osmesa") if not missing_libraries(name)]
        chosen = usable[0] if usable else _NO_RENDERER
        os.environ["MUJOCO_GL"] = chosen
    return chosen


def require(gl: str = "auto", render_device: int | None = None) -> str:
    """Makes sure that this process can draw, with the asked library and device.

    Args:
        gl: "auto" (what `select` found), "egl" or "osmesa".
        render_device: index of the EGL device that draws, None for the first that works. One per
            process.

    Returns:
        The name of the library in use.

    Raises:
        ValueError: `gl` is none of the above.
        GraphicsUnavailable: the library or device is missing, or this process already draws with
        another.
    """
    if gl not in ("auto", "egl", "osmesa"):
        raise ValueError(f"environment.gl is {gl!r}; choose auto, egl or osmesa.")
    loaded: Any = sys.modules.get("dm_control._render")
    if loaded is None:
        if gl != "auto":
            os.environ["MUJOCO_GL"] = gl
        else:
            select()
        if render_device is not None:
            os.environ["MUJOCO_EGL_DEVICE_ID"] = str(render_device)
        loaded = _load(gl)
    in_use = str(loaded.BACKEND or _NO_RENDERER)
    if in_use in ("off", _NO_RENDERER, "disable"):
        missing = ", ".join(missing_libraries("egl")) or "none of the EGL files"
        raise GraphicsUnavailable(
            "No OpenGL library that draws without a display was found "
            f"({'; '.join(_failures) or f'missing: {missing}'}). "
            f"On Debian or Ubuntu run `{INSTALL_HINTS['egl']}` (or "
            f"`{INSTALL_HINTS['osmesa']}`), or set MUJOCO_GL."
        )
    if os.environ.get("MUJOCO_GL") == "glfw" and not _has_display():
        raise GraphicsUnavailable(
            "MUJOCO_GL=glfw needs a display, and there is none: unset it, or set MUJOCO_GL=egl."
        )
    if in_use == "glfw" and not _has_display():
        raise GraphicsUnavailable(
            "dm_control was imported before actors.environments and chose GLFW, which needs a "
            "display: import actors.environments first, or start the process with MUJOCO_GL=egl."
        )
    if gl != "auto" and in_use != gl:
        raise GraphicsUnavailable(
            f"This process already draws with {in_use}, and environment.gl asks for {gl}: "
            f"start the process with MUJOCO_GL={gl}, or set environment.gl=auto."
        )
    device = os.environ.get("MUJOCO_EGL_DEVICE_ID")
    if render_device is not None and in_use == "egl" and device != str(render_device):
        raise GraphicsUnavailable(
            f"This process already draws on EGL device {device or '0 (the first that works)'}, and "
            f"environment.render_device asks for {render_device}: use one device per process."
        )
    _check(loaded, in_use)  # dm_control may have been imported by others
    return in_use


def _has_display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _check(loaded: Any, library: str) -> None:
    """Raises GraphicsUnavailable unless the library draws a known scene right, once per process."""
    if library in _checked:
        return
    from actors.environments.self_check import find_fault

    fault = find_fault(loaded)
    if fault is not None:
        raise GraphicsUnavailable(
            f"{library} draws wrong pictures on this machine: {fault}; choose another device with "
            "environment.render_device, set environment.gl=osmesa (`"
            f"{INSTALL_HINTS['osmesa']}`), or mend the driver"
        )
    _checked.add(library)


def _load(gl: str) -> Any:
    """Imports dm_control's rendering; "auto" falls back from a broken EGL to OSMesa."""
    attempts = [os.environ["MUJOCO_GL"]]
    if gl == "auto" and attempts == ["egl"]:
        attempts += [name for name in ("osmesa",) if not missing_libraries(name)] + [_NO_RENDERER]
    failure: Exception | None = None
    for attempt in attempts:
        os.environ["MUJOCO_GL"] = attempt
        try:
            loaded = importlib.import_module("dm_control._render")
            if attempt in _LIBRARIES:
                _check(loaded, attempt)
            return loaded
        # PyOpenGL raises AttributeError, ImportError, GLError or RuntimeError.
        except Exception as error:
            if isinstance(error, RuntimeError) and "MUJOCO_EGL_DEVICE_ID" in str(error):
                found = str(error).split("between")[-1].split("(")[0].strip()
                raise GraphicsUnavailable(
                    f"No EGL device {os.environ.get('MUJOCO_EGL_DEVICE_ID')} (found {found}): set "
                    "environment.render_device to one of those, or environment.gl=osmesa."
                ) from error
            # The first says why; that the last resort fails as well is no news.
            failure = failure or error
            _failures.append(f"{attempt}: {error}")
            for name in [n for n in sys.modules if n.split(".")[0] == "OpenGL"]:
                del sys.modules[name]
            for name in [n for n in sys.modules if n.startswith("dm_control._render")]:
                del sys.modules[name]
            os.environ.pop("PYOPENGL_PLATFORM", None)
    if isinstance(failure, GraphicsUnavailable):
        raise failure
    missing = missing_libraries(attempts[0]) if attempts[0] in _LIBRARIES else []
    reason = f"missing {', '.join(missing)}" if missing else failure
    raise GraphicsUnavailable(
        f"{attempts[0]} cannot draw here ({reason}). On Debian or Ubuntu run "
        f"`{INSTALL_HINTS.get(attempts[0], INSTALL_HINTS['egl'])}`, or set MUJOCO_GL otherwise."
    ) from failure
