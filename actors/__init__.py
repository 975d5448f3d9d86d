"""The acting side of the system: environments, the stepping loop, the stream of chunks to replay.

Actors run on CPU nodes. They know `replay` (where chunks go) and no learner.
"""
