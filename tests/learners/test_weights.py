"""Weights as one array: what is in it, and what is refused."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learners.weights import FlatWeights, Published

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def tensors(seed: int = 0, device: str = "cpu") -> dict[str, Tensor]:
    """A matrix, convolutions whose channels come last in memory, and a number."""
    generator = torch.Generator().manual_seed(seed)
    convolutions = torch.randn(4, 3, 2, 2, generator=generator).to(device)
    return {
        "matrix": nn.Parameter(torch.randn(3, 5, generator=generator).to(device)),
        "convolutions": convolutions.to(memory_format=torch.channels_last),
        "number": torch.randn((), generator=generator).to(device),
    }


def published(weights: FlatWeights) -> Published:
    """What others get: pickled, and not to be written."""
    flat = torch.empty(weights.size, device=weights.device)
    weights.flatten(flat)
    layout, values = pickle.loads(pickle.dumps((weights.layout, flat.cpu().numpy())))
    values.setflags(write=False)
    return layout, values


@pytest.mark.parametrize("device", DEVICES)
def test_the_array_holds_the_tensors_in_order_each_row_by_row(device: str) -> None:
    given = tensors(device=device)
    layout, values = published(FlatWeights(given))
    assert layout == (("matrix", (3, 5)), ("convolutions", (4, 3, 2, 2)), ("number", ()))
    rows = [np.ravel(value.detach().cpu().numpy(), order="C") for value in given.values()]
    np.testing.assert_array_equal(values, np.concatenate(rows))
    assert values.dtype == np.float32


@pytest.mark.parametrize("device", DEVICES)
def test_loaded_weights_are_bit_for_bit_those_that_were_flattened(device: str) -> None:
    source, target = tensors(0), tensors(1, device)
    with torch.no_grad():
        source["matrix"][0, :3] = torch.tensor([float("nan"), float("-inf"), -0.0])
    before = {name: (value.data_ptr(), value.stride()) for name, value in target.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as torch's of arrays that cannot be written
        FlatWeights(target).load(published(FlatWeights(source)))
    for name, value in target.items():
        equal = value.detach().cpu().numpy().tobytes() == source[name].detach().numpy().tobytes()
        assert equal, name
        assert (value.data_ptr(), value.stride()) == before[name]


def test_weights_are_those_of_the_moment_when_they_are_flattened() -> None:
    given = tensors()
    weights = FlatWeights(given)
    first = published(weights)
    with torch.no_grad():
        for value in given.values():
            value += 1.0
    np.testing.assert_array_equal(published(weights)[1], first[1] + np.float32(1.0))


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"number": torch.zeros(2)}, r"number \(2,\) there, number \(\) here"),
        ({"more": torch.zeros(7)}, r"more \(7,\) there, nothing more here"),
    ],
    ids=["another shape", "one more"],
)
def test_weights_of_other_tensors_are_refused_by_what_differs_and_nothing_changes(
    others: dict[str, Tensor], said: str
) -> None:
    own = tensors(1)
    before = {name: value.clone() for name, value in own.items()}
    theirs = published(FlatWeights(tensors(0) | others))
    with pytest.raises(ValueError, match=said) as error:
        FlatWeights(own).load(theirs)
    assert "one settings.yaml" in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in own.items())


def test_an_array_that_is_not_what_its_layout_says_is_refused() -> None:
    weights = FlatWeights(tensors())
    layout, values = published(weights)
    for wrong in (values[:-1], values.astype(np.float64), values[None]):
        with pytest.raises(ValueError, match=r"layout has float32 \(64,\)"):
            weights.load((layout, wrong))


def test_the_same_tensors_in_another_order_are_other_weights() -> None:
    given = tensors()
    turned = dict(reversed(given.items()))
    with pytest.raises(ValueError, match=r"number \(\) there, matrix \(3, 5\) here"):
        FlatWeights(given).load(published(FlatWeights(turned)))


def test_tensors_that_are_not_float32_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"count is torch\.int64"):
        FlatWeights(tensors() | {"count": torch.zeros(1, dtype=torch.int64)})
    with pytest.raises(ValueError, match="at least one tensor"):
        FlatWeights({})
