"""DiLoCo's outer Nesterov step, taken at the origin: what the workers' shares add up to, in books and over cuts."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from live import LIMIT_S, LiveServer
from rowcast.delivery.residual import Residual
from rowcast.drivers.sockets import Endpoint, Team
from rowcast.errors import NonFiniteGradient
from rowcast.optim import Optimizer
from rowcast.rows.kernels import row_abs_sums, row_sums
from rowcast.sync import parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training import WorkerNode
from rowcast.training.proposal.outer import Outer
from rowcast.training.proposal.replica import Replica
from teams import LAYOUT, finished, links, members, outages, quadratic, replicas_agree, start_of, worker
from test_optim_fakes import backward, flat, small_model


def parts_of(vector: np.ndarray) -> list[np.ndarray]:
    return [vector[spec.start : spec.stop] for spec in LAYOUT.tensors]


def each(weight: float) -> np.ndarray:
    """Every row counts the same."""
    return np.full(LAYOUT.rows, weight, dtype=np.float32)


def outer_sgd(start: np.ndarray, pseudo_gradients: list[np.ndarray], lr: float, momentum: float) -> np.ndarray:
    """Where torch's own SGD with Nesterov momentum goes with these gradients."""
    parameters = torch.tensor(start, dtype=torch.float64)
    optimizer = torch.optim.SGD([parameters], lr=lr, momentum=momentum, nesterov=momentum > 0)
    for gradient in pseudo_gradients:
        parameters.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    return parameters.numpy()


# ---- one worker's share ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (1.0, 0.5), (0.3, 0.0)])
def test_the_contributions_are_the_steps_of_nesterov_sgd(lr: float, momentum: float) -> None:
    random = np.random.default_rng(3)
    replica = Replica(LAYOUT, start_of())
    outer, pending = Outer(LAYOUT, lr, momentum), LAYOUT.zeros()
    residual = Residual(LAYOUT, pending)
    steps = [random.standard_normal(LAYOUT.elements).astype(np.float32) for _ in range(5)]
    for step in steps:
        outer.begin(first=True)
        replica.propose(parts_of(replica.parameters - step), each(0.25), residual, outer)
    expected = outer_sgd(np.zeros(LAYOUT.elements), [0.25 * step for step in steps], lr, momentum)
    np.testing.assert_allclose(-pending, expected, atol=2e-5)
    sums, again = residual.abs_sums, np.zeros_like(residual.abs_sums)
    row_abs_sums(pending, LAYOUT.offsets, again)
    np.testing.assert_allclose(sums, again, rtol=1e-6)
    np.testing.assert_allclose(replica.computed, row_sums(pending, LAYOUT.offsets), atol=1e-4)
    np.testing.assert_array_equal(replica.parameters, start_of())


def test_several_contributions_of_an_iteration_are_one_step_of_their_sum() -> None:
    replica = Replica(LAYOUT, start_of())
    random = np.random.default_rng(4)
    steps = random.standard_normal((3, 3, LAYOUT.elements)).astype(np.float32)
    together, apart = (Outer(LAYOUT, 0.7, 0.9) for _ in range(2))
    pending = [LAYOUT.zeros(), LAYOUT.zeros()]
    residuals = [Residual(LAYOUT, vector) for vector in pending]
    for parts in steps:
        together.begin(first=True)
        replica.propose(parts_of(replica.parameters - parts.sum(axis=0)), each(0.5), residuals[0], together)
        for k, part in enumerate(parts):
            apart.begin(first=k == 0)
            replica.propose(parts_of(replica.parameters - part), each(0.5), residuals[1], apart)
    np.testing.assert_allclose(pending[1], pending[0], atol=2e-5)
    np.testing.assert_allclose(apart.velocity, together.velocity, atol=2e-5)


def test_a_refused_proposal_leaves_momentum_and_books_alone() -> None:
    replica, outer = Replica(LAYOUT, start_of()), Outer(LAYOUT, 0.7, 0.9)
    pending = LAYOUT.zeros()
    bad = start_of()
    bad[-1] = np.nan
    outer.begin(first=True)
    with pytest.raises(NonFiniteGradient, match="'scale'"):
        replica.propose(parts_of(bad), each(1.0), Residual(LAYOUT, pending), outer)
    assert not pending.any() and not outer.velocity.any() and not replica.computed.any()


def test_only_a_policy_with_momentum_costs_memory_and_a_new_learning_rate_counts_at_once() -> None:
    node = WorkerNode("robot", LAYOUT, start_of())
    for text in ("diloco:1?outer_momentum=0", "bsp?outer_lr=0.7"):
        node.policy = parse_policy(text)
        node.pending[:] = 0
        node.accumulate(parts_of(node.replica - 1), 0.5)
        np.testing.assert_allclose(node.pending, 0.35, atol=1e-6)
        assert node.contribution.outer is None
    node.policy = parse_policy("diloco:1")
    node.accumulate(parts_of(node.replica - 1), 0.5)
    first = node.contribution.outer
    assert first is not None and first.velocity.any()
    node.contribution.end(node.policy)
    velocity, node.pending[:] = first.velocity.copy(), 0
    node.policy = parse_policy("diloco:1?outer_lr=0.5&outer_momentum=0.8")
    node.accumulate(parts_of(node.replica - 1), 0.5)
    assert node.contribution.outer is first
    np.testing.assert_allclose(first.velocity, 0.8 * velocity + 0.5, rtol=1e-5)
    np.testing.assert_allclose(node.pending, 0.5 * (0.5 + 0.8 * first.velocity), rtol=1e-5)


# ---- the team --------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.data())
def test_the_sum_over_the_workers_is_the_outer_step_whatever_the_links_do(data: st.DataObject) -> None:
    count, iterations = data.draw(st.integers(2, 4)), data.draw(st.integers(2, 7))
    gradients = [quadratic(i, rate=0.3) for i in range(count)]
    scripts = [
        worker(f"robot{i}", iterations=iterations, gradient=gradients[i], weight=1 / count, rate_bps=data.draw(links()))
        for i in range(count)
    ]
    team = VirtualTeam(LAYOUT, "diloco:1?codec=raw", scripts)
    for time, name, down_s in data.draw(outages([script.name for script in scripts])):
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
    finished(team)
    parameters, momentum = start_of().astype(np.float64), np.zeros(LAYOUT.elements)
    for n in range(iterations):
        mean = sum(gradient(n, parameters.astype(np.float32)) for gradient in gradients) / count
        momentum = 0.9 * momentum + mean
        parameters = parameters - 0.7 * (mean + 0.9 * momentum)
    np.testing.assert_allclose(team.server.parameters, parameters, atol=2e-5)
    replicas_agree(team, atol=1e-5)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_replicas_agree_and_nothing_is_lost_with_any_codec(data: st.DataObject) -> None:
    scripts = data.draw(members())
    text = data.draw(
        st.sampled_from(["localsgd:3", "diloco:3", "ssp:2?outer_momentum=0.5", "rog:4?outer_momentum=0.9"])
    )
    codec = data.draw(st.sampled_from(["raw", "half", "onebit"]))
    team = VirtualTeam(LAYOUT, f"{text}{'&' if '?' in text else '?'}codec={codec}", scripts)
    names = [script.name for script in scripts]
    for time, name, down_s in data.draw(outages(names)):
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
    for time in data.draw(st.lists(st.floats(0.0, 8.0), max_size=4)):
        team.at(time, lambda: team.server.parameters is None or np.testing.assert_array_less(team.imbalance(), 2e-4))
    finished(team)
    replicas_agree(team, atol=5e-4)
    computed = sum(one.node.computed for one in team.workers.values())
    delivered = row_sums(start_of() - team.server.parameters, LAYOUT.offsets)
    np.testing.assert_allclose(delivered, computed, atol=2e-3)


def test_who_leaves_takes_his_share_of_the_momentum_and_the_others_agree() -> None:
    scripts = [worker(f"robot{i}", iterations=8) for i in range(3)]
    team = VirtualTeam(LAYOUT, "diloco:1", scripts)
    team.at(0.7, lambda: team.leave("robot1"))
    team.at(0.75, lambda: team.start(worker("robot9", iterations=4, seed=5)))
    finished(team)
    replicas_agree(team, atol=5e-4)
    assert team.workers["robot9"].node.contribution.outer.velocity.any()
    assert team.imbalance() <= 2e-4


# ---- the whole way: torch, sockets, a server -------------------------------------------------------------------


def diloco(members: int, rounds: int, local_steps: int, *, lr: float, momentum: float, idle: set[tuple[int, int]]):
    """DiLoCo in one process (arXiv 2311.08105, Alg. 1), with torch's optimizers inside and outside.

    Args:
        idle: (worker, round) in which a worker found no usable gradient.
    """
    model = small_model()
    outer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, nesterov=momentum > 0)
    for n in range(rounds):
        outer.zero_grad()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for who in range(members):
            local = small_model()
            local.load_state_dict(model.state_dict())
            inner = torch.optim.SGD(local.parameters(), lr=0.1)
            for step in range(0 if (who, n) in idle else local_steps):
                inner.zero_grad()
                backward(local, members * (local_steps * n + step) + who)
                inner.step()
            for ours, theirs in zip(model.parameters(), local.parameters(), strict=True):
                ours.grad += (ours.detach() - theirs.detach()) / members
        outer.step()
    return flat(model)


@pytest.mark.parametrize(
    ("policy", "lr", "momentum"),
    [
        ("localsgd:3?codec=raw", 1.0, 0.0),
        ("diloco:3?codec=raw", 0.7, 0.9),
        ("diloco:1?codec=raw&outer_lr=0.5&outer_momentum=0.8", 0.5, 0.8),
    ],
)
def test_two_robots_over_sockets_are_the_serial_algorithm(policy: str, lr: float, momentum: float) -> None:
    rounds, local_steps = 5, parse_policy(policy).local_steps
    idle = {(1, 2), (0, 3)}
    models = [small_model(), small_model()]
    iterations: list[int] = []

    def robot(who: int, port: int) -> None:
        team = Team(Endpoint("127.0.0.1", port), name=f"robot-{who}")
        inner = torch.optim.SGD(models[who].parameters(), lr=0.1)
        with Optimizer(inner, models[who], team, nonfinite="skip") as optimizer:
            for n in range(rounds):
                for step in range(local_steps):
                    optimizer.zero_grad()
                    backward(models[who], 2 * (local_steps * n + step) + who)
                    if (who, n) in idle:
                        models[who][0].bias.grad[0] = float("nan")
                    optimizer.step()
            iterations.append(team.iteration)

    with LiveServer(policy, expected_workers=2) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the gradients without use
        threads = [threading.Thread(target=robot, args=(who, server.port)) for who in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
    assert iterations == [rounds, rounds]
    expected = diloco(2, rounds, local_steps, lr=lr, momentum=momentum, idle=idle)
    for model in models:
        np.testing.assert_allclose(flat(model), expected, atol=1e-5)
