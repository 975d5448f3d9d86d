"""The replay snapshots of one run, and the file by which a checkpoint names one.

    RUN_DIR/replay/000012/                   a snapshot of all shards, complete by itself
    RUN_DIR/replay/recovery/                 what a crashed shard must know of its earlier life
    RUN_DIR/replay/recovery/restoring        only while shards are being put back to a snapshot
    RUN_DIR/replay/checkpoints.json          which checkpoint was written with which snapshot
    RUN_DIR/checkpoints/000012/replay.json   names the snapshot, with its hash and counts

Checkpoints are copied and moved (by Tune, by its populations, by people); snapshots of gigabytes
stay where they are. Consecutive ones share what they have in common by hard links.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from replay.errors import SnapshotError
from replay.snapshot import MANIFEST, measure_part, read_manifest
from rl_system.errors import CheckpointError

logger = logging.getLogger(__name__)

REFERENCE = "replay.json"  # in a checkpoint
INSIDE = "replay"  # a checkpoint's own snapshot
_NAMES = "checkpoints.json"


@dataclass(frozen=True)
class Reference:
    """What a checkpoint says of replay: the content of its `replay.json`.

    Attributes:
        run: Name of the run in Ray, by which its shards are known.
        path: Of the snapshot: absolute, `INSIDE` if the checkpoint holds it, None if there is none.
        sha256: Of the snapshot's manifest, which has the hashes of all else.
        bytes: Size of the snapshot on the disk, what it shares with others included.
        agent_steps: Stored in it.
        inserted_agent_steps: Ever inserted, when it was made.
    """

    run: str
    path: str | None
    sha256: str | None = None
    bytes: int = 0
    agent_steps: int = 0
    inserted_agent_steps: int = 0

    @classmethod
    def read(cls, checkpoint: Path) -> Reference:
        """Returns what the checkpoint says.

        Raises:
            CheckpointError: it says nothing, or nothing that makes sense.
        """
        try:
            return cls(**json.loads((checkpoint / REFERENCE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise CheckpointError(
                f"{checkpoint} holds no {REFERENCE}: it is incomplete, or was written by another "
                "version. Resume from another checkpoint."
            ) from None
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{checkpoint / REFERENCE} is damaged ({error}). Resume from another checkpoint."
            ) from None

    def write(self, checkpoint: Path) -> None:
        """Writes `replay.json` into the checkpoint and syncs it to the disk."""
        with (checkpoint / REFERENCE).open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())

    def locate(self, checkpoint: Path) -> Path | None:
        """Returns where the snapshot lies now; None if the checkpoint was saved without one.

        A run directory that was moved as a whole is found again, too.

        Raises:
            CheckpointError: it is gone, or another one lies in its place.
        """
        if self.path is None:
            return None
        name = Path(self.path).name
        places = (
            [checkpoint / INSIDE]
            if self.path == INSIDE
            else [Path(self.path), *(p / INSIDE / name for p in checkpoint.absolute().parents[:2])]
        )
        found = [place for place in places if (place / MANIFEST).is_file()]
        for place in found:
            if manifest_hash(place) == self.sha256:
                return place
        what = f"{found[0]} holds another snapshot by now" if found else f"{places[0]} is gone"
        raise CheckpointError(
            f"The replay of {checkpoint} cannot be restored: {what}. Resume from another "
            "checkpoint, or with replay.checkpoint=none, which begins with an empty replay. "
            "Checkpoints that are to be moved away from their run need replay.checkpoint=copy when "
            "they are saved."
        )


class Place(NamedTuple):
    """Where a checkpoint is."""

    written: str  # directory on this machine
    moved: str | None = None  # where `Snapshots.filesystem` has it later, if it does not stay


class Snapshots:
    """The numbered snapshots in one folder, which is one run's alone.

    Attributes:
        folder: Made when it is first needed.
        recovery: Where shards keep their notes; removed with them.
        newest: The snapshot that a crashed shard goes back to; None before the first.
        filesystem: Of pyarrow, to which checkpoints are moved; None: not known (yet).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recovery = folder / "recovery"
        self.newest: Path | None = None
        self.filesystem: Any = None
        self._restoring = self.recovery / "restoring"

    @property
    def restore_unfinished(self) -> bool:
        """Whether the shards were being put back to a snapshot when that was last heard of."""
        return self._restoring.exists()

    def begin_restore(self) -> None:
        """Notes, for the run's next life, that shards may hold a part of a snapshot from now on."""
        self.recovery.mkdir(parents=True, exist_ok=True)
        self._restoring.touch()

    def end_restore(self) -> None:
        """Notes that what shards hold is the run's."""
        self._restoring.unlink(missing_ok=True)

    def begin(self) -> Path:
        """Returns the path of the next snapshot; nothing is there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = max((int(path.name) for path in self._all()), default=0) + 1
        return self.folder / f"{number:06d}"

    def take(self, source: Path) -> Path:
        """Gives each file of the snapshot `source` a second name here, and returns the directory.

        So it lives on whatever becomes of the checkpoint or of the run that it came from. On
        another file system the files are copied.

        Raises:
            SnapshotError: a file vanished meanwhile.
        """
        if source.parent == self.folder:
            return source
        target = self.begin()
        try:
            shutil.copytree(source, target, copy_function=link_or_copy)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(target, ignore_errors=True)
            raise SnapshotError(f"{source} cannot be read whole ({error}).") from None
        return target

    def note(self, snapshot: Path, checkpoint: Path, moved: str | None = None) -> None:
        """Notes that `checkpoint` names `snapshot`, for `prune`, and the path in `filesystem` to
        which it will be moved.
        """
        notes = {
            name: place for name, place in self._notes().items() if (self.folder / name).exists()
        }
        notes[snapshot.name] = Place(str(checkpoint.absolute()), moved)
        partial = self.folder / f".{_NAMES}.partial"
        partial.write_text(json.dumps(notes, indent=1), encoding="utf-8")
        partial.replace(self.folder / _NAMES)

    def prune(self) -> None:
        """Removes the snapshots that no checkpoint of this run names any more.

        The one that a crashed shard goes back to stays, and so do those of checkpoints that were
        moved to where this process cannot look.
        """
        kept = {
            None if self.newest is None else self.newest.name,
            *self._named(),
            *self._moved(),
        }
        for path in self._all():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def _named(self) -> Iterator[str]:
        """Yields the snapshots that checkpoints name: those beside this folder, as the command line
        and Tune lay them, and those that were noted and still lie where they were written.
        """
        beside = self.folder.parent
        references = [
            *beside.glob(f"checkpoints/*/{REFERENCE}"),
            *beside.glob(f"checkpoint_*/{REFERENCE}"),
            *(Path(place.written) / REFERENCE for place in self._notes().values()),
        ]
        for reference in references:
            try:
                path = Reference.read(reference.parent).path
            except CheckpointError:
                continue
            if path is not None:
                yield Path(path).name

    def _moved(self) -> list[str]:
        """Returns the snapshots whose checkpoints were moved and are not known to be gone."""
        moved = {
            name: place.moved
            for name, place in self._notes().items()
            if place.moved is not None and (self.folder / name).exists()
        }
        if self.filesystem is None or not moved:
            return list(moved)
        try:
            found = self.filesystem.get_file_info([f"{at}/{REFERENCE}" for at in moved.values()])
        except OSError as error:
            logger.warning("Snapshots stay, for checkpoints cannot be listed: %s", error)
            return list(moved)
        return [name for name, info in zip(moved, found, strict=True) if info.is_file]

    def _notes(self) -> dict[str, Place]:
        try:
            notes = json.loads((self.folder / _NAMES).read_text(encoding="utf-8"))
            return {  # the first version noted no more than the path
                name: Place(place) if isinstance(place, str) else Place(*place)
                for name, place in notes.items()
            }
        except (OSError, ValueError):
            return {}

    def _all(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.name.isdigit())


def manifest_hash(snapshot: Path) -> str:
    """Returns the SHA-256 of a snapshot's manifest."""
    return str(measure_part(snapshot / MANIFEST)["sha256"])


def snapshot_bytes(snapshot: Path) -> int:
    """Returns the size of all files that a snapshot's manifests name."""
    manifest: Any = read_manifest(snapshot)
    total = sum(int(entry["bytes"]) for entry in manifest.parts.values())
    for name in manifest.parts:
        if Path(name).name == MANIFEST:
            total += snapshot_bytes((snapshot / name).parent)
    return total


def link_or_copy(source: str, target: str) -> None:
    """Gives a file a second name, or copies it where the file system refuses."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
