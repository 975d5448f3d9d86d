"""Batches on the learner's device, in memory that is made once and filled again and again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from learners.prefetch import Prefetcher

Arrays = dict[str, np.ndarray]
Batch = dict[str, Tensor]
Origin = TypeVar("Origin")
Read = Callable[[Arrays, float], Origin]

_PINNED_BATCHES = 2  # one is filled while the other is copied to the GPU


class BatchFeed(Generic[Origin]):
    """Reads batches ahead of use in a thread of its own and hands them out in order.

    `depth` + 2 batches exist: those held ready, the one that is being read and the one in use. New
    arrays for each would cost more than the copy into them, since their pages come one fault at a
    time.

    On a CPU the batches are the memory that `read` fills. On a GPU `read` fills pinned memory, a
    stream of its own copies from there to the device while updates run, and the calling thread
    waits for neither: order is kept between streams, by events.

    Args:
        read: Fills the arrays that it is given and returns where their content is from; raises
            TimeoutError if that takes longer than the seconds given, and is then called again. Only
            the thread calls it.
        empty: Makes the arrays of one batch, all of the same shapes and dtypes.
        device: Where the batches are wanted.
        depth: Batches held ready, 1 or more.
        wait_s: Seconds that `read` is given each time. `close` may take that long.
        idle: Called by the thread again and again while it has nothing to read.
    """

    def __init__(
        self,
        read: Read[Origin],
        empty: Callable[[], Arrays],
        device: torch.device,
        depth: int,
        *,
        wait_s: float = 0.5,
        idle: Callable[[], None] | None = None,
    ) -> None:
        self._read = read
        self._upload = _Upload(empty, device) if device.type == "cuda" else None
        self._free: deque[_Slot] = deque()
        for _ in range(depth + 2):
            upload = self._upload
            self._free.append(_HostSlot(empty()) if upload is None else _DeviceSlot(upload))
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
        if self._upload is not None:  # its targets' memory may be used by others from here on
            self._upload.stream.synchronize()

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

    def fill(self, read: Read[Origin], timeout_s: float) -> Origin:
        """Read a batch into it. In the feed's thread."""

    def take(self) -> Batch:
        """Return the batch, for work on the current stream."""

    def give_back(self) -> None:
        """Let it be filled again after the work that is on the current stream by now."""


class _HostSlot:
    """A batch in plain memory."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._batch = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def fill(self, read: Read[Origin], timeout_s: float) -> Origin:
        return read(self._arrays, timeout_s)

    def take(self) -> Batch:
        return self._batch

    def give_back(self) -> None:
        """Nothing to wait for: work on a CPU is done when its call returns."""


class _DeviceSlot:
    """A batch on a GPU."""

    def __init__(self, upload: _Upload) -> None:
        self._upload = upload
        self._batch = upload.empty_on_device()
        self._filled = torch.cuda.Event()
        self._given_back = torch.cuda.Event()
        self.give_back()  # the allocator may have taken the memory from work not yet done

    def fill(self, read: Read[Origin], timeout_s: float) -> Origin:
        return self._upload.fill(read, timeout_s, self._batch, self._given_back, self._filled)

    def take(self) -> Batch:
        self._filled.wait(torch.cuda.current_stream(self._upload.device))
        return self._batch

    def give_back(self) -> None:
        self._given_back.record(torch.cuda.current_stream(self._upload.device))


class _Upload:
    """Pinned batches, filled in turn, and the stream that copies them to a GPU."""

    def __init__(self, empty: Callable[[], Arrays], device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        # Each with the event behind the last copy from it.
        self._pinned: deque[tuple[Batch, torch.cuda.Event]] = deque()
        for _ in range(_PINNED_BATCHES):
            batch = {name: torch.from_numpy(a).pin_memory() for name, a in empty().items()}
            self._pinned.append((batch, torch.cuda.Event()))

    def empty_on_device(self) -> Batch:
        """Return an unset batch on the GPU."""
        batch, _ = self._pinned[0]
        return {name: torch.empty_like(value, device=self.device) for name, value in batch.items()}

    def fill(
        self,
        read: Read[Origin],
        timeout_s: float,
        batch: Batch,
        given_back: torch.cuda.Event,
        filled: torch.cuda.Event,
    ) -> Origin:
        """Read into pinned memory and enqueue the copy to `batch`, to begin after `given_back`;
        `filled` is recorded behind it.
        """
        pinned, copied = self._pinned[0]
        copied.synchronize()
        origin = read({name: value.numpy() for name, value in pinned.items()}, timeout_s)
        with torch.cuda.stream(self.stream):
            given_back.wait(self.stream)
            for name, value in pinned.items():
                batch[name].copy_(value, non_blocking=True)
            copied.record(self.stream)
            filled.record(self.stream)
        self._pinned.rotate(-1)
        return origin
