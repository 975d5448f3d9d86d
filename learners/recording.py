"""A step on a GPU that is recorded once and replayed: its thousands of kernels start as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Step = Callable[[Mapping[str, Tensor]], Tensors]

WARM_UP = 3  # steps before the recording: optimisers and libraries allocate in them

logger = logging.getLogger(__name__)


class RecordedStep:
    """Calls `step` a few times as it is, records the next call as a CUDA graph, and from then on
    replays that.

    Every call does one step, the recorded ones too. The step must do the same work each time, on
    tensors of the same shapes, and must not read anything back from the device. If it cannot be
    recorded, a warning says why, and it is called as it is.

    Args:
        step: Takes a batch on the device and returns tensors there.
        generator: All random numbers of the step come from it.
    """

    def __init__(self, step: Step, generator: torch.Generator) -> None:
        self._step = step
        self._generator = generator
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: Tensors = {}
        self._outputs: Tensors = {}
        self._refused = False

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensors:
        """Do one step. The tensors returned hold until the next call."""
        if self._refused:
            return self._step(batch)
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._warm_up(batch)
        if self._graph is None and not self._record(batch):
            return self._step(batch)
        assert self._graph is not None
        for name, value in self._inputs.items():
            value.copy_(batch[name])
        self._graph.replay()
        return self._outputs

    def forget(self) -> None:
        """Record anew: the tensors that the step works on have been replaced."""
        self._calls, self._graph = 0, None
        self._inputs, self._outputs = {}, {}

    def _warm_up(self, batch: Mapping[str, Tensor]) -> Tensors:
        # On a stream of its own, as CUDA asks of what is recorded later.
        current, own = torch.cuda.current_stream(), torch.cuda.Stream()
        own.wait_stream(current)
        with torch.cuda.stream(own):
            outputs = self._step(batch)
        current.wait_stream(own)
        return outputs

    def _record(self, batch: Mapping[str, Tensor]) -> bool:
        """Whether the step was recorded; nothing is done by it yet."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        inputs = {name: value.clone() for name, value in batch.items()}
        try:
            # What other threads do meanwhile, such as the feed's, is no part of it and no error.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self._step(inputs)
        except RuntimeError as error:
            self._refused = True
            logger.warning(
                "The update cannot be recorded as a CUDA graph and runs as it is, which is slower "
                "(learner.cuda_graph=false hides this): %s",
                error,
            )
            return False
        self._graph, self._inputs, self._outputs = graph, inputs, outputs
        return True
