"""A step on a GPU that is recorded once and replayed: its thousands of kernels start as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Step = Callable[[Mapping[str, Tensor]], Tensors]

WARM_UP = 3  # steps before the recording: optimisers and libraries allocate in them


class RecordedStep:
    """Calls `step` a few times as it is, records the next call as a CUDA graph, and from then on
    replays that.

    Every call does one step, the recorded ones too. The step must do the same work each time, on
    tensors of the same shapes, and must not read anything back from the device.

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

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensors:
        """Do one step. The tensors returned hold until the next call.

        Raises:
            RuntimeError: The step cannot be recorded; CUDA's state is not to be relied on then.
        """
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._warm_up(batch)
        if self._graph is None:
            self._graph = self._record(batch)
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

    def _record(self, batch: Mapping[str, Tensor]) -> torch.cuda.CUDAGraph:
        """Records the step; nothing of it is done yet."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        inputs = {name: value.clone() for name, value in batch.items()}
        try:
            # What other threads do meanwhile, such as the feed's, is no part of it and no error.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self._step(inputs)
        except RuntimeError as error:
            raise RuntimeError(
                "The update cannot be recorded as a CUDA graph: set learner.cuda_graph=false and "
                f"resume from the last checkpoint. ({error})"
            ) from error
        self._inputs, self._outputs = inputs, outputs
        return graph
