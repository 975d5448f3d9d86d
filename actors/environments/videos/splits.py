"""Which videos are to train on and which are held out. No video is ever in both.

In order of preference: a split file; the published lists, where most videos have names of DAVIS
2017; the folders `train`, `val` and `test` of a layout; else a hash of each name, which holds out
about a third and says the same on every machine.

Levels are defined by the published lists: a folder that is DAVIS by its names and lacks videos that
a level shows is an error, never a smaller level. A split file is the user's own choice.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from pathlib import Path

from actors.environments.videos import davis, procedural
from actors.environments.videos.clips import Clip, ProceduralClip, VideoFolderError
from actors.environments.videos.folders import expand_path, find_clips
from actors.environments.videos.messages import counted

SPLITS = ("train", "held_out")
_DIGITS = re.compile(r"\d+")
_PUBLISHED = {"train": davis.TRAIN_VIDEOS, "held_out": davis.HELD_OUT_VIDEOS}
_SAID = {"train": "to train on", "held_out": "held out"}
_NAMED = 3  # videos that a message names
_ALIKE = 0.8  # names that are less so are no slips of the pen


def find_source(source: str, split_file: str | None) -> dict[str, tuple[Clip, ...]]:
    """Returns the clips of each split of "procedural" or a folder, in the splits' order.

    Raises:
        VideoFolderError: there is none, or the split file does not fit.
    """
    if source == "procedural":
        clips: list[Clip] = [
            ProceduralClip(name, split) for split in SPLITS for name in procedural.names(split)
        ]
    else:
        clips = [*find_clips(expand_path(source, "environment.videos"))]
    by_name = {clip.name: clip for clip in clips}
    where = "the set of procedural videos" if source == "procedural" else source
    splits = split_videos({clip.name: clip.split for clip in clips}, split_file, where)
    return {split: tuple(by_name[name] for name in names) for split, names in splits.items()}


def split_videos(
    layout: Mapping[str, str | None], split_file: str | None, where: str
) -> dict[str, tuple[str, ...]]:
    """Returns the names of each split, in the order from which the first n are taken.

    Args:
        layout: every video's name, and the split that its source gives it or None.
        split_file: see `read_split_file`; its videos alone are used. None: no such file.
        where: the folder, for messages.

    Raises:
        VideoFolderError: the split file cannot be used.
    """
    if split_file is not None:
        return read_split_file(expand_path(split_file, "environment.videos_split"), layout, where)
    if is_davis(layout):
        return {
            split: tuple(name for name in names if name in layout)
            for split, names in _PUBLISHED.items()
        }
    if any(split is not None for split in layout.values()):
        # Videos beside the folders of the splits belong to neither.
        return group_by_split({name: split for name, split in layout.items() if split is not None})
    return group_by_split({name: _by_hash(name) for name in layout})


def is_davis(names: Iterable[str]) -> bool:
    """Whether most of these names are in the published lists of DAVIS 2017."""
    known = {*davis.TRAIN_VIDEOS, *davis.HELD_OUT_VIDEOS}
    found = [name in known for name in names]
    return 2 * sum(found) > len(found)


def check_published(
    names: Collection[str], count: int | None, where: str, split: str, rebuild: str | None = None
) -> None:
    """Checks that DAVIS has the first `count` videos of a published list, all for None.

    Args:
        names: every video that is there; videos of other names than DAVIS's say that this is
            another data set, for which nothing is checked.
        count: how many are asked for.
        where: the folder, for the message.
        split: whose list.
        rebuild: the command that builds the folder again, None for one that is not built.

    Raises:
        VideoFolderError: some are missing; the message names the first of them.
    """
    if not is_davis(names):
        return
    published = _PUBLISHED[split]
    missing = [name for name in published[:count] if name not in names]
    if not missing:
        return
    asked = f"all {len(published)}" if count is None else f"the first {count}"
    named = ", ".join(missing[:_NAMED])
    named += f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    leading = published.index(missing[0])
    fewer = f"set environment.num_videos to at most {leading}, " if leading else ""
    raise VideoFolderError(
        f"{where} has the names of DAVIS 2017, but {len(missing)} of {asked} {split} videos are "
        f"missing or without pictures: {named}. Fetch DAVIS again (`rl-system videos fetch davis`"
        f"{f', then `{rebuild}`' if rebuild else ''}), {fewer}or name the videos to use in a split "
        "file (environment.videos_split)."
    )


def read_split_file(
    path: Path, layout: Mapping[str, str | None], where: str
) -> dict[str, tuple[str, ...]]:
    """Reads a text file with a line `name,train` or `name,held_out` for every video to use.

    Empty lines, lines that begin with # and a first line `name,split` are left out. Videos without
    a line are not used. "The first n videos" are the first in the file.

    Args:
        path: the file.
        layout: the names of all videos there are.
        where: the folder that they lie in, for messages.

    Raises:
        VideoFolderError: the file cannot be read, a line has another form, or names a video that
            does not exist or was named before; the message has the line's number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VideoFolderError(
            f"The split file {path} cannot be read ({error}): set environment.videos_split to a "
            "text file of lines such as bear,train, or to null."
        ) from error
    found: dict[str, str] = {}
    first_at: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#") or (not found and text == "name,split"):
            continue
        name, comma, split = (part.strip() for part in text.rpartition(","))
        if not comma or split not in SPLITS:
            raise VideoFolderError(
                f"{path}, line {number}: {text!r} is not of the form name,train or name,held_out."
            )
        if name in found:
            raise VideoFolderError(
                f"{path}, line {number}: {name} stands already in line {first_at[name]} as "
                f"{found[name]}. A video is in one split, once."
            )
        if name not in layout:
            raise VideoFolderError(
                f"{path}, line {number}: {where} has no video {name}; {_known(name, layout)}."
            )
        found[name], first_at[name] = split, number
    if not found:
        raise VideoFolderError(f"The split file {path} names no video: write lines name,train.")
    return group_by_split(found)


def first_videos(
    names: tuple[str, ...], count: int | None, where: str, split: str, hint: str = ""
) -> tuple[str, ...]:
    """Returns the first `count` names, all for None.

    Args:
        names: the videos of the split.
        count: how many are asked for.
        where: the folder, for messages.
        split: its name, for messages.
        hint: a further sentence for messages, with a space before it.

    Raises:
        VideoFolderError: there are fewer, or none at all.
    """
    if not names and count != 0:
        raise VideoFolderError(
            f"{where} has no {split} video: say which are with environment.videos_split, give "
            f"another folder, or procedural.{hint}"
        )
    if count is not None and count > len(names):
        raise VideoFolderError(
            f"{where} has {counted(len(names), f'{split} video')} and {count} are asked for: set "
            f"environment.num_videos to at most {len(names)}, say which videos are {_SAID[split]} "
            f"in a split file (environment.videos_split), or give another folder.{hint}"
        )
    return names if count is None else names[:count]


def group_by_split(splits: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Returns the names of each split in the order given, from the split of every name."""
    return {
        wanted: tuple(name for name, split in splits.items() if split == wanted)
        for wanted in SPLITS
    }


def check_split(split: str) -> None:
    """Raises VideoFolderError if `split` is no split's name."""
    if split not in SPLITS:
        raise VideoFolderError(f"The split of videos is {split!r}; choose train or held_out.")


def _known(name: str, layout: Mapping[str, str | None]) -> str:
    """Returns what to write instead of a name that does not exist: one like it, or examples."""
    # Names that differ in their numbers are different videos, however alike they are.
    same_numbers = [known for known in layout if _DIGITS.findall(known) == _DIGITS.findall(name)]
    near = difflib.get_close_matches(name, same_numbers, n=1, cutoff=_ALIKE)
    if near:
        return f"perhaps {near[0]} is meant"
    first = ", ".join(islice(layout, _NAMED))
    more = len(layout) - _NAMED
    return f"its videos are {first}" + (f" and {more} more" if more > 0 else "")


def _by_hash(name: str) -> str:
    return "held_out" if hashlib.sha256(name.encode()).digest()[0] % 3 == 0 else "train"
