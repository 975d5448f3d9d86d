"""Weights out of a learner that goes on learning: which are sent, and who waits for whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from learners import publisher as publisher_file
from learners.publisher import WeightPublisher
from learners.weights import FlatWeights, Published

TIMEOUT_S = 20.0

Start = Callable[..., WeightPublisher]


class Receiver:
    """Keeps what is sent. The thread that sends waits while `free` is not set."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.called = threading.Event()
        self.received: list[tuple[int, np.ndarray]] = []
        self.error: Exception | None = None

    def __call__(self, updates: int, weights: Published) -> None:
        self.called.set()
        assert self.free.wait(TIMEOUT_S)
        if self.error is not None:
            raise self.error
        self.received.append((updates, weights[1].copy()))


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def parameter() -> torch.Tensor:
    return torch.zeros(1000, requires_grad=True)


@pytest.fixture
def publisher(receiver: Receiver, parameter: torch.Tensor) -> Iterator[WeightPublisher]:
    made = WeightPublisher(FlatWeights({"p": parameter}), receiver, retry_on=ConnectionError)
    yield made
    receiver.free.set()
    made.close()
    made.close()


def learn(parameter: torch.Tensor, updates: int) -> None:
    with torch.no_grad():
        parameter.fill_(updates)


def wait_until_published(publisher: WeightPublisher, updates: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while publisher.published != updates:
        publisher.look()
        assert time.monotonic() < deadline, f"{publisher.published} instead of {updates}"


def test_the_learner_goes_on_while_weights_are_sent_and_they_are_those_that_were_offered(
    publisher: WeightPublisher, receiver: Receiver, parameter: torch.Tensor
) -> None:
    receiver.free.clear()
    learn(parameter, 1)
    assert publisher.offer(1)
    assert receiver.called.wait(TIMEOUT_S)
    for updates in range(2, 50):  # the thread holds the first for as long as these take
        learn(parameter, updates)
        assert not publisher.offer(updates)
        assert publisher.published == -1
    receiver.free.set()
    wait_until_published(publisher, 1)
    assert publisher.offer(50)
    wait_until_published(publisher, 50)
    (first, early), (second, late) = receiver.received
    assert (first, second) == (1, 50)
    assert (early == 1.0).all() and (late == 49.0).all()


def test_every_array_is_of_one_moment_however_fast_the_learner_is(
    publisher: WeightPublisher, receiver: Receiver, parameter: torch.Tensor
) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    updates = 0
    while len(receiver.received) < 100:
        updates += 1
        learn(parameter, updates)
        publisher.offer(updates)
        assert time.monotonic() < deadline
    for sent, values in receiver.received:
        assert (values == sent).all()


def test_published_weights_are_sent_on_return_and_earlier_ones_before_them(
    publisher: WeightPublisher, receiver: Receiver, parameter: torch.Tensor
) -> None:
    receiver.free.clear()
    publisher.offer(40)
    threading.Timer(0.1, receiver.free.set).start()
    learn(parameter, 20)  # as after going back to a checkpoint
    publisher.publish(20, TIMEOUT_S)
    assert publisher.published == 20
    assert [updates for updates, _ in receiver.received] == [40, 20]
    assert (receiver.received[-1][1] == 20.0).all()


def test_after_an_error_that_may_pass_newer_weights_are_sent_but_not_at_every_update(
    publisher: WeightPublisher,
    receiver: Receiver,
    parameter: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(publisher_file, "RETRY_S", 0.2)
    receiver.error = ConnectionError("the hub is gone")
    assert publisher.offer(1)
    failed = time.monotonic()
    receiver.called.wait(TIMEOUT_S)
    offers = 0
    while time.monotonic() - failed < 0.5:
        offers += publisher.offer(2)
    assert 1 <= offers <= 3
    assert publisher.published == -1
    assert "the hub is gone" in caplog.text
    receiver.error = None
    learn(parameter, 3)
    publisher.publish(3, TIMEOUT_S)
    assert publisher.published == 3 and (receiver.received[-1][1] == 3.0).all()


def test_any_other_error_reaches_the_learner(
    publisher: WeightPublisher, receiver: Receiver
) -> None:
    receiver.error = KeyError("a mistake")
    publisher.offer(1)
    deadline = time.monotonic() + TIMEOUT_S
    with pytest.raises(KeyError, match="a mistake"):
        while time.monotonic() < deadline:
            publisher.look()
    with pytest.raises(KeyError, match="a mistake"):
        publisher.publish(2, TIMEOUT_S)
    receiver.error = ConnectionError("the hub is gone")
    with pytest.raises(ConnectionError, match="is gone"):
        publisher.publish(3, TIMEOUT_S)
    receiver.error = None
    publisher.publish(4, TIMEOUT_S)
    assert publisher.published == 4


def test_who_takes_too_long_is_an_error_in_time(
    publisher: WeightPublisher, receiver: Receiver
) -> None:
    receiver.free.clear()
    for updates in (1, 2):  # the second waits for the first
        with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
            publisher.publish(updates, 0.05)
    receiver.free.set()
    wait_until_published(publisher, 1)


def test_a_closed_publisher_ends_its_thread_and_starts_another_for_newer_weights(
    publisher: WeightPublisher, receiver: Receiver, parameter: torch.Tensor
) -> None:
    earlier = set(threading.enumerate())  # those of other tests, which may end meanwhile

    def threads() -> int:
        return sum(t.name.startswith("publish") for t in set(threading.enumerate()) - earlier)

    receiver.free.clear()
    publisher.offer(1)
    assert threads() == 1
    begun = time.monotonic()
    publisher.close(timeout_s=0.05)  # is given up: nobody takes the weights
    assert 0.05 <= time.monotonic() - begun < TIMEOUT_S
    receiver.free.set()
    learn(parameter, 2)
    publisher.publish(2, TIMEOUT_S)
    assert [updates for updates, _ in receiver.received] == [1, 2]
    publisher.close()
    deadline = time.monotonic() + TIMEOUT_S
    while threads():
        assert time.monotonic() < deadline


def test_closing_waits_for_weights_on_their_way(
    publisher: WeightPublisher, receiver: Receiver
) -> None:
    receiver.free.clear()
    publisher.offer(1)
    threading.Timer(0.1, receiver.free.set).start()
    publisher.close(timeout_s=TIMEOUT_S)
    assert [updates for updates, _ in receiver.received] == [1]


@pytest.mark.gpu
def test_on_a_gpu_nobody_waits_for_the_device_and_weights_are_those_of_their_update(
    receiver: Receiver,
) -> None:
    parameter = torch.zeros(1_000_000, device="cuda", requires_grad=True)
    publisher = WeightPublisher(FlatWeights({"p": parameter}), receiver)
    publisher.publish(0, TIMEOUT_S)
    learn(parameter, 1)
    torch.cuda.synchronize()
    for updates in (2, 3):
        begin = time.monotonic()
        torch.cuda._sleep(1_000_000_000)  # an update, half a second or so
        learn(parameter, updates)
        assert publisher.offer(updates)
        torch.cuda._sleep(1_000_000)
        learn(parameter, updates + 100)  # the next update, enqueued behind the copy
        assert time.monotonic() - begin < 0.2
        assert not publisher.offer(updates + 100)
        wait_until_published(publisher, updates)
    publisher.close()
    assert [updates for updates, _ in receiver.received] == [0, 2, 3]
    for updates, values in receiver.received:
        assert (values == updates).all()
