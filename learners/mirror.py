"""Replay kept on the learner's device too: a step is uploaded once, however often it is drawn."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from replay import Batch as Arrays
from replay import Field, ReplayError, ReplaySettings, Schema
from replay.memory import available_memory
from replay.ring import Rows

Batch = dict[str, Tensor]
Cut = tuple[tuple[int, ...], torch.dtype]  # shape and dtype of one array in pinned memory

_HALVES = 2  # of pinned memory: one is filled while the other is copied to the device
_ALIGNMENT_BYTES = 64
_UPDATE_SHARE = 8  # 1/8 of a GPU's memory is left to what an update makes and drops again

logger = logging.getLogger(__name__)


class ReplayMirror:
    """The rings of a service's shards, slot for slot, in a device's memory; batches are gathered
    there.

        drawn = reader.draw_to(mirror.into(batch), timeout_s)

    Only steps that the mirror does not hold yet are copied from a shard's memory: those never drawn
    before, or whose slot has been written again since (its generation says so). They go through
    pinned memory, and only if nothing was written over them meanwhile. Steps that come as copies,
    since their shard's memory cannot be mapped here, are uploaded with every batch; a warning says
    so once.

    All work is enqueued on the current stream, which must be the same at every call; nothing waits
    for it but the next use of the same pinned memory. Not thread-safe.

    Attributes:
        uploaded_agent_steps: Steps copied to the device so far.
    """

    def __init__(
        self,
        schema: Schema,
        settings: ReplaySettings,
        device: torch.device,
        *,
        batch_agent_steps: int,
    ) -> None:
        """For batches of up to `batch_agent_steps` steps (T times B) from a service with these
        settings. A shard's part of the device's memory is claimed with the first batch from it.

        Raises:
            ReplayError: The device has no room for all shards when full, or replay is compressed.
        """
        if settings.compression != "none":
            raise ReplayError(
                "learner.mirror_replay needs steps as they are, but replay.compression is "
                f"{settings.compression}: set it to none, or learner.mirror_replay to false."
            )
        capacity = settings.shard_capacity_agent_steps(schema.bytes_per_step)
        _check_room(settings.shards * capacity * schema.bytes_per_step, device)
        self._schema = schema
        self._device = device
        self._rings: dict[int, _Ring] = {}
        self._copied: set[int] = set()  # shards whose steps have come as copies
        cuts = [_cut(field, batch_agent_steps) for field in schema.fields]
        indices = [((batch_agent_steps,), torch.int64)] * 2
        self._pinned = _Pinned(_nbytes([*cuts, *indices]), device)
        self.uploaded_agent_steps = 0

    def into(self, batch: Batch) -> MirrorSink:
        """Returns the sink that fills `batch`: (T, B, ...) tensors of the schema's fields on the
        device. When `draw_to` returns, the work that fills them is on the current stream.
        """
        return MirrorSink(self, batch)

    def upload(self, array: np.ndarray, out: Tensor) -> None:
        """Copies what does not lie in replay, such as importance weights, to `out`, a tensor of the
        same shape and dtype on the device. It must not be larger than a batch.
        """
        (staged,) = self._pinned.take([(tuple(out.shape), out.dtype)])
        staged.numpy()[...] = array
        out.copy_(staged, non_blocking=True)
        self._pinned.sent()

    def close(self) -> None:
        """Gives the device's memory back. The work enqueued so far must be done."""
        self._rings.clear()

    def _ring(self, shard: int, rows: Rows) -> _Ring:
        """The mirror of a shard's ring, begun anew if the shard has been started again."""
        address = rows.memory.address
        assert address is not None
        known = self._rings.get(shard)
        if known is None:
            known = self._rings[shard] = _Ring(
                self._schema, len(rows.generations), address.token, self._device
            )
        elif known.token != address.token:
            known.restart(address.token)
        return known

    def _warn_of_copies(self, shard: int) -> None:
        if shard not in self._copied:
            self._copied.add(shard)
            logger.warning(
                "learner.mirror_replay: the memory of replay shard %d cannot be mapped here "
                "(another machine, container or user), so its steps are uploaded with every batch.",
                shard,
            )


class MirrorSink:
    """A `replay.sink.Sink` that fills one batch from a mirror."""

    def __init__(self, mirror: ReplayMirror, batch: Batch) -> None:
        self._mirror = mirror
        self._batch = batch
        self._staged: _Staged | None = None

    def copy(self, shard: int, batch: Arrays, columns: np.ndarray) -> None:
        """Uploads what came as copies, past the mirror."""
        mirror, schema = self._mirror, self._mirror._schema
        mirror._warn_of_copies(shard)
        length, sequences = batch[schema.fields[0].name].shape[:2]
        cuts = [_cut(field, length, sequences) for field in schema.fields]
        staged = mirror._pinned.take(cuts)
        for field, part in zip(schema.fields, staged, strict=True):
            part.numpy()[...] = batch[field.name]
            self._put(field.name, part.to(mirror._device, non_blocking=True), columns)
        mirror._pinned.sent()
        mirror.uploaded_agent_steps += length * sequences

    def gather(self, shard: int, rows: Rows, slots: np.ndarray, columns: np.ndarray) -> None:
        """Copies what the mirror lacks of these windows to pinned memory."""
        mirror, fields = self._mirror, self._mirror._schema.fields
        ring = mirror._ring(shard, rows)
        # Before the steps: if a number changes from here on, `keep` hears of it.
        generations = rows.generations[slots]
        missing = np.unique(slots[ring.generations[slots] != generations])
        indices: list[Cut] = [(missing.shape, torch.int64), (slots.shape, torch.int64)]
        cuts = [_cut(field, len(missing)) for field in fields]
        pinned_missing, pinned_slots, *steps = mirror._pinned.take([*indices, *cuts])
        pinned_missing.numpy()[...] = missing
        pinned_slots.numpy()[...] = slots
        for field, part in zip(fields, steps, strict=True):
            # "clip" writes straight to `out`, the default to a buffer first.
            np.take(rows.arrays[field.name], missing, axis=0, out=part.numpy(), mode="clip")
        self._staged = _Staged(ring, columns, generations, pinned_slots, pinned_missing, steps)

    def keep(self, whole: np.ndarray) -> None:
        """Uploads what was whole, and gathers those windows on the device."""
        mirror, staged = self._mirror, self._staged
        assert staged is not None
        self._staged = None
        if not whole.all():
            staged = staged.only(whole)
        if len(staged.missing):
            place = staged.missing.to(mirror._device, non_blocking=True)
            for field, part in zip(mirror._schema.fields, staged.steps, strict=True):
                values = part.to(mirror._device, non_blocking=True)
                staged.ring.steps[field.name].index_copy_(0, place, values)
            staged.ring.generations[staged.slots.numpy()] = staged.generations
            mirror.uploaded_agent_steps += len(staged.missing)
        if len(staged.columns):
            slots = staged.slots.to(mirror._device, non_blocking=True)
            for name, steps in staged.ring.steps.items():
                drawn = steps.index_select(0, slots.flatten())
                self._put(name, drawn.unflatten(0, slots.shape), staged.columns)
        mirror._pinned.sent()

    def _put(self, name: str, values: Tensor, columns: np.ndarray) -> None:
        """Writes (T, N, ...) values to their columns, neighbours at once: as a rule all are."""
        begin = 0
        for end in [*(np.flatnonzero(np.diff(columns) != 1) + 1).tolist(), len(columns)]:
            first = int(columns[begin])
            self._batch[name][:, first : first + end - begin] = values[:, begin:end]
            begin = end


class _Staged(NamedTuple):
    """What `gather` leaves to `keep`: N windows of T steps, of which M steps were missing."""

    ring: _Ring
    columns: np.ndarray  # int64 (N,)
    generations: np.ndarray  # uint32 (T, N), from before the steps were copied
    slots: Tensor  # int64 (T, N), pinned
    missing: Tensor  # int64 (M,), pinned: their slots
    steps: list[Tensor]  # (M, ...) of each field, pinned

    def only(self, whole: np.ndarray) -> _Staged:
        """Return the part of some windows, bool (N,), moved together in the same memory."""
        slots = self.slots.numpy()[:, whole]
        wanted = np.isin(self.missing.numpy(), slots)
        count = int(wanted.sum())
        for part in (self.missing, *self.steps):
            part.numpy()[:count] = part.numpy()[wanted]
        fewer = self.slots.flatten()[: slots.size].view(slots.shape)
        fewer.numpy()[...] = slots
        return _Staged(
            self.ring,
            self.columns[whole],
            self.generations[:, whole],
            fewer,
            self.missing[:count],
            [part[:count] for part in self.steps],
        )


class _Ring:
    """A mirror of one shard's ring.

    Attributes:
        token: Of the ring's memory; a shard that was started again has another.
        generations: int64 (capacity,), of the steps held; -1 where there is none.
        steps: Each field's (capacity, *shape) tensor on the device.
    """

    def __init__(self, schema: Schema, capacity: int, token: bytes, device: torch.device) -> None:
        self.token = token
        self.generations = np.full(capacity, -1, np.int64)
        self.steps = {
            field.name: torch.empty((capacity, *field.shape), dtype=_dtype(field), device=device)
            for field in schema.fields
        }

    def restart(self, token: bytes) -> None:
        """Begins anew, in the same memory: what is enqueued reads it before it is written."""
        self.token = token
        self.generations[:] = -1


class _Pinned:
    """Host memory from which copies to the device run while the caller goes on.

    On a CPU it is plain memory and a copy is done when its call returns.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._device = device
        self._halves: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()
        for _ in range(_HALVES):
            memory = torch.empty(nbytes, dtype=torch.uint8, pin_memory=on_gpu)
            self._halves.append((memory, torch.cuda.Event() if on_gpu else None))
        self._used = 0

    def take(self, cuts: Sequence[Cut]) -> list[Tensor]:
        """Unset tensors of these shapes and dtypes, to be filled, copied from and then `sent`."""
        needed = _nbytes(cuts)
        memory, copied = self._halves[0]
        if self._used + needed > len(memory):
            self._halves.rotate(-1)
            self._used = 0
            memory, copied = self._halves[0]
            if copied is not None:
                copied.synchronize()
        taken = []
        for shape, dtype in cuts:
            nbytes = math.prod(shape) * dtype.itemsize
            flat = memory[self._used : self._used + nbytes].view(dtype)
            taken.append(flat.view(shape))
            self._used += _aligned(nbytes)
        return taken

    def sent(self) -> None:
        """All copies from what was taken are on the current stream."""
        _, copied = self._halves[0]
        if copied is not None:
            copied.record(torch.cuda.current_stream(self._device))


def _check_room(needed: int, device: torch.device) -> None:
    free = _free_bytes(device)
    if free is not None and needed > free:
        raise ReplayError(
            f"learner.mirror_replay needs {needed / 2**30:.2f} GiB for all replay shards when "
            f"full, but {free / 2**30:.2f} GiB of memory can be used on device {device}. Lower "
            "replay.capacity_agent_steps or replay.bytes_per_shard, or set learner.mirror_replay "
            "to false."
        )


def _free_bytes(device: torch.device) -> int | None:
    if device.type != "cuda":
        return available_memory()
    free, total = torch.cuda.mem_get_info(device)
    # What PyTorch's allocator holds without using it counts as taken there.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, free + unused - total // _UPDATE_SHARE)


def _dtype(field: Field) -> torch.dtype:
    return torch.from_numpy(np.empty(0, field.dtype)).dtype


def _cut(field: Field, *lead: int) -> Cut:
    return (*lead, *field.shape), _dtype(field)


def _nbytes(cuts: Sequence[Cut]) -> int:
    return sum(_aligned(math.prod(shape) * dtype.itemsize) for shape, dtype in cuts)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
