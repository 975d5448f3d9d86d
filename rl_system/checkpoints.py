"""Checkpoints of a run: complete or not there, checked before anything of them is applied.

    RUN_DIR/checkpoints/000012/manifest.json    counters, versions; size and hash of every part
    RUN_DIR/checkpoints/000012/replay.json      which snapshot of replay belongs to it
    RUN_DIR/checkpoints/000012/...              what the algorithm saved

The manifest is what makes a directory a checkpoint. It is written last and renamed into its place,
so a save that was interrupted leaves a directory without one, which is never read and is removed by
the next save. Snapshots of replay have manifests of their own; they lie in RUN_DIR/replay and are
checked by the shards, before anything is applied.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay.errors import SnapshotError
from replay.snapshot import MANIFEST, check_parts, measure_part
from rl_system.errors import CheckpointError

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint."""

    path: Path
    content: dict[str, Any]  # counters and versions that were given to `save`

    @property
    def number(self) -> int:
        """Its number; later ones are higher."""
        return int(self.path.name)


class Checkpoints:
    """The checkpoints of one run, oldest first.

    Args:
        folder: Where they lie; made by the first save.
        keep: How many complete ones stay after a save, 1 or more.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def list(self) -> list[Path]:
        """Return the directories of complete checkpoints, oldest first, unchecked."""
        if not self.folder.is_dir():
            return []
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.name.isdigit() and (path / MANIFEST).is_file()
        )

    def save(self, write: Callable[[Path], None], content: dict[str, Any]) -> Path:
        """Make one more checkpoint and remove those beyond `keep`.

        Args:
            write: Called with an empty directory to fill.
            content: Plain values for the manifest.

        Returns:
            The directory of the complete checkpoint.

        Raises:
            Exception: What `write` raises; earlier checkpoints are then untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        existing = self.list()
        for path in self.folder.iterdir():
            if path.is_dir() and path not in existing:
                shutil.rmtree(path, ignore_errors=True)
        number = int(existing[-1].name) + 1 if existing else 1
        directory = self.folder / f"{number:06d}"
        directory.mkdir()
        try:
            write(directory)
            parts = {
                str(file.relative_to(directory)): measure_part(file) for file in _own(directory)
            }
            manifest = {"format": FORMAT, "parts": dict(sorted(parts.items())), "content": content}
            partial = directory / f".{MANIFEST}.partial"
            with partial.open("w", encoding="utf-8") as file:
                json.dump(manifest, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(directory / MANIFEST)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        for path in self.list()[: -self.keep]:
            (path / MANIFEST).unlink()  # from here on it is no checkpoint, however far we get
            shutil.rmtree(path, ignore_errors=True)
        return directory

    def newest(self) -> Checkpoint:
        """Return the newest checkpoint after checking every part of it.

        Raises:
            CheckpointError: There is none, or it is damaged; the message says what to do.
        """
        paths = self.list()
        if not paths:
            raise CheckpointError(
                f"{self.folder} holds no complete checkpoint: the run was stopped before its first "
                "one. Start it anew, with a lower run.checkpoint_minutes."
            )
        return self.read(paths[-1])

    def read(self, path: Path) -> Checkpoint:
        """Return the checkpoint in the directory `path` after checking every part of it.

        Raises:
            CheckpointError: It is incomplete or damaged; the message names the file and, if there
                is one, an earlier checkpoint to use instead.
        """
        try:
            return Checkpoint(path, read_manifest(path))
        except CheckpointError as error:
            raise CheckpointError(f"{error} {self.instead_of(path)}") from error

    def instead_of(self, path: Path) -> str:
        """Return the sentence that says which checkpoint to use instead of the damaged `path`."""
        earlier = [other for other in self.list() if other.name < path.name]
        if not earlier:
            return "Nothing was loaded, and there is no earlier one."
        return (
            f"Nothing was loaded. An earlier one is {earlier[-1].name}: name it with --checkpoint "
            f"{earlier[-1].name}."
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """Check the parts of the checkpoint in `path` and return the content of its manifest.

    Of a snapshot that lies in it only the manifests are: the shards read the rest when they load.

    Raises:
        CheckpointError: A part is missing, of another size or of another content.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        form, parts, content = manifest["format"], manifest["parts"], manifest["content"]
    except FileNotFoundError:
        raise CheckpointError(f"{path} is no complete checkpoint: it has no {MANIFEST}.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged ({error}).") from error
    if form != FORMAT:
        raise CheckpointError(
            f"{path / MANIFEST} has format {form}, this version reads {FORMAT}: use the version "
            "that wrote it."
        )
    try:
        check_parts(path, parts)
    except SnapshotError as error:
        raise CheckpointError(str(error)) from error
    return dict(content)


def _own(directory: Path) -> list[Path]:
    """Return the files to hash: all but those that a manifest of their own folder pins already.

    Replay writes gigabytes and hashes them as it writes, so they are not read again.
    """
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    pinned = set()
    for file in files:
        if file.name == MANIFEST:
            for name in json.loads(file.read_text(encoding="utf-8")).get("parts", {}):
                if Path(name).name != MANIFEST:
                    pinned.add(file.parent / name)
    return [file for file in files if file not in pinned]
