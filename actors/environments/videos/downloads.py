"""Fetching one large file by HTTP: resumed where it broke off, and verified before it is used."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from actors.environments.videos.frame_files import PART_SUFFIX, hash_file
from actors.environments.videos.messages import reason, way_out

_CHUNK_BYTES = 1 << 20
_AGENT = "rl-system (background videos)"
# Answers after which the same request may succeed later.
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))


class DownloadError(Exception):
    """A file could not be fetched or is not the one expected; the message says what to do."""


class _Broken(Exception):
    """A connection that failed in a way that another attempt may mend."""


@dataclass(frozen=True)
class Download:
    """A finished download."""

    path: Path
    url: str
    bytes: int
    sha256: str


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    timeout_s: float = 30.0,
    attempts: int = 5,
    retry_wait_s: float = 3.0,
    connecting: Callable[[], None] = lambda: None,
    report: Callable[[int, int | None], None] = lambda done, total: None,
) -> Download:
    """Fetches `url` to `path`; `path` exists only when all of it is there and right.

    What has arrived waits in `<path>.part`. The next attempt, of this call or of a later one, asks
    for the rest alone, if the server says that its file is still the same one.

    Args:
        url: http or https; proxies are taken from the environment as usual.
        path: the file to write; one that is there already is verified and not fetched again.
        sha256: what the file must have, None to take any.
        size: bytes that the file must have, None to take any.
        timeout_s: how long the server may be silent.
        attempts: how often in a row it may fail without sending anything.
        retry_wait_s: pause between attempts.
        connecting: called once before the server is first asked.
        report: called with the bytes that are there and the bytes of the whole, if known.

    Raises:
        DownloadError: the address is wrong, the server cannot be reached or refuses, the file is
            another one, or the disk is full. Unless the file was another one, what has arrived is
            kept.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is no http or https address: give another one with --url.")
    part = path.with_name(path.name + PART_SUFFIX)
    transfer = _Transfer(url, part, sha256, size, timeout_s, report)
    try:
        if path.exists():
            return _verified(path, path, url, sha256, size)
        path.parent.mkdir(parents=True, exist_ok=True)
        failures = 0
        connecting()
        while True:
            before = _size(part)
            try:
                transfer.attempt()
                break
            except _Broken as error:
                failures = 0 if _size(part) > before else failures + 1
                if failures >= attempts:
                    raise DownloadError(
                        f"{url} cannot be fetched: {reason(error)}. {_kept(part)} or name a mirror "
                        "with --url."
                    ) from error
            threading.Event().wait(retry_wait_s)
        return _verified(part, path, url, sha256, size)
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written ({reason(error)}): {way_out(error)}, and run the same "
            "command again."
        ) from error


class _Transfer:
    """Attempts to bring one `.part` file to its full length."""

    def __init__(
        self,
        url: str,
        part: Path,
        sha256: str | None,
        size: int | None,
        timeout_s: float,
        report: Callable[[int, int | None], None],
    ) -> None:
        self._url = url
        self._part = part
        # Beside the part: which version of the server's file it is a part of.
        self._note = part.with_name(part.name + ".json")
        self._sha256 = sha256
        self._expected = size
        self._timeout_s = timeout_s
        self._report = report

    def attempt(self) -> None:
        """Asks for what is missing; returns when the part is whole.

        Where the hash decides, a part of the full length is not asked for again.

        Raises:
            _Broken: something passing.
            DownloadError: something lasting.
        """
        offset, validator, total = self._resume_from()
        if offset and offset == total and self._sha256 is not None:
            self._report(offset, total)
            return
        headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        request = urllib.request.Request(self._url, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                self._receive(answer, offset)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is as long as the file, or longer
                if offset == _content_range(error)[1]:
                    self._report(offset, offset)
                    return
                self._part.unlink(missing_ok=True)
                raise _Broken("the server has no such range; starting anew") from error
            if error.code in _PASSING:
                raise _Broken(f"the server answers {error.code} {error.reason}") from error
            raise DownloadError(
                f"{self._url}: the server answers {error.code} {error.reason}. Name a mirror with "
                "--url, or fetch the archive by hand."
            ) from error
        except urllib.error.URLError as error:
            raise _Broken(f"no connection ({error.reason})") from error
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise _Broken(f"the connection broke off ({error or type(error).__name__})") from error

    def _receive(self, answer: http.client.HTTPResponse, offset: int) -> None:
        total = _length(answer)
        if answer.status == 206:
            start, total = _content_range(answer)
            if start != offset:
                raise _Broken("the server sent another range than asked for")
            total = total if total is not None else self._expected
        else:
            offset = 0  # all of it: the server's file is another one, or it knows no ranges
        self._check_length(total, offset)
        with open(self._part, "ab" if offset else "wb") as file:
            self._note.write_text(
                json.dumps({"url": self._url, "validator": _validator(answer), "total": total})
            )
            done = offset
            for chunk in _chunks(answer):
                file.write(chunk)
                done += len(chunk)
                self._report(done, total)
        if total is not None and done < total:
            raise _Broken(f"the connection broke off after {done} of {total} bytes")

    def _resume_from(self) -> tuple[int, str | None, int | None]:
        """Returns how much of the part counts, what says that the file is the same one, and how
        long it is.
        """
        try:
            note = json.loads(self._note.read_text())
            validator, same, total = note["validator"], note["url"] == self._url, note["total"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0, None, None
        # Without a validator only the hash at the end can tell whether the parts belong together.
        if not same or (validator is None and self._sha256 is None):
            return 0, None, None
        return _size(self._part), validator, total

    def _check_length(self, total: int | None, offset: int) -> None:
        if total is None:
            return
        if self._expected is not None and total != self._expected:
            raise DownloadError(
                f"{self._url} has {total} bytes, and {self._expected} are expected: it is another "
                "file. Name a mirror with --url, or give --sha256 if it is the one you want."
            )
        free = shutil.disk_usage(self._part.parent).free
        if total - offset > free:
            raise DownloadError(
                f"{self._url} needs {(total - offset) / 1e9:.2f} GB and {self._part.parent} has "
                f"{free / 1e9:.2f} GB free: make room or give another folder."
            )


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yields what the server sends; its failures are told apart from those of the disk."""
    while True:
        try:
            chunk = answer.read(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _Broken(f"the connection broke off ({error or type(error).__name__})") from error
        if not chunk:
            return
        yield chunk


def _verified(found: Path, path: Path, url: str, sha256: str | None, size: int | None) -> Download:
    """Checks a whole file and gives it its name; one that is wrong is removed."""
    actual, length = hash_file(found), found.stat().st_size
    if (sha256 is not None and actual != sha256.lower()) or (size is not None and length != size):
        found.unlink()
        _remove_note(path)
        raise DownloadError(
            f"{url}: what arrived has {length} bytes and the SHA-256 {actual}; expected were "
            f"{sha256}{'' if size is None else f' and {size} bytes'}. It was removed. Try again or "
            "another --url; if the archive was replaced, say which one you trust with --sha256."
        )
    found.replace(path)
    _remove_note(path)
    return Download(path, url, length, actual)


def _remove_note(path: Path) -> None:
    path.with_name(path.name + PART_SUFFIX + ".json").unlink(missing_ok=True)


def _validator(answer: http.client.HTTPResponse) -> str | None:
    tag = answer.headers.get("ETag")
    if tag and not tag.startswith("W/"):  # weak tags do not promise equal bytes
        return str(tag)
    return answer.headers.get("Last-Modified")


def _length(answer: http.client.HTTPResponse) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _content_range(
    answer: http.client.HTTPResponse | urllib.error.HTTPError,
) -> tuple[int | None, int | None]:
    """Parses "bytes 100-199/200" into (100, 200), and "bytes */200" into (None, 200)."""
    _, _, span = answer.headers.get("Content-Range", "").partition(" ")
    places, _, total = span.partition("/")
    start = places.partition("-")[0]
    return int(start) if start.isdigit() else None, int(total) if total.isdigit() else None


def _kept(part: Path) -> str:
    """Returns the beginning of a sentence: what has arrived, and how to go on."""
    if not _size(part):
        return "Check the connection and run the same command again,"
    return f"{_size(part)} bytes are kept in {part}; run the same command again to go on,"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
