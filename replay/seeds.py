"""One root seed for a run; every process derives its own by name."""

from __future__ import annotations

import hashlib


def seed_for(root: int, *names: str | int) -> int:
    """Returns the seed of the process or part called `names`: 63 bits, the same on every machine
    and Python version.

    `seed_for(7, "actor", 3)` and `seed_for(7, "actor", "3")` differ, and so do `("ab", "c")` and
    `("a", "bc")`.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (int(root), *names):
        if not isinstance(part, int):
            part = str(part)
        text = f"{'i' if isinstance(part, int) else 's'}{part}".encode()
        digest.update(len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1
