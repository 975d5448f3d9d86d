"""What works on this machine and what to do about the rest: graphics, GPU, Ray, robosuite."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from actors.environments.backend import INSTALL_HINTS, missing_libraries
from rl_system import machine

Status = Literal["ok", "warning", "failure"]

PINS = {
    "ray": "2.60.0",
    "torch": "2.13.0",
    "dm_control": "1.0.50",
    "distracting-control": "0.1.1rc3",
}
MUJOCO_LEAST, MUJOCO_BELOW = (3, 17), (4,)
_PROBE_TIMEOUT_S = 60.0
_LATE = "no answer within"
_MIB = 2**20

# Runs in a process of its own, since a GL library is chosen once per process and a broken driver
# may take its process along.
_DRAW = """
import json, sys
from dm_control import mujoco
sphere = '<geom type="sphere" size=".3" rgba="1 0 0 1"/>'
scene = f'<mujoco><worldbody><light pos="0 0 2"/>{sphere}</worldbody></mujoco>'
physics = mujoco.Physics.from_xml_string(scene)  # its context is the one that GL tells about
frame = physics.render(32, 32)
from OpenGL import GL
devices = 1
if sys.argv[1] == "egl":
    from dm_control._render.pyopengl import egl_ext
    devices = len(egl_ext.eglQueryDevicesEXT())
print(json.dumps({"renderer": GL.glGetString(GL.GL_RENDERER).decode(), "devices": devices,
                  "drawn": bool(frame.std() > 1)}))
"""

_TORCH = """
import json, torch
print(json.dumps({"threads": torch.get_num_threads(), "cuda": torch.version.cuda, "devices": [
    torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]}))
"""

_RAY = """
import json, logging, ray
ray.init(address="local", num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False,
         log_to_driver=False, logging_level=logging.ERROR)
print(json.dumps({"answer": ray.get(ray.remote(lambda: 42).remote(), timeout=60)}))
ray.shutdown()
"""


# Frames go from process to process through memory of one that the other maps.
_SHARED = """
import json, sys
from replay.memory import Address, SharedMemory
machine, pid, descriptor, nbytes, token = json.loads(sys.argv[1])
address = Address(machine, pid, descriptor, nbytes, bytes.fromhex(token))
memory = SharedMemory.attach(address)
print(json.dumps({"answer": None if memory is None else int(memory.data[-1])}))
"""


# In robosuite's own Python.
_ROBOSUITE = """
import json, mujoco, robosuite
print(json.dumps({"robosuite": robosuite.__version__, "mujoco": mujoco.__version__}))
"""


@dataclass(frozen=True)
class Check:
    """The outcome of one look."""

    topic: str
    status: Status
    found: str
    advice: str = ""  # what to do; empty if nothing needs doing


def check_graphics() -> list[Check]:
    """Draw a picture with each GL library, on each EGL device. One that works is enough."""
    checks = []
    egl = _draw("egl")
    checks.append(egl[0])
    for device in range(1, egl[1]):
        checks.append(_draw("egl", device)[0])
    checks.append(_draw("osmesa")[0])
    wanted = os.environ.get("MUJOCO_GL", "")
    if any(check.status == "ok" for check in checks):
        # What is missing beside one that works needs no doing, unless it is asked for.
        return [
            check
            if check.status == "ok"
            else Check(
                check.topic,
                "failure",
                f"{check.found}, and MUJOCO_GL={wanted} asks for it",
                f"unset MUJOCO_GL, or {check.advice}",
            )
            if wanted == "osmesa" and check.topic.startswith("osmesa")
            else Check(check.topic, "ok", f"{check.found} (not needed)")
            for check in checks
        ]
    return [
        Check(c.topic, "failure" if c.topic.startswith("egl") else "warning", c.found, c.advice)
        for c in checks
    ]


def check_machine() -> list[Check]:
    """Look at processors, memory, shared memory and the system."""
    total, available = machine.memory_bytes()
    checks = [
        Check(
            "system",
            "ok" if sys.platform == "linux" else "warning",
            f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
            "" if sys.platform == "linux" else "only Linux was tried",
        ),
        Check(
            "CPUs",
            "ok" if machine.cpus() >= 2 else "warning",
            str(machine.cpus()),
            "" if machine.cpus() >= 2 else "actors and learner will share one core: expect half",
        ),
        Check(
            "memory",
            "ok" if available > 3 * 1024 * _MIB else "warning",
            f"{available / 2**30:.1f} of {total / 2**30:.1f} GiB free",
            ""
            if available > 3 * 1024 * _MIB
            else "a tiny run takes about 2.5 GiB: close something or use fewer actors",
        ),
    ]
    shared = machine.shared_memory_bytes()
    if shared is None:
        checks.append(Check("/dev/shm", "warning", "missing", "Ray's object store goes to disk"))
    else:
        enough = shared[1] >= 200 * _MIB
        checks.append(
            Check(
                "/dev/shm",
                "ok" if enough else "warning",
                f"{shared[1] // _MIB} of {shared[0] // _MIB} MiB free",
                ""
                if enough
                else "Ray needs 200 MiB or more, else it uses the disk: in Docker --shm-size=1g",
            )
        )
    checks.append(_check_shared_memory())
    free = shutil.disk_usage(tempfile.gettempdir()).free
    enough = free > 1024 * _MIB
    checks.append(
        Check(
            "disk",
            "ok" if enough else "warning",
            f"{free / 2**30:.1f} GiB free in {tempfile.gettempdir()}",
            "" if enough else "Ray's logs and spilled objects go there: free some, or set TMPDIR",
        )
    )
    return checks


def check_versions() -> list[Check]:
    """Compare installed packages with the versions that were tried together."""
    found = machine.versions()
    checks = []
    for name, pin in PINS.items():
        here = found.get(name, "missing")
        same = here.split("+")[0] == pin
        checks.append(
            Check(
                name,
                "ok" if same else "failure" if here == "missing" else "warning",
                here,
                "" if same else f"{pin} was tried: pip install {name}=={pin}",
            )
        )
    mujoco = found["mujoco"]
    number = _version(mujoco)
    if mujoco == "missing" or not MUJOCO_LEAST <= number < MUJOCO_BELOW:
        checks.append(
            Check(
                "mujoco",
                "failure",
                mujoco,
                "dm_control loads no task with it. Make the environment anew (a downgrade in place "
                "leaves pieces of the other version behind): make clean, then make setup",
            )
        )
    else:
        checks.append(Check("mujoco", "ok", mujoco))
    return checks


def check_torch() -> list[Check]:
    """Import torch and look for GPUs that it can use."""
    answer, failure = _probe(_TORCH)
    drivers = machine.gpus()
    if answer is None:
        return [Check("torch", "failure", failure, "install it: pip install torch==2.13.0")]
    devices = answer["devices"]
    if devices:
        return [Check("GPU", "ok", f"{', '.join(devices)} (CUDA {answer['cuda']})")]
    if drivers:
        return [
            Check(
                "GPU",
                "warning",
                f"the driver shows {drivers[0]}, torch sees none",
                "this torch has no CUDA: make clean, then make setup TORCH_INDEX=https://download."
                "pytorch.org/whl/cu130 (or the one of your driver)",
            )
        ]
    return [Check("GPU", "ok", "none: the learner runs on the CPU (presets tiny and small)")]


def check_ray() -> list[Check]:
    """Start a small Ray and run one task in it."""
    answer, failure = _probe(_RAY)
    if answer is not None and answer.get("answer") == 42:
        return [Check("Ray", "ok", "starts and runs a task")]
    return [
        Check(
            "Ray",
            "failure",
            failure,
            "look at /tmp/ray/session_latest/logs; `ray stop` ends what an earlier run left over",
        )
    ]


def check_folders(videos: str | None = None) -> list[Check]:
    """Look at the folders that runs write to and, if asked for, at a folder of videos."""
    from actors.environments.videos.frame_cache import cache_folder

    checks = []
    for topic, folder in (("working folder", Path.cwd()), ("video cache", cache_folder())):
        place = folder
        while not place.exists():
            place = place.parent
        try:
            with tempfile.TemporaryFile(dir=place):
                writable = True
        except OSError:
            writable = False
        checks.append(
            Check(
                topic,
                "ok" if writable else "warning",
                f"{folder}{'' if writable else ' cannot be written'}",
                ""
                if writable
                else "set run.directory to another folder"
                if topic.startswith("working")
                else "set XDG_CACHE_HOME to another folder",
            )
        )
    if videos is not None:
        checks.append(_check_videos(Path(videos)))
    return checks


def check_robosuite() -> list[Check]:
    """Import robosuite in its own Python, and see whether actors can run in that Python.

    Where there is none, only robosuite's tasks are missing.
    """
    from actors.environments.robosuite import PYTHON_VARIABLE, RobosuiteMissing, find_python
    from actors.environments.settings import EnvironmentSettings
    from rl_system.placement import find_fault

    topic, build = "robosuite", "make robosuite"
    try:
        python = find_python(EnvironmentSettings(name="robosuite/door-panda"))
    except RobosuiteMissing as error:
        if os.environ.get(PYTHON_VARIABLE):
            return [Check(topic, "warning", str(error), f"correct the variable, or: {build}")]
        return [Check(topic, "ok", f"not here; only the tasks robosuite/* need it: {build}")]
    answer, failure = _probe(_ROBOSUITE, python=str(python))
    if answer is None:
        return [Check(topic, "warning", f"{python}: {failure}", f"build it anew: {build}")]
    found = f"{answer['robosuite']} with mujoco {answer['mujoco']} in {python}"
    fault = find_fault(str(python))
    if fault is not None:
        advice = f"{build}, or set environment.robosuite_simulator=process"
        return [Check(topic, "warning", f"{found}, where no actor can run: {fault}", advice)]
    return [Check(topic, "ok", f"{found}, where actors can run")]


SECTIONS: dict[str, Callable[[], list[Check]]] = {
    "graphics": check_graphics,
    "machine": check_machine,
    "versions": check_versions,
    "torch": check_torch,
    "ray": check_ray,
    "folders": check_folders,
    "robosuite": check_robosuite,
}


def examine(only: str | None = None, videos: str | None = None) -> Iterator[tuple[str, Check]]:
    """Yield every check with its section, as it is done.

    Args:
        only: One section instead of all.
        videos: A folder of videos to look at as well.
    """
    for section, check in SECTIONS.items():
        if only is None or section == only:
            found = check_folders(videos) if section == "folders" else check()
            yield from ((section, one) for one in found)


def _check_shared_memory() -> Check:
    """Map memory of this process in another one, as actors, replay shards and learner do."""
    from replay.memory import SharedMemory

    topic = "frames between processes"
    memory = SharedMemory(1 << 16)
    memory.data[-1] = 42
    address, answer = memory.address, None
    if address is not None:
        plain = json.dumps([*address[:4], address.token.hex()])
        answer, _ = _probe(_SHARED, plain)
    if answer is not None and answer.get("answer") == 42:
        return Check(topic, "ok", "go through shared memory")
    return Check(
        topic,
        "warning",
        "one process cannot map another's memory: they are copied through Ray's object store",
        "run all processes as one user in one container, with /proc mounted, and raise "
        "run.object_store_mb",
    )


def _check_videos(folder: Path) -> Check:
    from actors.environments.settings import EnvironmentSettings
    from actors.environments.videos import VideoFolderError

    try:
        from actors.environments.catalog import make_environment

        settings = EnvironmentSettings(
            videos=str(folder), difficulty="easy", quality="fast", image_size=32
        )
        for split in ("train", "held_out"):
            environment = make_environment(settings, 0, split)
            environment.reset()
            environment.close()
    except VideoFolderError as error:
        return Check("videos", "failure", str(folder), str(error))
    except Exception as error:
        return Check("videos", "failure", f"{type(error).__name__}: {error}", "see graphics above")
    return Check("videos", "ok", f"{folder}: training and held-out videos can be read")


def _draw(backend: str, device: int | None = None) -> tuple[Check, int]:
    """Draw once; return the check and the number of devices."""
    topic = backend if device is None else f"{backend} device {device}"
    missing = missing_libraries(backend)
    if missing:
        hint = f"{INSTALL_HINTS[backend]}  (as root)"
        return Check(topic, "warning", f"missing {', '.join(missing)}", hint), 0
    variables = {"MUJOCO_GL": backend}
    if device is not None:
        variables["MUJOCO_EGL_DEVICE_ID"] = str(device)
    answer, failure = _probe(_DRAW, backend, variables=variables)
    if answer is None:
        late = failure.startswith(_LATE)
        hint = "busy machine? try again" if late else f"{INSTALL_HINTS[backend]}  (as root)"
        return Check(topic, "warning", failure, hint), 0
    if not answer["drawn"]:
        return Check(topic, "warning", f"{answer['renderer']} draws nothing", "use another"), 0
    return Check(topic, "ok", f"draws with {answer['renderer']}"), int(answer["devices"])


def _probe(
    code: str,
    *arguments: str,
    variables: dict[str, str] | None = None,
    python: str | None = None,
) -> tuple[dict[str, Any] | None, str]:
    """Run code in a process of its own; return its JSON answer, or None and why.

    Another `python` than this one runs it without the variables and folders that are this one's.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})}
    program = [sys.executable] if python is None else [python, "-I"]
    try:
        done = subprocess.run(
            [*program, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"{_LATE} {_PROBE_TIMEOUT_S:.0f} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        try:
            return json.loads(lines[-1]), ""
        except ValueError:
            pass
    errors = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return None, errors[-1].strip() if errors else f"ended with status {done.returncode}"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2] if part.isdigit())
