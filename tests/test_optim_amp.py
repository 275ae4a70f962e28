"""GradScaler and the wrapper: unscaled once, skipped without a contribution, never without the exchange."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rowcast.errors import LinkLost
from rowcast.optim import Optimizer
from test_optim_fakes import EchoTeam


def build() -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def loss_of(model: nn.Module, step: int) -> torch.Tensor:
    features = torch.linspace(-1, 1, 12).view(4, 3) + 0.1 * step
    return model(features).square().mean()


def run(
    model: nn.Module, optimizer: Any, *, poisoned: tuple[int, ...], unscale: bool, clip: bool = False
) -> list[float]:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    scales = []
    for step in range(6):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        if step in poisoned:
            next(iter(model.parameters())).grad.view(-1)[0] = float("inf")
        if unscale:
            scaler.unscale_(optimizer)
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@pytest.mark.parametrize("poisoned", [(), (1, 2)])
@pytest.mark.parametrize(("unscale", "clip"), [(False, False), (True, False), (True, True)])
def test_scaled_training_is_that_of_the_plain_optimizer(poisoned: tuple[int, ...], unscale: bool, clip: bool) -> None:
    plain, bare = build()
    scales = run(plain, bare, poisoned=poisoned, unscale=unscale, clip=clip)
    model, inner = build()
    team = EchoTeam()
    optimizer = Optimizer(inner, model, team)
    assert run(model, optimizer, poisoned=poisoned, unscale=unscale, clip=clip) == scales
    assert team.exchanges == 6 and team.contributions == 6 - len(poisoned)
    assert optimizer.skipped_steps == len(poisoned)
    torch.testing.assert_close(model.weight, plain.weight, rtol=1e-5, atol=1e-6)
    assert not hasattr(optimizer, "grad_scale") and not hasattr(optimizer, "found_inf")


def test_a_disabled_scaler_and_a_fused_inner_optimizer() -> None:
    plain, bare = build()
    run(plain, bare, poisoned=(), unscale=False)
    model, _ = build()
    fused = Optimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True), model, EchoTeam())
    run(model, fused, poisoned=(3,), unscale=False)
    assert fused.skipped_steps == 1
    model, inner = build()
    optimizer = Optimizer(inner, model, EchoTeam())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for step in range(6):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(model.weight, plain.weight, rtol=1e-5, atol=1e-6)


def test_a_skipped_step_brings_in_what_arrived_and_keeps_momentum() -> None:
    model, inner = build()
    team = EchoTeam()
    optimizer = Optimizer(inner, model, team)
    team.replica += 1.0
    start = model.weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model, 0)).backward()
    model.bias.grad[0] = float("nan")
    scaler.step(optimizer)
    scaler.update()
    assert not optimizer.state and team.exchanges == 1 and team.contributions == 0
    torch.testing.assert_close(model.weight.detach(), start + 1.0)


def test_no_sync_under_a_scaler() -> None:
    model, inner = build()
    team = EchoTeam()
    optimizer = Optimizer(inner, model, team)
    with optimizer.no_sync():
        run(model, optimizer, poisoned=(0,), unscale=False)
    assert team.exchanges == 0 and team.contributions == 5 and team.pending.any()


def test_a_failed_step_leaves_no_scale_behind() -> None:
    model, inner = build()
    team = EchoTeam()
    optimizer = Optimizer(inner, model, team)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss_of(model, 0)).backward()
    team.fail_at = LinkLost("gone")
    with pytest.raises(LinkLost):
        scaler.step(optimizer)
    team.fail_at = None
    optimizer.zero_grad()
    loss_of(model, 0).backward()
    gradient = model.weight.grad.clone()
    optimizer.step()
    assert torch.equal(model.weight.grad, gradient)


def test_autocast_with_bfloat16() -> None:
    model, inner = build()
    optimizer = Optimizer(inner, model, EchoTeam())
    first = loss_of(model, 0).item()
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, 0)
        loss.backward()
        optimizer.step()
    assert loss_of(model, 0).item() < first and np.isfinite(loss_of(model, 0).item())
