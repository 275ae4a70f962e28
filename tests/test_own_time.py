"""What Rowcast itself takes of a step on the training thread: measured, without the inner optimizer and waiting."""

from __future__ import annotations

import pytest
import torch

from live import LiveServer
from rowcast.drivers.own_time import OwnTime
from rowcast.drivers.sockets import Endpoint, Team
from rowcast.errors import NonFiniteGradient
from rowcast.optim import Optimizer
from test_optim_fakes import EchoTeam, backward, small_model

INNER_S, WAITING_S, OWN_S = 5.0, 100.0, 1.0


class Clock:
    """Stands where the module ``time`` does; only what a test lets take time takes any."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("rowcast.drivers.own_time.time", self)

    def perf_counter(self) -> float:
        return self.now


def slow_sgd(model: torch.nn.Module, clock: Clock) -> torch.optim.Optimizer:
    """Takes :data:`INNER_S` for each step."""

    class Slow(torch.optim.SGD):
        def step(self, closure=None):
            loss = super().step(closure)
            clock.now += INNER_S
            return loss

    return Slow(model.parameters(), lr=0.1)


class Timed(EchoTeam):
    """Takes :data:`OWN_S` for each exchange."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.own_time = clock, OwnTime()

    def exchange(self, *arguments, **options) -> None:
        self.clock.now += OWN_S
        super().exchange(*arguments, **options)


@pytest.mark.parametrize("with_closure", [False, True])
def test_the_step_of_the_inner_optimizer_is_not_ours(monkeypatch: pytest.MonkeyPatch, with_closure: bool) -> None:
    clock = Clock(monkeypatch)
    model, team = small_model(), Timed(clock)
    with Optimizer(slow_sgd(model, clock), model, team) as optimizer:
        for number in range(3):
            optimizer.zero_grad()
            if with_closure:
                optimizer.step(lambda number=number: backward(model, number))
            else:
                backward(model, number)
                optimizer.step()
            assert team.own_time.take() == OWN_S


def test_a_step_that_is_refused_took_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    model, team = small_model(), Timed(clock)
    with Optimizer(slow_sgd(model, clock), model, team) as optimizer:
        backward(model, 0)
        next(model.parameters()).grad.fill_(float("nan"))
        with pytest.raises(NonFiniteGradient):
            optimizer.step()
        assert team.own_time.take() == OWN_S


@pytest.mark.parametrize("policy", ["bsp", "rowcast"])
def test_the_journal_has_it_without_what_was_waited(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    clock = Clock(monkeypatch)
    with LiveServer(policy) as server:
        model, team = small_model(), Team(Endpoint("127.0.0.1", server.port), name="robot")
        records: list[dict] = []
        team.journal.watch(records.append)
        with Optimizer(slow_sgd(model, clock), model, team) as optimizer:
            offer, wait = team.node.offer, team._wait

            def offered(update):
                clock.now += OWN_S
                return offer(update)

            def waited(*arguments, **options):
                clock.now += WAITING_S
                return wait(*arguments, **options)

            monkeypatch.setattr(team.node, "offer", offered)
            monkeypatch.setattr(team, "_wait", waited)
            for number in range(4):
                optimizer.zero_grad()
                backward(model, number)
                optimizer.step()
        own_s = [record["own_s"] for record in records if record["event"] == "step"]
    # A step is told when its update has been handed in: what is ours after that comes with the next.
    assert own_s == [0.0, OWN_S, OWN_S, OWN_S]
