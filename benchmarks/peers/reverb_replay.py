"""The three processes of a Reverb replay, for the Python that has dm-reverb.

    PYTHON -m benchmarks.peers.reverb_replay server|writer|reader

One table of windows of `LENGTH` steps that begin at every `stride`-th step of an episode, sampled
uniformly, the oldest leaving first, served as soon as it holds one. Steps are sent once, in chunks
of `chunk` steps, by a `TrajectoryWriter` that waits for the acknowledgement of all but 8 windows.
The reader asks in one of two ways, of which Reverb's documentation recommends the first:

- dataset: a `TrajectoryDataset` whose sequences TensorFlow puts together, two batches ahead;
- client: `Client.sample`, copied into one reused batch.

Batches are (B, T, ...), as Reverb gives them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
import reverb
import tensorflow as tf

from benchmarks.peers import traffic
from benchmarks.peers.traffic import BATCH, CHUNK, EPISODE, FIELDS, LENGTH
from benchmarks.peers.worker_process import serve

TABLE = "windows"
UNACKNOWLEDGED_ITEMS = 8
IN_FLIGHT_PER_WORKER = 8  # samples; 4 and 32 were not faster
WORKERS = 1  # of the dataset; more of them were not faster
BATCHES_AHEAD = 2


def signature() -> dict[str, tf.TensorSpec]:
    return {
        name: tf.TensorSpec((LENGTH, *shape), tf.as_dtype(dtype))
        for name, (shape, dtype) in FIELDS.items()
    }


class Server:
    """Holds the table."""

    def start(self, capacity: int, stride: int) -> int:
        """Starts a table for `capacity` steps; returns the port."""
        table = reverb.Table(
            TABLE,
            sampler=reverb.selectors.Uniform(),
            remover=reverb.selectors.Fifo(),
            max_size=capacity // stride,
            rate_limiter=reverb.rate_limiters.MinSize(1),
            signature=signature(),
        )
        self._server = reverb.Server([table])
        return self._server.port

    def versions(self) -> dict[str, str]:
        """Returns the versions that matter."""
        names = ("dm-reverb", "tensorflow-cpu", "numpy")
        return {name: metadata.version(name) for name in names}

    def clear(self) -> None:
        """Removes all windows."""
        self._server.localhost_client().reset(TABLE)

    def windows(self) -> int:
        """The number of windows stored."""
        return self._server.localhost_client().server_info()[TABLE].current_size


class Writer:
    """Streams episodes; keeps a connection to every server it was sent to."""

    def start(self, path: str, seed: int) -> None:
        """Loads the frames."""
        self._steps = traffic.Steps(path, seed)
        self._writers: dict[str, tuple[reverb.TrajectoryWriter, Iterator[int]]] = {}

    def write(
        self,
        address: str,
        stride: int,
        chunk: int,
        start_at: float,
        seconds: float | None = None,
        agent_steps: int | None = None,
    ) -> dict[str, float]:
        """See `traffic.write`."""
        if address not in self._writers:
            writer = reverb.Client(address).trajectory_writer(num_keep_alive_refs=LENGTH)
            for name in FIELDS:
                writer.configure((name,), num_keep_alive_refs=LENGTH, max_chunk_length=chunk)
            self._writers[address] = writer, self._stream(writer, stride)
        writer, stream = self._writers[address]
        return traffic.write(lambda: next(stream), writer.flush, start_at, seconds, agent_steps)

    def _stream(self, writer: reverb.TrajectoryWriter, stride: int) -> Iterator[int]:
        """Writes `CHUNK` steps at a time and yields that number."""
        while True:
            for index, step in enumerate(self._steps.episode()):
                writer.append(step)
                behind = index + 1 - LENGTH
                if behind >= 0 and behind % stride == 0:
                    window = {name: column[-LENGTH:] for name, column in writer.history.items()}
                    writer.create_item(TABLE, 1.0, window)
                    writer.flush(UNACKNOWLEDGED_ITEMS)
                if index + 1 == EPISODE:
                    writer.end_episode()
                if (index + 1) % CHUNK == 0:
                    yield CHUNK


class Reader:
    """Draws batches; keeps a connection to every server it was sent to."""

    def start(self) -> None:
        """Makes the batch that `Client.sample` is copied into."""
        self._sources: dict[tuple[str, str], Callable[[], Any]] = {}
        self._batch = {
            name: np.zeros((BATCH, LENGTH, *shape), dtype)
            for name, (shape, dtype) in FIELDS.items()
        }

    def read(self, address: str, way: str, start_at: float, seconds: float) -> dict[str, float]:
        """See `traffic.read`."""
        if (address, way) not in self._sources:
            make = {"dataset": self._dataset, "client": self._client}[way]
            self._sources[address, way] = make(address)
        return traffic.read(self._sources[address, way], start_at, seconds)

    def _dataset(self, address: str) -> Callable[[], Any]:
        dataset = reverb.TrajectoryDataset.from_table_signature(
            address,
            TABLE,
            max_in_flight_samples_per_worker=IN_FLIGHT_PER_WORKER,
            num_workers_per_iterator=WORKERS,
        )
        batches = iter(dataset.batch(BATCH, drop_remainder=True).prefetch(BATCHES_AHEAD))
        # On a CPU `numpy()` gives the tensor's own memory.
        return lambda: {name: tensor.numpy() for name, tensor in next(batches).data.items()}

    def _client(self, address: str) -> Callable[[], Any]:
        client = reverb.Client(address)

        def next_batch() -> None:
            samples = client.sample(
                TABLE, BATCH, emit_timesteps=False, unpack_as_table_signature=True
            )
            for row, sample in enumerate(samples):
                for name, values in sample.data.items():
                    self._batch[name][row] = values

        return next_batch


if __name__ == "__main__":
    serve({"server": Server, "writer": Writer, "reader": Reader}[sys.argv[1]]())
