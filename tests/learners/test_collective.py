"""Several learners, each with a part of every batch, are the one that has the whole."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from learners.collective import Collective
from learners.conductor import Conductor
from learners.core import CoReAgent
from learners.core_update import CoReUpdate
from learners.cvrl_update import CVRLUpdate
from learners.noise import SharedGenerator, normal, uniform
from learners.settings import ObjectiveSettings
from learners.update import Update
from tests.learners import cvrl_agents
from tests.learners.conftest import ACTION_DIMS, BEHAVIOR, LEARNER, MODEL, replace

LEARNERS, WINDOWS, STEPS, UPDATES = 2, 6, 5, 3


def make_core(order: str, learners: Collective, **objective) -> CoReUpdate:
    torch.manual_seed(learners.rank)  # weights differ until they are given to all
    settings = replace(LEARNER, update_order=order, precision="float32")
    terms = ObjectiveSettings(**objective)
    agent = CoReAgent(MODEL, terms, BEHAVIOR, settings, ACTION_DIMS)
    learners.broadcast(agent.state_dict().values())
    return CoReUpdate(agent, settings, terms, BEHAVIOR, seed=7, learners=learners)


def make_cvrl(learners: Collective, **objective) -> CVRLUpdate:
    terms = replace(cvrl_agents.OBJECTIVE, **objective)
    agent = cvrl_agents.make_agent(learners.rank, objective=terms, learn_temperature=True)
    learners.broadcast(agent.state_dict().values())
    settings = cvrl_agents.LEARNER
    return CVRLUpdate(agent, settings, terms, agent.settings, seed=7, learners=learners)


CASES: dict[str, Callable[[Collective], Update]] = {
    "sequential": partial(make_core, "sequential"),
    "fused": partial(make_core, "fused"),
    "same sequence": partial(make_core, "fused", negatives="same_sequence"),
    "other sequences": partial(make_core, "sequential", negatives="other_sequences"),
    "same sequence, not gathered": partial(
        make_core,
        "fused",
        negatives="same_sequence",
        gather_negatives=False,
        contrastive_reduction="sum",
        contrastive_scale=0.01,
    ),
    "own negatives": partial(make_core, "fused", gather_negatives=False),
    "sums": partial(make_core, "fused", contrastive_reduction="sum", contrastive_scale=0.01),
    # Without free nats: small networks stay below them, and the KL would train nothing.
    "CVRL": partial(make_cvrl, free_nats=0.0),
    "CVRL, score of the released code": partial(
        make_cvrl, score="dot", contrastive_state="whole", positive_among_candidates=False
    ),
    "CVRL, generative": partial(make_cvrl, observation="generative", free_nats=0.0),
    "CVRL, own negatives": partial(make_cvrl, free_nats=0.0, gather_negatives=False),
}
LOG_PAIRS = "contrastive/log_pairs"
OWN_NEGATIVES = ("own negatives", "CVRL, own negatives")  # another loss than with the whole batch


def whole_batch() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    shape = (STEPS, WINDOWS)
    discount = np.ones(shape, np.float32)
    discount[-1, 0] = 0.0  # one learner has a true termination, the other has not
    return {
        "observation": random.integers(0, 256, (*shape, 20, 20, 3), dtype=np.uint8),
        "action": random.uniform(-1, 1, (*shape, ACTION_DIMS)).astype(np.float32),
        "reward": random.uniform(0, 1, shape).astype(np.float32),
        "discount": discount,
        "importance_weights": random.uniform(0.2, 1.0, WINDOWS).astype(np.float32),
    }


def part_of(batch: dict[str, np.ndarray], rank: int) -> dict[str, np.ndarray]:
    each = WINDOWS // LEARNERS
    mine = slice(rank * each, (rank + 1) * each)
    return {n: a[mine] if n == "importance_weights" else a[:, mine] for n, a in batch.items()}


def learn(rank: int, store: str, out: str) -> None:
    """One of the learners: runs every case on its part and leaves its weights."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=LEARNERS,
        timeout=datetime.timedelta(seconds=60),
    )
    found = {}
    for name, make_update in CASES.items():
        update = make_update(Collective(dist.group.WORLD))
        priorities = [update.step(part_of(whole_batch(), rank)) for _ in range(UPDATES)]
        found[name] = (update.agent.state_dict(), priorities[0], update.metrics())
    torch.save(found, f"{out}-{rank}")
    follow(rank)
    fail(rank)
    dist.destroy_process_group()


def follow(rank: int) -> None:
    """The first begins updates only where the second is prepared."""
    prepared, followed = threading.Event(), []

    def take_part() -> None:
        followed.append(len(followed))

    conductor = Conductor(LEARNERS, prepared.is_set, take_part, timeout_s=20.0)
    assert conductor.leads == (rank == 0)
    if conductor.leads:
        assert not conductor.begin() and not conductor.begin()
    dist.barrier()
    with conductor.at_rest():
        assert not followed
    prepared.set()
    dist.barrier()
    if conductor.leads:
        assert conductor.begin() and conductor.begin()
    dist.barrier()
    with conductor.at_rest():
        assert len(followed) == (0 if conductor.leads else 2)
    conductor.check()
    dist.barrier()
    conductor.close()
    conductor.close()


def fail(rank: int) -> None:
    """The second's part in an update fails: it tells why, and both end."""

    def take_part() -> None:
        raise ValueError("no such thing")

    # The first waits so long for the second, which does not listen any more, when it closes.
    conductor = Conductor(LEARNERS, lambda: True, take_part, timeout_s=3.0)
    dist.barrier()
    if conductor.leads:
        assert conductor.begin()
    conductor.close()
    conductor.close()
    if not conductor.leads:
        with pytest.raises(ValueError, match="no such thing"):
            conductor.check()
    dist.barrier()


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("learners")
    mp.spawn(learn, (str(folder / "store"), str(folder / "out")), nprocs=LEARNERS)
    return [torch.load(folder / f"out-{rank}") for rank in range(LEARNERS)]


@pytest.mark.parametrize("case", [case for case in CASES if case not in OWN_NEGATIVES])
def test_learners_with_parts_of_a_batch_make_the_update_of_one_with_the_whole(learned, case):
    alone = CASES[case](Collective())
    begun = {name: value.clone() for name, value in alone.agent.state_dict().items()}
    priorities = [alone.step(whole_batch()) for _ in range(UPDATES)]
    for name, value in alone.agent.state_dict().items():
        moved = (value - begun[name]).norm()
        for each in learned:
            weights = each[case][0]
            assert (weights[name] - value).norm() <= 1e-3 * moved + 1e-7, name
    if priorities[0] is not None:
        together = torch.cat([each[case][1] for each in learned])
        torch.testing.assert_close(together, priorities[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_all_learners_hold_the_same_weights_bit_for_bit(learned, case):
    first, second = (each[case][0] for each in learned)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_negatives_are_those_of_all_learners_or_of_each_its_own(learned):
    for shared, own, steps in (
        ("fused", "own negatives", STEPS - 1),
        ("CVRL", "CVRL, own negatives", STEPS),
    ):
        for each in learned:
            among_all, among_own = (each[case][2][LOG_PAIRS] for case in (shared, own))
            assert among_all == pytest.approx(np.log(steps * WINDOWS))
            assert among_own == pytest.approx(np.log(steps * WINDOWS / LEARNERS))
        one, other = (learned[0][case][0] for case in (shared, own))
        assert any(not torch.equal(one[name], other[name]) for name in one)


def test_learners_draw_together_what_one_draws_alone():
    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    device = torch.device("cpu")
    for draw, shape in ((normal, (5, 6, 3)), (uniform, (2, 6))):
        alone = draw(shape, generator(), device)
        half = (shape[0], 3, *shape[2:])
        parts = [draw(half, SharedGenerator(generator(), part, 2), device) for part in range(2)]
        assert torch.equal(torch.cat(parts, 1), alone)
