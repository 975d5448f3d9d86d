"""A process that owns a ring, for tests that map it from another: commands in, answers out.

    python -m tests.replay.ring_owner CAPACITY

Every line of standard input is a command; answers are pickled to standard output.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np

from replay.ring import Ring
from tests.replay.episodes import chunk
from tests.replay.table_model import SCHEMA

EPISODE_AGENT_STEPS = 8


def answer(value: Any) -> None:
    pickle.dump(value, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def put(ring: Ring, ordinal: int) -> None:
    steps = chunk("a", ordinal, 0, EPISODE_AGENT_STEPS, schema=SCHEMA).steps
    steps["observation"][...] = ordinal % 251
    ring.append(ordinal, steps)


def main() -> None:
    capacity = int(sys.argv[1])
    ring = Ring(SCHEMA, capacity)
    held = capacity // EPISODE_AGENT_STEPS
    oldest = newest = 0
    answer(ring.memory.address)
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "put":  # episodes of one number each; the oldest leave when there is no room
            for _ in range(int(numbers[0])):
                if newest - oldest == held:
                    ring.release(oldest)
                    oldest += 1
                put(ring, newest)
                newest += 1
            answer((oldest, newest))
        elif command == "locate":
            ordinals = np.array([int(number) for number in numbers])
            starts = np.zeros_like(ordinals)
            answer(ring.locate(ordinals, starts, EPISODE_AGENT_STEPS))
        elif command == "race":  # draws, and overwrites what was drawn while it is being copied
            generator = np.random.default_rng(0)
            for _ in range(int(numbers[0])):
                ordinals = generator.integers(oldest, newest, 6)
                answer((ordinals, ring.locate(ordinals, np.zeros(6, int), EPISODE_AGENT_STEPS)))
                for _ in range(int(generator.integers(0, 2 * held))):
                    ring.release(oldest)
                    put(ring, newest)
                    oldest, newest = oldest + 1, newest + 1
            answer(None)
        elif command == "forget":
            del ring
            answer(None)


if __name__ == "__main__":
    main()
