from __future__ import annotations

from pathlib import Path

import pytest

from actors.environments import published
from actors.environments.videos import davis
from actors.environments.videos.clips import VideoFolderError
from actors.environments.videos.splits import (
    check_published,
    check_split,
    find_source,
    first_videos,
    read_split_file,
    split_videos,
)

LAYOUT: dict[str, str | None] = dict.fromkeys(("a", "b", "c", "deep/d", "with,comma"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "split.csv"
    path.write_text(text)
    return path


def test_the_lists_of_davis_are_those_of_the_published_package() -> None:
    assert tuple(published.background.DAVIS17_TRAINING_VIDEOS) == davis.TRAIN_VIDEOS
    assert tuple(published.background.DAVIS17_VALIDATION_VIDEOS) == davis.HELD_OUT_VIDEOS
    assert set(davis.TRAIN_VIDEOS).isdisjoint(davis.HELD_OUT_VIDEOS)


def test_most_names_of_davis_make_a_folder_davis_and_a_few_do_not() -> None:
    known = split_videos(dict.fromkeys(("judo", "bear", "bus", "other")), None, "here")
    assert known == {"train": ("bear", "bus"), "held_out": ("judo",)}
    mixed = split_videos(dict.fromkeys(("dog", "w", "x", "y", "z")), None, "here")
    assert sorted(mixed["train"] + mixed["held_out"]) == ["dog", "w", "x", "y", "z"]


def test_a_split_file_decides_which_videos_are_used_and_in_which_order(tmp_path: Path) -> None:
    text = "name,split\n# ours\n\nc,train\na, held_out\n deep/d ,train\nwith,comma,held_out\n"
    found = read_split_file(write(tmp_path, text), LAYOUT, "here")
    assert found == {"train": ("c", "deep/d"), "held_out": ("a", "with,comma")}


def test_a_split_file_wins_over_the_published_lists(tmp_path: Path) -> None:
    layout = dict.fromkeys(("bear", "judo"))
    path = write(tmp_path, "judo,train\nbear,held_out\n")
    assert split_videos(layout, str(path), "here") == {"train": ("judo",), "held_out": ("bear",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,train\nb,test\n", r"line 2: 'b,test' is not of the form name,train or name,held_out"),
        ("a\n", r"line 1: 'a' is not of the form"),
        ("a,train\na,held_out\n", r"line 2: a stands already in line 1 as train"),
        ("a,train\nb,train\na,train\n", r"line 3: a stands already in line 1"),
        (
            "a,train\ndeep/dd,train\n",
            r"line 2: here has no video deep/dd; perhaps deep/d is meant\.$",
        ),
        ("gull,train\n", r"here has no video gull; its videos are a, b, c and 2 more\.$"),
        ("\n# nothing\n", r"names no video"),
    ],
)
def test_a_split_file_that_does_not_fit_is_told_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(VideoFolderError, match=message):
        read_split_file(write(tmp_path, text), LAYOUT, "here")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_split_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "split.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoFolderError, match=r"split\.csv cannot be read.*videos_split"):
        read_split_file(path, LAYOUT, "here")


def test_a_numbered_video_is_not_suggested_for_one_of_another_number(tmp_path: Path) -> None:
    layout = dict.fromkeys(("clip-03", "clip-05"))
    with pytest.raises(VideoFolderError, match=r"clip-04; its videos are clip-03, clip-05\.$"):
        read_split_file(write(tmp_path, "clip-04,train\n"), layout, "here")


def test_layouts_with_splits_leave_out_what_lies_beside_them() -> None:
    layout = {"train/a": "train", "val/b": "held_out", "extra/c": None}
    assert split_videos(layout, None, "here") == {"train": ("train/a",), "held_out": ("val/b",)}


def test_names_alone_are_split_by_a_hash_that_never_changes() -> None:
    names = [f"video-{index}" for index in range(300)]
    found = split_videos(dict.fromkeys(names), None, "here")
    assert set(found["train"]).isdisjoint(found["held_out"])
    assert 70 <= len(found["held_out"]) <= 130
    assert found["held_out"][:3] == ("video-8", "video-9", "video-10")


def test_the_first_n_videos_are_taken_and_more_than_there_are_is_an_error() -> None:
    assert first_videos(("a", "b", "c"), 2, "here", "train") == ("a", "b")
    assert first_videos(("a", "b"), None, "here", "train") == ("a", "b")
    assert first_videos((), 0, "here", "train") == ()
    with pytest.raises(
        VideoFolderError, match=r"here has 2 train videos and 3 .* at most 2, .*videos_spl"
    ):
        first_videos(("a", "b"), 3, "here", "train")
    with pytest.raises(VideoFolderError, match=r"here has 1 held_out video and 2 are asked for: "):
        first_videos(("a",), 2, "here", "held_out")
    with pytest.raises(VideoFolderError, match=r"no held_out video: .*videos_split"):
        first_videos((), None, "here", "held_out")
    with pytest.raises(VideoFolderError, match="no held_out video"):
        first_videos((), 4, "here", "held_out")


def test_the_first_n_of_the_published_list_must_be_there_not_any_n() -> None:
    names = set(davis.TRAIN_VIDEOS) - {"boat"}
    check_published(names, 2, "here", "train")
    check_published(names, 0, "here", "train")
    with pytest.raises(VideoFolderError, match=r"here has .* 1 of the first 4 train .*: boat\."):
        check_published(names, 4, "here", "train")
    with pytest.raises(VideoFolderError, match=r"30 of all 30 held_out .*: bike-packing, blacksw"):
        check_published(names, None, "here", "held_out")


def test_without_the_first_video_no_smaller_number_is_advised() -> None:
    with pytest.raises(VideoFolderError, match=r": bear\. Fetch DAVIS") as caught:
        check_published(set(davis.TRAIN_VIDEOS[1:]), 4, "here", "train")
    assert "num_videos" not in str(caught.value) and "videos_split" in str(caught.value)


def test_other_data_sets_are_not_held_against_the_published_lists() -> None:
    check_published({"dog", "x", "y"}, None, "here", "train")
    check_published(set(), None, "here", "train")


def test_a_split_of_another_name_is_refused() -> None:
    with pytest.raises(VideoFolderError, match="'val'; choose train or held_out"):
        check_split("val")


def test_procedural_videos_have_sixty_to_train_on_and_thirty_held_out() -> None:
    found = find_source("procedural", None)
    train, held_out = ({clip.name for clip in found[split]} for split in ("train", "held_out"))
    assert len(train) == 60 and len(held_out) == 30 and train.isdisjoint(held_out)
