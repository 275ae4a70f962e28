"""Local steps: a round of H optimizer steps is one iteration of the team (federated averaging)."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rowcast.errors import ConfigError, LinkLost, NonFiniteGradient
from rowcast.optim import Optimizer
from test_optim_amp import build, run
from test_optim_fakes import EchoTeam, Hub, HubTeam, backward, flat, small_model

LIMIT_S = 20.0


class Meeting(Hub):
    """A server of slack 0: nobody leaves an exchange before everybody has come to it."""

    def __init__(self, members: int, local_steps: int) -> None:
        super().__init__(members)
        self.local_steps = local_steps
        self.barrier = threading.Barrier(members)

    def member(self) -> HubTeam:
        team = MeetingTeam(self)
        team.local_steps = self.local_steps
        self.members.append(team)
        return team


class MeetingTeam(HubTeam):
    def deliver(self) -> None:
        meeting = self.hub
        assert isinstance(meeting, Meeting)
        meeting.barrier.wait(LIMIT_S)
        total = np.sum([member.pending for member in meeting.members], axis=0, dtype=np.float32)
        meeting.barrier.wait(LIMIT_S)
        self.pending[:] = 0
        self.replica -= total


def train_together(members: int, local_steps: int, steps: int) -> list[np.ndarray]:
    """Every member makes so many steps, and closes; the parameters of each."""
    meeting = Meeting(members, local_steps)
    models = [small_model() for _ in range(members)]
    optimizers = [Optimizer(torch.optim.SGD(m.parameters(), lr=0.1), m, meeting.member()) for m in models]

    def train(who: int) -> None:
        with optimizers[who] as optimizer:
            for step in range(steps):
                optimizer.zero_grad()
                backward(models[who], members * step + who)
                optimizer.step()

    threads = [threading.Thread(target=train, args=(who,)) for who in range(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    return [flat(model) for model in models]


def federated_averaging(members: int, rounds: list[int]) -> np.ndarray:
    """By hand: each client trains a copy of the model for a round of plain SGD, then the copies are averaged."""
    model = small_model()
    step = 0
    for length in rounds:
        ends = []
        for who in range(members):
            client = small_model()
            client.load_state_dict(model.state_dict())
            bare = torch.optim.SGD(client.parameters(), lr=0.1)
            for local in range(step, step + length):
                bare.zero_grad()
                backward(client, members * local + who)
                bare.step()
            ends.append(client.state_dict())
        model.load_state_dict({name: sum(end[name] for end in ends) / members for name in ends[0]})
        step += length
    return flat(model)


@pytest.mark.parametrize(
    ("members", "local_steps", "steps", "rounds"),
    [(3, 4, 12, [4, 4, 4]), (2, 1, 3, [1, 1, 1]), (2, 5, 13, [5, 5, 3]), (2, 9, 4, [4])],
    ids=["whole rounds", "one step is bsp", "a round cut short by the end", "only a part of a round"],
)
def test_a_team_with_local_steps_is_federated_averaging(
    members: int, local_steps: int, steps: int, rounds: list[int]
) -> None:
    expected = federated_averaging(members, rounds)
    for parameters in train_together(members, local_steps, steps):
        np.testing.assert_allclose(parameters, expected, atol=2e-6)


Inner = Callable[[Any], torch.optim.Optimizer]


def alone(
    local_steps: int = 3, inner: Inner = lambda p: torch.optim.SGD(p, lr=0.1), **options: Any
) -> tuple[nn.Sequential, Optimizer, EchoTeam]:
    model, team = small_model(), EchoTeam()
    team.local_steps = local_steps
    return model, Optimizer(inner(model.parameters()), model, team, **options), team


def train(model: nn.Sequential, optimizer: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()


@pytest.mark.parametrize(
    "inner",
    [
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ],
    ids=["nesterov", "adamw"],
)
def test_a_team_of_one_is_the_plain_optimizer_with_its_schedule(inner: Inner) -> None:
    def run(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for step in range(10):
            train(model, optimizer, 1, step)
            schedule.step()

    plain = small_model()
    run(plain, inner(plain.parameters()))
    model, optimizer, team = alone(3, inner)
    run(model, optimizer)
    assert team.exchanges == team.contributions == team.iteration == 3
    np.testing.assert_allclose(flat(model), flat(plain), atol=2e-6)


def test_only_the_last_step_of_a_round_touches_the_team() -> None:
    model, optimizer, team = alone(3)
    start, stills = team.replica.copy(), team.stills
    for step in range(2):
        train(model, optimizer, 1, step)
        assert (team.exchanges, team.contributions, team.iteration, team.stills) == (0, 0, 0, stills)
        np.testing.assert_array_equal(team.replica, start)
        assert np.abs(flat(model) - start).max() > 0
    train(model, optimizer, 1, 2)
    assert (team.exchanges, team.contributions, team.iteration) == (1, 1, 1)
    np.testing.assert_array_equal(flat(model), team.replica)


def test_the_weight_is_that_of_the_members_at_the_end_of_the_round() -> None:
    model, optimizer, team = alone(2)
    start = flat(model)
    train(model, optimizer, 1)
    team.members = 4
    plain = small_model()
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.1), 2)
    train(model, optimizer, 1, 1)
    np.testing.assert_allclose(flat(model) - start, (flat(plain) - start) / 4, atol=1e-6)


# ---- no contribution -------------------------------------------------------------------------------------------


def poisoned_step(model: nn.Sequential, optimizer: Optimizer, step: int, value: float = float("nan")) -> None:
    optimizer.zero_grad()
    backward(model, step)
    model[2].weight.grad[0, 3] = value
    optimizer.step()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_gradient_is_refused_at_its_step_and_the_others_count(place: int) -> None:
    model, optimizer, team = alone(3)
    plain = small_model()
    bare = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step in range(3):
        if step == place:
            with pytest.raises(NonFiniteGradient, match=r"'2.weight'"):
                poisoned_step(model, optimizer, step)
        else:
            train(model, optimizer, 1, step)
            train(plain, bare, 1, step)
    assert (team.exchanges, team.contributions, optimizer.skipped_steps) == (1, 1, 1)
    np.testing.assert_allclose(flat(model), flat(plain), atol=1e-6)


def test_a_round_without_any_usable_gradient_makes_no_contribution() -> None:
    model, optimizer, team = alone(3, nonfinite="skip")
    before = flat(model)
    with pytest.warns(UserWarning, match="said once") as caught:
        for step in range(3):
            poisoned_step(model, optimizer, step)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert (team.exchanges, team.contributions, optimizer.skipped_steps) == (1, 0, 3)
    np.testing.assert_array_equal(flat(model), before)


def test_parameters_that_overflow_end_with_the_round_they_spoilt() -> None:
    model, optimizer, team = alone(3, lambda p: torch.optim.SGD(p, lr=1e38))
    before = flat(model)
    backward(model, 0)
    model[0].weight.grad.fill_(1e30)
    optimizer.step()
    with pytest.raises(NonFiniteGradient, match="gradient of"):
        train(model, optimizer, 1, 1)
    with pytest.raises(NonFiniteGradient, match="arithmetic overflowed"):
        train(model, optimizer, 1, 2)
    assert team.exchanges == 1 and not team.pending.any()
    np.testing.assert_array_equal(flat(model), before)
    optimizer.param_groups[0]["lr"] = 0.1
    train(model, optimizer, 3)
    assert team.exchanges == 2 and team.contributions == 1


def test_a_part_of_a_round_that_overflowed_is_refused_after_the_goodbye() -> None:
    model, optimizer, team = alone(3, lambda p: torch.optim.SGD(p, lr=1e38))
    before = flat(model)
    backward(model, 0)
    model[0].weight.grad.fill_(1e30)
    optimizer.step()
    with pytest.raises(NonFiniteGradient, match="arithmetic overflowed"):
        optimizer.close()
    assert team.finishes == 1
    optimizer.close()
    assert team.finishes == 1
    np.testing.assert_array_equal(flat(model), before)


@pytest.mark.parametrize("poisoned", [(), (1, 2), (3, 4, 5)])
@pytest.mark.parametrize("unscale", [False, True])
def test_a_scaler_trains_as_with_the_plain_optimizer(poisoned: tuple[int, ...], unscale: bool) -> None:
    plain, bare = build()
    scales = run(plain, bare, poisoned=poisoned, unscale=unscale)
    model, inner = build()
    team = EchoTeam()
    team.local_steps = 3
    optimizer = Optimizer(inner, model, team)
    assert run(model, optimizer, poisoned=poisoned, unscale=unscale) == scales
    assert team.exchanges == 2 and team.contributions == 2 - (poisoned == (3, 4, 5))
    assert optimizer.skipped_steps == len(poisoned)
    torch.testing.assert_close(model.weight, plain.weight, rtol=1e-5, atol=1e-6)


def test_a_lost_link_leaves_the_replica_in_the_parameters_and_a_new_round_begins() -> None:
    model, optimizer, team = alone(2)
    before = flat(model)
    team.fail_at = LinkLost("the access point went away")
    train(model, optimizer, 1)
    with pytest.raises(LinkLost):
        train(model, optimizer, 1, 1)
    np.testing.assert_array_equal(flat(model), before)
    assert team.contributions == 1 and not team.held
    team.fail_at = None
    train(model, optimizer, 1, 2)
    assert team.exchanges == 1
    train(model, optimizer, 1, 3)
    assert team.exchanges == 2


# ---- closures and accumulation ---------------------------------------------------------------------------------


def test_lbfgs_with_its_closure_is_the_plain_optimizer() -> None:
    def run(model: nn.Sequential, optimizer: torch.optim.Optimizer) -> list[float]:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            features = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
            loss = nn.functional.mse_loss(model(features), features[:, :2])
            loss.backward()
            return loss.detach()

        return [float(optimizer.step(closure)) for _ in range(4)]

    def inner(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(parameters, lr=0.3, max_iter=4)

    plain = small_model()
    expected = run(plain, inner(plain.parameters()))
    model, optimizer, team = alone(2, inner)
    assert run(model, optimizer) == pytest.approx(expected, rel=1e-3)
    assert team.exchanges == 2
    np.testing.assert_allclose(flat(model), flat(plain), rtol=1e-2, atol=1e-3)


def test_a_bad_gradient_from_a_closure_is_a_step_of_the_round() -> None:
    model, optimizer, team = alone(2)
    before = flat(model)

    def closure() -> float:
        optimizer.zero_grad()
        backward(model, 0)
        model[0].weight.grad[0, 0] = float("nan")
        return 3.0

    for exchanges in (0, 1):
        with pytest.raises(NonFiniteGradient, match=r"'0.weight'"):
            optimizer.step(closure)
        assert (team.exchanges, team.contributions) == (exchanges, 0)
    np.testing.assert_array_equal(flat(model), before)


def test_steps_in_no_sync_are_further_local_steps() -> None:
    model, optimizer, team = alone(2)
    plain = small_model()
    bare = torch.optim.SGD(plain.parameters(), lr=0.1)
    with optimizer.no_sync():
        train(model, optimizer, 3)
    train(model, optimizer, 1, 3)
    assert team.exchanges == team.contributions == 0
    train(model, optimizer, 1, 4)
    train(plain, bare, 5)
    assert team.exchanges == team.contributions == 1
    np.testing.assert_allclose(flat(model), flat(plain), atol=1e-6)


def test_half_precision_parameters_propose_what_they_moved() -> None:
    """The replica keeps what a bfloat16 does not show: it is neither lost nor sent."""
    model, team = small_model().to(torch.bfloat16), EchoTeam()
    team.local_steps = 4
    start = flat(small_model(5))
    team.hub.initial = start.copy()
    optimizer = Optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, team)
    image = flat(model)
    assert np.abs(image - start).max() > 0
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    for _ in range(3):
        optimizer.step()
    moved = flat(model) - image
    optimizer.zero_grad()
    optimizer.step()
    assert team.exchanges == 1 and np.abs(moved).min() > 0
    np.testing.assert_allclose(team.replica, start + moved, atol=1e-6)


# ---- the state in the middle of a round ------------------------------------------------------------------------


def test_a_state_dict_carries_the_place_in_the_round() -> None:
    model, optimizer, _ = alone(4, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    assert optimizer.state_dict()["local_step"] == 0
    train(model, optimizer, 3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert saved["optimizer"]["local_step"] == 3

    bare = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    bare.load_state_dict(saved["optimizer"])
    assert bare.param_groups[0]["lr"] == 0.1 and len(bare.state) == 4

    again = small_model(5)
    again.load_state_dict(saved["model"])
    team = EchoTeam()
    team.local_steps = 4
    restored = Optimizer(torch.optim.SGD(again.parameters(), lr=0.5, momentum=0.9), again, team)
    restored.load_state_dict(saved["optimizer"])
    train(again, restored, 1, 3)
    train(model, optimizer, 1, 3)
    assert team.exchanges == 1
    np.testing.assert_allclose(flat(again), flat(model), atol=1e-6)


def test_states_without_a_place_with_a_late_one_and_with_nonsense() -> None:
    model, optimizer, team = alone(3)
    train(model, optimizer, 1)
    optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())
    assert optimizer.state_dict()["local_step"] == 1
    state = optimizer.state_dict()
    optimizer.load_state_dict({**state, "local_step": 9})  # of a policy with more local steps
    train(model, optimizer, 1)
    assert team.exchanges == 1
    for nonsense in (-1, "2", None, 1.0):
        with pytest.raises(ConfigError, match="expected a number of local steps done"):
            optimizer.load_state_dict({**state, "local_step": nonsense})
    assert "local_step" not in alone(1)[1].state_dict()


def test_what_was_done_locally_is_proposed_when_the_policy_has_no_local_steps_any_more() -> None:
    """A server that restarted may have another policy."""
    model, optimizer, team = alone(5)
    plain = small_model()
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.1), 3)
    train(model, optimizer, 2)
    team.local_steps = 1
    train(model, optimizer, 1, 2)
    assert team.exchanges == team.contributions == 1
    np.testing.assert_allclose(flat(model), flat(plain), atol=1e-6)
