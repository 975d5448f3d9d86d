from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay import ReplayError
from replay.memory import Address, SharedMemory, available_memory, check_memory, this_machine
from replay.ring import Rows, RowsDrawn
from tests.replay.ring_owner import EPISODE_AGENT_STEPS
from tests.replay.table_model import SCHEMA

CAPACITY = 32

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="this system has no memory to share"
)


class Owner:
    """Another process that owns a ring of `CAPACITY` slots."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.replay.ring_owner", str(CAPACITY)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.address: Address = self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return pickle.load(self.process.stdout)

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()

    def ask(self, command: str) -> Any:
        self.send(command)
        return self.answer()

    def rows(self) -> Rows:
        memory = SharedMemory.attach(self.address)
        assert memory is not None
        return Rows(SCHEMA, CAPACITY, memory)


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.process.kill()
    made.process.communicate()


def copied(rows: Rows, drawn: RowsDrawn) -> dict[str, np.ndarray]:
    out = SCHEMA.empty(*drawn.slots.shape)
    rows.gather(drawn.slots, out)
    return out


def unchanged(rows: Rows, drawn: RowsDrawn) -> np.ndarray:
    return np.asarray(rows.generations[drawn.slots[0]] == drawn.generations)


def assert_episodes(batch: dict[str, np.ndarray], ordinals: list[int]) -> None:
    for b, ordinal in enumerate(ordinals):
        assert (batch["observation"][:, b] == ordinal % 251).all()
        assert (batch["action"][:, b, 0] == ordinal).all()
        assert batch["reward"][:, b].tolist() == list(range(EPISODE_AGENT_STEPS))


def test_another_process_sees_the_rows_and_every_later_one(owner: Owner) -> None:
    rows = owner.rows()
    assert not any(array.any() for array in rows.arrays.values())
    owner.ask("put 3")
    assert_episodes(copied(rows, owner.ask("locate 0 2 1")), [0, 2, 1])
    owner.ask("put 3")
    assert_episodes(copied(rows, owner.ask("locate 5 2 3 4")), [5, 2, 3, 4])


def test_a_reader_cannot_write_to_the_rows(owner: Owner) -> None:
    rows = owner.rows()
    for array in (*rows.arrays.values(), rows.generations, rows.memory.data):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1


def test_rows_given_up_after_the_draw_are_noticed(owner: Owner) -> None:
    rows = owner.rows()
    owner.ask("put 4")
    drawn = owner.ask("locate 0 1 2 3")
    assert unchanged(rows, drawn).all()
    owner.ask("put 2")
    assert unchanged(rows, drawn).tolist() == [False, False, True, True]


def test_whatever_is_copied_while_the_owner_writes_is_whole_or_noticed(owner: Owner) -> None:
    rows = owner.rows()
    owner.ask("put 4")
    owner.send("race 3000")
    whole = noticed = 0
    while (answer := owner.answer()) is not None:
        ordinals, drawn = answer
        batch = copied(rows, drawn)
        good = unchanged(rows, drawn)
        kept = {name: array[:, good] for name, array in batch.items()}
        assert_episodes(kept, ordinals[good].tolist())
        whole, noticed = whole + int(good.sum()), noticed + int((~good).sum())
    assert whole > 0 and noticed > 0


def test_rows_outlive_a_killed_owner_and_its_end_is_noticed(owner: Owner) -> None:
    rows = owner.rows()
    owner.ask("put 4")
    drawn = owner.ask("locate 3 1")
    assert not rows.memory.abandoned
    owner.process.kill()
    owner.process.wait()
    assert rows.memory.abandoned
    assert unchanged(rows, drawn).all()
    assert_episodes(copied(rows, drawn), [3, 1])
    assert SharedMemory.attach(owner.address) is None


def test_a_killed_owner_that_nobody_has_waited_for_counts_as_ended(owner: Owner) -> None:
    memory = owner.rows().memory
    owner.process.kill()
    deadline = time.monotonic() + 10.0
    status = Path(f"/proc/{owner.process.pid}/status")
    while "Z (zombie)" not in status.read_text():
        assert time.monotonic() < deadline
    assert memory.abandoned


def test_memory_that_its_owner_gave_up_cannot_be_reached_any_more(owner: Owner) -> None:
    memory = owner.rows().memory
    owner.ask("forget")
    assert memory.abandoned
    assert SharedMemory.attach(owner.address) is None


def test_memory_is_freed_with_its_last_user() -> None:
    before, claimed_before = _descriptors(), _shared_bytes()
    for _ in range(50):
        memory = SharedMemory(4 << 20)
        memory.data[...] = 1
        reader = SharedMemory.attach(memory.address)
    assert reader is not None
    address = memory.address
    del memory
    assert SharedMemory.attach(address) is None
    assert reader.data.all()
    del reader
    assert _descriptors() == before
    assert _shared_bytes() - claimed_before < 4 << 20


def test_arrays_keep_the_memory_that_they_look_into() -> None:
    memory = SharedMemory(1 << 20)
    data = memory.data
    data[...] = 7
    del memory
    assert (data == 7).all()


@pytest.mark.parametrize(
    "change",
    [
        {"machine": "another boot pid:[1]"},
        {"token": b"x" * 16},
        {"nbytes": 1 << 19},
        {"nbytes": 1 << 21},
        {"descriptor": 1_000_000},
        {"pid": 2**22 + 1},
        {"pid": 1},
    ],
)
def test_only_the_right_memory_is_attached(change: dict[str, Any]) -> None:
    memory = SharedMemory(1 << 20)
    assert memory.address is not None
    assert SharedMemory.attach(memory.address) is not None
    assert SharedMemory.attach(memory.address._replace(**change)) is None


def test_there_is_nothing_to_attach_where_memory_cannot_be_shared() -> None:
    assert SharedMemory.attach(None) is None


def test_a_descriptor_used_again_for_other_memory_is_told_by_its_token() -> None:
    first = SharedMemory(1 << 20)
    address = first.address
    assert address is not None
    del first
    second = SharedMemory(1 << 20)
    assert second.address is not None
    assert second.address.descriptor == address.descriptor, "The system gave another number."
    assert SharedMemory.attach(address) is None
    assert SharedMemory.attach(second.address) is not None


@pytest.mark.timeout(20)
def test_a_descriptor_used_again_for_a_pipe_neither_attaches_nor_blocks(tmp_path: Path) -> None:
    memory = SharedMemory(1 << 20)
    assert memory.address is not None
    os.mkfifo(tmp_path / "pipe")
    # Nobody writes: opening it for reading would wait for somebody.
    read = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert SharedMemory.attach(memory.address._replace(descriptor=read)) is None
    finally:
        os.close(read)


def test_an_owner_never_counts_as_ended_for_itself() -> None:
    assert not SharedMemory(1 << 20).abandoned


@pytest.mark.parametrize("nbytes", [1, 4095, 4096, 4097, (16 << 20) + 1, 40_000_001])
def test_claiming_ahead_changes_no_byte(nbytes: int) -> None:
    memory = SharedMemory(nbytes)
    memory.claim(nbytes // 2)
    assert not memory.data.any()
    memory.data[...] = 5
    for end in (1, nbytes // 3, nbytes, nbytes + 10_000):
        memory.claim(end)
    reader = SharedMemory.attach(memory.address)
    assert reader is not None
    reader.claim(nbytes)
    assert reader.data.shape == (nbytes,)
    assert (reader.data == 5).all()


def test_claiming_takes_the_pages_that_were_asked_for() -> None:
    memory = SharedMemory(256 << 20)
    before = _shared_bytes()
    memory.claim(40 << 20)
    claimed = _shared_bytes() - before
    assert claimed == 0 or 40 << 20 <= claimed <= 64 << 20  # 0: a kernel before 5.14
    memory.data[: 64 << 20] = 1
    assert 64 << 20 <= _shared_bytes() - before <= 96 << 20


def test_this_machine_is_the_same_for_every_process_on_it(owner: Owner) -> None:
    assert owner.address.machine == this_machine()


def test_more_memory_than_there_is_names_the_settings_to_lower() -> None:
    available = available_memory()
    assert available is not None and available > 0
    check_memory(1)
    with pytest.raises(ReplayError, match=r"The frames need .* GiB.*replay\.capacity_agent_steps"):
        check_memory(2**50, "The frames")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _shared_bytes() -> int:
    fields = Path("/proc/self/status").read_text()
    return int(fields.split("RssShmem:")[1].split()[0]) * 1024
