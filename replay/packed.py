"""Compressed blocks that hold the steps: more of them in the same memory, more work for each."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import zstandard

from replay.errors import ReplayError
from replay.memory import check_memory
from replay.schema import Batch, Field, Schema

BLOCK_AGENT_STEPS = 32  # longer chunks are cut: a window never costs a whole restored episode
SMALL_BYTES = 4096  # what a field takes in a block up to here is not worth compressing
_ALLOCATION_BYTES = 16  # an allocator's own header and rounding, per block
_PLACE_BYTES = 32  # a block's places in its segment's lists, which grow ahead of use
_SEGMENT_BYTES = 512  # a segment's lists and its place in the dictionary


class Block(NamedTuple):
    """Consecutive steps as they are stored: each field's bytes, compressed or as they are."""

    blobs: tuple[bytes, ...]  # in the order of the schema's fields
    length: int


class PackedChunk(NamedTuple):
    """A chunk ready to be stored."""

    blocks: tuple[Block, ...]
    length: int
    nbytes: int  # that it takes in memory, bookkeeping included


class PackedStore:
    """A store within a number of bytes; each chunk is a block, each field of it zstd-compressed.

    A compressed field is kept where it is at least `ratio` times smaller; elsewhere its bytes are
    kept as they are, and which of the two it is shows in the length. Reading decompresses every
    block that the windows touch, as a whole and once per call, so what a batch costs depends on its
    own windows and not on how much is stored. Besides `bytes_resident` a call takes the memory of
    one decompressed block.

    No view of a caller's array is kept, and every array that is returned belongs to the caller. Not
    thread-safe. Readers in other processes cannot map this store as they can a `Ring`.
    """

    def __init__(
        self,
        schema: Schema,
        nbytes: int,
        ratio: float = 1.5,
        level: int = 1,
        capacity: int | None = None,
    ) -> None:
        """An empty store that never takes more than `nbytes`, nor more than `capacity` steps.

        Raises `ReplayError` if the bytes could not fit in the machine's memory, if the ratio is not
        above 1, or if zstd has no such level.
        """
        if nbytes < 1:
            raise ReplayError(
                f"A compressed store needs a positive number of bytes, got {nbytes}: raise "
                "replay.bytes_per_shard."
            )
        if capacity is not None and capacity < 1:
            raise ReplayError(
                f"A compressed store holds at least one step, got capacity {capacity}: raise "
                "replay.capacity_agent_steps."
            )
        if not ratio > 1.0:
            raise ReplayError(
                f"A compressed store needs a ratio above 1, got {ratio}: below it, steps as they "
                "are take fewer bytes."
            )
        if not 1 <= level <= zstandard.MAX_COMPRESSION_LEVEL:
            raise ReplayError(
                f"zstd has levels 1 to {zstandard.MAX_COMPRESSION_LEVEL}, got {level}."
            )
        check_memory(nbytes)
        self.schema = schema
        self.bytes_capacity = nbytes
        self.capacity = capacity
        self.ratio = ratio
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._decompressor = zstandard.ZstdDecompressor()
        self.clear()

    def clear(self) -> None:
        """Gives up everything."""
        self._held: dict[int, _Held] = {}
        self.agent_steps = 0  # stored now
        self.bytes_resident = 0  # that the blobs take, with what keeps them in order

    def prepare(self, steps: Mapping[str, np.ndarray], length: int) -> PackedChunk:
        """Compresses (L, ...) arrays. Raises `ReplayError` if even an empty store has no room."""
        if self.capacity is not None and length > self.capacity:
            raise ReplayError(
                f"A chunk of {length} agent steps does not fit a shard of {self.capacity}: raise "
                "replay.capacity_agent_steps."
            )
        blocks = tuple(
            self._pack(steps, begin, min(begin + BLOCK_AGENT_STEPS, length))
            for begin in range(0, length, BLOCK_AGENT_STEPS)
        )
        nbytes = sum(_nbytes(block) for block in blocks)
        if nbytes + _SEGMENT_BYTES > self.bytes_capacity:
            raise ReplayError(
                f"A chunk of {length} agent steps takes {nbytes + _SEGMENT_BYTES} bytes compressed "
                f"and does not fit a shard of {self.bytes_capacity} bytes: raise "
                "replay.capacity_agent_steps or replay.bytes_per_shard."
            )
        return PackedChunk(blocks, length, nbytes)

    def fits(self, prepared: PackedChunk) -> bool:
        """Whether it can be appended now, to any segment, without passing either bound."""
        if self.capacity is not None and self.agent_steps + prepared.length > self.capacity:
            return False
        return self.bytes_resident + prepared.nbytes + _SEGMENT_BYTES <= self.bytes_capacity

    def append(self, ordinal: int, prepared: PackedChunk) -> None:
        """Stores a chunk behind what segment `ordinal` holds. It must fit."""
        if not self.fits(prepared):
            raise ReplayError(
                f"The compressed store has {self.bytes_capacity - self.bytes_resident} of "
                f"{self.bytes_capacity} bytes free and holds {self.agent_steps} agent steps: no "
                f"room for {prepared.length} of {prepared.nbytes} bytes."
            )
        held = self._held.get(ordinal)
        if held is None:
            held = self._held[ordinal] = _Held()
            self.bytes_resident += _SEGMENT_BYTES
        held.append(prepared)
        self.bytes_resident += prepared.nbytes
        self.agent_steps += prepared.length

    def release(self, ordinal: int) -> None:
        """Gives up a segment."""
        held = self._held.pop(ordinal, None)
        if held is not None:
            self.bytes_resident -= held.nbytes + _SEGMENT_BYTES
            self.agent_steps -= held.length

    def read(self, ordinal: int, begin: int, end: int) -> Batch:
        """Copies steps [begin, end) of a segment: new (end - begin, ...) arrays."""
        out = self.schema.empty(end - begin, 1)
        self.gather(np.array([ordinal]), np.array([begin]), end - begin, out)
        return {name: steps[:, 0] for name, steps in out.items()}

    def gather(
        self, ordinals: np.ndarray, starts: np.ndarray, length: int, out: Batch | None = None
    ) -> Batch:
        """Copies B windows of `length` steps: window b begins at step `starts[b]` of segment
        `ordinals[b]`. (T, B, ...) arrays, new or `out`.

        Raises `KeyError` if a segment is not stored, `IndexError` if a window reaches beyond one.
        """
        if out is None:
            out = self.schema.empty(length, len(ordinals))
        windows_of: dict[tuple[int, int], list[tuple[int, int]]] = {}  # by segment and block
        for b, (ordinal, start) in enumerate(zip(ordinals.tolist(), starts.tolist(), strict=True)):
            for index in self._held[ordinal].overlapped(start, start + length):
                windows_of.setdefault((ordinal, index), []).append((b, start))
        for (ordinal, index), windows in windows_of.items():
            held = self._held[ordinal]
            begin, end = held.begin_of(index), held.ends[index]
            for field, blob in zip(self.schema.fields, held.blobs[index], strict=True):
                steps, target = self._unpack(field, blob, end - begin), out[field.name]
                for b, start in windows:
                    first, last = max(begin, start), min(end, start + length)
                    target[first - start : last - start, b] = steps[first - begin : last - begin]
        return out

    def _pack(self, steps: Mapping[str, np.ndarray], begin: int, end: int) -> Block:
        blobs = (self._compress(f, steps[f.name][begin:end]) for f in self.schema.fields)
        return Block(tuple(blobs), end - begin)

    def _compress(self, field: Field, steps: np.ndarray) -> bytes:
        steps = np.ascontiguousarray(steps, field.dtype)
        if steps.nbytes > SMALL_BYTES:
            blob = self._compressor.compress(steps.data)
            if len(blob) * self.ratio <= steps.nbytes:
                # Copied, because the compressor's own bytes keep the worst case's memory.
                return bytes(memoryview(blob))
        return steps.tobytes()

    def _unpack(self, field: Field, blob: bytes, length: int) -> np.ndarray:
        """The (length, ...) array of a blob, read-only."""
        nbytes = length * field.nbytes
        flat = blob if len(blob) == nbytes else self._decompressor.decompress(blob)
        return np.ndarray((length, *field.shape), field.dtype, flat)


class _Held:
    """The blocks of one segment in time order, and where each ends in it."""

    __slots__ = ("blobs", "ends", "nbytes")

    def __init__(self) -> None:
        self.blobs: list[tuple[bytes, ...]] = []
        self.ends = array("q")
        self.nbytes = 0

    @property
    def length(self) -> int:
        return self.ends[-1] if self.ends else 0

    def append(self, chunk: PackedChunk) -> None:
        for block in chunk.blocks:
            self.ends.append(self.length + block.length)
            self.blobs.append(block.blobs)
        self.nbytes += chunk.nbytes

    def begin_of(self, index: int) -> int:
        return self.ends[index - 1] if index else 0

    def overlapped(self, begin: int, end: int) -> range:
        """The blocks that hold steps [begin, end)."""
        if begin < 0 or end > self.length:
            raise IndexError(f"Steps {begin} to {end} of a segment that holds {self.length}.")
        if begin == end:
            return range(0)
        return range(bisect_right(self.ends, begin), bisect_right(self.ends, end - 1) + 1)


def _nbytes(block: Block) -> int:
    things = (block.blobs, *block.blobs)
    return _PLACE_BYTES + sum(sys.getsizeof(thing) + _ALLOCATION_BYTES for thing in things)
