from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from actors.environments import videos
from actors.environments.videos import procedural
from actors.environments.videos.builder import build_videos
from tests.actors.environments.videos.footage import write_davis


def test_procedural_videos_are_the_same_every_time_and_differ_by_name() -> None:
    first = procedural.make_video("procedural-train-00", 32, num_frames=3)
    again = procedural.make_video("procedural-train-00", 32, num_frames=3)
    other = procedural.make_video("procedural-train-01", 32, num_frames=3)
    assert first.shape == (3, 32, 32, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 10


def test_procedural_videos_move_a_little_from_frame_to_frame() -> None:
    frames = procedural.make_video("procedural-train-03", 64, num_frames=20).astype(int)
    next_frame, far_frame = (
        np.abs(frames[1] - frames[0]).mean(),
        np.abs(frames[19] - frames[0]).mean(),
    )
    assert 0 < next_frame < far_frame


def test_procedural_videos_have_more_power_at_low_frequencies_as_natural_pictures_do() -> None:
    picture = procedural.make_video("procedural-train-05", 128, num_frames=1)[0].mean(axis=2)
    power = np.abs(np.fft.fft2(picture - picture.mean())) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(128, 1 / 128)] * 2))
    bands = [
        power[(frequency >= low) & (frequency < 2 * low)].mean() for low in (1, 2, 4, 8, 16, 32)
    ]
    assert all(high > low for high, low in itertools.pairwise(bands))


def test_held_out_procedural_videos_are_disjoint_from_training_videos() -> None:
    train = videos.open_videos("procedural", "train", None, 32)
    held_out = videos.open_videos("procedural", "held_out", None, 32)
    assert len(train.names) == 60 and len(held_out.names) == 30
    assert not set(train.names) & set(held_out.names)
    assert not np.array_equal(train.frames(0), held_out.frames(0))


def test_frames_are_shared_within_a_process_and_cannot_be_written() -> None:
    one = videos.open_videos("procedural", "train", 2, 32).frames(1)
    two = videos.open_videos("procedural", "train", None, 32).frames(1)
    assert np.shares_memory(one, two)
    with pytest.raises(ValueError, match="read-only"):
        one[0] = 0


def test_the_automatic_cache_holds_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = videos.open_videos("procedural", "train", 1, 24).frames(0)
    (file,) = (tmp_path / "rl-system" / "videos").glob("*.npy")
    np.testing.assert_array_equal(np.load(file), made)
    np.testing.assert_array_equal(made, procedural.make_video("procedural-train-00", 24))


@pytest.mark.parametrize("inside", ["JPEGImages/480p", "."])
def test_a_davis_folder_is_split_by_the_published_names(
    tmp_path: Path, inside: str, write_video
) -> None:
    for name in ("bmx-bumps", "bear", "blackswan", "bike-packing", "not-in-any-list"):
        write_video(tmp_path / inside / name)
    (tmp_path / inside / "empty").mkdir()
    train = ("bear", "bmx-bumps")
    assert videos.open_videos(str(tmp_path), "train", 2, 16).names == train
    assert videos.open_videos(str(tmp_path), "train", 1, 16).names == train[:1]
    held_out = videos.open_videos(str(tmp_path), "held_out", 2, 16).names
    assert held_out == ("bike-packing", "blackswan")


@pytest.fixture
def davis_folder(tmp_path: Path) -> Path:
    return write_davis(tmp_path / "DAVIS")


@pytest.mark.parametrize("loss", ["missing", "empty"])
def test_davis_without_some_videos_is_an_error_and_never_a_smaller_level(
    davis_folder: Path, loss: str
) -> None:
    assert len(videos.open_videos(str(davis_folder), "train", None, 16).names) == 60
    for name in ("bus", "walking"):
        for path in (davis_folder / "JPEGImages" / "480p" / name).iterdir():
            path.unlink()
        if loss == "missing":
            (davis_folder / "JPEGImages" / "480p" / name).rmdir()
    with pytest.raises(
        videos.VideoFolderError,
        match=r"DAVIS has .* 2 of all 60 train .*: bus, walking\. Fetch .*num_videos to at most 5",
    ):
        videos.open_videos(str(davis_folder), "train", None, 16)
    with pytest.raises(videos.VideoFolderError, match=r"1 of the first 8 train .*: bus\."):
        videos.open_videos(str(davis_folder), "train", 8, 16)
    assert len(videos.open_videos(str(davis_folder), "train", 5, 16).names) == 5
    assert len(videos.open_videos(str(davis_folder), "held_out", None, 16).names) == 30


def test_an_incomplete_davis_may_be_looked_at_and_used_with_a_split_file(
    tmp_path: Path, write_video
) -> None:
    for name in ("bus", "boat", "judo"):
        write_video(tmp_path / "clips" / name, 1)
    folder = str(tmp_path / "clips")
    with pytest.raises(videos.VideoFolderError, match=r"58 of .*: bear, bmx-bumps, .* and 55 more"):
        videos.open_videos(folder, "train", None, 16)
    looked = videos.open_videos(folder, "train", None, 16, incomplete=True)
    assert looked.names == ("boat", "bus")
    (tmp_path / "split.csv").write_text("bus,train\njudo,held_out\n")
    chosen = videos.open_videos(folder, "train", None, 16, split_file=str(tmp_path / "split.csv"))
    assert chosen.names == ("bus",)


@pytest.mark.parametrize("given", ["", "  "])
def test_an_empty_setting_is_not_the_working_folder(given: str) -> None:
    with pytest.raises(videos.VideoFolderError, match=r"environment\.videos is empty"):
        videos.open_videos(given, "train", None, 16)
    with pytest.raises(videos.VideoFolderError, match=r"environment\.videos_split is empty"):
        videos.open_videos("procedural", "train", None, 16, split_file=given)


def test_the_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, write_video, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_video(tmp_path / "clips" / "ant", 1)
    (tmp_path / "split.csv").write_text("ant,held_out\n")
    source = videos.open_videos("~/clips", "held_out", None, 16, split_file="~/split.csv")
    assert source.names == ("ant",)
    with pytest.raises(videos.VideoFolderError, match=r"~nobody-of-that-name/x: .*full path"):
        videos.open_videos("~nobody-of-that-name/x", "train", None, 16)


def test_frames_of_a_folder_are_sorted_by_name_and_other_files_are_ignored(
    tmp_path: Path, write_video
) -> None:
    write_video(tmp_path / "ant", 5)
    frames = videos.open_videos(str(tmp_path), "train", None, 16).frames(0)
    assert frames.shape == (5, 16, 16, 3)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), [20, 60, 100, 140, 180], atol=2)


def test_a_changed_folder_is_decoded_again(tmp_path: Path, write_video) -> None:
    write_video(tmp_path / "ant", 3)
    assert len(videos.open_videos(str(tmp_path), "train", None, 16).frames(0)) == 3
    (tmp_path / "ant" / "00001.jpg").unlink()
    assert len(videos.open_videos(str(tmp_path), "train", None, 16).frames(0)) == 2


def test_a_folder_of_unknown_names_is_split_without_overlap(tmp_path: Path, write_video) -> None:
    for index in range(12):
        write_video(tmp_path / f"clip-{index}", 1)
    train = videos.open_videos(str(tmp_path), "train", None, 16).names
    held_out = videos.open_videos(str(tmp_path), "held_out", None, 16).names
    assert train and held_out and not set(train) & set(held_out) and len(train + held_out) == 12


def test_a_split_file_says_which_videos_are_used(tmp_path: Path, write_video) -> None:
    for name in ("a", "b", "c", "d"):
        write_video(tmp_path / "clips" / name, 1)
    (tmp_path / "split.csv").write_text("d,train\nb,train\na,held_out\n")
    split_file = str(tmp_path / "split.csv")
    folder = str(tmp_path / "clips")
    train = videos.open_videos(folder, "train", None, 16, split_file=split_file)
    held_out = videos.open_videos(folder, "held_out", None, 16, split_file=split_file)
    assert train.names == ("d", "b") and held_out.names == ("a",)
    (tmp_path / "split.csv").write_text("e,train\n")
    with pytest.raises(
        videos.VideoFolderError, match=r"split\.csv, line 1: .*clips has no video e"
    ):
        videos.open_videos(folder, "train", None, 16, split_file=split_file)


def test_an_unreadable_frame_is_told_with_its_file_when_the_video_is_used(
    tmp_path: Path, write_video
) -> None:
    write_video(tmp_path / "ant", 3)
    (tmp_path / "ant" / "00001.jpg").write_bytes(b"")
    source = videos.open_videos(str(tmp_path), "train", None, 16)
    with pytest.raises(videos.VideoFolderError, match=r"ant/00001\.jpg cannot be read"):
        source.frames(0)


def test_a_video_that_went_away_is_told_by_its_name(tmp_path: Path, write_video) -> None:
    write_video(tmp_path / "ant", 3)
    source = videos.open_videos(str(tmp_path), "train", None, 16)
    shutil.rmtree(tmp_path / "ant")
    with pytest.raises(videos.VideoFolderError, match="The video ant cannot be read"):
        source.frames(0)


@pytest.mark.parametrize("split", ["val", "test", ""])
def test_a_split_of_another_name_is_refused(split: str) -> None:
    with pytest.raises(videos.VideoFolderError, match="choose train or held_out"):
        videos.open_videos("procedural", split, None, 16)


@pytest.mark.parametrize("size", [0, 801])
def test_sizes_outside_the_range_are_refused(size: int) -> None:
    with pytest.raises(videos.VideoFolderError, match="1 to 800 are possible"):
        videos.open_videos("procedural", "train", None, size)


def test_an_unfinished_build_says_how_to_go_on(tmp_path: Path, write_video) -> None:
    write_video(tmp_path / "source" / "ant", 2)
    write_video(tmp_path / "source" / "beaver", 2)
    (tmp_path / "source" / "beaver" / "00000.jpg").write_bytes(b"")
    with pytest.raises(videos.VideoFolderError, match="cannot be read"):
        build_videos(str(tmp_path / "source"), tmp_path / "out", [16])
    with pytest.raises(videos.VideoFolderError, match=r"Go on with `rl-system videos build .*16`"):
        videos.open_videos(str(tmp_path / "out"), "train", None, 16)


def test_a_missing_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(videos.VideoFolderError, match=r"does not exist.*environment.videos"):
        videos.open_videos(str(tmp_path / "nowhere"), "train", None, 16)


def test_a_folder_without_videos_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(videos.VideoFolderError, match="holds no video"):
        videos.open_videos(str(tmp_path), "train", None, 16)


@pytest.mark.parametrize("built", [False, True])
def test_one_folder_of_pictures_given_by_itself_is_told_to_be_one_video(
    tmp_path: Path, write_video, built: bool
) -> None:
    clip = tmp_path / "mine" / "clip00"
    write_video(clip)
    given = tmp_path / "out" if built else clip
    if built:
        build_videos(str(clip), given, [16])
    hint = rf"clip00 was read as one video, .* {re.escape(str(tmp_path / 'mine'))}, is probably"
    empty = 0
    for split in ("train", "held_out"):
        with pytest.raises(videos.VideoFolderError, match=hint) as caught:
            videos.open_videos(str(given), split, 2, 16)
        empty += f"has no {split} video" in str(caught.value)
    assert empty == 1
    with pytest.raises(videos.VideoFolderError) as caught:
        videos.open_videos(str(tmp_path / "mine"), "train", 2, 16)
    assert "as one video" not in str(caught.value)


def test_asking_for_more_videos_than_there_are_names_the_number(
    tmp_path: Path, write_video
) -> None:
    write_video(tmp_path / "ant")
    with pytest.raises(videos.VideoFolderError, match="num_videos to at most 1"):
        videos.open_videos(str(tmp_path), "train", 4, 16)
