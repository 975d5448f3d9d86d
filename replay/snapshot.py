"""A directory that is wholly there or not there at all, and is checked before anything is used.

    NAME/manifest.json     {"format": 1, "parts": {file: {"bytes": n, "sha256": h}},
                            "content": {...}, "sha256": of these three}
    NAME/...               the parts

It is written beside its place (`.NAME.partial`), synced to the disk, and renamed. An older snapshot
of the same name steps aside (`.NAME.previous`) for the moment between two renames; should the
process die just then, the next reader puts it back.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from replay.errors import SnapshotError

FORMAT = 1
MANIFEST = "manifest.json"
_BLOCK = 1 << 22


class PartWriter:
    """A file that is hashed as it is written."""

    def __init__(self, path: Path) -> None:
        """Creates the file."""
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Appends `data`."""
        self._file.write(data)
        self._hash.update(data)
        self._bytes += len(data)

    def write_array(self, array: np.ndarray) -> None:
        """Appends an array's bytes in C order."""
        self.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def finish(self) -> dict[str, Any]:
        """Syncs and closes the file; returns its manifest entry."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def close(self) -> None:
        """Closes the file without syncing, for a snapshot that is given up."""
        self._file.close()


class SnapshotWriter:
    """Writes one snapshot. As a context manager it removes the partial directory unless `commit`
    was reached.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Begins the snapshot `path`; remains of an earlier interrupted one are removed."""
        self.path = Path(path).absolute()
        self.staging = self.path.with_name(f".{self.path.name}.partial")
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)
        self._parts: dict[str, PartWriter] = {}
        self._adopted: dict[str, dict[str, Any]] = {}

    def part(self, name: str) -> PartWriter:
        """Begins the file `name`."""
        self._parts[name] = PartWriter(self.staging / name)
        return self._parts[name]

    def append_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Appends each array to the part `NAME.npy` begun before."""
        for name, array in arrays.items():
            self._parts[f"{name}.npy"].write_array(array)

    def adopt(self, name: str) -> None:
        """Takes a file that someone else wrote and synced under `staging` into the manifest."""
        self._adopted[name] = measure_part(self.staging / name)

    def commit(self, content: dict[str, Any]) -> None:
        """Writes the manifest with `content`, syncs all and moves the snapshot to its place."""
        parts = {name: part.finish() for name, part in self._parts.items()} | self._adopted
        manifest: dict[str, Any] = {"format": FORMAT, "parts": parts, "content": content}
        manifest["sha256"] = _manifest_hash(manifest)
        with (self.staging / MANIFEST).open("w") as file:
            json.dump(manifest, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(self.staging)
        previous = _previous(self.path)
        if self.path.exists():
            shutil.rmtree(previous, ignore_errors=True)
            self.path.rename(previous)
        self.staging.rename(self.path)
        _sync_directory(self.path.parent)
        shutil.rmtree(previous, ignore_errors=True)

    def discard(self) -> None:
        """Gives the snapshot up; one of the same name that exists already is untouched."""
        for part in self._parts.values():
            part.close()
        shutil.rmtree(self.staging, ignore_errors=True)

    def __enter__(self) -> SnapshotWriter:
        """The writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Discards what was not committed."""
        self.discard()


def read_snapshot(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Checks every part of the snapshot at `path` against its manifest and returns the manifest's
    content.

    Raises `SnapshotError` naming the first file that is missing, of the wrong size or of the wrong
    content.
    """
    path = Path(path).absolute()
    previous = _previous(path)
    if not path.exists() and previous.exists():
        previous.rename(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        version, parts, content = manifest["format"], manifest["parts"], manifest["content"]
    except FileNotFoundError:
        raise SnapshotError(
            f"No replay snapshot at {path}: {MANIFEST} is missing. Give the folder of a finished "
            "save."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(
            f"{path / MANIFEST} is damaged ({error}). Nothing was loaded; use an earlier snapshot."
        ) from None
    if manifest.get("sha256") != _manifest_hash(manifest):
        raise SnapshotError(
            f"{path / MANIFEST} is damaged: it differs from its own hash. "
            "Nothing was loaded; use an earlier snapshot."
        )
    if version != FORMAT:
        raise SnapshotError(
            f"{path / MANIFEST} has format {version}, this version reads {FORMAT}. Load it with "
            "the version that wrote it."
        )
    try:
        check_parts(path, parts)
    except SnapshotError as error:
        raise SnapshotError(f"{error} Nothing was loaded; use an earlier snapshot.") from None
    return dict(content)


def check_parts(folder: Path, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares files of `folder` with their manifest entries, by name.

    Raises `SnapshotError` naming the first file that is missing, of the wrong size or of the wrong
    content.
    """
    for name, expected in parts.items():
        try:
            found = measure_part(folder / name)
        except OSError as error:
            raise SnapshotError(f"{folder / name} cannot be read ({error}).") from None
        if found != expected:
            what = "size" if found["bytes"] != expected["bytes"] else "content"
            raise SnapshotError(
                f"{folder / name} is damaged: its {what} differs from the manifest "
                f"({found['bytes']} bytes, expected {expected['bytes']})."
            )


def measure_part(path: Path) -> dict[str, Any]:
    """Returns the manifest entry of a file: its size in bytes and its hash."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _manifest_hash(manifest: dict[str, Any]) -> str:
    body = {name: manifest[name] for name in ("format", "parts", "content")}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
