"""Chunks on their way: laid down once by the writer, and picked up from there by shards on the same
machine.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from replay.memory import Address, SharedMemory
from replay.schema import Chunk, ChunkKey, Schema

HEAD = 64  # bytes of a block before its chunk: the serial, in the first eight
WRITERS_KEPT = 256  # writers whose memory a shard keeps mapped; the least recent goes first


@dataclass(frozen=True)
class StagedChunk:
    """A chunk that lies in its writer's memory: what travels in place of the frames."""

    key: ChunkKey
    length: int
    address: Address
    offset: int  # of its block, in bytes
    serial: int  # of what lies in the block

    def __len__(self) -> int:
        """The number of steps L."""
        return self.length


class Staging:
    """A writer's blocks, each for one chunk of at most `chunk_length` steps.

    A chunk is copied in once, so the caller's arrays are free again, and stays until it was
    acknowledged, so that a call repeated after a lost answer finds it.
    """

    def __init__(self, schema: Schema, chunk_length: int, blocks: int) -> None:
        """Memory is claimed as blocks are first used."""
        self._schema = schema
        self._length = chunk_length
        self._stride = _block_bytes(schema, chunk_length)
        self._memory = SharedMemory(self._stride * blocks)
        self._free = list(range(blocks))[::-1]
        self._serials = [0] * blocks

    @property
    def free(self) -> int:
        """Blocks that are free."""
        return len(self._free)

    def put(self, chunk: Chunk) -> tuple[int, Chunk]:
        """Copies `chunk` into a free block; returns the block and the chunk over its memory. A
        longer chunk than the blocks gets memory of its own, and block -1.
        """
        length = len(chunk)
        if length > self._length:
            return -1, Chunk(chunk.key, {n: np.array(a) for n, a in chunk.steps.items()})
        block = self._free.pop()
        offset = block * self._stride
        self._memory.claim(offset + self._stride)
        self._serials[block] += 1
        _serial(self._memory, offset)[0] = self._serials[block]
        steps = chunk_views(self._schema, self._memory.data[offset + HEAD :], length)
        for name, array in steps.items():
            array[...] = chunk.steps[name]
        return block, Chunk(chunk.key, steps)

    def describe(self, chunk: Chunk, block: int) -> StagedChunk | None:
        """What to send for a chunk in `block`; None if only the chunk itself will do."""
        address = self._memory.address
        if block < 0 or address is None:
            return None
        offset, serial = block * self._stride, self._serials[block]
        return StagedChunk(chunk.key, len(chunk), address, offset, serial)

    def give_back(self, block: int) -> None:
        """Frees a block."""
        if block >= 0:
            self._free.append(block)


class StagingReader:
    """Finds the chunks that writers of this machine have laid down."""

    def __init__(self, schema: Schema) -> None:
        """Maps each writer's memory when its first chunk comes."""
        self._schema = schema
        self._writers: OrderedDict[bytes, SharedMemory] = OrderedDict()

    def find(self, staged: StagedChunk) -> Chunk | None:
        """The chunk, over the writer's memory; None if that cannot be reached from here, or if the
        chunk lies there no more.
        """
        token = staged.address.token
        memory = self._writers.get(token)
        if memory is None:
            self._drop_abandoned()
            memory = SharedMemory.attach(staged.address)
            if memory is None:
                return None
            self._writers[token] = memory
        self._writers.move_to_end(token)
        if staged.offset + _block_bytes(self._schema, staged.length) > memory.nbytes:
            return None
        # A call that arrives long after it was repeated and answered must not take the block's next
        # chunk for its own.
        if _serial(memory, staged.offset)[0] != staged.serial:
            return None
        views = chunk_views(self._schema, memory.data[staged.offset + HEAD :], staged.length)
        return Chunk(staged.key, views)

    def _drop_abandoned(self) -> None:
        for token, memory in list(self._writers.items()):
            if memory.abandoned or len(self._writers) >= WRITERS_KEPT:
                del self._writers[token]


def chunk_views(schema: Schema, memory: np.ndarray, length: int) -> Mapping[str, np.ndarray]:
    """A chunk's (L, ...) arrays over uint8 `memory`, field after field."""
    views, end = {}, 0
    for field in schema.fields:
        begin, end = end, end + field.nbytes * length
        views[field.name] = memory[begin:end].view(field.dtype).reshape(length, *field.shape)
        end = _aligned(end)
    return views


def _block_bytes(schema: Schema, length: int) -> int:
    return HEAD + sum(_aligned(field.nbytes * length) for field in schema.fields)


def _serial(memory: SharedMemory, offset: int) -> np.ndarray:
    return memory.data[offset : offset + 8].view(np.uint64)


def _aligned(nbytes: int) -> int:
    return math.ceil(nbytes / 64) * 64
