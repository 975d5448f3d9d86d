from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from actors.environments.videos import procedural
from actors.environments.videos.clips import (
    ArrayClip,
    PictureFolder,
    ProceduralClip,
    VideoFile,
    VideoFolderError,
    clip_from,
    describe_clip,
    square_frames,
    to_square,
)
from tests.actors.environments.videos.footage import picture, write_file, write_pictures


def decoded(clip, size: int = 32, max_frames: int | None = None) -> np.ndarray:
    return np.stack(list(square_frames(clip, size, max_frames)))


def test_pictures_become_squares_as_in_the_published_package_then_area_means() -> None:
    frame = picture(1, 480, 854)
    published = cv2.resize(frame, (800, 800), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(to_square(frame, 800), published)
    sums = published.reshape(400, 2, 400, 2, 3).sum(axis=(1, 3), dtype=int)
    np.testing.assert_array_equal(to_square(frame, 400), (sums + 2) // 4)


def test_a_picture_that_is_the_square_asked_for_is_left_alone() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(to_square(frame, 64), frame)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".bmp", ".tif", ".webp", ".ppm"])
def test_any_kind_of_picture_is_read(tmp_path: Path, suffix: str) -> None:
    clip = PictureFolder("a", write_pictures(tmp_path / "a", 2, suffix))
    frames = decoded(clip)
    assert frames.shape == (2, 32, 32, 3) and clip.num_pictures() == 2
    assert np.abs(frames[0].astype(int) - to_square(picture(0), 32)).mean() < 6


def test_grey_palette_and_transparent_pictures_become_rgb(tmp_path: Path) -> None:
    for index, mode in enumerate(("L", "P", "RGBA", "1", "CMYK")):
        suffix = ".jpg" if mode == "CMYK" else ".png"
        Image.new(mode, (20, 10)).save(tmp_path / f"{index}{suffix}")
    assert decoded(PictureFolder("a", tmp_path), 16).shape == (5, 16, 16, 3)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_grey_pictures_of_16_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    grey = np.array([[0, 257, 32768], [65535, 65000, 128]], np.uint16)
    assert cv2.imwrite(str(tmp_path / f"0{suffix}"), grey)
    (frame,) = PictureFolder("a", tmp_path).pictures()
    assert frame.shape == (2, 3, 3) and frame.dtype == np.uint8
    np.testing.assert_array_equal(frame[..., 0], [[0, 1, 128], [255, 253, 0]])
    np.testing.assert_array_equal(frame[..., 0], frame[..., 2])


def test_coloured_pictures_of_16_bits_are_scaled(tmp_path: Path) -> None:
    for suffix in (".png", ".tif"):
        cv2.imwrite(str(tmp_path / f"0{suffix}"), np.full((2, 2, 3), [65535, 32768, 0], np.uint16))
    for frame in PictureFolder("a", tmp_path).pictures():
        assert (np.abs(frame.astype(int) - [0, 128, 255]) <= 1).all()


@pytest.mark.parametrize(
    ("values", "kind"),
    [(np.array([[0.0, 0.5]], np.float32), "32-bit floats"),
     (np.array([[0, 70_000]], np.int32), "32-bit integers")],
)  # fmt: skip
def test_pictures_whose_white_is_unknown_are_named(
    tmp_path: Path, values: np.ndarray, kind: str
) -> None:
    Image.fromarray(values).save(tmp_path / "0.tif")
    with pytest.raises(VideoFolderError, match=rf"0\.tif is .* {kind}, .* 8 or 16 bits"):
        decoded(PictureFolder("a", tmp_path))


def test_pictures_of_different_sizes_are_squeezed_into_the_same_square(tmp_path: Path) -> None:
    for index, size in enumerate(((20, 10), (300, 7), (800, 800))):
        Image.new("RGB", size, (10, 20, 30)).save(tmp_path / f"{index}.png")
    frames = decoded(PictureFolder("a", tmp_path), 16)
    assert frames.shape == (3, 16, 16, 3) and (frames == [10, 20, 30]).all()


def test_pictures_come_in_the_order_of_their_names_as_strings(tmp_path: Path) -> None:
    for value in (10, 9, 100):
        Image.new("RGB", (4, 4), (value, 0, 0)).save(tmp_path / f"{value}.png")
    assert [int(frame[0, 0, 0]) for frame in decoded(PictureFolder("a", tmp_path), 4)] == [
        10,
        100,
        9,
    ]


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    folder = write_pictures(tmp_path / "a", 3)
    bad = folder / "00001.jpg"
    bad.write_bytes(bad.read_bytes()[:500] if content is None else content)
    with pytest.raises(VideoFolderError, match=r"00001\.jpg cannot be read.*Replace or remove"):
        decoded(PictureFolder("a", folder))


def test_a_folder_that_lost_its_pictures_is_an_error_that_names_the_video(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "bear", 1)
    clip = PictureFolder("bear", folder)
    (folder / "00000.jpg").unlink()
    with pytest.raises(VideoFolderError, match="bear has no frame"):
        decoded(clip)
    folder.rmdir()
    with pytest.raises(VideoFolderError, match="bear cannot be read"):
        decoded(clip)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".mov", ".webm"])
def test_video_files_are_decoded_in_rgb(tmp_path: Path, suffix: str) -> None:
    clip = VideoFile("a", write_file(tmp_path / f"a{suffix}", 6))
    frames = decoded(clip)
    assert frames.shape == (6, 32, 32, 3) and clip.num_pictures() == 6
    for index in (0, 5):
        expected = to_square(picture(index, 64, 96), 32).astype(int)
        assert np.abs(frames[index] - expected).mean() < 8


def test_the_first_frames_of_a_long_video_can_be_taken_alone(tmp_path: Path) -> None:
    clip = VideoFile("a", write_file(tmp_path / "a.avi", 9))
    assert clip.max_frames == 300
    np.testing.assert_array_equal(decoded(clip, max_frames=4), decoded(clip)[:4])


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(VideoFolderError, match=r"a\.mp4 cannot be decoded"):
        decoded(VideoFile("a", tmp_path / "a.mp4"))


def test_a_video_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.avi", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoFolderError, match=r"a\.avi is cut off or damaged: \d+ of 40 frames"):
        decoded(VideoFile("a", path))


@pytest.mark.parametrize("axis", [2, 4])
def test_arrays_hold_channels_before_or_behind_the_picture(tmp_path: Path, axis: int) -> None:
    videos = np.random.default_rng(0).integers(0, 255, (2, 5, 16, 16, 3), np.uint8)
    np.save(tmp_path / "v.npy", videos if axis == 4 else np.moveaxis(videos, -1, 2))
    frames = decoded(ArrayClip("v-1", tmp_path / "v.npy", 1), 16)
    np.testing.assert_array_equal(frames, videos[1])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 5, 16, 16, 3), np.float32),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((2, 5, 16, 16, 4), np.uint8),
        np.zeros((0, 5, 16, 16, 3), np.uint8),
    ],
)
def test_arrays_of_another_form_are_refused_with_the_form_expected(
    tmp_path: Path, array: np.ndarray
) -> None:
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(VideoFolderError, match=r"v\.npy holds .* expected uint8"):
        decoded(ArrayClip("v", tmp_path / "v.npy", 0))


def test_a_pickle_is_not_loaded_but_explained(tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(pickle.dumps(np.zeros((1, 1, 3, 4, 4), np.uint8)))
    with pytest.raises(VideoFolderError, match=r"v\.npy cannot be read.*numpy\.save"):
        decoded(ArrayClip("v", tmp_path / "v.npy", 0))


def test_procedural_clips_are_the_videos_of_the_generator() -> None:
    clip = ProceduralClip("procedural-train-00")
    np.testing.assert_array_equal(
        decoded(clip, 40, 3), procedural.make_video("procedural-train-00", 40, 3)
    )
    assert clip.num_pictures() == procedural.NUM_FRAMES


def test_a_stamp_changes_with_the_files_and_a_digest_only_with_their_content(
    tmp_path: Path,
) -> None:
    clip = PictureFolder("a", write_pictures(tmp_path / "a", 2))
    stamp, digest = clip.stamp(), clip.digest()
    (clip.folder / "notes.txt").write_text("not looked at")
    assert (clip.stamp(), clip.digest()) == (stamp, digest)
    file = clip.folder / "00000.jpg"
    file.touch()
    assert clip.stamp() != stamp and clip.digest() == digest
    file.write_bytes(file.read_bytes() + b"more")
    assert clip.digest() != digest


def test_a_clip_is_found_again_from_its_description(tmp_path: Path) -> None:
    for clip in (
        PictureFolder("a", tmp_path),
        VideoFile("b", tmp_path / "b.mp4"),
        ArrayClip("c-3", tmp_path / "c.npy", 3),
        ProceduralClip("procedural-train-00"),
    ):
        assert clip_from(clip.name, describe_clip(clip)) == clip
