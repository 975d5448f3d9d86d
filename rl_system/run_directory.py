"""The directory of one run: what lies where, and the log of metrics that survives a crash.

RUN_DIR/settings.yaml       every setting; reruns the run alone
RUN_DIR/run.json            machine, versions, seed, command, how it ended
RUN_DIR/metrics.jsonl       one line of metrics per iteration
RUN_DIR/tensorboard/        the same for TensorBoard
RUN_DIR/checkpoints/        see checkpoints.py
RUN_DIR/replay/             snapshots of replay, see snapshots.py
RUN_DIR/trivial.json        returns of the trivial policies
RUN_DIR/videos/             films of evaluations
RUN_DIR/native.log          messages of libraries that bypass Python
RUN_DIR/error.log           the whole of each error of the program that ended the run
RUN_DIR/report.html
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import traceback
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rl_system.config import load_settings, save_settings
from rl_system.errors import RunError
from rl_system.metrics import flat_numbers
from rl_system.settings import Settings


class RunDirectory:
    """Paths and small files of one run. Does not create anything by being made."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.settings_file = self.path / "settings.yaml"
        self.facts_file = self.path / "run.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.trivial_file = self.path / "trivial.json"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.replay = self.path / "replay"
        self.videos = self.path / "videos"
        self.native_log = self.path / "native.log"
        self.error_log = self.path / "error.log"
        self.report = self.path / "report.html"

    @classmethod
    def create(cls, settings: Settings) -> RunDirectory:
        """Make a new run directory with the settings in it.

        Raises:
            RunError: A directory of the name `run.name` exists already, or it cannot be written.
        """
        root = Path(settings.run.directory)
        for name in _names(settings):
            directory = cls(root / name)
            try:
                directory.path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise RunError(
                    f"{directory.path} cannot be made ({error}): set run.directory to a folder "
                    "that can be written."
                ) from error
            save_settings(settings, directory.settings_file)
            return directory
        raise RunError(
            f"{directory.path} exists already: choose another run.name, or go on with "
            f"`rl-system resume {directory.path}`."
        )

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Return an existing run directory.

        Raises:
            RunError: It is none.
        """
        directory = cls(path)
        if not directory.settings_file.is_file() and not directory.metrics_file.is_file():
            raise RunError(
                f"{path} is no run directory: it holds neither settings.yaml nor metrics.jsonl. "
                "Name the directory that `rl-system train` printed, such as runs/NAME."
            )
        return directory

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the directory for this process; the hold ends with the process at the latest.

        Raises:
            RunError: Another process of this machine holds it: the run goes on there.
        """
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{self.path} is in use: the run is still going on in another process. Wait "
                    "for its end, or stop it with Ctrl-C there (it saves first)."
                ) from None
            yield

    def settings(self) -> Settings:
        """Return the settings of the run; raises `SettingsError` if the file was damaged."""
        return load_settings(self.settings_file)

    def facts(self) -> dict[str, Any]:
        """Return what run.json says, nothing if there is none."""
        return _read_json(self.facts_file)

    def note(self, **facts: Any) -> None:
        """Add or replace entries of run.json; those that are None now are taken out."""
        noted = self.facts() | facts
        write_json(
            self.facts_file, {name: value for name, value in noted.items() if value is not None}
        )

    def log_error(self, error: BaseException) -> None:
        """Add the whole of an error to error.log: its traceback, and what it came from."""
        with self.error_log.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().isoformat(timespec='seconds')}\n")
            file.writelines(traceback.format_exception(error))
            file.write("\n")

    def name_in_ray(self) -> str:
        """Return what the run is called in Ray: in all its lives the same, and no other run's.

        A copy of the directory is another run.
        """
        key = self.facts().get("key")
        if key is None:
            key = uuid.uuid4().hex
            self.note(key=key)
        return f"core-{hashlib.sha256(f'{key} {self.path}'.encode()).hexdigest()[:12]}"

    def trivial(self) -> dict[str, list[float]]:
        """Return [mean, standard error] by trivial policy, nothing if they were not measured."""
        return _read_json(self.trivial_file)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of metrics, oldest first; one cut short by a crash is skipped."""
        if not self.metrics_file.is_file():
            return []
        lines = []
        for text in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                continue
        return lines

    def forget_after(self, line_count: int) -> int:
        """Cut metrics.jsonl back to its first lines, as a resumed run repeats the rest.

        Returns:
            How many lines were cut.
        """
        if not self.metrics_file.is_file():
            return 0
        lines = self.metrics_file.read_text(encoding="utf-8").splitlines(keepends=True)
        if len(lines) <= line_count:
            return 0
        partial = self.metrics_file.with_suffix(".partial")
        partial.write_text("".join(lines[:line_count]), encoding="utf-8")
        partial.replace(self.metrics_file)
        return len(lines) - line_count


class MetricsLog:
    """Appends lines to metrics.jsonl and the same numbers to TensorBoard.

    Where lines were cut off before (`RunDirectory.forget_after`), TensorBoard drops the same part:
    all that lies beyond the agent steps of the newest line.

    Args:
        directory: Of the run.
        tensorboard: Write event files as well.
    """

    def __init__(self, directory: RunDirectory, tensorboard: bool = True) -> None:
        self._file: TextIO = directory.metrics_file.open("a", encoding="utf-8")
        lines = directory.metrics()
        self.line_count = len(lines)
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            kept = int(lines[-1].get("agent_steps", 0)) + 1 if lines else 0
            self._writer = SummaryWriter(str(directory.tensorboard), purge_step=kept)

    def append(self, metrics: Mapping[str, Any]) -> None:
        """Write one line; it is on its way to the disk when this returns."""
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()
        self.line_count += 1
        if self._writer is not None:
            step = int(metrics.get("agent_steps", 0))
            for name, value in flat_numbers(metrics).items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _names(settings: Settings) -> Iterator[str]:
    """Names for a new run directory: the one that was chosen, or several to try, since other runs
    may start in the same second.
    """
    if settings.run.name is not None:
        yield settings.run.name
        return
    task = settings.environment.name.rpartition("/")[2]
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    first = f"{task}-seed{settings.run.seed}-{stamp}"
    yield first
    yield from (f"{first}-{number}" for number in range(2, 100))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file beside its place and rename it into it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
