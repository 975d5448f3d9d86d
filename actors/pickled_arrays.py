"""Pickled arrays that processes with NumPy 1 and with NumPy 2 read from each other.

Actors may run in another Python than the rest (docs/robosuite.md). Arrays are pickled as calls of
functions by the names of their modules, which NumPy 2 has renamed: 1.26 does not have all of the
new names, and 2 has the former ones only until they are removed.
"""

from __future__ import annotations

import importlib
import sys

import numpy as np

_FORMER, _NEW = "numpy.core", "numpy._core"
# By module, what NumPy writes into pickles of arrays and of their scalars.
_FUNCTIONS = {"numeric": ("_frombuffer",), "multiarray": ("_reconstruct", "scalar")}


def use_new_names() -> None:
    """Has a NumPy older than 2 read and write the names of NumPy 2. Calling it again is fine."""
    if int(np.__version__.partition(".")[0]) >= 2:
        return
    for module, functions in _FUNCTIONS.items():
        former = importlib.import_module(f"{_FORMER}.{module}")
        new = sys.modules.setdefault(f"{_NEW}.{module}", former)
        for name in functions:
            function = getattr(former, name)
            setattr(new, name, function)
            function.__module__ = f"{_NEW}.{module}"
