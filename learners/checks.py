"""What a section of settings refuses by itself: values out of range, each named with its path."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar


class Section:
    """One section of the configuration: a frozen dataclass that refuses what cannot work.

    Attributes:
        section: Its name in the configuration, which stands before the field's in what is said.

    Raises:
        ValueError: Values cannot work. Each has a line that names the field and what it may be.
    """

    section: ClassVar[str]

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise ValueError("\n".join(problems))

    def problems(self) -> list[str]:
        """Return a sentence for each thing that cannot work; a class with more adds its own."""
        return []

    def names_ending(self, ending: str) -> list[str]:
        """Return the names of the fields that end so."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return [item.name for item in fields if item.name.endswith(ending)]

    def not_among(self, allowed: dict[str, Sequence[str]]) -> list[str]:
        """Return what is said of texts that are none of those `allowed` for their field."""
        return [
            f"{self.section}.{name}={value!r}: choose one of {', '.join(texts)}."
            for name, texts in allowed.items()
            if (value := getattr(self, name)) not in texts
        ]

    def not_above_zero(self, *names: str) -> list[str]:
        """Return what is said of numbers of 0 or less."""
        return self._unfit(names, lambda value: value > 0, "it must be above 0")

    def not_zero_or_more(self, *names: str) -> list[str]:
        """Return what is said of numbers that are negative or infinite."""
        return self._unfit(
            names, lambda value: 0 <= value < math.inf, "it must be a number of 0 or more"
        )

    def not_from_zero_to_one(self, *names: str) -> list[str]:
        """Return what is said of numbers outside [0, 1]."""
        return self._unfit(names, lambda value: 0 <= value <= 1, "it must be from 0 to 1")

    def not_from_zero_below_one(self, *names: str) -> list[str]:
        """Return what is said of numbers outside [0, 1)."""
        return self._unfit(names, lambda value: 0 <= value < 1, "it must be from 0 to below 1")

    def below(self, least: int, *names: str) -> list[str]:
        """Return what is said of numbers below `least`."""
        return self._unfit(names, lambda value: value >= least, f"it must be {least} or more")

    def without_units(self, *names: str) -> list[str]:
        """Return what is said of layers without a unit; there may be none of the layers."""
        problems = []
        for name in names:
            value = getattr(self, name)
            widths = value if isinstance(value, tuple) else (value,)
            if any(width < 1 for width in widths):
                shown = list(widths) if isinstance(value, tuple) else value
                problems.append(
                    f"{self.section}.{name} is {shown}; every layer needs 1 unit or more."
                )
        return problems

    def without_layers(self, *names: str) -> list[str]:
        """Return what is said of empty lists of layers."""
        return [
            f"{self.section}.{name} is empty; it needs one layer or more."
            for name in names
            if not getattr(self, name)
        ]

    def unequal_lengths(self, what: str, *names: str) -> list[str]:
        """Return what is said of lists that should have one entry for each of `what`."""
        lengths = {name: len(getattr(self, name)) for name in names}
        if len(set(lengths.values())) == 1:
            return []
        counts = ", ".join(f"{self.section}.{name} has {n}" for name, n in lengths.items())
        return [f"Every {what} needs one entry in each list, but {counts}."]

    def _unfit(self, names: Sequence[str], fits: Callable[[Any], bool], said: str) -> list[str]:
        return [
            f"{self.section}.{name} is {value}; {said}."
            for name in names
            if (value := getattr(self, name)) is not None and not fits(value)
        ]


class ConvolutionalSection(Section):
    """A model with an encoder of convolutions: `conv_channels`, `_kernels`, `_strides`, `_paddings`
    with one entry for each convolution.
    """

    section = "model"
    conv_channels: tuple[int, ...]
    conv_kernels: tuple[int, ...]
    conv_strides: tuple[int, ...]
    conv_paddings: tuple[int, ...]

    def side_left(self, side: int) -> int:
        """Return what the convolutions leave of a picture's side, pixels; below 1: nothing."""
        sizes = zip(self.conv_kernels, self.conv_strides, self.conv_paddings, strict=True)
        for kernel, stride, padding in sizes:
            side = (side + 2 * padding - kernel) // stride + 1
            if side < 1:
                break
        return side

    def problems(self) -> list[str]:
        """Return what is wrong with the convolutions and the widths of layers."""
        names = self.names_ending("_dims")
        problems = super().problems() + self.without_units(*names, "conv_channels")
        for name, least in {"conv_kernels": 1, "conv_strides": 1, "conv_paddings": 0}.items():
            sizes = getattr(self, name)
            if any(size < least for size in sizes):
                problems.append(
                    f"model.{name} is {list(sizes)}; each entry must be {least} or more."
                )
        problems += self.without_layers("conv_channels")
        return problems + self.unequal_lengths(
            "convolution", "conv_channels", "conv_kernels", "conv_strides", "conv_paddings"
        )
