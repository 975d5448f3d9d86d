from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from actors.environments.videos.clips import ArrayClip, PictureFolder, VideoFile, VideoFolderError
from actors.environments.videos.folders import find_clips
from actors.environments.videos.splits import find_source
from tests.actors.environments.videos.footage import write_davis, write_file, write_pictures


def names(folder: Path) -> list[str]:
    return [clip.name for clip in find_clips(folder)]


def splits(folder: Path) -> dict[str, list[str]]:
    found = find_source(str(folder), None)
    return {split: [clip.name for clip in clips] for split, clips in found.items()}


def test_davis_is_found_from_any_folder_around_its_pictures(tmp_path: Path) -> None:
    root = write_davis(tmp_path / "data" / "DAVIS")
    expected = names(root / "JPEGImages" / "480p")
    assert len(expected) == 90 and "bear" in expected
    for folder in (root.parent, root, root / "JPEGImages"):
        assert names(folder) == expected
    found = splits(root)
    assert len(found["train"]) == 60 and len(found["held_out"]) == 30
    assert found["train"][:2] == ["bear", "bmx-bumps"] and "train" in found["train"]


@pytest.mark.parametrize("given", [".", "ILSVRC2015", "ILSVRC2015/Data", "ILSVRC2015/Data/VID"])
def test_ilsvrc_vid_is_split_by_its_folders_at_any_depth(tmp_path: Path, given: str) -> None:
    root = tmp_path / "ILSVRC2015" / "Data" / "VID"
    write_pictures(root / "train" / "ILSVRC2015_VID_train_0000" / "clip_0", suffix=".JPEG")
    write_pictures(root / "train" / "ILSVRC2015_VID_train_0001" / "clip_1", suffix=".JPEG")
    write_pictures(root / "val" / "clip_2", suffix=".JPEG")
    write_file(root / "snippets" / "clip_3.mp4")
    assert splits(tmp_path / given) == {
        "train": [
            "train/ILSVRC2015_VID_train_0000/clip_0",
            "train/ILSVRC2015_VID_train_0001/clip_1",
        ],
        "held_out": ["val/clip_2"],
    }


def test_kinetics_is_split_by_its_folders_where_it_has_them(tmp_path: Path) -> None:
    for path in ("train/running/a.mp4", "train/jumping/b.mp4", "val/running/c.mp4", "test/d.mp4"):
        write_file(tmp_path / path, 2)
    assert splits(tmp_path) == {
        "train": ["train/jumping/b", "train/running/a"],
        "held_out": ["test/d", "val/running/c"],
    }


def test_kinetics_without_such_folders_is_split_by_a_hash_of_each_name(tmp_path: Path) -> None:
    for index in range(12):
        (tmp_path / f"class-{index % 3}").mkdir(exist_ok=True)
        (tmp_path / f"class-{index % 3}" / f"{index}.mp4").write_bytes(b"not decoded here")
    found = splits(tmp_path)
    assert found["train"] and found["held_out"]
    assert sorted(found["train"] + found["held_out"]) == names(tmp_path)
    assert found == splits(tmp_path)


def test_a_tree_may_mix_folders_of_pictures_files_and_arrays(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a" / "deep", suffix=".png")
    write_file(tmp_path / "b" / "c.AVI".lower())
    np.save(tmp_path / "d.npy", np.zeros((2, 3, 8, 8, 3), np.uint8))
    (tmp_path / "README.txt").write_text("hello")
    kinds = {clip.name: type(clip) for clip in find_clips(tmp_path)}
    assert kinds == {
        "a/deep": PictureFolder,
        "b/c": VideoFile,
        "d-00000": ArrayClip,
        "d-00001": ArrayClip,
    }


def test_hidden_things_and_thumbnails_beside_video_files_are_no_videos(tmp_path: Path) -> None:
    write_file(tmp_path / "clips" / "a.avi")
    write_pictures(tmp_path / "clips", 1)
    write_pictures(tmp_path / ".cache", 1)
    write_pictures(tmp_path / "__MACOSX", 1)
    write_pictures(tmp_path / "only-hidden", 0)
    (tmp_path / "only-hidden" / "._0.jpg").write_bytes(b"resource fork")
    assert names(tmp_path) == ["clips/a"]


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    write_pictures(tmp_path / "elsewhere" / "bear")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "linked").symlink_to(tmp_path / "elsewhere" / "bear")
    (tmp_path / "videos" / "up").symlink_to(tmp_path / "videos")
    assert names(tmp_path / "videos") == ["linked"]


def test_cvrl_arrays_are_split_by_the_ends_of_their_names(tmp_path: Path) -> None:
    for stem, count in (("natural_train", 2), ("natural_valid", 1)):
        np.save(tmp_path / f"{stem}.npy", np.zeros((count, 3, 3, 8, 8), np.uint8))
    assert splits(tmp_path) == {
        "train": ["natural_train-00000", "natural_train-00001"],
        "held_out": ["natural_valid-00000"],
    }


def test_one_array_may_be_given_by_itself(tmp_path: Path) -> None:
    np.save(tmp_path / "natural.npy", np.zeros((20, 3, 3, 8, 8), np.uint8))
    found = splits(tmp_path / "natural.npy")
    assert found["train"] and found["held_out"]
    np.save(tmp_path / "one.npy", np.zeros((7, 8, 8, 3), np.uint8))
    assert names(tmp_path / "one.npy") == ["one"]


def test_a_folder_of_pictures_called_train_is_a_video(tmp_path: Path) -> None:
    for name in ("train", "tram", "bicycle", "ferry", "horse"):
        write_pictures(tmp_path / name, 1)
    found = splits(tmp_path)
    assert len(found["train"] + found["held_out"]) == 5


def test_folders_may_be_called_like_files(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.npy", "c.jpg"):
        write_pictures(tmp_path / name, 1)
    assert {clip.name: type(clip) for clip in find_clips(tmp_path)} == dict.fromkeys(
        ("a.mp4", "b.npy", "c.jpg"), PictureFolder
    )


@pytest.mark.parametrize("classes", [("run", "jump", "swim", "test"), ("train", "jump")])
def test_a_class_called_test_or_train_does_not_push_the_others_out(
    tmp_path: Path, classes: tuple[str, ...]
) -> None:
    for name in classes:
        for index in range(8):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{index}.mp4").write_bytes(b"not decoded here")
    found = splits(tmp_path)
    assert sorted(found["train"] + found["held_out"]) == names(tmp_path)
    assert len(names(tmp_path)) == 8 * len(classes) and found["train"] and found["held_out"]


def test_an_array_that_ends_like_a_split_needs_its_counterpart(tmp_path: Path) -> None:
    for stem in ("jump_test", "run", "swim", "walk"):
        np.save(tmp_path / f"{stem}.npy", np.zeros((4, 3, 3, 8, 8), np.uint8))
    found = splits(tmp_path)
    assert len(found["train"] + found["held_out"]) == 16


@pytest.mark.parametrize("inner", ["VID", "480p", "DAVIS/JPEGImages/480p", "Data/VID"])
def test_a_known_folder_beside_other_videos_is_not_read_alone(
    tmp_path: Path, inner: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_pictures(tmp_path / inner / "clip", 1)
    assert names(tmp_path) == ["clip"] and not caplog.records
    write_pictures(tmp_path / "more" / "deep", 1)
    write_file(tmp_path / "film.avi", 1)
    assert names(tmp_path) == sorted((f"{inner}/clip", "more/deep", "film"))
    assert "to use it alone" in caplog.text and "film.avi" in caplog.text


def test_davis_is_found_beside_its_masks_lists_and_a_loose_picture(tmp_path: Path) -> None:
    root = write_davis(tmp_path / "DAVIS")
    write_pictures(root / "Annotations_unsupervised" / "480p" / "bear", 1)
    write_pictures(root, 1)
    found = splits(tmp_path)
    assert len(found["train"]) == 60 and len(found["held_out"]) == 30


@pytest.mark.parametrize(
    ("resolutions", "chosen"),
    [
        (("480p", "1080p", "Full-Resolution"), "480p"),
        (("360p", "1080p", "720p"), "1080p"),
        (("1080p", "Full-Resolution"), "Full-Resolution"),
        (("240p",), "240p"),
    ],
)
@pytest.mark.parametrize("given", ["", "JPEGImages"])
def test_one_resolution_is_read_480p_or_the_highest(
    tmp_path: Path, resolutions: tuple[str, ...], chosen: str, given: str
) -> None:
    for resolution in resolutions:
        write_pictures(tmp_path / "JPEGImages" / resolution / "bear", 1)
        write_pictures(tmp_path / "Annotations" / resolution / "bear", 1, ".png")
    (clip,) = find_clips(tmp_path / given)
    assert clip.name == "bear"
    assert clip.place == str((tmp_path / "JPEGImages" / chosen / "bear").resolve())


def test_an_empty_resolution_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages" / "480p").mkdir(parents=True)
    write_pictures(tmp_path / "JPEGImages" / "1080p" / "bear", 1)
    assert names(tmp_path) == ["bear"]


def test_videos_directly_below_jpegimages_are_all_read(tmp_path: Path) -> None:
    for name in ("00a1", "00b2"):
        write_pictures(tmp_path / "JPEGImages" / name, 1)
    assert names(tmp_path) == ["00a1", "00b2"]


def test_a_known_folder_that_links_back_ends(tmp_path: Path) -> None:
    (tmp_path / "DAVIS").symlink_to(tmp_path)
    with pytest.raises(VideoFolderError, match="holds no video"):
        find_clips(tmp_path)


def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    write_pictures(tmp_path / os.fsdecode(b"caf\xe9"), 1)
    with pytest.raises(VideoFolderError, match=r"not UTF-8, 'caf\\udce9': rename"):
        find_clips(tmp_path)


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    write_file(tmp_path / "a.avi")
    write_file(tmp_path / "a.mp4")
    with pytest.raises(VideoFolderError, match="two videos called a"):
        find_clips(tmp_path)


def test_a_missing_folder_says_what_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(VideoFolderError, match=r"nowhere does not exist.*environment\.videos"):
        find_clips(tmp_path / "nowhere")


def test_a_folder_without_videos_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(VideoFolderError, match=r"holds no video: expected .*\.mp4"):
        find_clips(tmp_path)


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoFolderError, match="is a file: give the folder"):
        find_clips(write_file(tmp_path / "a.avi"))
