"""A wrapper of a PyTorch optimizer is an Optimizer: the contract of style.md, habit 11."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.optim import Optimizer
from test_optim_fakes import EchoTeam, small_model

Inner = Callable[[Any], torch.optim.Optimizer]


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    features, target = batch(step)
    return nn.functional.mse_loss(model(features), target)


def wrapped(
    inner: Inner = lambda p: torch.optim.SGD(p, lr=0.1), **options: Any
) -> tuple[nn.Module, Optimizer, EchoTeam]:
    model, team = small_model(), EchoTeam()
    return model, Optimizer(inner(model.parameters()), model, team, **options), team


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


# ---- the same as the plain optimizer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inner",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=True),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=True),
        lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01), weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
        lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    ],
    ids=["sgd", "nesterov", "sgd-foreach", "sgd-fused", "adam", "adam-foreach", "adamw", "adamw-fused", "rmsprop"],
)
def test_a_team_of_one_is_the_plain_optimizer(inner: Inner) -> None:
    plain = small_model()
    train(plain, inner(plain.parameters()), 12)
    model, optimizer, team = wrapped(inner)
    train(model, optimizer, 12)
    assert team.exchanges == team.contributions == 12
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_lbfgs_with_its_closure_is_the_plain_optimizer(search: str | None) -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, 0)
            loss.backward()
            return loss.detach()

        return [float(optimizer.step(closure)) for _ in range(4)]

    def inner(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(parameters, lr=0.3, max_iter=4, line_search_fn=search)

    plain = small_model()
    expected = run(plain, inner(plain.parameters()))
    model, optimizer, team = wrapped(inner)
    assert run(model, optimizer) == pytest.approx(expected, rel=1e-3)
    assert team.exchanges == 4
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_a_closure_works_with_first_order_optimizers_and_returns_the_loss() -> None:
    model, optimizer, team = wrapped()
    before = [p.detach().clone() for p in model.parameters()]

    def closure() -> float:
        optimizer.zero_grad()
        assert torch.is_grad_enabled() and not team.held  # rows may arrive
        loss = loss_of(model, 0)
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == pytest.approx(loss_of(small_model(), 0).item())
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


# ---- an optimizer like any other -------------------------------------------------------------------------------


def test_it_is_an_optimizer_with_live_groups_state_and_defaults() -> None:
    model, optimizer, _ = wrapped(lambda p: torch.optim.Adam(p, lr=0.1))
    inner = optimizer.inner
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state
    assert optimizer.defaults is inner.defaults and "betas" in optimizer.defaults
    optimizer.param_groups[0]["lr"] = 0.25
    assert inner.param_groups[0]["lr"] == 0.25
    inner.param_groups[0]["lr"] = 0.5
    assert optimizer.param_groups[0]["lr"] == 0.5
    train(model, optimizer, 1)
    assert len(optimizer.state) == 4
    optimizer.state = type(inner.state)(dict)
    optimizer.param_groups = list(inner.param_groups)
    optimizer.defaults = dict(inner.defaults)
    assert not inner.state and optimizer.param_groups is inner.param_groups and optimizer.defaults is inner.defaults


def test_step_hooks_of_wrapper_and_inner_run_once_each() -> None:
    model, optimizer, team = wrapped()
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: calls.append(f"pre {team.exchanges}"))
    handle = optimizer.register_step_post_hook(lambda opt, args, kwargs: calls.append(f"post {team.exchanges}"))
    optimizer.inner.register_step_post_hook(lambda opt, args, kwargs: calls.append(f"inner {team.exchanges}"))
    train(model, optimizer, 1)
    assert calls == ["pre 0", "inner 0", "post 1"]
    handle.remove()
    train(model, optimizer, 1)
    assert calls[3:] == ["pre 1", "inner 1"]


def test_state_dict_hooks_run_and_may_replace() -> None:
    model, optimizer, _ = wrapped()
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda opt: calls.append("pre"))
    optimizer.register_state_dict_post_hook(lambda opt, state: {**state, "extra": 1})
    optimizer.inner.register_state_dict_pre_hook(lambda opt: calls.append("inner pre"))
    optimizer.register_load_state_dict_pre_hook(lambda opt, state: calls.append(f"load {state.pop('extra')}"))
    optimizer.register_load_state_dict_post_hook(lambda opt: calls.append("loaded"))
    state = optimizer.state_dict()
    assert state["extra"] == 1
    optimizer.load_state_dict(state)
    assert calls == ["pre", "inner pre", "load 1", "loaded"] and state["extra"] == 1
    optimizer.register_load_state_dict_pre_hook(lambda opt, state: {**state, "param_groups": []})
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(state)
    train(model, optimizer, 1)


def test_a_state_dict_loads_into_the_bare_optimizer_and_back() -> None:
    def inner(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.01)

    model, optimizer, _ = wrapped(inner)
    train(model, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    plain = copy.deepcopy(model)
    bare = inner(plain.parameters())
    bare.load_state_dict(saved)
    assert bare.state_dict().keys() == saved.keys()
    train(plain, bare, 3, first=3)

    scheduler = schedulers.StepLR(optimizer, step_size=1, gamma=0.5)
    optimizer.load_state_dict(bare.state_dict())
    assert optimizer.param_groups is optimizer.inner.param_groups and optimizer.state is optimizer.inner.state
    assert all(int(entry["step"]) == 6 for entry in optimizer.state.values())
    train(model, optimizer, 1)
    scheduler.step()
    assert optimizer.inner.param_groups[0]["lr"] == pytest.approx(0.005)


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad(to_none: bool) -> None:
    model, optimizer, _ = wrapped()
    loss_of(model, 0).backward()
    optimizer.zero_grad(set_to_none=to_none)
    for parameter in model.parameters():
        assert parameter.grad is None if to_none else not parameter.grad.any()


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": lambda o: schedulers.StepLR(o, 2),
    "multistep": lambda o: schedulers.MultiStepLR(o, [1, 3]),
    "lambda": lambda o: schedulers.LambdaLR(o, lambda n: 0.9**n),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, lambda n: 0.9),
    "constant": lambda o: schedulers.ConstantLR(o, total_iters=3),
    "linear": lambda o: schedulers.LinearLR(o, total_iters=3),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "polynomial": lambda o: schedulers.PolynomialLR(o, 4),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 4),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2),
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "onecycle": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=10),
    "chained": lambda o: schedulers.ChainedScheduler([schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.9)]),
    "sequential": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o), schedulers.ExponentialLR(o, 0.9)], milestones=[2]
    ),
    "swa": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.02),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_see_and_move_the_same_learning_rate(name: str) -> None:
    def inner(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)

    def run(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[float, float]]:
        scheduler = SCHEDULERS[name](optimizer)
        rates = []
        for step in range(5):
            train(model, optimizer, 1, first=step)
            scheduler.step()
            rates.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        return rates

    plain = small_model()
    model, optimizer, _ = wrapped(inner)
    assert run(model, optimizer) == run(plain, inner(plain.parameters()))
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


def test_reduce_on_plateau_and_a_scheduler_of_the_inner_optimizer() -> None:
    model, optimizer, _ = wrapped()
    plateau = schedulers.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    for metric in (1.0, 1.0):
        train(model, optimizer, 1)
        plateau.step(metric)
    assert optimizer.inner.param_groups[0]["lr"] == 0.05
    of_inner = schedulers.ExponentialLR(optimizer.inner, 0.1)
    train(model, optimizer, 1)
    of_inner.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_parameter_groups_keep_their_own_settings() -> None:
    model, team = small_model(), EchoTeam()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters(), "lr": 0.1}]
    optimizer = Optimizer(torch.optim.SGD(groups), model, team)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, 1)
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
    assert moved == [False, False, True, True]


def test_named_parameters_in_the_inner_optimizer_keep_their_names() -> None:
    model = small_model()
    optimizer = Optimizer(torch.optim.SGD(model.named_parameters(), lr=0.1), model, EchoTeam())
    train(model, optimizer, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_groups_cannot_be_added_once_the_team_has_agreed() -> None:
    model, optimizer, _ = wrapped()
    extra = nn.Parameter(torch.ones(3))
    with pytest.raises(LocalProtocolError, match="first, then make the Optimizer"):
        optimizer.add_param_group({"params": [extra]})
    assert len(optimizer.param_groups) == 1
    train(model, optimizer, 1)


def test_copies_and_pickles_are_refused() -> None:
    _, optimizer, _ = wrapped()
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(LocalProtocolError, match="save state_dict"):
            attempt(optimizer)


def test_repr_names_the_layout_the_weight_and_the_inner_optimizer() -> None:
    text = repr(wrapped()[1])
    assert "4 tensors" in text and "1/members" in text and "SGD" in text
    assert "weight 0.25" in repr(wrapped(weight=0.25)[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "weight: expected"),
        ({"weight": float("nan")}, "weight: expected"),
        ({"weight": float("inf")}, "weight: expected"),
        ({"nonfinite": "rais"}, "did you mean 'raise'"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wrapped(**options)


def test_only_a_bare_optimizer_can_be_wrapped() -> None:
    model, optimizer, team = wrapped()
    for wrong in (optimizer, model):
        with pytest.raises(ConfigError, match="inner: expected a bare"):
            Optimizer(wrong, model, team)  # type: ignore[arg-type]


def test_the_public_names() -> None:
    import rowcast.optim

    assert sorted(rowcast.optim.__all__) == ["Optimizer", "TeamLike"]
