"""What N shards have saved, divided among M shards."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from replay.limiter import Limiter
from replay.seeds import seed_for
from replay.table import ACTORS_REMEMBERED, EPISODES_REMEMBERED


@dataclass(frozen=True)
class Source:
    """What one shard is to load: share `index` of `count` of what the shards that wrote `parts`
    held together. Of one part for one shard that is everything, unchanged.
    """

    parts: tuple[str, ...]  # directories
    index: int = 0
    count: int = 1

    @property
    def unchanged(self) -> bool:
        """Whether one shard loads exactly what one shard has saved."""
        return len(self.parts) == self.count == 1

    def __str__(self) -> str:
        """For messages."""
        share = "" if self.count == 1 else f"share {self.index + 1} of {self.count} of "
        return share + " and ".join(self.parts)


def distributed(lengths: Sequence[Sequence[int]], count: int) -> list[list[tuple[int, int]]]:
    """Divides the segments of several shards among `count`.

    Args:
        lengths: For each saved shard the steps of its segments, oldest first.
        count: Shards to divide them among.

    Returns:
        For each new shard its segments as (saved shard, place there), oldest first. Their steps
        differ between new shards by no more than the longest segment.
    """
    aged = []  # (steps its shard has received since, shard, place)
    for shard, segments in enumerate(lengths):
        younger = 0
        for place in reversed(range(len(segments))):
            aged.append((younger, shard, place))
            younger += segments[place]
    given = [0] * count
    shares: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for _, shard, place in sorted(aged, key=lambda entry: (entry[0], entry[1], -entry[2])):
        receiver = given.index(min(given))
        given[receiver] += lengths[shard][place]
        shares[receiver].append((shard, place))
    return [share[::-1] for share in shares]


def merged_table_state(
    states: Sequence[Mapping[str, Any]], index: int, count: int
) -> dict[str, Any]:
    """The table state of new shard `index` of `count`: its part of the counts, and all that any
    shard remembers of chunks received. The next ordinal is for the caller to set.
    """
    state = {
        name: part_of(sum(state[name] for state in states), index, count)
        for name in (
            "inserted_agent_steps",
            "removed_agent_steps",
            "finished_episodes",
            "repeated_chunks",
            "gaps",
        )
    }
    return state | {"received": _merged_memory([state["received"] for state in states])}


def merged_owner(
    owners: Sequence[Mapping[str, Any]], index: int, count: int, limiter: Limiter
) -> dict[str, Any]:
    """What `ReplayShard` has saved beside the table, for new shard `index` of `count`.

    Over the new shards the limiters' counts add up to the saved ones, and so does who is ahead by
    how much; `limiter` is the new shard's, as it was made. Its random state follows from the saved
    ones.
    """
    states = [json.dumps(owner["generator"], sort_keys=True) for owner in owners]
    seed = seed_for(0, *states, "share", index, "of", count)
    return {
        "limiter": _divided_limiter(
            [owner["limiter"] for owner in owners], index, count, limiter.state_dict()
        ),
        "generator": np.random.default_rng(seed).bit_generator.state,
        "samplers": merged_samplers([owner["samplers"] for owner in owners]),
        "skipped_agent_steps": part_of(
            sum(owner["skipped_agent_steps"] for owner in owners), index, count
        ),
    }


def merged_samplers(saved: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of each sampler, by name, when segments have new ordinals: the largest priority of
    all, and no places in the tree.
    """
    merged: dict[str, Any] = {}
    for samplers in saved:
        for name, state in samplers.items():
            largest = state["largest_priority"]
            if name in merged:
                largest = max(largest, merged[name]["largest_priority"])
            merged[name] = {"largest_priority": largest, "rows": []}
    return merged


def part_of(total: float, index: int, count: int) -> float:
    """Part `index` of `count` of a total; the parts of an integer are integers that add up to
    it.
    """
    if isinstance(total, int):
        return total // count + (index < total % count)
    return total / count


def _divided_limiter(
    states: Sequence[Mapping[str, Any]], index: int, count: int, own: Mapping[str, Any]
) -> dict[str, Any]:
    divided = dict(states[0])
    for name, first in states[0].items():
        if isinstance(first, (int, float)) and not isinstance(first, bool):
            divided[name] = part_of(sum(state[name] for state in states), index, count)
    saved, made_with = states[0]["limits"], dict(states[0]["made_with"])
    # The minimum and the band of a shard follow from their number, unless they were set by hand.
    limits = {name: value for name, value in saved.items() if value != made_with[name]}
    if "minimum" in limits:
        limits["minimum"] = -(-sum(state["limits"]["minimum"] for state in states) // count)
    # A shard's minimum is rounded up from that of all: only beyond that has the setting changed.
    all_saved = made_with["minimum"] * len(states)
    if abs(all_saved - own["made_with"]["minimum"] * count) < max(count, len(states)):
        made_with["minimum"] = own["made_with"]["minimum"]
    made_with["band"] = own["made_with"]["band"]
    return divided | {"limits": made_with | limits, "made_with": made_with}


def _merged_memory(memories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each actor and episode the furthest that any shard has received; the actors heard of last
    come last.
    """
    recency: dict[str, int] = {}  # actor -> its place from the end, in the shard that heard it last
    for memory in memories:
        for place, actor in enumerate(reversed(list(memory))):
            recency[actor] = min(place, recency.get(actor, place))
    actors = sorted(recency, key=lambda actor: (-recency[actor], actor))[-ACTORS_REMEMBERED:]
    merged = {}
    for actor in actors:
        known = [memory[actor] for memory in memories if actor in memory]
        forgotten = max(received["forgotten"] for received in known)
        next_start: dict[int, int] = {}
        for received in known:
            for episode, end in received["next_start"]:
                next_start[episode] = max(end, next_start.get(episode, 0))
        ended = {episode for received in known for episode in received["ended"]}
        recent = OrderedDict(sorted(next_start.items()))
        while len(recent) > EPISODES_REMEMBERED:
            oldest, _ = recent.popitem(last=False)
            forgotten = max(forgotten, oldest)
        merged[actor] = {
            "forgotten": forgotten,
            "next_start": [list(pair) for pair in recent.items()],
            "ended": sorted(ended & recent.keys()),
        }
    return merged
