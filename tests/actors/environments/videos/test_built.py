from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from actors.environments.videos import open_videos
from actors.environments.videos.builder import build_videos
from actors.environments.videos.built import check_built
from actors.environments.videos.clips import VideoFolderError, shrink
from actors.environments.videos.frame_cache import cache_folder
from actors.environments.videos.manifest import FORMAT, MANIFEST, frames_path
from rl_system.cli import build_parser
from tests.actors.environments.videos.footage import write_pictures


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Frames of 48 pixels of `tmp_path/source`: ant and crow to train on, mole held out."""
    for place, name in enumerate(("ant", "crow", "mole")):
        write_pictures(tmp_path / "source" / name, 3, first=5 * place)
    build_videos(str(tmp_path / "source"), tmp_path / "built", [48])
    return tmp_path / "built"


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit(built: Path, change) -> None:
    manifest = json.loads((built / MANIFEST).read_text())
    change(manifest)
    (built / MANIFEST).write_text(json.dumps(manifest))


def test_built_frames_need_no_source_and_may_be_copied(built: Path, tmp_path: Path) -> None:
    expected = np.array(open_videos(str(built), "train", None, 48).frames(1))
    shutil.rmtree(tmp_path / "source")
    shutil.copytree(built, tmp_path / "node")
    shutil.rmtree(built)
    source = open_videos(str(tmp_path / "node"), "train", None, 48)
    assert source.names == ("ant", "crow")
    np.testing.assert_array_equal(source.frames(1), expected)
    assert open_videos(str(tmp_path / "node"), "held_out", None, 48).names == ("mole",)


def test_frames_are_mapped_from_the_built_file_itself(built: Path) -> None:
    frames = open_videos(str(built), "train", None, 48).frames(0)
    assert isinstance(frames.base, np.memmap)
    assert Path(frames.base.filename) == frames_path(built, "ant", 48)
    assert not list(cache_folder().glob("*.npy"))
    with pytest.raises(ValueError, match="read-only"):
        frames[0] = 0


def test_smaller_frames_are_derived_once_into_the_automatic_cache(built: Path) -> None:
    stored = open_videos(str(built), "train", None, 48).frames(0)
    small = open_videos(str(built), "train", None, 16).frames(0)
    np.testing.assert_array_equal(small, np.stack([shrink(frame, 16) for frame in stored]))
    (file,) = cache_folder().glob("*.npy")
    before = file.stat().st_mtime_ns
    open_videos(str(built), "train", None, 16).frames(0)
    assert file.stat().st_mtime_ns == before


def test_frames_derived_from_the_published_size_are_those_of_the_source(
    built: Path, tmp_path: Path
) -> None:
    build_videos(str(tmp_path / "source"), built, [800])
    for size in (400, 123):
        derived = open_videos(str(built), "train", None, size).frames(0)
        made = open_videos(str(tmp_path / "source"), "train", None, size).frames(0)
        np.testing.assert_array_equal(derived, made)


def test_the_next_larger_size_is_the_one_that_is_reduced(built: Path, tmp_path: Path) -> None:
    build_videos(str(tmp_path / "source"), built, [24, 96])
    stored = open_videos(str(built), "train", None, 24).frames(0)
    small = open_videos(str(built), "train", None, 16).frames(0)
    np.testing.assert_array_equal(small, np.stack([shrink(frame, 16) for frame in stored]))


def test_a_size_larger_than_stored_is_an_error_with_the_command(built: Path) -> None:
    with pytest.raises(VideoFolderError, match=r"holds frames of 48 .* --size 48,400"):
        open_videos(str(built), "train", None, 400)


def test_commands_in_messages_keep_the_options_of_the_build(built: Path, tmp_path: Path) -> None:
    split_file = tmp_path / "my split.csv"
    split_file.write_text("mole,train\nant,held_out\n")
    (tmp_path / "source" / "ant" / "00000.jpg").write_bytes(b"")
    build_videos(
        str(tmp_path / "source"), built, [48], split_file=str(split_file), max_frames=2,
        skip_unreadable=True,
    )  # fmt: skip
    options = f"--split-file '{split_file}' --max-frames 2 --skip-unreadable`"
    with pytest.raises(VideoFolderError) as caught:
        open_videos(str(built), "train", None, 400)
    assert f"--size 48,400 {options}" in str(caught.value)
    parsed = build_parser().parse_args(shlex.split(str(caught.value).split("`")[1])[1:])
    assert parsed.split_file == str(split_file) and parsed.max_frames == 2
    for change in (
        lambda manifest: manifest.update(format=f"{FORMAT}0"),
        lambda manifest: manifest.update(videos=3, format=FORMAT),
    ):
        edit(built, change)
        with pytest.raises(VideoFolderError) as caught:
            open_videos(str(built), "train", None, 48)
        assert f"--size 48 {options}" in str(caught.value)


def test_too_few_videos_are_an_error_that_says_how_many_there_are(built: Path) -> None:
    with pytest.raises(VideoFolderError, match="has 2 train videos and 4 are asked for"):
        open_videos(str(built), "train", 4, 48)
    assert open_videos(str(built), "train", 1, 48).names == ("ant",)


def test_a_split_file_chooses_among_built_videos(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("mole,train\nant,held_out\n")
    source = open_videos(str(built), "train", None, 48, split_file=str(path))
    assert source.names == ("mole",)
    path.write_text("gull,train\n")
    with pytest.raises(VideoFolderError, match=r"built has no video gull; its videos are ant"):
        open_videos(str(built), "train", None, 48, split_file=str(path))


@pytest.mark.parametrize("change", ["missing", "cut"])
def test_a_file_missing_or_cut_is_named_when_the_folder_is_opened(built: Path, change: str) -> None:
    path = frames_path(built, "crow", 48)
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(VideoFolderError, match=r"48/crow\.npy .*`rl-system videos build .*source"):
        open_videos(str(built), "train", None, 48)


def test_a_damaged_file_is_named_when_its_video_is_first_used(built: Path) -> None:
    damage(frames_path(built, "crow", 48))
    source = open_videos(str(built), "train", None, 48)
    source.frames(0)
    with pytest.raises(VideoFolderError, match=r"48/crow\.npy is damaged: .*`rl-system videos bui"):
        source.frames(1)


def test_a_file_is_hashed_once_per_machine_and_again_when_it_changes(built: Path) -> None:
    path = frames_path(built, "ant", 48)
    open_videos(str(built), "train", None, 48).frames(0)
    (seal,) = (cache_folder() / "checked").iterdir()
    before = seal.stat().st_mtime_ns
    open_videos(str(built), "train", None, 48).frames(0)
    assert seal.stat().st_mtime_ns == before
    damage(path)
    with pytest.raises(VideoFolderError, match="is damaged"):
        open_videos(str(built), "train", None, 48).frames(0)


def test_a_source_that_changed_is_an_error_with_the_command(built: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "source" / "crow", 4, first=2)
    source = open_videos(str(built), "train", None, 48)
    source.frames(0)
    with pytest.raises(
        VideoFolderError,
        match=r"The video crow .* has changed .*`rl-system videos build .*--size 48",
    ):
        source.frames(1)


def test_a_source_that_was_only_copied_again_counts_as_the_same(
    built: Path, tmp_path: Path
) -> None:
    for path in (tmp_path / "source" / "crow").iterdir():
        os.utime(path, (1, 1))
    assert len(open_videos(str(built), "train", None, 48).frames(1)) == 3


def test_check_hashes_every_file_and_names_the_damaged_one(built: Path, tmp_path: Path) -> None:
    checked = dict(check_built(built))
    assert set(checked) == {frames_path(built, name, 48) for name in ("ant", "crow", "mole")}
    assert sum(checked.values()) == sum(path.stat().st_size for path in checked)
    path = frames_path(built, "mole", 48)
    status = path.stat()
    damage(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(VideoFolderError, match=r"48/mole\.npy is damaged"):
        list(check_built(built))
    with pytest.raises(VideoFolderError, match="holds no built frames"):
        list(check_built(tmp_path / "source"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"manifest\.json cannot be read"),
        ('{"format": "rl-system background frames 0"}', "has the format .* frames 0"),
        (f'{{"format": "{FORMAT}"}}', r"manifest\.json is damaged"),
        (f'{{"format": "{FORMAT}", "sour', r"manifest\.json cannot be read"),
    ],
)
def test_a_damaged_manifest_is_an_error_with_the_command_that_mends_it(
    built: Path, tmp_path: Path, text: str, message: str
) -> None:
    (built / MANIFEST).write_text(text)
    with pytest.raises(VideoFolderError, match=message) as caught:
        open_videos(str(built), "train", None, 48)
    assert f"build SOURCE {built}`" in str(caught.value) and "delete" not in str(caught.value)
    build_videos(str(tmp_path / "source"), built, [48])
    assert len(list(check_built(built))) == 3


def test_the_command_for_a_damaged_manifest_names_the_source_that_it_still_tells(
    built: Path, tmp_path: Path
) -> None:
    edit(built, lambda manifest: manifest.update(videos=None))
    with pytest.raises(VideoFolderError, match=f"build {tmp_path / 'source'} {built} --size 48`"):
        open_videos(str(built), "train", None, 48)


def test_a_manifest_whose_videos_lack_frames_is_damaged(built: Path) -> None:
    edit(built, lambda manifest: manifest["videos"][0]["files"].clear())
    with pytest.raises(VideoFolderError, match="videos without frames"):
        open_videos(str(built), "train", None, 48)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", ""])
def test_a_manifest_cannot_lead_out_of_its_folder(built: Path, name: str) -> None:
    edit(built, lambda manifest: manifest["videos"][0].update(name=name))
    with pytest.raises(VideoFolderError, match=r"manifest\.json is damaged"):
        open_videos(str(built), "train", None, 48)


@pytest.mark.parametrize(
    "content",
    [b'{"name": "a web page", "icons": []}', b"[1]", b"not JSON", b"", b"\xff\xfe\x00", None],
)
def test_a_manifest_of_something_else_leaves_a_folder_a_source(
    tmp_path: Path, content: bytes | None
) -> None:
    write_pictures(tmp_path / "web" / "ant")
    write_pictures(tmp_path / "web" / "400")
    if content is None:
        (tmp_path / "web" / MANIFEST).mkdir()
    else:
        (tmp_path / "web" / MANIFEST).write_bytes(content)
        with pytest.raises(VideoFolderError, match="holds other things"):
            build_videos("procedural", tmp_path / "web", [16])
    assert "ant" in open_videos(str(tmp_path / "web"), "train", None, 16).names
    build_videos(str(tmp_path / "web"), tmp_path / "out", [16])


def test_built_davis_must_be_complete_unless_it_was_built_with_a_split_file(
    tmp_path: Path,
) -> None:
    for name in ("bear", "boat", "bike-packing"):
        write_pictures(tmp_path / "part" / name, 1)
    build_videos(str(tmp_path / "part"), tmp_path / "out", [16])
    assert open_videos(str(tmp_path / "out"), "train", 1, 16).names == ("bear",)
    with pytest.raises(VideoFolderError, match=r"out has .* 1 of the first 3 train .*: bmx-bumps"):
        open_videos(str(tmp_path / "out"), "train", 3, 16)
    with pytest.raises(VideoFolderError, match="58 of all 60 train"):
        open_videos(str(tmp_path / "out"), "train", None, 16)
    (tmp_path / "split.csv").write_text("boat,train\nbear,train\n")
    chosen = str(tmp_path / "split.csv")
    assert len(open_videos(str(tmp_path / "out"), "train", None, 16, split_file=chosen).names) == 2
    build_videos(str(tmp_path / "part"), tmp_path / "chosen", [16], split_file=chosen)
    assert open_videos(str(tmp_path / "chosen"), "train", None, 16).names == ("boat", "bear")


def test_check_tells_videos_that_the_source_has_gained(built: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "source" / "frog", 2)
    write_pictures(tmp_path / "source" / "wolf", 2)
    with pytest.raises(
        VideoFolderError,
        match=r"has videos that are not in .* \(2, the first is (frog|wolf)\): .*`rl-s",
    ):
        list(check_built(built))
    assert open_videos(str(built), "train", None, 48).names == ("ant", "crow")
    build_videos(str(tmp_path / "source"), built, [48])
    assert len(list(check_built(built))) == 5


def test_check_knows_videos_that_were_left_out_and_sources_that_are_elsewhere(
    tmp_path: Path,
) -> None:
    for name in ("ant", "crow", "mole"):
        write_pictures(tmp_path / "source" / name, 1)
    (tmp_path / "source" / "crow" / "00000.jpg").write_bytes(b"")
    (tmp_path / "split.csv").write_text("ant,train\ncrow,train\n")
    build_videos(
        str(tmp_path / "source"), tmp_path / "out", [16],
        split_file=str(tmp_path / "split.csv"), skip_unreadable=True,
    )  # fmt: skip
    assert len(list(check_built(tmp_path / "out"))) == 1
    (tmp_path / "split.csv").unlink()
    assert len(list(check_built(tmp_path / "out"))) == 1
    shutil.rmtree(tmp_path / "source")
    assert len(list(check_built(tmp_path / "out"))) == 1


def test_names_with_any_character_are_built_and_found(tmp_path: Path) -> None:
    names = ["a.npy/deep", "back\\slash", "new\nline", "per%cent", "r\u00e9sum\u00e9", "what?"]
    for place, name in enumerate(names):
        write_pictures(tmp_path / "source" / name, 1, first=place)
    write_pictures(tmp_path / "source" / "a", 1)
    build_videos(str(tmp_path / "source"), tmp_path / "out", [16])
    assert len(list(check_built(tmp_path / "out"))) == 7
    stored = tmp_path / "out" / "16"
    files = {str(path.relative_to(stored)) for path in stored.rglob("*.npy") if path.is_file()}
    assert {"back%5Cslash.npy", "new%0Aline.npy", "per%25cent.npy", "a%2Enpy/deep.npy"} <= files
    built = open_videos(str(tmp_path / "out"), "train", None, 16)
    made = open_videos(str(tmp_path / "source"), "train", None, 16)
    assert built.names == made.names and {"new\nline", "back\\slash"} <= set(built.names)
    for index in range(len(made.names)):
        np.testing.assert_array_equal(built.frames(index), made.frames(index))


def test_procedural_videos_can_be_built_too(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("procedural-train-03,train\nprocedural-held_out-01,held_out\n")
    build_videos("procedural", tmp_path / "out", [16], split_file=str(path), max_frames=2)
    built = open_videos(str(tmp_path / "out"), "train", None, 16)
    assert built.names == ("procedural-train-03",)
    made = open_videos("procedural", "train", None, 16).frames(3)
    np.testing.assert_array_equal(built.frames(0), made[:2])
