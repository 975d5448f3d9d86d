"""Makes the task of its one argument, then answers requests until they end.

The argument is JSON: what `Door` takes, and as `self_check` the path of the file with the picture
that must come out right before anything else is done. Requests come on standard input, replies go
to standard output, one for each, the first a greeting with the sizes of the task. When standard
input is closed, as the system does when the other side dies, the process ends.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import sys
import traceback
from typing import Any, BinaryIO

from errors import GraphicsError
from messages import PREFIX, decode, encode

_TRACEBACK_LINES = 8


def main() -> None:
    """Serves one task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other side to handle
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between replies
    try:
        door = _make_door(json.loads(sys.argv[1]))
        _send(replies, {"sizes": door.sizes()})
    except Exception as error:
        failure = traceback.format_exc(limit=-_TRACEBACK_LINES)
        _send(replies, {"error": failure, "kind": type(error).__name__})
        return
    serve(door, sys.stdin.buffer, replies)


def _make_door(arguments: dict[str, Any]) -> Any:
    _check_graphics(_load(arguments.pop("self_check")))
    # At import it warns that its developers' own file of macros is not there.
    logging.getLogger("robosuite_logs").addFilter(lambda record: "macro" not in record.getMessage())
    import mujoco
    from door import Door

    mujoco.set_mju_user_warning(lambda text: print(text, file=sys.stderr))  # else into a file
    return Door(**arguments)


def _load(path: str) -> Any:
    """Imports one file, which need not be where modules are found."""
    spec = importlib.util.spec_from_file_location("self_check", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_graphics(self_check: Any) -> None:
    """Raises GraphicsError unless this process draws the known scene right."""
    try:
        import mujoco  # opens the display

        context = mujoco.GLContext(self_check.SIDE, self_check.SIDE)
        try:
            context.make_current()
            fault = self_check.find_fault_here()
        finally:
            context.free()
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever the OpenGL library and its Python layer raise
        raise GraphicsError(error) from error
    if fault is not None:
        raise GraphicsError(f"it draws wrong pictures: {fault}")


def serve(door: Any, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers requests, a method's name in `call` and its `arguments`, until their pipe closes."""
    while len(prefix := requests.read(PREFIX.size)) == PREFIX.size:
        head, body = (requests.read(count) for count in PREFIX.unpack(prefix))
        request = decode(head, body)
        try:
            reply = getattr(door, request["call"])(*request["arguments"])
        except Exception as error:
            failure = traceback.format_exc(limit=-_TRACEBACK_LINES)
            reply = {"error": failure, "kind": type(error).__name__}
        _send(replies, reply)


def _send(replies: BinaryIO, message: dict[str, Any]) -> None:
    replies.write(encode(message))
    replies.flush()


if __name__ == "__main__":
    main()
