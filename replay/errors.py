"""What can go wrong in replay. Every message says what to do; each class takes one string, so it
survives pickling by Ray.
"""

from __future__ import annotations


class ReplayError(RuntimeError):
    """A setting that cannot work, or a shard that is gone."""


class ChunkError(ValueError):
    """A chunk that does not fit the schema; the message names the field, what was expected and what
    came.
    """


class ReplayTimeout(TimeoutError):
    """A deadline passed; the message says who waited for whom."""


class SnapshotError(ReplayError):
    """A snapshot that is missing, damaged or of another schema; the message names the file. Nothing
    was applied.
    """
