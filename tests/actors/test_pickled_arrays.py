"""Arrays between a Python with NumPy 2, this one, and one with NumPy 1, robosuite's."""

from __future__ import annotations

import importlib.metadata
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from actors import pickled_arrays
from actors.environments.robosuite import RobosuiteMissing, find_python
from actors.environments.settings import EnvironmentSettings

_ROOT = Path(__file__).resolve().parents[2]
_ARRAYS = {
    "picture": np.arange(12, dtype=np.uint8).reshape(2, 2, 3),
    "turned": np.arange(6.0).reshape(2, 3).T,
    "empty": np.empty((0, 4), np.float32),
    "flag": np.array([True, False]),
    "number": np.float32(0.5),
    "kind": np.dtype(np.uint16),
}
# Reads what it is sent and sends it back, pickled anew.
_ECHO = """
import pickle, sys
sys.path.insert(0, {root!r})
import actors
import numpy
assert numpy.__version__.startswith("1."), numpy.__version__
arrays = pickle.loads(sys.stdin.buffer.read())
sys.stdout.buffer.write(pickle.dumps(arrays, protocol=5))
"""


def test_a_numpy_of_this_python_is_left_alone() -> None:
    assert importlib.metadata.version("numpy").startswith("2.")
    before = {name: sys.modules.get(name) for name in ("numpy._core.numeric", "numpy.core")}
    pickled_arrays.use_new_names()
    assert before == {name: sys.modules.get(name) for name in before}


def test_an_older_numpy_knows_its_functions_by_the_new_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With modules in the place of an older NumPy's: one that has the new name, and one not."""
    former = {name: ModuleType(f"numpy.core.{name}") for name in pickled_arrays._FUNCTIONS}
    for name, functions in pickled_arrays._FUNCTIONS.items():
        for function in functions:
            setattr(former[name], function, type(function, (), {"__module__": "numpy.core"}))
        monkeypatch.setitem(sys.modules, f"numpy.core.{name}", former[name])
    stub = ModuleType("numpy._core.multiarray")
    monkeypatch.setitem(sys.modules, "numpy._core.multiarray", stub)
    monkeypatch.delitem(sys.modules, "numpy._core.numeric")
    monkeypatch.setattr(np, "__version__", "1.26.4")
    for _ in range(2):
        pickled_arrays.use_new_names()
    for name, functions in pickled_arrays._FUNCTIONS.items():
        for function in functions:
            found = getattr(sys.modules[f"numpy._core.{name}"], function)
            assert found is getattr(former[name], function)
            assert pickle.loads(pickle.dumps(found)) is found
            assert found.__module__ == f"numpy._core.{name}"


def test_arrays_go_to_robosuites_python_and_back_unchanged() -> None:
    try:
        python = find_python(EnvironmentSettings(name="robosuite/door-panda"))
    except RobosuiteMissing:
        pytest.skip("no Python with robosuite here: `make robosuite` builds it")
    done = subprocess.run(
        [str(python), "-I", "-c", _ECHO.format(root=str(_ROOT))],
        input=pickle.dumps(_ARRAYS, protocol=5),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"numpy.core" not in done.stdout  # a name that NumPy 2 warns of
    returned = pickle.loads(done.stdout)
    np.testing.assert_equal(returned, _ARRAYS)
    assert all(returned[name].dtype == _ARRAYS[name].dtype for name in ("picture", "turned"))
