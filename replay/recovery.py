"""What a shard must know of its earlier life when Ray starts it again after a crash."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from replay.resharding import Source


class Recovery:
    """A few numbers and a path in a small folder, kept up to date at the cost of a memory write.

    The counts live in a mapped file, so a SIGKILL does not lose them. The folder must be reachable
    from wherever the shard may be started again: on a cluster give a shared one.
    """

    def __init__(self, folder: str | os.PathLike[str], index: int) -> None:
        """Opens or creates the notes of shard `index`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        notes = folder / f"shard-{index}.notes"
        self._pointer = folder / f"shard-{index}.json"
        self._limits = folder / f"shard-{index}.limits"
        # [lives begun, inserted agent steps as of now, agent steps lost over all restarts]
        if not notes.exists():
            partial = notes.with_suffix(".partial")
            partial.write_bytes(np.zeros(3, np.int64).tobytes())
            partial.rename(notes)
        self._notes = np.memmap(notes, np.int64, "r+", shape=(3,))
        self._notes[0] += 1

    @property
    def restarts(self) -> int:
        """How often the shard was started again."""
        return int(self._notes[0]) - 1

    @property
    def lost_agent_steps(self) -> int:
        """Agent steps received and in no snapshot when the shard died.

        At most this many are missing: a call that was stored but not yet answered is sent again.
        """
        return int(self._notes[2])

    def inserted(self, total: int) -> None:
        """Notes the count of inserted agent steps."""
        self._notes[1] = total

    def restored(self, total: int) -> None:
        """Notes, after a restart, that the shard goes on from `total` inserted agent steps: the
        rest is lost.
        """
        self._notes[2] += max(0, int(self._notes[1]) - total)
        self._notes[1] = total

    @property
    def snapshot(self) -> Source | None:
        """What was registered last, if anything."""
        try:
            noted = json.loads(self._pointer.read_text())
            return Source(tuple(noted["parts"]), noted["index"], noted["count"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def register(self, snapshot: Source) -> None:
        """Names what to go back to."""
        _replace(self._pointer, asdict(snapshot))

    @property
    def limits(self) -> dict[str, Any] | None:
        """What was noted of the limiter last; None if nothing was changed since the beginning."""
        try:
            return dict(json.loads(self._limits.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def limit(self, limits: dict[str, Any]) -> None:
        """Notes how the limiter was set while it served: plain values."""
        _replace(self._limits, limits)


def forget(folder: str | os.PathLike[str]) -> None:
    """Removes the notes of a service that has ended, so that a new one can use the folder."""
    for suffix in ("notes", "json", "limits"):
        for path in Path(folder).glob(f"shard-*.{suffix}"):
            path.unlink(missing_ok=True)


def _replace(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(content))
    partial.replace(path)
