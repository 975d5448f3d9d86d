from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from actors.environments.videos.clips import VideoFolderError, open_array
from actors.environments.videos.messages import counted, reason, way_out


def test_one_is_counted_without_a_plural() -> None:
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EACCES, "get permission"),
        (errno.EROFS, "get permission"),
        (errno.ENOTDIR, "a file lies where a folder should be"),
        (errno.EIO, "mend that"),
    ],
)
def test_the_way_out_fits_the_error(number: int, words: str) -> None:
    advice = way_out(OSError(number, "what the system says"))
    assert words in advice and "give another folder" in advice
    assert ("make room" in advice) == (number == errno.ENOSPC)


def test_an_error_inside_a_sentence_has_no_full_stop_of_its_own(tmp_path: Path) -> None:
    assert reason(ValueError("no good.")) == "no good"
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    with pytest.raises(VideoFolderError, match=r"objects in dtype\. Save it again") as caught:
        open_array(tmp_path / "objects.npy")
    assert ".." not in str(caught.value).replace(str(tmp_path), "")
