"""Updates that are compiled or recorded are the updates that they stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from learners.cvrl_update import CVRLUpdate
from tests.learners import cvrl_agents

needs_gpu = pytest.mark.gpu


@pytest.mark.slow  # the compiler takes its time
@pytest.mark.parametrize("order", ["sequential", "fused"])
def test_compiled_kernels_make_the_same_updates(make_update, batch, order):
    plain, compiled = (
        make_update(update_order=order, compile_kernels=compiled, precision="float32")
        for compiled in (False, True)
    )
    begun = {name: value.clone() for name, value in plain.agent.state_dict().items()}
    for _ in range(3):
        plain.step(batch)
        compiled.step(batch)
    theirs = compiled.agent.state_dict()
    for name, value in plain.agent.state_dict().items():
        moved = (value - begun[name]).norm()
        assert (theirs[name] - value).norm() <= 1e-3 * moved + 1e-6, name


@needs_gpu
@pytest.mark.parametrize("order", ["sequential", "fused"])
def test_a_recorded_update_equals_the_same_kernels_one_by_one(make_gpu_update, batch, order):
    plain, recorded = (
        make_gpu_update(update_order=order, cuda_graph=graph, precision="float32")
        for graph in (False, True)
    )
    assert_equal_updates(plain, recorded, batch)


@needs_gpu
def test_a_recorded_update_of_cvrl_equals_the_same_kernels_one_by_one(batch):
    def make(cuda_graph: bool) -> CVRLUpdate:
        learner = replace(cvrl_agents.LEARNER, cuda_graph=cuda_graph)
        agent = cvrl_agents.make_agent(learner=learner, learn_temperature=True).cuda()
        return CVRLUpdate(agent, learner, agent.objective, agent.settings, "cuda")

    assert_equal_updates(make(False), make(True), batch)


def assert_equal_updates(plain, recorded, batch):
    on_gpu = {name: torch.from_numpy(value).cuda() for name, value in batch.items()}
    for _ in range(8):
        plain.step(on_gpu)
        recorded.step(on_gpu)
    theirs = recorded.agent.state_dict()
    for name, value in plain.agent.state_dict().items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert recorded.metrics().keys() == plain.metrics().keys()


@needs_gpu
def test_a_recorded_update_goes_on_from_a_loaded_state(make_gpu_update, batch):
    recorded = make_gpu_update(cuda_graph=True, precision="float32")
    on_gpu = {name: torch.from_numpy(value).cuda() for name, value in batch.items()}
    for _ in range(6):
        recorded.step(on_gpu)
    weights = {name: value.clone() for name, value in recorded.agent.state_dict().items()}
    state = recorded.state_dict()
    first = [recorded.step(on_gpu) for _ in range(6)] and recorded.agent.state_dict()
    first = {name: value.clone() for name, value in first.items()}
    recorded.agent.load_state_dict(weights)
    recorded.load_state_dict(state)
    for _ in range(6):
        recorded.step(on_gpu)
    for name, value in recorded.agent.state_dict().items():
        torch.testing.assert_close(value, first[name], rtol=1e-4, atol=1e-5, msg=name)
