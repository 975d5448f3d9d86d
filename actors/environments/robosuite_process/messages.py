"""The language of the two processes: one dictionary a message, of plain values and arrays.

A message is `PREFIX` (the sizes of what follows), a head of JSON in which every array stands as its
dtype and shape, and a body with the bytes of the arrays, in the order of the head.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

PREFIX = struct.Struct("<II")  # bytes of the head, bytes of the body

_ARRAY = "__array__"


def encode(message: dict[str, Any]) -> bytes:
    """Returns a message as bytes.

    Raises:
        TypeError: a value in it is neither plain nor an array.
    """
    arrays: list[bytes] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(value.tobytes())
            return {_ARRAY: [value.dtype.str, list(value.shape)]}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    head = json.dumps(plain(message)).encode()
    body = b"".join(arrays)
    return PREFIX.pack(len(head), len(body)) + head + body


def decode(head: bytes, body: bytes) -> dict[str, Any]:
    """Returns the message of `encode`; its arrays are new ones, and tuples have become lists."""
    start = 0

    def full(value: Any) -> Any:
        nonlocal start
        if isinstance(value, list):
            return [full(item) for item in value]
        if not isinstance(value, dict):
            return value
        if _ARRAY not in value:
            return {key: full(item) for key, item in value.items()}
        dtype, shape = np.dtype(value[_ARRAY][0]), value[_ARRAY][1]
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(body, dtype, count, start).reshape(shape).copy()
        start += array.nbytes
        return array

    message = full(json.loads(head))
    assert isinstance(message, dict)
    return message
