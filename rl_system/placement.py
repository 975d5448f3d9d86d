"""The Python that acts: that of the rest, or for robosuite's tasks the one that has robosuite.

Ray can start a process with another Python (`py_executable` of its runtime environments), as long
as both have the same minor version and the same Ray. Actors and the evaluator are started so, with
robosuite's simulator inside; driver, learner, replay and weight hub never are.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from actors.environments.catalog import find
from actors.environments.robosuite import PYTHON_VARIABLE, find_python
from actors.environments.robosuite_process import ROBOSUITE_VERSION
from actors.environments.settings import EnvironmentSettings
from rl_system.errors import SettingsError
from rl_system.settings import Settings

PROBE_TIMEOUT_S = 60.0

# Packages by the names of their distributions; None: any version.
_PACKAGES: dict[str, str | None] = {
    "ray": importlib.metadata.version("ray"),
    "robosuite": ROBOSUITE_VERSION,
    "torch": None,
    "gymnasium": None,
    "dm-env": None,
    "pandas": None,
    "pyarrow": None,
    "zstandard": None,
}
# In the other Python: no package is imported, which would take seconds.
_PROBE = """
import importlib.metadata, json, sys
versions = {}
for name in sys.argv[1:]:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps({"python": list(sys.version_info[:2]), "versions": versions}))
"""


def acting_python(environment: EnvironmentSettings) -> str | None:
    """Returns the path of the Python that actors run in; None is the one of this process.

    One that the user names need not be on the driver's machine, which may have no actors.

    Raises:
        robosuite.RobosuiteMissing: none is named and none was built; says how to get one.
    """
    is_inside = environment.robosuite_simulator == "actor"
    if find(environment.name).family != "robosuite" or not is_inside:
        return None
    named = environment.robosuite_python or os.environ.get(PYTHON_VARIABLE)
    return str(Path(named).absolute() if named else find_python(environment))


def acting_options(environment: EnvironmentSettings) -> dict[str, Any]:
    """Returns the part of Ray's runtime environment that starts a process in that Python."""
    python = acting_python(environment)
    return {} if python is None else {"py_executable": shlex.quote(python)}  # a shell reads it


def check_nodes(settings: Settings) -> None:
    """Looks at the acting Python on every node that Ray may place an actor on.

    Ray itself would try without end to start an actor whose Python is not there.

    Raises:
        SettingsError: it is not on all of them, or cannot run actors; names them and what to do.
        robosuite.RobosuiteMissing: see `acting_python`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    python = acting_python(settings.environment)
    if python is None:
        return
    look: Any = ray.remote(num_cpus=0)(find_fault)
    answers = {}
    for node in ray.nodes():
        cpus = node["Resources"].get("CPU", 0.0)
        if node["Alive"] and cpus and cpus >= settings.actors.num_cpus_per_actor:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers[node["NodeManagerAddress"]] = look.options(scheduling_strategy=here).remote(
                python
            )
    faults = {}
    for address, answer in answers.items():
        try:
            fault = ray.get(answer, timeout=settings.run.startup_timeout_s)
        except (ray.exceptions.RayError, TimeoutError) as error:
            fault = f"it could not be asked: {error}"
        if fault is not None:
            faults[address] = fault
    if faults:
        raise SettingsError(
            f"Actors of {settings.environment.name} run in {python}, which must be on every node "
            "that has CPUs for actors, at the same path. "
            + " ".join(f"Node {address}: {fault}." for address, fault in faults.items())
            + " `make robosuite` there builds it; environment.robosuite_python names another, and "
            "environment.robosuite_simulator=process keeps the actors in the main Python."
        )


def find_fault(python: str) -> str | None:
    """Returns what keeps actors from running in that Python on this machine; None: nothing."""
    path = Path(python)
    if not path.is_file() or not os.access(path, os.X_OK):
        return "no such program is there"
    try:
        done = subprocess.run(
            [python, "-I", "-c", _PROBE, *_PACKAGES],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not start within {PROBE_TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"it cannot be run ({error})"
    try:
        found = json.loads(done.stdout)
    except ValueError:
        lines = (done.stderr or done.stdout).strip().splitlines()
        return f"it cannot be run ({lines[-1] if lines else f'exit code {done.returncode}'})"
    minor, own = tuple(found["python"]), sys.version_info[:2]
    if minor != own:
        return (
            f"it is Python {minor[0]}.{minor[1]}, and Ray needs that of the rest, "
            f"{own[0]}.{own[1]} (make robosuite ROBOSUITE_PYTHON=python{own[0]}.{own[1]})"
        )
    versions = found["versions"]
    lacks = [
        name if wanted is None else f"{name}=={wanted}"
        for name, wanted in _PACKAGES.items()
        if name not in versions or wanted not in (None, versions[name])
    ]
    return f"it lacks {', '.join(lacks)}" if lacks else None
