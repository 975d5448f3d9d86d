"""The public archive of DAVIS 2017: downloaded, verified, unpacked and looked through.

The folder `DAVIS` appears under its name only when every member's checksum was right and all 90
videos are there.
"""

from __future__ import annotations

import json
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from actors.environments.videos import davis
from actors.environments.videos.clips import is_picture
from actors.environments.videos.downloads import DownloadError, download
from actors.environments.videos.file_lock import LockTimeout, file_lock
from actors.environments.videos.messages import reason, way_out

ROOT = "DAVIS"
RECORD = "fetched.json"  # in the unpacked folder: where it came from, with its hash
_VIDEOS = "JPEGImages/480p"
_LOCK_TIMEOUT_S = 30.0
_COPY_BYTES = 1 << 20


class ArchiveError(Exception):
    """An archive is damaged, unsafe or incomplete; the message says what to do."""


@dataclass(frozen=True)
class Fetched:
    """An unpacked data set."""

    folder: Path
    already: bool  # it was there before
    sha256: str | None  # of the archive; None if it was there and has no record


def fetch_davis(
    folder: Path,
    *,
    url: str = davis.URL,
    sha256: str | None = davis.ARCHIVE_SHA256,
    keep_archive: bool = False,
    timeout_s: float = 30.0,
    retry_wait_s: float = 3.0,
    report: Callable[[str, int, int | None], None] = lambda stage, done, total: None,
) -> Fetched:
    """Makes `folder/DAVIS` from the public archive.

    Args:
        folder: where to; a download that broke off there is resumed.
        url: the archive's address.
        sha256: what the archive must have; None accepts any whose members are whole.
        keep_archive: leave the archive beside the folder.
        timeout_s: how long the server may be silent.
        retry_wait_s: pause before another attempt.
        report: called with "connect" before the server is asked, then with "download" or "unpack",
            the bytes done, and all of them if known.

    Raises:
        DownloadError: see `download`.
        ArchiveError: the archive is damaged or unsafe, videos are missing, something else is in the
            way, or the disk is full.
    """
    target = folder / ROOT
    try:
        for place in (folder, target):
            if place.is_file():
                raise ArchiveError(
                    f"{place} is a file, and a folder goes there: give another folder."
                )
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / ".fetch.lock", _LOCK_TIMEOUT_S, "fetching DAVIS"):
            if target.exists():
                return _look_at(target)
            archive = folder / Path(davis.URL).name
            published = sha256 == davis.ARCHIVE_SHA256
            found = download(
                url,
                archive,
                sha256=sha256,
                size=davis.ARCHIVE_BYTES if published else None,
                timeout_s=timeout_s,
                retry_wait_s=retry_wait_s,
                connecting=lambda: report("connect", 0, None),
                report=lambda done, total: report("download", done, total),
            )
            _remove_leftovers(folder)
            place = Path(tempfile.mkdtemp(dir=folder, prefix=".unpack-"))
            try:
                unpack(archive, place, report=lambda done, total: report("unpack", done, total))
                _check_videos(place / ROOT)
                record = {"url": url, "bytes": found.bytes, "sha256": found.sha256}
                (place / ROOT / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
                (place / ROOT).rename(target)
            finally:
                shutil.rmtree(place, ignore_errors=True)
            if not keep_archive:
                archive.unlink()
            return Fetched(target, False, found.sha256)
    except LockTimeout as error:
        raise ArchiveError(str(error)) from error
    except OSError as error:
        raise ArchiveError(
            f"DAVIS cannot be put into {folder} ({reason(error)}): {way_out(error)}, and run the "
            "same command again."
        ) from error


def unpack(
    archive: Path,
    folder: Path,
    *,
    report: Callable[[int, int | None], None] = lambda done, total: None,
) -> None:
    """Unpacks a zip file into an empty folder, checking every member's checksum.

    Raises:
        ArchiveError: a member is damaged, would land outside the folder, is a link, or the disk has
            too little room for all. Some members may have been written by then.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
            for member in members:
                _check_member(archive, member)
            total = sum(member.file_size for member in members)
            free = shutil.disk_usage(folder).free
            if total > free:
                raise ArchiveError(
                    f"{archive} needs {total / 1e9:.2f} GB unpacked and {folder} has "
                    f"{free / 1e9:.2f} GB free: make room or give another folder."
                )
            done = 0
            for member in members:
                path = folder / member.filename
                if member.is_dir():
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                # Reading to the end compares the member's CRC-32.
                with zipped.open(member) as packed, open(path, "xb") as file:
                    shutil.copyfileobj(packed, file, _COPY_BYTES)
                done += member.file_size
                report(done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(
            f"{archive} is damaged ({error}): delete it and fetch it again."
        ) from error


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    place = PurePosixPath(member.filename)
    outside = place.is_absolute() or ".." in place.parts or "\\" in member.filename
    link = stat.S_ISLNK(member.external_attr >> 16)
    if outside or link or ":" in member.filename or not place.parts:
        raise ArchiveError(
            f"{archive} holds {member.filename!r}, which would leave the folder: nothing was "
            "unpacked. Do not use this archive."
        )


def _missing(root: Path) -> list[str]:
    return [
        name
        for name in davis.TRAIN_VIDEOS + davis.HELD_OUT_VIDEOS
        if not (root / _VIDEOS / name).is_dir()
        or not any(is_picture(path.name) for path in (root / _VIDEOS / name).iterdir())
    ]


def _check_videos(root: Path) -> None:
    missing = _missing(root)
    if missing:
        raise ArchiveError(
            f"The archive lacks {len(missing)} of the 90 videos in {ROOT}/{_VIDEOS}, among them "
            f"{', '.join(missing[:3])}: it is not DAVIS 2017 trainval at 480p. Name another --url."
        )


def _look_at(target: Path) -> Fetched:
    missing = _missing(target)
    if missing:
        raise ArchiveError(
            f"{target} is there but lacks {len(missing)} videos, among them "
            f"{', '.join(missing[:3])}: move it away, or give another folder."
        )
    try:
        sha256 = json.loads((target / RECORD).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        sha256 = None
    return Fetched(target, True, sha256)


def _remove_leftovers(folder: Path) -> None:
    """Removes half-unpacked folders of processes that were killed; ours is the folder's lock."""
    for path in folder.glob(".unpack-*"):
        shutil.rmtree(path, ignore_errors=True)


__all__ = ["ArchiveError", "DownloadError", "Fetched", "fetch_davis", "unpack"]
