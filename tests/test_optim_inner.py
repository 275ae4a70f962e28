"""Inner optimizers that learn from how the gradient answered to their own step: what a team makes of them."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from loops import run_team
from rowcast.optim import Optimizer
from rowcast.sync import parse_policy
from test_optim_fakes import EchoTeam, Hub, backward, small_model

ROBOTS, STEPS = 3, 40
SEARCHES: dict[str, dict[str, Any]] = {
    "one iteration": {"lr": 0.5, "max_iter": 1},
    "four iterations": {"lr": 0.5, "max_iter": 4},
    "line search": {"max_iter": 4, "line_search_fn": "strong_wolfe"},
}


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A fixed network tells the class, with noise: 4 classes of points in 6 dimensions."""
    teacher = torch.Generator().manual_seed(99)
    first, second = torch.randn(6, 10, generator=teacher), torch.randn(10, 4, generator=teacher)
    chance = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 6, generator=chance)
    scores = torch.tanh(points @ first / 2) @ second
    return points, (scores + 0.5 * torch.randn(scores.shape, generator=chance)).argmax(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


HELD_OUT = drawn(1000, 7)


def classifier() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 4))


def loss_of(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(data[0]), data[1])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        decay = sum(parameter.square().sum() for parameter in model.parameters())
        loss = loss_of(model, data) + 1e-3 * decay
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(closure)


def held_out(model: nn.Module) -> float:
    with torch.no_grad():
        return float(loss_of(model, HELD_OUT))


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("policy", ["bsp?codec=raw", "rog:4?codec=raw", "rowcast?codec=raw&adapt=off&auto_lr=off"])
def test_lbfgs_learns_in_a_team_as_alone(policy: str, search: dict[str, Any]) -> None:
    parts = [drawn(200, seed) for seed in range(ROBOTS)]
    plain = classifier()
    train(
        plain,
        torch.optim.LBFGS(plain.parameters(), **search),
        tuple(torch.cat(both) for both in zip(*parts, strict=True)),
    )
    ends: list[float] = []

    def loop(index: int, worker: Any) -> None:
        model = classifier()
        optimizer = Optimizer(torch.optim.LBFGS(model.parameters(), **search), model, worker)
        train(model, optimizer, parts[index])
        optimizer.close()
        ends.append(held_out(model))

    run_team(policy, ROBOTS, loop)
    assert max(ends) < 1.3 * held_out(plain), (ends, held_out(plain))


def lbfgs_steps(team: EchoTeam, moves: list[float], **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Steps of LBFGS on one batch; after each the team has moved every parameter by something else beside."""
    model = small_model()
    inner = torch.optim.LBFGS(model.parameters(), lr=0.3, **options)
    optimizer = Optimizer(inner, model, team)
    losses: list[float] = []

    def closure() -> float:
        optimizer.zero_grad()
        backward(model, 0)
        losses.append(1.0 - len(losses) / 100)  # one that stands still would end the step early
        return losses[-1]

    for move in moves:
        optimizer.step(closure)
        team.replica += np.float32(move)
    optimizer.step(closure)
    return model, inner.state[next(iter(model.parameters()))]


def test_curvature_from_elsewhere_is_dropped_and_that_from_here_kept() -> None:
    _, alone = lbfgs_steps(EchoTeam(), [0.0, 0.0], max_iter=4)
    _, moved = lbfgs_steps(EchoTeam(), [0.0, 0.5], max_iter=4)
    assert alone["n_iter"] == 3 * moved["n_iter"]
    assert len(moved["old_dirs"]) < moved["n_iter"] < len(alone["old_dirs"])  # the first iteration learns nothing
    assert moved["func_evals"] == alone["func_evals"]


def test_with_one_iteration_a_step_the_pair_is_that_of_the_way_the_parameters_went() -> None:
    gradients, places = [], []

    class Watched(EchoTeam):
        def accumulate(self, sources: Any, weight: float, origin: Any = None) -> None:
            places.append(self.replica.copy())
            super().accumulate(sources, weight, origin)

    model, state = lbfgs_steps(Watched(), [0.5], max_iter=1)
    for place in places:
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(torch.from_numpy(place.copy()), model.parameters())
        model.zero_grad()
        backward(model, 0)
        gradients.append(np.concatenate([parameter.grad.numpy().ravel() for parameter in model.parameters()]))
    (way,), (change,) = state["old_stps"], state["old_dirs"]
    np.testing.assert_allclose(way.numpy(), places[1] - places[0], atol=1e-6)
    np.testing.assert_allclose(change.numpy(), gradients[1] - gradients[0], atol=1e-6)


def test_a_closure_computes_where_the_policy_looks_ahead() -> None:
    model, team = small_model(), EchoTeam()
    optimizer = Optimizer(torch.optim.SGD(model.parameters(), lr=0.5), model, team)
    ahead = np.linspace(-1, 1, team.layout.elements, dtype=np.float32)
    team.anticipated = (ahead, np.full(team.layout.rows, 2.0, dtype=np.float32))
    team.still = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    seen = []

    def closure() -> float:
        optimizer.zero_grad()
        seen.append(np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return 1.0

    before = team.replica.copy()
    optimizer.step(closure)
    np.testing.assert_allclose(seen[0], before - 2 * ahead, atol=1e-6)
    np.testing.assert_allclose(team.replica, before - 0.5, atol=1e-6)  # the step travels, not the way ahead


# -- what does not go with a coarse code -------------------------------------------------------------------------

UNSUITED: dict[str, Callable[[Any], torch.optim.Optimizer]] = {"LBFGS": torch.optim.LBFGS, "Rprop": torch.optim.Rprop}


def first_step(inner: Callable[[Any], torch.optim.Optimizer], policy: str | None) -> list[str]:
    """The warnings of the first two steps."""
    model, team = small_model(), EchoTeam()
    if policy is not None:
        team.policy = parse_policy(policy)
    optimizer = Optimizer(inner(model.parameters()), model, team)

    def closure() -> float:
        optimizer.zero_grad()
        backward(model, 0)
        return 1.0

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            optimizer.step(closure)
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("policy", ["bsp", "rog:4?codec=sparse", "rowcast"])
@pytest.mark.parametrize("name", UNSUITED)
def test_an_optimizer_that_does_not_go_with_a_coarse_code_is_named_at_the_first_step(name: str, policy: str) -> None:
    (warning,) = first_step(UNSUITED[name], policy)
    code, choose = parse_policy(policy).codec, policy.partition("?")[0] + "?codec=raw"
    if policy == "rowcast":
        choose += "&adapt=off&auto_lr=off" if name == "LBFGS" else "&adapt=off"
    assert name in warning and repr(policy) in warning and repr(code) in warning and f"'{choose}'" in warning
    assert not first_step(UNSUITED[name], choose)


def test_a_coarse_code_of_pulls_is_named_as_well() -> None:
    for policy, code in (("demo", "dct128"), ("sparseloco:1?codec=raw", "topk16")):
        (warning,) = first_step(torch.optim.LBFGS, policy)
        choose = policy.partition("?")[0] + "?codec=raw&pull_codec=raw"
        assert repr(code) in warning and f"'{choose}'" in warning
        assert not first_step(torch.optim.LBFGS, choose)


def test_others_are_not_warned_of() -> None:
    assert not first_step(torch.optim.Adam, "bsp") and not first_step(torch.optim.SGD, "rowcast")
    assert not first_step(torch.optim.LBFGS, "bsp?codec=half") and not first_step(torch.optim.LBFGS, None)


def test_both_teams_tell_the_policy() -> None:
    def loop(index: int, worker: Any) -> None:
        model = small_model()
        optimizer = Optimizer(torch.optim.Rprop(model.parameters()), model, worker)
        backward(model, index)
        with pytest.warns(UserWarning, match="Rprop does not go well with the team's policy 'bsp'"):
            optimizer.step()
        optimizer.close()

    run_team("bsp", 2, loop)
    assert not hasattr(Hub(2).member(), "policy") and math.isfinite(held_out(classifier()))
