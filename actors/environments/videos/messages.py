"""Parts that messages about videos share: counts, errors of the system, and ways out of them."""

from __future__ import annotations

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_FILE_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST)


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun: "1 video", "2 videos"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def reason(error: Exception) -> str:
    """Returns the text of an error without a full stop at its end, to stand inside a sentence."""
    return str(error).rstrip(". ")


def way_out(error: OSError) -> str:
    """Returns what to do about a folder that cannot be written, as the first half of a sentence."""
    if error.errno in _FULL:
        return "make room or give another folder"
    if error.errno in _FORBIDDEN:
        return "get permission to read and write there, or give another folder"
    if error.errno in _FILE_IN_THE_WAY:
        return "give another folder, because a file lies where a folder should be"
    return "mend that or give another folder"
