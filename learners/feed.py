"""Batches on the learner's device, in memory that is made once and filled again and again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from learners.prefetch import Prefetcher

Arrays = dict[str, np.ndarray]
Batch = dict[str, Tensor]
Origin = TypeVar("Origin")
Read = Callable[[Arrays, float], Origin]
ReadOnDevice = Callable[[Batch, float], Origin]

_PINNED_BATCHES = 2  # one is filled while the other is copied to the GPU


class BatchFeed(Generic[Origin]):
    """Reads batches ahead of use in a thread of its own and hands them out in order.

    `depth` + 2 batches exist: those held ready, the one that is being read and the one in use. New
    arrays for each would cost more than the copy into them, since their pages come one fault at a
    time.

    On a CPU the batches are the memory that `read` fills. On a GPU `read` fills pinned memory, a
    stream of its own copies from there to the device while updates run, and the calling thread
    waits for neither: order is kept between streams, by events. With `on_device`, `read` is given
    the batch on the device instead, and fills it by work on the current stream.

    Args:
        read: Fills the arrays that it is given and returns where their content is from; raises
            TimeoutError if that takes longer than the seconds given, and is then called again. Only
            the thread calls it.
        empty: Makes the arrays of one batch, all of the same shapes and dtypes.
        device: Where the batches are wanted.
        depth: Batches held ready, 1 or more.
        wait_s: Seconds that `read` is given each time. `close` may take that long.
        idle: Called by the thread again and again while it has nothing to read.
        on_device: Whether `read` takes tensors on the device in place of arrays.
    """

    def __init__(
        self,
        read: Read[Origin] | ReadOnDevice[Origin],
        empty: Callable[[], Arrays],
        device: torch.device,
        depth: int,
        *,
        wait_s: float = 0.5,
        idle: Callable[[], None] | None = None,
        on_device: bool = False,
    ) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if on_device:
            self._read = cast(ReadOnDevice[Origin], read)
        elif self._stream is None:
            self._read = partial(_read_in_place, cast(Read[Origin], read))
        else:
            self._read = _Upload(cast(Read[Origin], read), empty)
        self._free: deque[_Slot] = deque()
        for _ in range(depth + 2):
            batch = {name: torch.from_numpy(a).to(device) for name, a in empty().items()}
            stream = self._stream
            self._free.append(_HostSlot(batch) if stream is None else _DeviceSlot(batch, stream))
        self._in_use: _Slot | None = None
        self._prefetcher: Prefetcher[tuple[_Slot, Origin]] = Prefetcher(
            self._fill, depth, wait_s=wait_s, idle=idle
        )

    def get(self, timeout_s: float) -> tuple[Batch, Origin]:
        """Return the next batch and what `read` returned for it.

        The batch before it is given back by this call: work on a GPU that was enqueued on the
        current stream may still read it, nothing else may.

        Raises:
            NoBatch: None within `timeout_s`.
            Exception: What `read` raised, once the batches read before were handed out.
        """
        if self._in_use is not None:
            self._in_use.give_back()
            self._free.append(self._in_use)
            self._in_use = None
        self._in_use, origin = self._prefetcher.get(timeout_s)
        return self._in_use.take(), origin

    @property
    def ready(self) -> int:
        """Batches that `get` would return at once."""
        return self._prefetcher.ready

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread and drop what is ready; see `Prefetcher.close`."""
        self._prefetcher.close(timeout_s)
        if self._stream is not None:  # its targets' memory may be used by others from here on
            self._stream.synchronize()

    def _fill(self, wait_s: float) -> tuple[_Slot, Origin]:
        # Never empty: at most `depth` are ready and one in use while the thread holds none.
        slot = self._free.popleft()
        try:
            return slot, slot.fill(self._read, wait_s)
        except BaseException:
            self._free.appendleft(slot)
            raise


class _Slot(Protocol):
    """The memory of one batch."""

    def fill(self, read: ReadOnDevice[Origin], timeout_s: float) -> Origin:
        """Read a batch into it. In the feed's thread."""

    def take(self) -> Batch:
        """Return the batch, for work on the current stream."""

    def give_back(self) -> None:
        """Let it be filled again after the work that is on the current stream by now."""


class _HostSlot:
    """A batch in plain memory."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def fill(self, read: ReadOnDevice[Origin], timeout_s: float) -> Origin:
        return read(self._batch, timeout_s)

    def take(self) -> Batch:
        return self._batch

    def give_back(self) -> None:
        """Nothing to wait for: work on a CPU is done when its call returns."""


class _DeviceSlot:
    """A batch on a GPU, filled on `stream`."""

    def __init__(self, batch: Batch, stream: torch.cuda.Stream) -> None:
        self._batch = batch
        self._stream = stream
        self._filled = torch.cuda.Event()
        self._given_back = torch.cuda.Event()
        self.give_back()  # the allocator may have taken the memory from work not yet done

    def fill(self, read: ReadOnDevice[Origin], timeout_s: float) -> Origin:
        with torch.cuda.stream(self._stream):
            self._given_back.wait(self._stream)
            origin = read(self._batch, timeout_s)
            self._filled.record(self._stream)
        return origin

    def take(self) -> Batch:
        self._filled.wait(torch.cuda.current_stream(self._stream.device))
        return self._batch

    def give_back(self) -> None:
        self._given_back.record(torch.cuda.current_stream(self._stream.device))


def _read_in_place(read: Read[Origin], batch: Batch, timeout_s: float) -> Origin:
    """Read into a batch in plain memory."""
    return read({name: value.numpy() for name, value in batch.items()}, timeout_s)


class _Upload(Generic[Origin]):
    """Reads into pinned batches in turn and copies them to the device, on the current stream."""

    def __init__(self, read: Read[Origin], empty: Callable[[], Arrays]) -> None:
        self._read = read
        # Each with the event behind the last copy from it.
        self._pinned: deque[tuple[Batch, torch.cuda.Event]] = deque()
        for _ in range(_PINNED_BATCHES):
            batch = {name: torch.from_numpy(a).pin_memory() for name, a in empty().items()}
            self._pinned.append((batch, torch.cuda.Event()))

    def __call__(self, batch: Batch, timeout_s: float) -> Origin:
        pinned, copied = self._pinned[0]
        copied.synchronize()
        origin = _read_in_place(self._read, pinned, timeout_s)
        for name, value in pinned.items():
            batch[name].copy_(value, non_blocking=True)
        copied.record()
        self._pinned.rotate(-1)
        return origin
