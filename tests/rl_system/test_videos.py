from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from actors.environments.videos import open_videos
from actors.environments.videos.manifest import MANIFEST, UNFINISHED, frames_path
from rl_system.cli import EXIT_USER_ERROR, build_parser, main
from tests.actors.environments.server import serve
from tests.actors.environments.videos.footage import write_davis, write_pictures

ACTIONS = ("build", "check", "fetch", "show")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for place, name in enumerate(("ant", "crow", "mole")):
        write_pictures(tmp_path / "source" / name, 3, first=5 * place)
    return tmp_path / "source"


@pytest.mark.parametrize("action", [(), *((action,) for action in ACTIONS)])
def test_every_example_in_the_help_is_a_line_that_parses(
    action: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["videos", *action, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    example = text[text.index("Example:  rl-system videos") :].splitlines()[0].split()[2:]
    build_parser().parse_args(example)


def test_build_prints_an_estimate_the_result_and_how_to_use_it(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["videos", "build", str(source), str(out), "--size", "24,48", "--jobs", "1"]) == 0
    printed = capsys.readouterr()
    assert "2 train, 1 held_out videos; about 0.00 GB" in printed.out
    assert re.search(
        rf"sizes 24, 48, in \d+ s\. Use them with environment\.videos={re.escape(str(out))}\n",
        printed.out,
    )
    assert "3/3 videos" in printed.err
    assert open_videos(str(out), "train", None, 48).frames(1).shape == (3, 48, 48, 3)


def test_build_takes_a_split_file_and_a_limit(source: Path, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("mole,train\ncrow,held_out\n")
    arguments = [
        "videos", "build", str(source), str(tmp_path / "out"), "--size", "24", "--jobs", "1",
        "--split-file", str(tmp_path / "split.csv"), "--max-frames", "2",
    ]  # fmt: skip
    assert main(arguments) == 0
    built = open_videos(str(tmp_path / "out"), "train", None, 24)
    assert built.names == ("mole",) and len(built.frames(0)) == 2


def test_build_tells_what_other_options_change_of_an_earlier_build(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "split.csv").write_text("mole,train\ncrow,held_out\n")
    arguments = ["videos", "build", str(source), str(tmp_path / "out"), "--size", "24"]
    assert main([*arguments, "--jobs", "1"]) == 0
    assert "split changed" not in capsys.readouterr().out
    assert main([*arguments, "--jobs", "1", "--split-file", str(tmp_path / "split.csv")]) == 0
    announced, summary = capsys.readouterr().out.splitlines()[-2:]
    assert "will not be as before: split changed for 2 videos; 1 video removed" in announced
    assert " s; split changed for 2 videos; 1 video removed (options differ from the" in summary
    assert "environment.videos=" in summary


def test_one_video_is_counted_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "source" / "ant", 1)
    out = str(tmp_path / "out")
    main(["videos", "build", str(tmp_path / "source"), out, "--size", "24", "--jobs", "1"])
    printed = capsys.readouterr().out
    assert "1 train, 0 held_out video;" in printed and "\n1 video (0 kept)" in printed
    assert main(["videos", "check", out]) == 0
    assert "1 file, " in capsys.readouterr().out


def test_build_tells_which_videos_were_left_out(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "crow" / "00001.jpg").write_bytes(b"")
    arguments = ["videos", "build", str(source), str(tmp_path / "out"), "--jobs", "1"]
    assert main(arguments) == EXIT_USER_ERROR
    assert "crow/00001.jpg cannot be read" in capsys.readouterr().err
    assert main([*arguments, "--skip-unreadable"]) == 0
    assert "left out: " in capsys.readouterr().err


def alive_in_group(group: int) -> list[int]:
    """Processes of a process group that still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_stopped_keeps_what_is_finished_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    for place in range(20):
        write_pictures(tmp_path / "source" / f"clip-{place}", 25, first=place)
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "rl_system", "videos", "build", tmp_path / "source", out,
        "--jobs", "2",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.rglob("*.npy")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors and f"stopped by {number.name}" in errors
    deadline = time.monotonic() + 10
    while alive_in_group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive_in_group(process.pid)  # its workers have ended, too
    assert (out / UNFINISHED).exists() and not (out / MANIFEST).exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    kept = int(done.stdout.split("videos (")[1].split(" kept")[0])
    assert kept >= 1 and not list(out.rglob("*.part"))


def test_check_says_that_all_is_well_or_names_the_damaged_file(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["videos", "build", str(source), str(out), "--size", "24", "--jobs", "1"])
    assert main(["videos", "check", str(out)]) == 0
    assert "3 files, 0.00 GB, all as its manifest says" in capsys.readouterr().out
    path = frames_path(out, "crow", 24)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert main(["videos", "check", str(out)]) == EXIT_USER_ERROR
    assert "24/crow.npy is damaged" in capsys.readouterr().err
    assert main(["videos", "build", str(source), str(out), "--size", "24", "--jobs", "1"]) == 0
    assert main(["videos", "check", str(out)]) == 0


def test_show_draws_every_video_with_some_of_its_frames(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "sheet.png"
    arguments = ["videos", "show", str(source), "--output", str(output), "--frames", "2"]
    assert main([*arguments, "--size", "32"]) == 0
    assert "Contact sheet of 2 of 2 train videos" in capsys.readouterr().out
    pixels = np.asarray(Image.open(output))
    frames = open_videos(str(source), "train", None, 32).frames(1)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (32, 32, 3))[:, :, 0]
    assert any((windows[y, x] == frames[2]).all() for y, x in np.ndindex(windows.shape[:2]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "nowhere"], "nowhere does not exist"),
        (["build", "nowhere", "out"], "nowhere does not exist"),
        (["check", "nowhere"], "holds no built frames"),
        (["show", "{source}", "--split-file", "none.csv"], "none.csv cannot be read"),
        (["show", "{source}", "--output", "{source}/crow/00000.jpg/a.png"], "another --output"),
        (["show", "{source}", "--output", "{source}/q.txt"], "q.txt does not end in .png"),
        (["show", "{source}", "--output", "{source}/no/way/q.png"], "no, which does not exist"),
    ],
)
def test_a_mistake_is_one_message_that_says_what_to_do(
    arguments: list[str], words: str, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(source=source) for argument in arguments]
    assert main(["videos", *filled]) == EXIT_USER_ERROR
    captured = capsys.readouterr()
    assert words in captured.err and "Traceback" not in captured.err


@pytest.mark.parametrize("size", ["big", "400,", "4"])
def test_sizes_that_are_none_are_refused(size: str, source: Path, tmp_path: Path) -> None:
    arguments = ["videos", "build", str(source), str(tmp_path / "out"), "--size", size]
    try:
        status: object = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == EXIT_USER_ERROR


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fetch", "davis", "--timeout", "0"], "it must be above 0"),
        (["fetch", "davis", "--timeout", "-3"], "it must be above 0"),
        (["fetch", "davis", "--timeout", "nan"], "it must be above 0"),
        (["fetch", "davis", "--timeout", "inf"], "up to one day"),
        (["fetch", "davis", "--timeout", "soon"], "'soon' is no number of seconds"),
        (["build", "a", "b", "--max-frames", "x"], "--max-frames: 'x' is no whole number"),
        (["build", "a", "b", "--jobs", "0"], "--jobs: 0 is below 1"),
    ],
)
def test_an_option_that_is_no_such_number_is_told_in_plain_words(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["videos", *arguments])
    printed = capsys.readouterr().err
    assert ended.value.code == EXIT_USER_ERROR and words in printed and "_" not in printed


def test_check_tells_that_the_source_has_more_videos(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["videos", "build", str(source), str(out), "--size", "24", "--jobs", "1"])
    write_pictures(source / "wolf", 1)
    assert main(["videos", "check", str(out)]) == EXIT_USER_ERROR
    assert "(1, the first is wolf)" in capsys.readouterr().err


def test_names_with_line_ends_are_shown_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "source" / "new\nline", 1)
    source, out = str(tmp_path / "source"), str(tmp_path / "out")
    assert main(["videos", "build", source, out, "--size", "24", "--jobs", "1"]) == 0
    assert "1/1 videos" in (printed := capsys.readouterr().err) and "new?line\n" in printed
    assert main(["videos", "show", out, "--size", "24", "--output", f"{tmp_path}/a.png"]) == 0


def test_fetch_brings_davis_from_another_address_and_prints_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_davis(tmp_path / "made" / "DAVIS")
    archive = Path(shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "made", "DAVIS"))
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    with serve(archive.read_bytes()) as server:
        command = ["videos", "fetch", "davis", str(tmp_path / "data"), "--url", server.url]
        assert main(command) == EXIT_USER_ERROR
        assert "832766765 are expected" in capsys.readouterr().err
        assert main([*command, "--sha256", "0" * 64]) == EXIT_USER_ERROR
        assert f"SHA-256 {sha256}; expected were {'0' * 64}" in capsys.readouterr().err
        assert main([*command, "--sha256", "any"]) == 0
        assert f"{sha256} (not the published one)" in capsys.readouterr().out
        assert main([*command, "--sha256", sha256]) == 0
        assert "is there already, with all 90 videos" in capsys.readouterr().out
    assert len(open_videos(str(tmp_path / "data" / "DAVIS"), "train", None, 16).names) == 60


def test_fetch_says_at_once_which_server_it_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(b"") as server:
        server.statuses = [404]
        main(["videos", "fetch", "davis", str(tmp_path), "--url", server.url])
        host = server.url.split("/")[2]
        assert capsys.readouterr().err.startswith(f"connecting to {host} ...\n")


def test_fetch_takes_its_address_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(b"") as server:
        server.statuses = [404]
        monkeypatch.setenv("RL_SYSTEM_DAVIS_URL", server.url)
        assert main(["videos", "fetch", "davis", str(tmp_path)]) == EXIT_USER_ERROR
        assert f"{server.url}: the server answers 404" in capsys.readouterr().err
