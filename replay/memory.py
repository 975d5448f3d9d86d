"""Memory that other processes of the same machine can map, and how much of it there is."""

from __future__ import annotations

import mmap
import os
import secrets
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from replay.errors import ReplayError

HEADER = 4096  # the first page holds the token, so what follows begins on a page
TOKEN_BYTES = 16
_CLAIM = 16 << 20
_POPULATE_READ, _POPULATE_WRITE = 22, 23  # madvise(2), since Linux 5.14


class Address(NamedTuple):
    """Where a `SharedMemory` can be found: plain values, small enough to travel with every call."""

    machine: str  # the boot and the process namespace in which `pid` means something
    pid: int
    descriptor: int
    nbytes: int
    token: bytes


class SharedMemory:
    """Anonymous memory behind a file descriptor, gone with the last process that holds it.

    There is no name to clean up after a crash and no limit of /dev/shm to raise. Another process of
    the same user and machine opens it through the owner's entry in /proc, so the owner must be
    alive at that moment, and not after. Pages are claimed when first written.

    Attributes:
        data: uint8 (nbytes,), zero at first; read-only where attached.
        address: What `attach` needs; None where the system has no such memory.
    """

    def __init__(self, nbytes: int) -> None:
        """Makes new memory of `nbytes`, or private memory where the system has no memfd."""
        self.nbytes = nbytes
        self.address: Address | None = None
        self._claimed = 0
        self._mapping: mmap.mmap | None = None
        if not hasattr(os, "memfd_create"):
            self.data = np.zeros(nbytes, np.uint8)
            return
        descriptor = os.memfd_create("replay", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, HEADER + nbytes)
        self._descriptor = descriptor
        file = os.fstat(descriptor)
        self._file = (file.st_dev, file.st_ino)
        self._mapping = mmap.mmap(descriptor, HEADER + nbytes)
        token = secrets.token_bytes(TOKEN_BYTES)
        self._mapping[:TOKEN_BYTES] = token
        self.data = np.frombuffer(self._mapping, np.uint8, nbytes, HEADER)
        self.address = Address(this_machine(), os.getpid(), descriptor, nbytes, token)

    @classmethod
    def attach(cls, address: Address | None) -> SharedMemory | None:
        """Maps another process's memory read-only; None if it cannot be reached from here: another
        machine or container, another user, or a process that has ended.
        """
        if address is None or address.machine != this_machine():
            return None
        try:
            # The number may stand for something else by now: opening a pipe must not wait.
            descriptor = os.open(_entry(address), os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            size = HEADER + address.nbytes
            file = os.fstat(descriptor)
            if not stat.S_ISREG(file.st_mode) or file.st_size != size:
                return None
            mapping = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        except (OSError, ValueError):
            return None
        finally:
            os.close(descriptor)
        # A process id is used again one day: only the token says whose memory this is.
        if mapping[:TOKEN_BYTES] != address.token:
            return None
        memory = cls.__new__(cls)
        memory.nbytes, memory.address = address.nbytes, address
        memory._mapping, memory._claimed = mapping, 0
        memory._file = (file.st_dev, file.st_ino)
        memory.data = np.frombuffer(mapping, np.uint8, address.nbytes, HEADER)
        return memory

    def claim(self, end: int) -> None:
        """Claims or maps the pages of `data[:end]` ahead of use, which costs a fraction of what the
        faults would, one by one.
        """
        while self._mapping is not None and self._claimed < min(end, self.nbytes):
            begin = self._claimed
            self._claimed = min(begin + _CLAIM, self.nbytes)
            owned = self.data.flags.writeable
            try:
                self._mapping.madvise(
                    _POPULATE_WRITE if owned else _POPULATE_READ,
                    begin // mmap.PAGESIZE * mmap.PAGESIZE,
                    self._claimed - begin,
                )
            except (OSError, ValueError):
                self._claimed = self.nbytes  # an older kernel: pages come as they are touched

    @property
    def abandoned(self) -> bool:
        """Whether the process that made this memory has ended or given it up."""
        if self.address is None:
            return False
        try:  # not whether the process is there: it may be a zombie, or another with its number
            file = os.stat(_entry(self.address))
        except OSError:
            return True
        return (file.st_dev, file.st_ino) != self._file

    def __del__(self) -> None:
        """Gives up this process's hold; arrays that still look into the memory keep theirs."""
        descriptor = getattr(self, "_descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


def _entry(address: Address) -> str:
    return f"/proc/{address.pid}/fd/{address.descriptor}"


def has_ended(address: Address) -> bool:
    """Whether the memory's owner was a process of this machine that has ended."""
    try:
        os.stat(_entry(address))
    except OSError as error:
        return address.machine == this_machine() and isinstance(error, FileNotFoundError)
    return False


def this_machine() -> str:
    """A name for the set of processes whose ids and memory this process can see."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown {os.getpid()}"


def available_memory() -> int | None:
    """Bytes this process could still claim: the machine's available memory within the control
    group's limit; None if unknown.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {
            line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.split()[1:]
        }
        available = found["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit != "max":
            # Page cache counts as used there although it is given back on demand: trust the larger
            # of the two views of "free".
            available = min(available, max(int(limit) - used, int(limit) // 2))
    except (OSError, ValueError):
        pass
    return available


def check_memory(needed: int, what: str = "This shard's arrays") -> None:
    """Raises `ReplayError` naming the settings to lower if `needed` bytes exceed the available
    memory.
    """
    available = available_memory()
    if available is not None and needed > available:
        raise ReplayError(
            f"{what} need {needed / 2**30:.2f} GiB when full, but {available / 2**30:.2f} GiB of "
            "memory are available here. "
            "Lower replay.capacity_agent_steps, set replay.bytes_per_shard, or use smaller "
            "observations."
        )
