"""What the parent of a simulator's process promises, with small programs in the place of one."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actors.environments import server_process
from actors.environments.robosuite_process import messages
from actors.environments.server_process import ProcessFailed, ServerProcess

# A program that answers each request with what `answer` returns of its name and arguments.
_PROGRAM = """
import json, os, sys, time
sys.path.insert(0, {folder!r})
from messages import PREFIX, decode, encode

def answer(name, arguments):
    {answer}

def send(message):
    sys.stdout.buffer.write(encode(message))
    sys.stdout.buffer.flush()

send({{"hello": json.loads(sys.argv[1])}})
while len(prefix := sys.stdin.buffer.read(PREFIX.size)) == PREFIX.size:
    request = decode(*(sys.stdin.buffer.read(count) for count in PREFIX.unpack(prefix)))
    send(answer(request["call"], request["arguments"]))
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], ServerProcess]:
    """A function that starts a program, given the body of its `answer`."""

    def start_program(answer: str) -> ServerProcess:
        path = tmp_path / "program.py"
        path.write_text(_PROGRAM.format(folder=str(Path(messages.__file__).parent), answer=answer))
        server = ServerProcess(Path(sys.executable), path, {"robot": "none"}, dict(os.environ))
        assert server.receive("start", 30.0) == {"hello": {"robot": "none"}}
        return server

    return start_program


def _is_gone(process_id: int, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")")[-1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_messages_come_back_as_they_were() -> None:
    message = {
        "arrays": [np.arange(6, dtype=np.uint8).reshape(2, 3), np.array(1.5), np.zeros((0, 4))],
        "nested": {"random": np.random.RandomState(3).get_state(legacy=False)},
        "plain": [None, True, "text", 0.1 + 0.2, 2**40, float("nan")],
        "strided": np.arange(10.0)[::3],
        "scalar": np.float32(0.5),
    }
    encoded = messages.encode(message)
    head_size, body_size = messages.PREFIX.unpack(encoded[: messages.PREFIX.size])
    head = encoded[messages.PREFIX.size :][:head_size]
    body = encoded[messages.PREFIX.size + head_size :]
    assert len(body) == body_size
    decoded = messages.decode(head, body)
    np.testing.assert_equal(decoded, message)
    assert decoded["arrays"][0].dtype == np.uint8 and decoded["arrays"][1].shape == ()
    assert decoded["strided"].flags.owndata and decoded["strided"].flags.writeable


def test_a_message_of_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        messages.encode({"set": {1, 2}})


def test_calls_are_answered_in_order(start: Callable[[str], ServerProcess]) -> None:
    server = start("return {'name': name, 'twice': arguments[0] * 2}")
    for index in range(3):
        reply = server.call("double", np.full(4, index), timeout_s=30.0)
        assert reply["name"] == "double"
        np.testing.assert_array_equal(reply["twice"], np.full(4, 2 * index))
    server.close()


def test_a_program_that_ends_is_told_with_its_last_lines(
    start: Callable[[str], ServerProcess],
) -> None:
    server = start("print('the arm came off', file=sys.stderr); sys.exit(3)")
    with pytest.raises(ProcessFailed, match=r"(?s)exit code 3 .*`step`.*the arm came off"):
        server.call("step", timeout_s=30.0)
    with pytest.raises(ProcessFailed, match="the arm came off"):  # and so is every later call
        server.call("reset", timeout_s=30.0)


def test_a_killed_program_is_told_by_its_signal(start: Callable[[str], ServerProcess]) -> None:
    server = start("return {}")
    os.kill(server.process_id, signal.SIGKILL)
    with pytest.raises(ProcessFailed, match=r"ended by signal 9 .*(?s:.*)It printed nothing"):
        server.call("step", timeout_s=30.0)


def test_a_hung_program_is_ended_at_the_deadline(start: Callable[[str], ServerProcess]) -> None:
    server = start("print('thinking', file=sys.stderr, flush=True); time.sleep(600)")
    began = time.monotonic()
    with pytest.raises(ProcessFailed, match=r"(?s)did not answer `reset` within 0.5 s.*thinking"):
        server.call("reset", timeout_s=0.5)
    assert time.monotonic() - began < 10.0
    assert _is_gone(server.process_id)


def test_a_large_request_to_a_hung_program_has_a_deadline_too(
    start: Callable[[str], ServerProcess],
) -> None:
    server = start("time.sleep(600)")
    os.kill(server.process_id, signal.SIGSTOP)
    with pytest.raises(ProcessFailed, match=r"within 0.5 s"):
        server.call("set_state", np.zeros(1 << 20), timeout_s=0.5)
    assert _is_gone(server.process_id)


def test_the_programs_own_error_is_told_and_it_goes_on(
    start: Callable[[str], ServerProcess],
) -> None:
    server = start("return {'error': 'no such door', 'kind': 'KeyError'} if name == 'open' else {}")
    with pytest.raises(ProcessFailed, match=r"could not open:\nno such door") as caught:
        server.call("open", timeout_s=30.0)
    assert caught.value.kind == "KeyError"
    assert server.call("reset", timeout_s=30.0) == {}
    server.close()


def test_closing_ends_the_program_once_and_for_all(start: Callable[[str], ServerProcess]) -> None:
    server = start("return {}")
    server.close()
    server.close()
    assert _is_gone(server.process_id)
    with pytest.raises(ProcessFailed, match="closed"):
        server.call("reset", timeout_s=30.0)


def test_closing_ends_a_program_that_does_not_listen(
    start: Callable[[str], ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "CLOSE_TIMEOUT_S", 0.2)
    server = start("time.sleep(600)")
    os.kill(server.process_id, signal.SIGSTOP)
    server.close()
    assert _is_gone(server.process_id)


def test_a_program_ends_with_the_object_that_started_it(
    start: Callable[[str], ServerProcess],
) -> None:
    server = start("return {}")
    process_id = server.process_id
    del server
    gc.collect()
    assert _is_gone(process_id)


def test_a_program_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    folder = str(Path(messages.__file__).parent)
    program.write_text(_PROGRAM.format(folder=folder, answer="return {}"))
    parent = (
        "import os, sys, time; from pathlib import Path;"
        "from actors.environments.server_process import ServerProcess;"
        f"s = ServerProcess(Path(sys.executable), Path({str(program)!r}), {{}}, dict(os.environ));"
        "s.receive('start', 30.0); print(s.process_id, flush=True); time.sleep(600)"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", parent],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert running.stdout is not None
    child = int(running.stdout.readline())
    running.kill()
    running.wait()
    running.stdout.close()
    assert _is_gone(child)
