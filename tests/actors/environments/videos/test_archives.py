from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from actors.environments.videos import open_videos
from actors.environments.videos.archives import (
    RECORD,
    ArchiveError,
    DownloadError,
    fetch_davis,
    unpack,
)
from tests.actors.environments.server import serve
from tests.actors.environments.videos.footage import write_davis


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A zip file like that of DAVIS, with one small picture per video."""
    folder = tmp_path_factory.mktemp("archive")
    write_davis(folder / "DAVIS")
    return zipped(folder)


def zipped(folder: Path) -> bytes:
    path = shutil.make_archive(str(folder / "davis"), "zip", folder, "DAVIS")
    content = Path(path).read_bytes()
    os.unlink(path)
    return content


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_data_set_is_fetched_verified_unpacked_and_usable(
    archive: bytes, tmp_path: Path
) -> None:
    stages: list[str] = []
    with serve(archive) as server:
        fetched = fetch_davis(
            tmp_path, url=server.url, sha256=sha256(archive),
            report=lambda stage, *_: stages.append(stage),
        )  # fmt: skip
    assert fetched.folder == tmp_path / "DAVIS" and not fetched.already
    record = json.loads((tmp_path / "DAVIS" / RECORD).read_text())
    assert record["sha256"] == sha256(archive) and record["bytes"] == len(archive)
    assert stages[0] == "connect" and {"connect", "download", "unpack"} == set(stages)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".fetch.lock", "DAVIS"]
    for split, count in (("train", 60), ("held_out", 30)):
        assert len(open_videos(str(fetched.folder), split, None, 16).names) == count


def test_what_is_there_is_not_fetched_again(archive: bytes, tmp_path: Path) -> None:
    with serve(archive) as server:
        fetch_davis(tmp_path, url=server.url, sha256=None)
        server.requests.clear()
        again = fetch_davis(tmp_path, url=server.url, sha256=None)
        assert again.already and again.sha256 == sha256(archive) and server.requests == []


def test_a_download_that_broke_off_is_resumed_and_the_archive_can_be_kept(
    archive: bytes, tmp_path: Path
) -> None:
    with serve(archive) as server:
        server.cut_after = [5000]
        fetch_davis(
            tmp_path, url=server.url, sha256=sha256(archive), keep_archive=True, retry_wait_s=0.01
        )
        assert server.requests == [None, "bytes=5000-"]
    assert (tmp_path / "DAVIS-2017-trainval-480p.zip").read_bytes() == archive


def test_another_archive_than_the_published_one_is_refused_by_its_length(
    archive: bytes, tmp_path: Path
) -> None:
    with serve(archive) as server, pytest.raises(DownloadError, match="832766765 are expected"):
        fetch_davis(tmp_path, url=server.url)
    assert not (tmp_path / "DAVIS").exists()


def test_a_damaged_member_is_found_by_its_checksum(archive: bytes, tmp_path: Path) -> None:
    damaged = bytearray(archive)
    damaged[len(archive) // 4] ^= 0xFF
    with serve(bytes(damaged)) as server, pytest.raises(ArchiveError, match="is damaged"):
        fetch_davis(tmp_path, url=server.url, sha256=None)
    assert not (tmp_path / "DAVIS").exists() and not list(tmp_path.glob(".unpack-*"))


def test_an_archive_that_lacks_a_video_is_refused(tmp_path: Path) -> None:
    write_davis(tmp_path / "made" / "DAVIS")
    shutil.rmtree(tmp_path / "made" / "DAVIS" / "JPEGImages" / "480p" / "judo")
    with (
        serve(zipped(tmp_path / "made")) as server,
        pytest.raises(ArchiveError, match=r"lacks 1 of the 90 videos .*judo"),
    ):
        fetch_davis(tmp_path / "data", url=server.url, sha256=None)
    assert not (tmp_path / "data" / "DAVIS").exists()


def test_a_folder_in_the_way_is_left_alone(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "DAVIS").mkdir()
    (tmp_path / "DAVIS" / "notes.txt").write_text("mine")
    with pytest.raises(ArchiveError, match=r"is there but lacks 90 videos, .*move it away"):
        fetch_davis(tmp_path, url="http://127.0.0.1:9/", sha256=None)
    assert (tmp_path / "DAVIS" / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        ArchiveError, match=r"cannot be put into .*: give another folder, because a file"
    ):
        fetch_davis(tmp_path / "file" / "data", url="http://127.0.0.1:9/", sha256=None)


@pytest.mark.parametrize("place", [".", "DAVIS"])
def test_a_file_where_the_folder_goes_is_told_to_be_one(tmp_path: Path, place: str) -> None:
    file = tmp_path / "data" / place
    file.parent.mkdir(exist_ok=True)
    file.write_text("no folder")
    with pytest.raises(ArchiveError, match=rf"{re.escape(str(file))} is a file, .*another folder"):
        fetch_davis(tmp_path / "data", url="http://127.0.0.1:9/", sha256=None)


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "DAVIS/../../evil.txt", "a\\..\\evil.txt", "C:/evil"]
)
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("DAVIS/fine.txt", "fine")
        made.writestr(name, "evil")
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match="would leave the folder: nothing was unpacked"):
        unpack(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as made:
        member = zipfile.ZipInfo("DAVIS/link")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        made.writestr(member, "/etc")
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match="would leave the folder"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"no zip file at all"])
def test_a_file_that_is_no_archive_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"bad\.zip is damaged"):
        unpack(tmp_path / "bad.zip", tmp_path)
