"""Where an update spends its time, by torch's profiler: in phases, as a trace and as a table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.learner_subject import Subject

# As `learners` names its spans, behind "phase/", in the order of an update.
PHASES = ("prepare", "encode", "filter", "losses", "backward", "optimize")
OTHER = "other"  # what is in none of them
UPDATES = 2  # that are profiled
_WHOLE = "update"
_ROWS = 100  # of the table


class Profile:
    """Some updates of a subject, profiled; the first one of the subject should lie behind it."""

    def __init__(self, subject: Subject, device: str) -> None:
        self._on_gpu = device == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] * self._on_gpu)]
        with profile(activities=activities) as self._profiler:
            for _ in range(UPDATES):
                with record_function(_WHOLE):
                    subject.run(1)

    def phases_ms(self) -> dict[str, float]:
        """Returns milliseconds of each phase of one update, and of what is in none as "other".

        On a CPU they are of the wall clock. On a GPU they are of its kernels, wherever they were
        queued from; "backward" then has the kernels that no other phase started, for autograd
        starts them from a thread of its own.

        Empty where the update has no phases: CUDA graphs and the plain reference have none.
        """
        events = self._profiler.key_averages()
        found = {
            event.key.removeprefix("phase/"): event
            for event in events
            if event.key.startswith("phase/") and event.device_type == DeviceType.CPU
        }
        if not found:
            return {}
        if self._on_gpu:
            kernels = [event for event in events if _is_kernel(event)]
            whole = sum(event.self_device_time_total for event in kernels)
            phases = {name: event.device_time_total for name, event in found.items()}
            phases["backward"] = whole - sum(phases.values()) + phases.get("backward", 0.0)
        else:
            whole = next(event.cpu_time_total for event in events if event.key == _WHOLE)
            phases = {name: event.cpu_time_total for name, event in found.items()}
            phases[OTHER] = whole - sum(phases.values())
        return {name: round(phases[name] / 1e3 / UPDATES, 3) for name in in_order(phases)}

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Writes trace.json, for Perfetto or chrome://tracing, and table.txt, by self time."""
        trace, table = folder / "trace.json", folder / "table.txt"
        self._profiler.export_chrome_trace(str(trace))
        key = "self_device_time_total" if self._on_gpu else "self_cpu_time_total"
        averages = self._profiler.key_averages()
        table.write_text(averages.table(sort_by=key, row_limit=_ROWS), encoding="utf-8")
        return trace, table


def in_order(names: Iterable[str]) -> list[str]:
    """Returns the phases among the names as an update goes through them, "other" last."""
    given = dict.fromkeys(names)
    unknown = [name for name in given if name not in (*PHASES, OTHER)]
    return [name for name in (*PHASES, *unknown, OTHER) if name in given]


def _is_kernel(event: FunctionEventAvg) -> bool:
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation
