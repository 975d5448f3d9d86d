"""What a step is, and what a chunk of steps must look like.

The step convention, stated here and nowhere else. Step t holds

    observation     o_t, what the policy saw
    proprioception  the part of o_t that is no picture, such as joints, where there is one
    latent          the state the policy had reached on o_t, where it is kept
    action          a_t, what it did on seeing o_t
    reward          what a_t earned: the sum over the action repeat, known only after a_t
    is_first        o_t is the first observation of its episode
    is_last         the episode ended after a_t; the observation after it is not stored
    discount        1.0, or 0.0 where the task truly terminated after a_t (a time limit: 1.0)

Beware of the other common convention, in which step t holds the action that LED to o_t and the
reward that came WITH it: there the first action and reward of an episode are padding. To feed a
model written for it, shift action and reward one step later along T. Inside one window that loses
nothing but the reward of its last step; at the window's first step the previous action is unknown
unless `is_first` is set.

A chunk holds L steps of one episode, time-major; a batch holds (T, B, ...) arrays of the same names
and dtypes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from replay.errors import ChunkError

_PLACES = 8  # steps that a message names

Batch = dict[str, np.ndarray]  # name -> (T, B, ...)


class ChunkKey(NamedTuple):
    """Who made a chunk and where it lies: `start` is the index of its first step in the episode,
    counted from 0.
    """

    actor: str
    episode: int
    start: int


@dataclass(frozen=True)
class Chunk:
    """L consecutive steps of one episode: `steps` maps each field's name to an (L, ...) array."""

    key: ChunkKey
    steps: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        """The number of steps L."""
        return len(next(iter(self.steps.values()))) if self.steps else 0

    @property
    def is_last(self) -> bool:
        """Whether the episode ends with this chunk."""
        return bool(self.steps["is_last"][-1])


@dataclass(frozen=True)
class Field:
    """One array of a step: its name, the shape of a single step (no T, no B), and its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of one step."""
        return int(math.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def mismatch(self, values: Any, length: int) -> str | None:
        """What was expected and what came, if `values` are not `length` steps of this field: an
        array of its dtype and shape, finite, and a discount from 0 to 1.
        """
        shape = (length, *self.shape)
        if not isinstance(values, np.ndarray):
            return f"{self.dtype} {shape}, got a {type(values).__name__}"
        if values.shape != shape or values.dtype != np.dtype(self.dtype):
            return f"{self.dtype} {shape}, got {values.dtype} {values.shape}"
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            wrong = np.logical_not(np.isfinite(values).reshape(length, -1).all(axis=1))
            return f"finite numbers, got others at {_places(np.asarray(wrong))}"
        if self.name == "discount" and (values.min() < 0 or values.max() > 1):
            return f"numbers from 0 to 1, got {values.min():g} to {values.max():g}"
        return None


@dataclass(frozen=True)
class Schema:
    """The fields of a step, in order. `is_first` and `is_last` are always among them."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        """Refuses repeated names and a schema without episode borders."""
        names = [field.name for field in self.fields]
        if len(set(names)) != len(names):
            raise ChunkError(f"A schema names each field once, got {names}.")
        for border in ("is_first", "is_last"):
            if border not in names:
                raise ChunkError(f"A schema needs the boolean field {border!r}, got {names}.")

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all fields."""
        return frozenset(field.name for field in self.fields)

    @property
    def bytes_per_step(self) -> int:
        """Bytes of one step over all fields."""
        return sum(field.nbytes for field in self.fields)

    def empty(self, *lead: int) -> dict[str, np.ndarray]:
        """Unset arrays of shape (*lead, *field.shape), one per field; large ones cost no memory
        until written.
        """
        return {field.name: np.empty((*lead, *field.shape), field.dtype) for field in self.fields}

    def validate(self, chunk: Chunk) -> None:
        """Raises `ChunkError` unless `chunk` has exactly these fields, dtypes and shapes, finite
        numbers, and borders where its key says.

        `is_first` is set on step 0 of an episode and nowhere else; `is_last` at most on the chunk's
        final step.
        """
        if not isinstance(chunk, Chunk):
            raise ChunkError(f"Replay takes a Chunk, got {type(chunk).__name__}.")
        where = f"chunk {tuple(chunk.key)}"
        if not all(isinstance(count, (int, np.integer)) for count in chunk.key[1:]):
            raise ChunkError(f"{where}: episode and start are whole numbers.")
        if chunk.key.episode < 0 or chunk.key.start < 0:
            raise ChunkError(f"{where}: episode and start count from 0.")
        if chunk.steps.keys() != self.names:
            missing, extra = (
                sorted(self.names - chunk.steps.keys()),
                sorted(chunk.steps.keys() - self.names),
            )
            raise ChunkError(
                f"{where}: fields missing {missing}, fields not in the schema {extra}."
            )
        length = len(chunk)
        if length == 0:
            raise ChunkError(f"{where}: a chunk holds at least one step, got 0.")
        for field in self.fields:
            wrong = field.mismatch(chunk.steps[field.name], length)
            if wrong is not None:
                raise ChunkError(f"{where}: field {field.name!r} expected {wrong}.")
        is_first, is_last = chunk.steps["is_first"], chunk.steps["is_last"]
        if bool(is_first[0]) != (chunk.key.start == 0) or is_first[1:].any():
            raise ChunkError(
                f"{where}: field 'is_first' expected True on step 0 of the episode and nowhere "
                f"else, got it at {_places(is_first)}."
            )
        if is_last[:-1].any():
            raise ChunkError(
                f"{where}: field 'is_last' expected at most on the chunk's final step, got it at "
                f"{_places(is_last)}."
            )

    def to_json(self) -> list[dict[str, Any]]:
        """The schema as plain lists, for a manifest."""
        return [{"name": f.name, "shape": list(f.shape), "dtype": f.dtype} for f in self.fields]

    @classmethod
    def from_json(cls, fields: Sequence[Mapping[str, Any]]) -> Schema:
        """The inverse of `to_json`."""
        return cls(tuple(Field(str(f["name"]), tuple(f["shape"]), str(f["dtype"])) for f in fields))


def step_schema(
    observation_shape: Sequence[int],
    action_size: int,
    proprioception_size: int = 0,
    *,
    views: Mapping[str, Sequence[int]] | None = None,
    latent_size: int = 0,
) -> Schema:
    """The system's schema: uint8 (H, W, 3) observations, float32 (A,) actions, and the four scalars
    of a step. On request also: float32 (P,) proprioception, further uint8 `views` by name (other
    cameras, of any shape), and the float32 (S,) latent state that the policy acted on.
    """
    fields = [Field("observation", _ints(observation_shape), "uint8")]
    fields += [Field(name, _ints(shape), "uint8") for name, shape in (views or {}).items()]
    if proprioception_size:
        fields.append(Field("proprioception", (int(proprioception_size),), "float32"))
    if latent_size:
        fields.append(Field("latent", (int(latent_size),), "float32"))
    fields += [
        Field("action", (int(action_size),), "float32"),
        Field("reward", (), "float32"),
        Field("is_first", (), "bool"),
        Field("is_last", (), "bool"),
        Field("discount", (), "float32"),
    ]
    return Schema(tuple(fields))


def _places(marked: np.ndarray) -> str:
    """Which steps of a chunk are marked, the first few of them."""
    steps = np.flatnonzero(marked).tolist()
    more = ", ..." if len(steps) > _PLACES else ""
    return f"steps [{', '.join(map(str, steps[:_PLACES]))}{more}] of the chunk"


def _ints(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(size) for size in shape)
