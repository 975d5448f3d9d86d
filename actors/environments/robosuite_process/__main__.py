"""Makes the task of its one argument, then answers requests until they end.

The argument is JSON: what `Door` takes, and as `self_check` the path of the file with the picture
that must come out right before anything else is done. Requests come on standard input, replies go
to standard output, one for each, the first a greeting with the sizes of the task. When standard
input is closed, as the system does when the other side dies, the process ends.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from messages import PREFIX, decode, encode

_PACKAGE = "actors.environments.robosuite_process"
_TRACEBACK_LINES = 8


def main() -> None:
    """Serves one task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other side to handle
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between replies
    _make_package()
    start = importlib.import_module(f"{_PACKAGE}.start")
    try:
        arguments = json.loads(sys.argv[1])
        start.check_graphics(arguments.pop("self_check"))
        door = start.make_door(arguments)
        _send(replies, {"sizes": door.sizes()})
    except Exception as error:
        failure = traceback.format_exc(limit=-_TRACEBACK_LINES)
        _send(replies, {"error": failure, "kind": type(error).__name__})
        return
    serve(door, sys.stdin.buffer, replies)


def _make_package() -> None:
    """Imports this folder by its full name, without the folders that it lies in.

    Their other modules, and the packages that they may lie beside, are not for this Python.
    """
    folder = Path(__file__).resolve().parent
    parts = _PACKAGE.split(".")
    for count in range(1, len(parts)):
        parent = ModuleType(".".join(parts[:count]))
        parent.__path__ = []
        sys.modules[parent.__name__] = parent
    spec = importlib.util.spec_from_file_location(
        _PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[_PACKAGE] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)


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
