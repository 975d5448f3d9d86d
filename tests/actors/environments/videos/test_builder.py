from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from actors.environments.videos import builder, open_videos
from actors.environments.videos.builder import Progress, build_videos, estimate_bytes
from actors.environments.videos.clips import VideoFolderError
from actors.environments.videos.earlier_build import Changes
from actors.environments.videos.manifest import MANIFEST, UNFINISHED, frames_path, open_manifest
from actors.environments.videos.splits import find_source
from tests.actors.environments.videos.footage import write_file, write_pictures


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five videos, split by their names: three to train on, two held out."""
    for place, name in enumerate(("ant", "beaver", "crow", "ibis", "mole")):
        write_pictures(tmp_path / "source" / name, 3, first=5 * place)
    return tmp_path / "source"


def times(folder: Path) -> dict[str, int]:
    """When each built file was written, by its path below the folder."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.npy")
    }


def never(splits: dict, changes: Changes) -> None:
    """For builds that are refused: they may not be announced."""
    raise AssertionError("announced before it was checked")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_build_holds_the_same_frames_as_its_source(
    source: Path, tmp_path: Path, jobs: int
) -> None:
    result = build_videos(str(source), tmp_path / "out", [40, 24], jobs=jobs)
    assert result.progress.done == 5 and result.manifest.sizes == (24, 40)
    for split in ("train", "held_out"):
        for size in (40, 24):
            built = open_videos(str(tmp_path / "out"), split, None, size)
            made = open_videos(str(source), split, None, size)
            assert built.names == made.names
            for index in range(len(made.names)):
                np.testing.assert_array_equal(built.frames(index), made.frames(index))


def test_a_second_build_keeps_everything(source: Path, tmp_path: Path) -> None:
    build_videos(str(source), tmp_path / "out", [24])
    before = times(tmp_path / "out")
    result = build_videos(str(source), tmp_path / "out", [24])
    assert result.progress.kept == 5 and times(tmp_path / "out") == before


def test_only_what_changed_in_the_source_is_built_again(source: Path, tmp_path: Path) -> None:
    build_videos(str(source), tmp_path / "out", [24])
    before = times(tmp_path / "out")
    write_pictures(source / "beaver", 4, first=9)
    (source / "crow" / "00000.jpg").touch()  # a new time alone is no change
    shutil.rmtree(source / "ant")
    write_pictures(source / "frog", 2)
    result = build_videos(str(source), tmp_path / "out", [24])
    after = times(tmp_path / "out")
    assert {name for name in after if after[name] != before.get(name)} == {
        "24/beaver.npy",
        "24/frog.npy",
    }
    assert "24/ant.npy" not in after and result.progress.kept == 3
    assert open_videos(str(tmp_path / "out"), "train", None, 24).names == (
        "beaver", "crow", "frog",
    )  # fmt: skip


def test_a_size_is_added_without_building_the_others_again(source: Path, tmp_path: Path) -> None:
    build_videos(str(source), tmp_path / "out", [24])
    before = times(tmp_path / "out")
    result = build_videos(str(source), tmp_path / "out", [48])
    assert result.manifest.sizes == (24, 48)
    assert {name: when for name, when in times(tmp_path / "out").items() if name in before} == (
        before
    )


def test_a_damaged_or_missing_file_is_built_again(source: Path, tmp_path: Path) -> None:
    build_videos(str(source), tmp_path / "out", [24])
    ant, beaver = (frames_path(tmp_path / "out", name, 24) for name in ("ant", "beaver"))
    whole = ant.read_bytes()
    ant.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    beaver.unlink()
    assert build_videos(str(source), tmp_path / "out", [24]).progress.kept == 3
    assert ant.read_bytes() == whole and beaver.exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_unreadable_picture_stops_the_build_and_what_was_finished_is_kept(
    source: Path, tmp_path: Path, jobs: int
) -> None:
    bad = source / "mole" / "00001.jpg"
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    with pytest.raises(VideoFolderError, match=r"mole/00001\.jpg cannot be read.*--skip-unread"):
        build_videos(str(source), tmp_path / "out", [24], jobs=jobs)
    assert (tmp_path / "out" / UNFINISHED).exists()
    with pytest.raises(VideoFolderError, match=r"not all built. Go on with `rl-system videos bui"):
        open_manifest(tmp_path / "out")
    bad.write_bytes(good)
    result = build_videos(str(source), tmp_path / "out", [24], jobs=jobs)
    assert result.progress.kept >= 3 and result.progress.done == 5
    assert not (tmp_path / "out" / UNFINISHED).exists()


def test_unreadable_videos_can_be_left_out(source: Path, tmp_path: Path) -> None:
    (source / "mole" / "00001.jpg").write_bytes(b"")
    result = build_videos(str(source), tmp_path / "out", [24], skip_unreadable=True)
    assert result.progress.done == 4 and result.progress.skipped == 1
    assert "mole/00001.jpg" in result.skipped[0]
    assert open_videos(str(tmp_path / "out"), "held_out", None, 24).names == ("ibis",)
    assert "24/mole.npy" not in times(tmp_path / "out")


_BUILD = """
import sys
from pathlib import Path
from actors.environments.videos.builder import build_videos
def report(progress):
    print(progress.done, flush=True)
    if progress.done >= int((sys.argv[4:] or [1_000_000])[0]):
        sys.stdin.readline()  # held here until it is stopped
result = build_videos(sys.argv[1], Path(sys.argv[2]), [400], jobs=int(sys.argv[3]), report=report)
print("kept", result.progress.kept, "done", result.progress.done)
"""


def open_unfinished(out: Path) -> list[dict]:
    """The videos that a build under way has written down as finished."""
    return json.loads((out / UNFINISHED).read_text())["videos"]


def start(source: Path, out: Path, jobs: int, *hold_at: int) -> subprocess.Popen:
    """A build in a process of its own, that stands still once so many videos are done."""
    return subprocess.Popen(
        [sys.executable, "-c", _BUILD, str(source), str(out), str(jobs), *map(str, hold_at)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Shells start what runs in the background with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, 2), (signal.SIGKILL, 1)])
def test_a_build_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, number: signal.Signals, jobs: int
) -> None:
    for place in range(40):
        write_pictures(tmp_path / "source" / f"clip-{place}", 20, first=place)
    process = start(tmp_path / "source", tmp_path / "out", jobs, 20)
    assert process.stdout is not None
    while process.stdout.readline() != "20\n":
        assert process.poll() is None
    assert open_unfinished(tmp_path / "out")
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (tmp_path / "out" / MANIFEST).exists()
    result = build_videos(str(tmp_path / "source"), tmp_path / "out", [400])
    assert 1 <= result.progress.kept < 40 and result.progress.done == 40
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_worker_that_is_killed_ends_the_build_with_one_message_and_keeps_the_rest(
    tmp_path: Path,
) -> None:
    for place in range(40):
        write_pictures(tmp_path / "source" / f"clip-{place}", 20, first=place)
    process = start(tmp_path / "source", tmp_path / "out", 2)
    assert process.stdout is not None and process.stdout.readline() == "1\n"
    workers = [
        child
        for child in psutil.Process(process.pid).children()
        if "spawn_main" in str(child.cmdline())
    ]
    workers[0].kill()
    _, errors = process.communicate(timeout=60)
    assert "VideoFolderError: A process that decodes was killed" in errors
    assert "fewer --jobs" in errors and open_unfinished(tmp_path / "out")
    assert build_videos(str(tmp_path / "source"), tmp_path / "out", [400]).progress.kept >= 1


def test_builds_of_one_folder_at_the_same_time_share_the_work(tmp_path: Path) -> None:
    for place in range(4):
        write_pictures(tmp_path / "source" / f"clip-{place}", 10, first=place)
    processes = [start(tmp_path / "source", tmp_path / "out", 1) for _ in range(3)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert sorted(output.splitlines()[-1] for output, _ in outputs) == [
        "kept 0 done 4",
        "kept 4 done 4",
        "kept 4 done 4",
    ]


def test_videos_files_are_cut_at_the_limit_which_the_manifest_records(tmp_path: Path) -> None:
    for index in range(6):
        write_file(tmp_path / "source" / f"{index}.avi", 9)
    out = tmp_path / "out"
    build_videos(str(tmp_path / "source"), out, [24], max_frames=4)
    assert json.loads((out / MANIFEST).read_text())["max_frames"] == 4
    assert len(open_videos(str(out), "train", None, 24).frames(0)) == 4
    assert build_videos(str(tmp_path / "source"), out, [24], max_frames=4).progress.kept == 6
    assert build_videos(str(tmp_path / "source"), out, [24], max_frames=5).progress.kept == 0
    assert len(open_videos(str(out), "train", None, 24).frames(0)) == 5


def test_the_split_file_of_a_build_is_its_split(source: Path, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("mole,train\nant,train\ncrow,held_out\n")
    build_videos(str(source), tmp_path / "out", [24], split_file=str(tmp_path / "split.csv"))
    assert open_videos(str(tmp_path / "out"), "train", None, 24).names == ("mole", "ant")
    assert open_videos(str(tmp_path / "out"), "held_out", None, 24).names == ("crow",)
    assert sorted(times(tmp_path / "out")) == ["24/ant.npy", "24/crow.npy", "24/mole.npy"]


def test_what_another_split_file_changes_is_told_before_and_after(
    source: Path, tmp_path: Path
) -> None:
    split_file, out = tmp_path / "split.csv", tmp_path / "out"
    split_file.write_text("mole,train\nant,train\ncrow,held_out\n")
    build_videos(str(source), out, [24])
    told: list[Changes] = []

    def announce(splits: dict, changes: Changes) -> None:
        assert "24/ibis.npy" in times(out)  # nothing has been removed yet
        told.append(changes)

    result = build_videos(str(source), out, [24], split_file=str(split_file), announce=announce)
    assert told == [result.changes]
    assert result.changes.resplit == ("crow", "mole")
    assert result.changes.removed == ("beaver", "ibis")
    assert str(result.changes) == (
        "split changed for 2 videos; 2 videos removed "
        f"(options differ from the recorded ones: --split-file {split_file} instead of none)"
    )
    split_file.write_text("mole,train\nant,train\n")
    again = build_videos(str(source), out, [24], split_file=str(split_file))
    assert str(again.changes) == "1 video removed"
    assert not build_videos(str(source), out, [24], split_file=str(split_file)).changes
    back = build_videos(str(source), out, [24])
    assert str(back.changes) == (
        "split changed for 1 video (options differ from the recorded ones: "
        f"--split-file none instead of {split_file})"
    )


def test_another_number_of_frames_is_told(source: Path, tmp_path: Path) -> None:
    build_videos(str(source), tmp_path / "out", [24])
    result = build_videos(str(source), tmp_path / "out", [24], max_frames=2)
    assert str(result.changes) == (
        "5 videos made anew with another number of frames "
        "(options differ from the recorded ones: --max-frames 2 instead of none)"
    )


def test_an_interrupted_build_is_compared_with_the_last_finished_one(
    source: Path, tmp_path: Path
) -> None:
    split_file, out = tmp_path / "split.csv", tmp_path / "out"
    split_file.write_text("mole,train\nant,train\n")
    build_videos(str(source), out, [24])

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            build_videos(
                str(source), out, [24], split_file=str(split_file), max_frames=1, report=stop
            )
    result = build_videos(str(source), out, [24], split_file=str(split_file), max_frames=1)
    assert result.changes.resplit == ("mole",) and len(result.changes.removed) == 3
    assert sorted(times(out)) == ["24/ant.npy", "24/mole.npy"]


def test_names_with_folders_keep_them(tmp_path: Path) -> None:
    write_pictures(tmp_path / "source" / "train" / "a" / "clip", 2)
    write_pictures(tmp_path / "source" / "val" / "clip", 2)
    build_videos(str(tmp_path / "source"), tmp_path / "out", [24])
    assert sorted(times(tmp_path / "out")) == ["24/train/a/clip.npy", "24/val/clip.npy"]
    assert open_videos(str(tmp_path / "out"), "held_out", None, 24).names == ("val/clip",)


def test_the_source_is_looked_through_once_and_told_before_anything_is_made(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[str] = []

    def find(*given: str) -> dict:
        searches.append(given[0])
        return find_source(*given)

    monkeypatch.setattr(builder, "find_source", find)
    told: list[dict[str, list[str]]] = []

    def announce(splits: dict, changes: Changes) -> None:
        assert not changes
        assert not (tmp_path / "out").exists()
        told.append({split: [clip.name for clip in clips] for split, clips in splits.items()})

    build_videos(str(source), tmp_path / "out", [24], announce=announce)
    assert told == [{"train": ["ant", "beaver", "crow"], "held_out": ["ibis", "mole"]}]
    assert searches == [str(source)]


def test_a_damaged_manifest_is_made_anew_with_all_its_frames(source: Path, tmp_path: Path) -> None:
    build_videos(str(source), tmp_path / "out", [24])
    whole = (tmp_path / "out" / MANIFEST).read_text()
    (tmp_path / "out" / MANIFEST).write_text(whole[: len(whole) // 2])
    with pytest.raises(VideoFolderError, match=r"manifest\.json cannot be read"):
        open_manifest(tmp_path / "out")
    assert build_videos(str(source), tmp_path / "out", [24]).progress.kept == 0
    assert (tmp_path / "out" / MANIFEST).read_text() == whole


@pytest.mark.parametrize("given", [{"source": ""}, {"split_file": ""}])
def test_an_empty_source_or_split_file_is_not_the_working_folder(
    source: Path, tmp_path: Path, given: dict[str, str]
) -> None:
    with pytest.raises(VideoFolderError, match="is empty: give a path"):
        build_videos(**({"source": str(source), "folder": tmp_path / "out", "sizes": [24]} | given))


def test_progress_counts_to_the_end(source: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    build_videos(str(source), tmp_path / "out", [24], report=seen.append)
    assert [one.done for one in seen] == [1, 2, 3, 4, 5]
    assert seen[-1].bytes == sum(p.stat().st_size for p in (tmp_path / "out").rglob("*.npy"))
    assert {one.name for one in seen} == {"ant", "beaver", "crow", "ibis", "mole"}


def test_the_estimate_is_the_size_of_the_frames(source: Path) -> None:
    clips = [clip for names in find_source(str(source), None).values() for clip in names]
    assert estimate_bytes(clips, [24, 48], None) == 5 * 3 * 3 * (24**2 + 48**2)
    assert estimate_bytes(clips, [24], 2) == 5 * 2 * 3 * 24**2
    (source / "ant" / "00000.jpg").write_bytes(b"")
    assert estimate_bytes(clips, [24], None) == 5 * 3 * 3 * 24**2


@pytest.mark.parametrize("sizes", [[], [4], [400, 900]])
def test_sizes_outside_the_range_are_refused(
    source: Path, tmp_path: Path, sizes: list[int]
) -> None:
    with pytest.raises(VideoFolderError, match="must be 8 to 800 pixels"):
        build_videos(str(source), tmp_path / "out", sizes, announce=never)


@pytest.mark.parametrize("place", [".", "ant", "new", ".."])
def test_a_folder_inside_or_around_the_source_is_refused(source: Path, place: str) -> None:
    with pytest.raises(VideoFolderError, match="lie in each other"):
        build_videos(str(source), source / place, [24], announce=never)


def test_a_folder_that_is_a_file_is_told_to_be_one(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("no folder")
    with pytest.raises(VideoFolderError, match="out is a file: give a new or an empty folder"):
        build_videos(str(source), tmp_path / "out", [24], announce=never)


def test_a_folder_with_other_things_in_it_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(VideoFolderError, match="holds other things"):
        build_videos(str(source), tmp_path / "out", [24], announce=never)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_build_of_another_source_is_left_alone(source: Path, tmp_path: Path) -> None:
    build_videos(str(source), tmp_path / "out", [24])
    before = times(tmp_path / "out")
    write_pictures(tmp_path / "other" / "clip", 2)
    with pytest.raises(VideoFolderError, match=r"out was built from .*source, not from .*other"):
        build_videos(str(tmp_path / "other"), tmp_path / "out", [24], announce=never)
    assert times(tmp_path / "out") == before


def test_a_folder_that_cannot_be_written_is_an_error(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(VideoFolderError, match=r"cannot be written to .*file"):
        build_videos(str(source), tmp_path / "file" / "out", [24])


def test_a_disk_that_fills_up_is_an_error_that_keeps_what_is_finished(tmp_path: Path) -> None:
    for name, num_frames in (("ant", 1), ("crow", 1), ("mole", 5)):
        write_pictures(tmp_path / "source" / name, num_frames)
    # A limit on the size of files makes writing the last video fail as a full disk does.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + _BUILD, tmp_path / "source", tmp_path / "out", "1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "VideoFolderError: Frames cannot be written to" in done.stderr
    result = build_videos(str(tmp_path / "source"), tmp_path / "out", [400])
    assert result.progress.kept == 2 and result.progress.done == 3


def test_frames_that_do_not_fit_on_the_disk_are_told_before_anything_is_decoded(
    tmp_path: Path,
) -> None:
    frames = shutil.disk_usage(tmp_path).free // (3 * 800 * 800) * 2
    (tmp_path / "source").mkdir()
    np.save(tmp_path / "source" / "long.npy", np.zeros((1, frames, 1, 1, 3), np.uint8))
    with pytest.raises(VideoFolderError, match=r"need about .* GB and .* has .* GB free: .*--size"):
        build_videos(str(tmp_path / "source"), tmp_path / "out", [800])
    assert times(tmp_path / "out") == {}
