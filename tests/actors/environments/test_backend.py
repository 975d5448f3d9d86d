from __future__ import annotations

import os
import subprocess
import sys

import pytest

from actors.environments import backend


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    for name in ("PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY"):
        variables.pop(name, None)
    variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", code],
        env=variables | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_importing_the_package_selects_a_library_before_mujoco_is_imported() -> None:
    done = _run(
        "import sys, os, actors.environments as e; assert 'mujoco' not in sys.modules; "
        "print(os.environ['MUJOCO_GL'])"
    )
    assert done.stdout.strip() in ("egl", "osmesa", "disabled"), done.stderr


def test_a_choice_of_the_user_is_kept() -> None:
    done = _run(
        "import os, actors.environments; print(os.environ['MUJOCO_GL'])", MUJOCO_GL="osmesa"
    )
    assert done.stdout.strip() == "osmesa", done.stderr


def test_without_a_library_the_error_says_what_to_install_and_physics_still_runs() -> None:
    done = _run(
        "from actors.environments.trivial import measure_trivial\n"
        "from actors.environments.catalog import make_environment\n"
        "from actors.environments.settings import EnvironmentSettings\n"
        "measure_trivial('dcs/cartpole-swingup', episodes=1, action_repeat=100)\n"
        "make_environment(EnvironmentSettings(), 0)\n",
        MUJOCO_GL="disabled",
    )
    assert "GraphicsUnavailable" in done.stderr and "apt-get install" in done.stderr


def test_a_device_that_does_not_exist_is_named_with_those_that_do() -> None:
    if backend.missing_libraries("egl"):
        pytest.skip("needs EGL")
    done = _run(
        "from actors.environments import backend; backend.require('egl', render_device=99)",
        MUJOCO_GL="egl",
    )
    assert (
        "No EGL device 99 (found 0 and" in done.stderr
        and "environment.render_device" in done.stderr
    )


def test_another_library_than_the_one_in_use_is_refused() -> None:
    in_use = backend.require("auto")
    other = "osmesa" if in_use == "egl" else "egl"
    with pytest.raises(backend.GraphicsUnavailable, match=f"already draws with {in_use}"):
        backend.require(other)


def test_an_unknown_library_is_refused() -> None:
    with pytest.raises(ValueError, match="egl or osmesa"):
        backend.require("glfw")


def test_dm_control_imported_too_early_gets_a_clear_error() -> None:
    done = _run(
        "import dm_control.suite; from actors.environments import backend; backend.require()"
    )
    assert "import actors.environments first" in done.stderr


_WRONG_EGL = (
    "import sys\n"
    "from actors.environments import backend, self_check\n"
    "right = self_check.find_fault\n"
    "def find_fault(render):\n"
    "    return 'all is black' if render.BACKEND == 'egl' else right(render)\n"
    "self_check.find_fault = find_fault\n"
)


def test_a_library_that_draws_wrong_pictures_is_given_up_with_the_reason() -> None:
    if backend.missing_libraries("egl"):
        pytest.skip("needs EGL")
    asked = _run(_WRONG_EGL + "backend.require('egl')")
    assert "egl draws wrong pictures on this machine: all is black" in asked.stderr
    assert "apt-get install -y libosmesa6" in asked.stderr
    auto = _run(_WRONG_EGL + "print(backend.require('auto'))")
    if backend.missing_libraries("osmesa"):
        assert "all is black" in auto.stderr and "apt-get install" in auto.stderr
    else:
        assert auto.stdout.strip() == "osmesa", auto.stderr


def test_the_self_check_tells_a_right_picture_from_a_dark_one() -> None:
    if backend.missing_libraries("egl"):
        pytest.skip("needs EGL")
    program = (
        "from actors.environments import backend, self_check\n"
        "backend.require('egl')\n"
        "import dm_control._render as render\n"
        "print(self_check.find_fault(render))\n"
        "self_check._SCENE = self_check._SCENE.replace('emission=\"1\"', 'emission=\"0\"')\n"
        "print(self_check.find_fault(render))\n"
    )
    lines = _run(program).stdout.splitlines()
    assert lines[0] == "None" and "0% is red" in lines[1]


def test_osmesa_draws_the_bytes_of_egl() -> None:
    if backend.missing_libraries("egl") or backend.missing_libraries("osmesa"):
        pytest.skip("needs EGL and OSMesa")
    program = (
        "import hashlib, numpy as np\n"
        "from actors.environments.catalog import make_environment\n"
        "from actors.environments.settings import EnvironmentSettings\n"
        "environment = make_environment(EnvironmentSettings(difficulty='hard', gl='{}'), 0)\n"
        "environment.reset()\n"
        "picture = environment.step(np.zeros(6)).observation\n"
        "print(hashlib.sha256(picture.tobytes()).hexdigest())\n"
    )
    egl, osmesa = (_run(program.format(gl)).stdout for gl in ("egl", "osmesa"))
    assert len(egl) > 60 and egl == osmesa
