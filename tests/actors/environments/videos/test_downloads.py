from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.environments.videos.downloads import Download, DownloadError, download
from tests.actors.environments.server import FileServer, serve

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve(CONTENT) as running:
        yield running


def fetch(server: FileServer, path: Path, **options) -> Download:
    options = {"sha256": SHA256, "retry_wait_s": 0.01, "timeout_s": 5.0} | options
    return download(server.url, path, **options)


def test_a_file_arrives_whole_with_its_hash_and_nothing_beside_it(
    server: FileServer, tmp_path: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    found = fetch(server, tmp_path / "a.zip", report=lambda *at: seen.append(at))
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert (found.bytes, found.sha256) == (len(CONTENT), SHA256)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)


def test_a_connection_that_breaks_off_is_resumed_where_it_broke(
    server: FileServer, tmp_path: Path
) -> None:
    server.cut_after = [1_000_000, 500_000]
    fetch(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_later_call_resumes_what_an_earlier_one_left(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [1_000_000] + [0] * 10
    with pytest.raises(
        DownloadError, match=r"broke off .*1000000 bytes are kept in .*a\.zip\.part"
    ):
        fetch(server, tmp_path / "a.zip", attempts=2)
    assert not (tmp_path / "a.zip").exists()
    server.cut_after, server.requests = [], []
    fetch(server, tmp_path / "a.zip")
    assert server.requests == ["bytes=1000000-"]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_process_that_is_killed_leaves_a_part_that_is_resumed(
    server: FileServer, tmp_path: Path
) -> None:
    server.cut_after = [1_000_000]
    code = (
        "import sys; from pathlib import Path;"
        "from actors.environments.videos.downloads import download;"
        "download(sys.argv[1], Path(sys.argv[2]), retry_wait_s=60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, server.url, tmp_path / "a.zip"])
    part, deadline = tmp_path / "a.zip.part", time.monotonic() + 30
    while not (part.exists() and part.stat().st_size == 1_000_000):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "a.zip").exists()
    fetch(server, tmp_path / "a.zip")
    assert server.requests == [None, "bytes=1000000-"]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_file_that_changed_on_the_server_is_fetched_from_the_start(
    server: FileServer, tmp_path: Path
) -> None:
    server.cut_after = [1_000_000] + [0] * 10
    with pytest.raises(DownloadError):
        fetch(server, tmp_path / "a.zip", attempts=1)
    server.cut_after = []
    server.etag, server.content = '"second"', CONTENT[::-1]
    found = fetch(server, tmp_path / "a.zip", sha256=None)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT[::-1]
    assert found.sha256 == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(
    server: FileServer, tmp_path: Path
) -> None:
    server.ranges = False
    server.cut_after = [1_000_000]
    fetch(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_without_etag_and_hash_nothing_is_pieced_together(
    server: FileServer, tmp_path: Path
) -> None:
    server.etag = None
    server.cut_after = [1_000_000]
    fetch(server, tmp_path / "a.zip", sha256=None)
    assert server.requests == [None, None]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def leave_whole_part(server: FileServer, path: Path, **options) -> None:
    """Leaves what a process leaves that was killed between the last byte and the renaming."""
    server.cut_after = [2_999_999] + [0] * 5
    with pytest.raises(DownloadError):
        fetch(server, path, attempts=1, **options)
    with open(f"{path}.part", "ab") as part:
        part.write(CONTENT[2_999_999:])
    server.cut_after, server.requests = [], []


def test_a_part_that_is_whole_is_verified_and_not_fetched_again(
    server: FileServer, tmp_path: Path
) -> None:
    leave_whole_part(server, tmp_path / "a.zip")
    seen: list[tuple[int, int | None]] = []
    found = fetch(server, tmp_path / "a.zip", report=lambda *at: seen.append(at))
    assert server.requests == [] and found.sha256 == SHA256
    assert seen == [(len(CONTENT), len(CONTENT))]
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_whole_part_without_a_known_hash_is_taken_if_the_server_has_no_more(
    server: FileServer, tmp_path: Path
) -> None:
    leave_whole_part(server, tmp_path / "a.zip", sha256=None)
    assert fetch(server, tmp_path / "a.zip", sha256=None).sha256 == SHA256
    assert server.requests == ["bytes=3000000-"]


def test_a_whole_part_with_a_wrong_byte_is_removed_and_the_next_call_fetches_anew(
    server: FileServer, tmp_path: Path
) -> None:
    leave_whole_part(server, tmp_path / "a.zip")
    part = tmp_path / "a.zip.part"
    part.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    with pytest.raises(DownloadError, match=r"It was removed\. Try again"):
        fetch(server, tmp_path / "a.zip")
    assert not part.exists() and not (tmp_path / "a.zip").exists()
    fetch(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_thrown_away(
    server: FileServer, tmp_path: Path
) -> None:
    server.cut_after = [1_000_000] + [0] * 5
    with pytest.raises(DownloadError):
        fetch(server, tmp_path / "a.zip", attempts=1)
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    server.cut_after = []
    fetch(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_wrong_hash_is_told_with_both_and_the_file_removed(
    server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match=f"SHA-256 {SHA256}; expected were {'0' * 64}"):
        fetch(server, tmp_path / "a.zip", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []
    fetch(server, tmp_path / "a.zip")


def test_a_file_of_another_length_is_refused_before_it_is_fetched(
    server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match="has 3000000 bytes, and 17 are expected"):
        fetch(server, tmp_path / "a.zip", size=17)
    assert not (tmp_path / "a.zip.part").exists()


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_told_at_once(server: FileServer, tmp_path: Path, status: int) -> None:
    server.statuses = [status]
    with pytest.raises(DownloadError, match=rf"answers {status} .*--url"):
        fetch(server, tmp_path / "a.zip")
    assert len(server.requests) == 1


def test_a_server_that_is_busy_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 500, 429]
    fetch(server, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_silent_server_is_given_up_after_its_time(server: FileServer, tmp_path: Path) -> None:
    server.silent = True
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"broke off .*timed out.*run the same command again"):
        fetch(server, tmp_path / "a.zip", timeout_s=0.2, attempts=2)
    assert time.monotonic() - start < 5


def test_a_machine_without_network_gets_one_message(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.zip"
        with pytest.raises(DownloadError, match=r"cannot be fetched: no connection .*--url"):
            download(url, tmp_path / "a.zip", attempts=2, retry_wait_s=0.01)
    with pytest.raises(DownloadError, match="no connection") as caught:
        download("http://nowhere.invalid/a", tmp_path / "b", attempts=1, retry_wait_s=0.01)
    assert "bytes are kept" not in str(caught.value) and "run the same" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_has_arrived_is_told_with_its_size(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [5000, 0, 0]
    with pytest.raises(DownloadError, match=r"5000 bytes are kept in .*a\.zip\.part; run the sa"):
        fetch(server, tmp_path / "a.zip", attempts=1)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a.zip", "/data/a.zip"])
def test_other_addresses_than_http_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="no http or https address"):
        download(url, tmp_path / "a.zip")


def test_a_file_that_is_there_is_verified_and_not_fetched(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "a.zip").write_bytes(CONTENT)
    assert fetch(server, tmp_path / "a.zip").sha256 == SHA256
    assert server.requests == []


def test_a_folder_that_cannot_be_written_is_told(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        DownloadError, match=r"cannot be written .*give another folder, because a file"
    ):
        fetch(server, tmp_path / "file" / "a.zip")
