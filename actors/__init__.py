"""The acting side of the system: environments, the stepping loop, the stream of chunks to replay.

Actors run on CPU nodes. They know `replay` (where chunks go) and no learner.
"""

from __future__ import annotations

from actors.pickled_arrays import use_new_names

use_new_names()  # here, since a process that acts is sent arrays as soon as it knows its class
