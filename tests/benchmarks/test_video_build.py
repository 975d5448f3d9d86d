from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import video_build
from tests.actors.environments.videos.footage import write_pictures


def test_every_figure_of_the_table_is_printed_and_put_into_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place, name in enumerate(("bear", "bmx-bumps", "boat")):
        write_pictures(tmp_path / "source" / name, 4, first=place)
    given = ["--source", str(tmp_path / "source"), "--size", "48", "--jobs", "1", "--uses", "3"]
    assert video_build.main([*given, "--files", "700", "--json"]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(printed.splitlines()[-1])["figures"]
    table = (video_build.__doc__ or "").split("|---|---|")[1].split("\n\n")[0]
    names = [line.split("|")[1].strip() for line in table.splitlines() if line]
    assert len(names) == 8 and all(f"| {name} | " in printed for name in names)
    assert all(figures[name] > 0 for name in names)
    assert figures["videos"] == 3 and figures["bytes"] == 3 * (4 * 48 * 48 * 3 + 128)
    # Decoding and resizing take longer than mapping a file.
    assert figures["from_pictures_ms"] > figures["from_cache_ms"]


def test_more_uses_than_videos_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        video_build.main(["--videos", "2", "--uses", "3"])
    assert "--uses 3 of --videos 2" in capsys.readouterr().err
