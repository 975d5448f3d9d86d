"""A directory that is wholly there or not there at all, and is checked before anything is used.

    NAME/manifest.json     {"format": 2, "parts": {file: {"bytes": n, "sha256": h}},
                            "content": {...}, "sha256": of these three}
    NAME/...               the parts

It is written beside its place (`.NAME.partial`), synced to the disk, and renamed. An older snapshot
of the same name steps aside (`.NAME.previous`) for the moment between two renames; should the
process die just then, readers find it there until the next save.

A part that an earlier snapshot has already is not written again but linked: both directories then
name the same file. Each directory is complete by itself all the same, and can be moved or removed
without the other.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from replay.errors import SnapshotError

FORMAT = 3
MANIFEST = "manifest.json"
Advance = Callable[[int], None]  # told how many bytes more were read
_READ_BYTES = 1 << 22

logger = logging.getLogger(__name__)


class Manifest(NamedTuple):
    """What a snapshot says of itself."""

    folder: Path  # where it was found
    parts: dict[str, dict[str, Any]]  # file -> {"bytes", "sha256"}
    content: dict[str, Any]


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
        self._open: dict[str, PartWriter] = {}
        self._entries: dict[str, dict[str, Any]] = {}
        self._copies: dict[str, BinaryIO] = {}

    def part(self, name: str) -> PartWriter:
        """Begins the file `name`."""
        self._open[name] = PartWriter(self.staging / name)
        return self._open[name]

    def adopt(self, name: str, entry: Mapping[str, Any] | None = None) -> None:
        """Takes a file that someone else wrote and synced under `staging` into the manifest; its
        `entry` is measured if it is not given.
        """
        self._entries[name] = dict(entry) if entry else measure_part(self.staging / name)

    def link(self, name: str, source: Path, entry: Mapping[str, Any]) -> None:
        """Takes the file `source` of another snapshot, whose `entry` is known, without reading it.

        Where the file system refuses links it is copied by `commit`. Raises `OSError` if it cannot
        be opened or is of another size.
        """
        if name in self._entries:
            return
        if source.stat().st_size != entry["bytes"]:
            raise FileNotFoundError(f"{source} is not of {entry['bytes']} bytes any more.")
        try:
            os.link(source, self.staging / name)
        except FileNotFoundError:
            raise
        except OSError as error:
            # Opened now: its name may be gone by the time of the commit.
            self._copies[name] = source.open("rb")
            _warn_of_copies(source.parent, str(error))
        self._entries[name] = dict(entry)

    def commit(self, content: dict[str, Any]) -> None:
        """Writes the manifest with `content`, syncs all and moves the snapshot to its place."""
        for name, source in self._copies.items():
            with source, (self.staging / name).open("wb") as file:
                shutil.copyfileobj(source, file, _READ_BYTES)
                file.flush()
                os.fsync(file.fileno())
        parts = {name: part.finish() for name, part in self._open.items()} | self._entries
        body = _manifest_body({"format": FORMAT, "parts": parts, "content": content})
        # Encoded once, since that keeps other threads waiting: the hash is the last key in order.
        text = f'{body[:-1]}, "sha256": "{_hash_of(body)}"}}'
        write_synced(self.staging / MANIFEST, [memoryview(text.encode())])
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
        for part in self._open.values():
            part.close()
        for source in self._copies.values():
            source.close()
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


@contextmanager
def writable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raises `SnapshotError` where the file system refuses what is done for the snapshot `path`."""
    try:
        yield
    except TimeoutError:  # an OSError too, and one that says itself what to do
        raise
    except OSError as error:
        raise SnapshotError(
            f"No snapshot can be written at {path} ({error}). Give a folder that this machine and "
            "those of all shards can write, with room enough (run.directory)."
        ) from error


def find_snapshot(path: Path) -> Path:
    """Where the snapshot `path` lies: there, or where it (or the snapshot that it is a part of) has
    stepped aside for one that never came.
    """
    for candidate in (path, _previous(path), _previous(path.parent) / path.name):
        if (candidate / MANIFEST).exists():
            return candidate
    return path


def read_snapshot(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Checks every part of the snapshot at `path` against its manifest and returns the manifest's
    content.

    Raises `SnapshotError` naming the first file that is missing, of the wrong size or of the wrong
    content.
    """
    manifest = read_manifest(path)
    try:
        check_parts(manifest.folder, manifest.parts)
    except SnapshotError as error:
        raise SnapshotError(f"{error} Nothing was loaded; use an earlier snapshot.") from None
    return manifest.content


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads the manifest of the snapshot at `path` and checks it against its own hash; the parts
    are not looked at.

    Raises `SnapshotError` if it is missing, damaged or of another format.
    """
    folder = find_snapshot(Path(path).absolute())
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        version, parts, content = manifest["format"], manifest["parts"], manifest["content"]
    except FileNotFoundError:
        raise SnapshotError(
            f"No replay snapshot at {folder}: {MANIFEST} is missing. Give the folder of a finished "
            "save."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SnapshotError(
            f"{folder / MANIFEST} is damaged ({error}). Nothing was loaded; use an earlier "
            "snapshot."
        ) from None
    if manifest.get("sha256") != _hash_of(_manifest_body(manifest)):
        raise SnapshotError(
            f"{folder / MANIFEST} is damaged: it differs from its own hash. "
            "Nothing was loaded; use an earlier snapshot."
        )
    if version != FORMAT:
        raise SnapshotError(
            f"{folder / MANIFEST} has format {version}, this version reads {FORMAT}. Load it with "
            "the version that wrote it."
        )
    return Manifest(folder, parts, dict(content))


def check_parts(folder: Path, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares files of `folder` with their manifest entries, by name.

    Raises `SnapshotError` naming the first file that is missing, of the wrong size or of the wrong
    content.
    """
    for name, entry in parts.items():
        damage = damage_of(folder / name, entry)
        if damage is not None:
            raise SnapshotError(damage)


def damage_of(path: Path, entry: Mapping[str, Any], advance: Advance | None = None) -> str | None:
    """What is wrong with a file of that manifest entry, as a sentence that names it; None if it is
    whole.
    """
    try:
        found = measure_part(path, advance)
    except OSError as error:
        return f"{path} cannot be read ({error})."
    if found == entry:
        return None
    if found["bytes"] != entry["bytes"]:
        what = f"it has {found['bytes']} bytes, and the manifest says {entry['bytes']}"
    else:
        what = f"its {found['bytes']} bytes have another SHA-256 than the manifest says"
    return f"{path} is damaged: {what}."


def measure_part(path: Path, advance: Advance | None = None) -> dict[str, Any]:
    """Returns the manifest entry of a file: its size in bytes and its hash."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
            size += len(data)
            if advance is not None:
                advance(len(data))
    return {"bytes": size, "sha256": digest.hexdigest()}


def write_synced(path: Path, pieces: Iterable[memoryview]) -> None:
    """Writes `pieces` behind one another as the new file `path`, and syncs it to the disk."""
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _manifest_body(manifest: dict[str, Any]) -> str:
    """The part of a manifest that its hash is of."""
    body = {name: manifest[name] for name in ("content", "format", "parts")}
    return json.dumps(body, sort_keys=True)


def _hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@functools.cache
def _warn_of_copies(folder: Path, why: str) -> None:
    logger.warning(
        "Files of %s cannot be linked (%s): each snapshot copies what it shares with the one "
        "before. Keep snapshots on one file system that has hard links.",
        folder,
        why.split(":")[0],
    )
