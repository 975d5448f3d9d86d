"""Makes the task of its one argument (JSON, see `Door`), then answers requests until they end.

Requests come on standard input, replies go to standard output, one for each, the first a greeting
with the sizes of the task. When standard input is closed, as the system does when the other side
dies, the process ends.
"""

from __future__ import annotations

import json
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
    try:
        import mujoco  # opens the display
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever the OpenGL library and its Python layer raise
        raise GraphicsError(f"{os.environ.get('MUJOCO_GL')}: {error}") from error
    from door import Door

    mujoco.set_mju_user_warning(lambda text: print(text, file=sys.stderr))  # else into a file
    return Door(**arguments)


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
