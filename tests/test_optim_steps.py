"""What a step does to replica, pending and team: contributions, refusals, accumulation, several members."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rowcast.errors import LinkLost, LocalProtocolError, NonFiniteGradient
from rowcast.optim import Optimizer
from test_optim_fakes import EchoTeam, Hub, backward, flat, small_model


def wrapped(lr: float = 0.1, momentum: float = 0.0, **options: Any) -> tuple[nn.Sequential, Optimizer, EchoTeam]:
    model, team = small_model(), EchoTeam()
    inner = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    return model, Optimizer(inner, model, team, **options), team


# ---- one step --------------------------------------------------------------------------------------------------


def test_no_copy_of_the_model_is_made() -> None:
    model, optimizer, team = wrapped()
    backward(model, 0)
    optimizer.step()
    for source, parameter in zip(team.sources_seen, model.parameters(), strict=True):
        assert np.shares_memory(source, parameter.detach().numpy())


def test_rows_that_arrive_while_a_gradient_is_computed_are_kept() -> None:
    model, optimizer, team = wrapped(lr=0.5)
    start = flat(model)
    backward(model, 0)
    gradient = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
    team.replica += 1.0
    np.testing.assert_array_equal(flat(model), start)
    optimizer.step()
    np.testing.assert_allclose(flat(model), start + 1.0 - 0.5 * gradient, atol=1e-6)


def test_the_weight_is_one_over_the_members_unless_given() -> None:
    moves = []
    for members, weight in ((1, None), (4, None), (4, 0.5), (0, None)):
        model, optimizer, team = wrapped(weight=weight)
        team.members = members
        start = flat(model)
        backward(model, 0)
        optimizer.step()
        moves.append(flat(model) - start)
    for other, share in ((1, 0.25), (2, 0.5), (3, 1.0)):
        np.testing.assert_allclose(moves[other], share * moves[0], atol=1e-6)


def test_a_write_is_noticed_between_forward_and_backward() -> None:
    model, optimizer, _ = wrapped()
    loss = model(torch.ones(2, 4)).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- no contribution -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_gradient_finishes_the_iteration_and_leaves_momentum_clean(poison: float) -> None:
    model, optimizer, team = wrapped(momentum=0.9)
    backward(model, 0)
    optimizer.step()
    momentum = [entry["momentum_buffer"].clone() for entry in optimizer.state.values()]
    before = flat(model)
    model[2].weight.grad[0, 3] = poison
    with pytest.raises(NonFiniteGradient, match=r"'2.weight'"):
        optimizer.step()
    assert (team.exchanges, team.contributions, optimizer.skipped_steps) == (2, 1, 1)
    np.testing.assert_array_equal(flat(model), before)
    for entry, kept in zip(optimizer.state.values(), momentum, strict=True):
        assert torch.equal(entry["momentum_buffer"], kept)


def test_skip_warns_once_and_goes_on() -> None:
    model, optimizer, team = wrapped(nonfinite="skip")
    backward(model, 0)
    model[0].bias.grad[0] = float("nan")
    with pytest.warns(UserWarning, match=r"'0.bias'.*said once") as caught:
        optimizer.step()
    assert caught[0].filename == __file__
    optimizer.step()
    assert (team.exchanges, team.contributions, optimizer.skipped_steps) == (2, 0, 2)
    optimizer.zero_grad()
    backward(model, 0)
    optimizer.step()
    assert team.contributions == 1


@pytest.mark.parametrize("kind", ["sgd", "lbfgs"])
def test_a_bad_gradient_from_a_closure_is_stopped_before_the_state(kind: str) -> None:
    model, team = small_model(), EchoTeam()
    inner: torch.optim.Optimizer
    if kind == "sgd":
        inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    else:
        inner = torch.optim.LBFGS(model.parameters())
    optimizer = Optimizer(inner, model, team)
    before = flat(model)

    def closure() -> float:
        optimizer.zero_grad()
        backward(model, 0)
        model[0].weight.grad[0, 0] = float("nan")
        return 3.0

    with pytest.raises(NonFiniteGradient, match=r"'0.weight'"):
        optimizer.step(closure)
    assert team.exchanges == 1 and team.contributions == 0 and not team.held
    assert not any("momentum_buffer" in entry or "d" in entry for entry in optimizer.state.values())
    np.testing.assert_array_equal(flat(model), before)


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_a_proposal_that_overflows_always_raises(nonfinite: str) -> None:
    model, optimizer, team = wrapped(lr=1e38, nonfinite=nonfinite)
    before = flat(model)
    backward(model, 0)
    model[0].weight.grad.fill_(1e30)
    with pytest.raises(NonFiniteGradient, match="arithmetic overflowed"):
        optimizer.step()
    assert team.exchanges == 1 and not team.pending.any() and optimizer.skipped_steps == 1
    np.testing.assert_array_equal(flat(model), before)


def test_a_step_without_any_gradient_still_finishes_the_iteration() -> None:
    model, optimizer, team = wrapped()
    before = flat(model)
    optimizer.step()
    assert team.exchanges == 1
    np.testing.assert_array_equal(flat(model), before)


def test_an_error_in_closure_or_exchange_leaves_the_replica_in_the_parameters() -> None:
    model, optimizer, team = wrapped()
    backward(model, 0)
    before = flat(model)

    def closure() -> float:
        with torch.no_grad():
            model[0].weight.add_(1.0)
        raise KeyError("data")

    with pytest.raises(KeyError, match="data"):
        optimizer.step(closure)
    assert team.exchanges == 0
    np.testing.assert_array_equal(flat(model), before)
    team.fail_at = LinkLost("the access point went away")
    with pytest.raises(LinkLost):
        optimizer.step()
    np.testing.assert_array_equal(flat(model), before)
    assert not team.held


# ---- accumulation ----------------------------------------------------------------------------------------------


def test_several_backwards_before_a_step_accumulate_as_ever() -> None:
    model, optimizer, team = wrapped()
    plain = small_model()
    bare = torch.optim.SGD(plain.parameters(), lr=0.1)
    for part in range(3):
        backward(model, part)
        backward(plain, part)
    optimizer.step()
    bare.step()
    assert team.exchanges == 1
    np.testing.assert_allclose(flat(model), flat(plain), atol=1e-6)


def test_no_sync_accumulates_steps_without_moving_or_exchanging() -> None:
    model, optimizer, team = wrapped()
    before = flat(model)
    moves = np.zeros_like(before)
    with optimizer.no_sync():
        for part in range(2):
            with optimizer.no_sync():
                pass
            optimizer.zero_grad()
            backward(model, part)
            moves -= 0.1 * np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
            optimizer.step()
            np.testing.assert_array_equal(flat(model), before)
        model[0].bias.grad[0] = float("inf")
        with pytest.raises(NonFiniteGradient):
            optimizer.step()
    assert team.exchanges == 0 and team.contributions == 2
    optimizer.zero_grad()
    backward(model, 2)
    moves -= 0.1 * np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
    optimizer.step()
    assert team.exchanges == 1
    np.testing.assert_allclose(flat(model), before + moves, atol=1e-6)


# ---- several members -------------------------------------------------------------------------------------------


def test_two_members_stepping_in_turn_move_by_the_same_sum() -> None:
    hub = Hub(2)
    models = [small_model(1), small_model(2)]
    workers = [hub.member(), hub.member()]
    inners = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in models]
    optimizers = [Optimizer(i, m, s) for i, m, s in zip(inners, models, workers, strict=True)]
    rates = [torch.optim.lr_scheduler.ExponentialLR(o, g) for o, g in zip(optimizers, (0.5, 0.9), strict=True)]
    for step, who in enumerate([0, 1, 1, 0, 1, 0, 0, 0, 1]):
        optimizers[who].zero_grad()
        backward(models[who], step)
        optimizers[who].step()
        rates[who].step()
    assert np.abs(flat(models[0]) - flat(models[1])).max() > 1e-6
    for optimizer in optimizers:
        optimizer.close()
    np.testing.assert_allclose(flat(models[0]), flat(models[1]), atol=1e-6)


def test_two_members_in_step_are_serial_training_on_the_union_batch() -> None:
    hub = Hub(2)
    models = [small_model(), small_model()]
    optimizers = [Optimizer(torch.optim.SGD(m.parameters(), lr=0.1), m, hub.member()) for m in models]
    serial = small_model()
    bare = torch.optim.SGD(serial.parameters(), lr=0.1)
    for step in range(6):
        for who, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            optimizer.zero_grad()
            with optimizer.no_sync():
                backward(model, 2 * step + who)
                optimizer.step()
        for worker in hub.members:
            worker.deliver()
        for optimizer in optimizers:
            optimizer.zero_grad()
            optimizer.step()  # takes what the other sent; nothing of its own
        bare.zero_grad()
        for who in range(2):
            backward(serial, 2 * step + who)
        for parameter in serial.parameters():
            parameter.grad /= 2
        bare.step()
    for model in models:
        np.testing.assert_allclose(flat(model), flat(serial), atol=1e-6)


# ---- the end ---------------------------------------------------------------------------------------------------


def test_close_finishes_takes_the_last_values_and_ends_the_optimizer() -> None:
    model, optimizer, team = wrapped()
    optimizer.report(loss=0.5)
    assert team.metrics == [{"loss": 0.5}]
    with optimizer as same:
        assert same is optimizer
        before = flat(model)
        with optimizer.no_sync():
            backward(model, 0)
            optimizer.step()
    assert team.finishes == 1 and team.leaves == 0
    assert np.abs(flat(model) - before).max() > 0
    optimizer.close()
    assert team.finishes == 1
    with pytest.raises(LocalProtocolError, match="closed"):
        optimizer.step()


def test_a_block_that_fails_leaves_at_once_and_keeps_its_error() -> None:
    _, optimizer, team = wrapped()
    with pytest.raises(KeyboardInterrupt), optimizer:
        raise KeyboardInterrupt
    assert team.leaves == 1 and team.finishes == 0

    _, optimizer, team = wrapped()

    def dead() -> None:
        raise LinkLost("gone")

    team.leave = dead  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError), optimizer:
        raise ZeroDivisionError
    with pytest.raises(LinkLost, match="early"), wrapped()[1] as early:
        early.close()
        raise LinkLost("early")


def test_a_close_that_fails_may_be_tried_again() -> None:
    _, optimizer, team = wrapped()
    finish = team.finish

    def too_slow(wait: bool = True, timeout_s: float | None = None) -> None:
        assert not wait and timeout_s == 2.0
        raise LinkLost("not in time")

    team.finish = too_slow  # type: ignore[method-assign]
    with pytest.raises(LinkLost):
        optimizer.close(wait=False, timeout_s=2.0)
    team.finish = finish  # type: ignore[method-assign]
    optimizer.close()
    assert team.finishes == 1


def test_a_step_is_made_from_where_its_gradient_was_computed_and_only_the_step_travels() -> None:
    """What is anticipated moves the parameters between steps; weight decay works on what is in the model, too."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    team = EchoTeam()
    optimizer = Optimizer(torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1), model, team)
    team.anticipated = np.full(1, 0.125, dtype=np.float32), np.full(1, 2.0, dtype=np.float32)
    with optimizer.no_sync():
        optimizer.step()
    assert float(model.weight.detach()) == 0.75
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    assert float(team.replica[0]) == pytest.approx(1.0 - 0.5 * 0.1 * 0.75)
    assert float(model.weight.detach()) == pytest.approx(float(team.replica[0]) - 0.25)
    with optimizer.evaluating():
        assert float(model.weight.detach()) == float(team.replica[0])
    assert float(model.weight.detach()) == pytest.approx(float(team.replica[0]) - 0.25)
    team.anticipated = None
    optimizer.close()
    assert float(model.weight.detach()) == pytest.approx(float(team.replica[0]))


def test_local_steps_are_left_alone_by_an_evaluation() -> None:
    model = nn.Linear(1, 1, bias=False)
    team = EchoTeam()
    team.local_steps = 2
    team.anticipated = np.full(1, 0.125, dtype=np.float32), np.full(1, 2.0, dtype=np.float32)
    optimizer = Optimizer(torch.optim.SGD(model.parameters(), lr=0.5), model, team)
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    local = float(model.weight.detach())
    with optimizer.evaluating():
        assert float(model.weight.detach()) == local
    assert float(model.weight.detach()) == local != float(team.replica[0])
