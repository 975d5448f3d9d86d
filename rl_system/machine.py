"""What a run ran on: processor, memory, devices and versions. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rl_system import __version__

PACKAGES = (
    "ray",
    "torch",
    "numpy",
    "mujoco",
    "dm_control",
    "distracting-control",
    "gymnasium",
    "opencv-python-headless",
)


def cpus() -> int:
    """Return the CPUs that this process may use: affinity and cgroup limits count."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count or 1, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return count or 1


def memory_bytes() -> tuple[int, int]:
    """Return total and available memory in bytes, within the container's limit."""
    import psutil

    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, available = min(total, limit), min(available, max(0, limit - used))
    except (OSError, ValueError):
        pass
    return total, available


def shared_memory_bytes() -> tuple[int, int] | None:
    """Return size and free bytes of /dev/shm, None where there is none."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return None
    return usage.total, usage.free


def gpus() -> list[str]:
    """Return one line per NVIDIA GPU as its driver names it; none without a driver."""
    command = [
        "nvidia-smi",
        "--query-gpu=name,memory.total,driver_version",
        "--format=csv,noheader",
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def versions() -> dict[str, str]:
    """Return the versions of the packages that matter, "missing" for those not installed."""
    found = {"python": platform.python_version(), "rl-system": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def describe_machine() -> dict[str, Any]:
    """Return what a report should say about this machine, plain values."""
    total, _ = memory_bytes()
    return {
        "processor": _processor(),
        "cpus": cpus(),
        "memory_gib": round(total / 2**30, 1),
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": sys.version.split()[0],
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
