"""In a step the whole model is written at most once, and the team is met once where the gate is open."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from live import LiveServer
from rowcast.drivers.sockets import Endpoint, Team
from rowcast.optim import Optimizer
from rowcast.optim.team import Update
from test_optim_fakes import EchoTeam, backward, small_model


class Counted(EchoTeam):
    """Counts how often the training loop comes to it."""

    meetings = 0

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        self.meetings += 1
        with super().still():
            yield

    def accumulate(self, sources: Sequence[np.ndarray], weight: float, origin: np.ndarray | None = None) -> None:
        self.meetings += 1
        super().accumulate(sources, weight, origin)

    def exchange(self, update: Update | None = None, then: Callable[[], None] | None = None) -> None:
        meetings = self.meetings
        super().exchange(update, then)
        self.meetings = meetings + 1  # the update comes in the same call, and what follows it is done there


class Writes:
    """Counts how often the parameters of a model are written by something else than the inner optimizer."""

    def __init__(self, model: nn.Module, inner: torch.optim.Optimizer) -> None:
        self._parameters = list(model.parameters())
        self._own = 0
        inner.register_step_pre_hook(lambda *_: self._move(-1))
        inner.register_step_post_hook(lambda *_: self._move(1))
        self._begun = self.total()

    def _move(self, sign: int) -> None:
        self._own += sign * self.total()

    def total(self) -> int:
        return sum(parameter._version for parameter in self._parameters)

    def since(self) -> float:
        """How often the whole model was written since the last call, or since this was made."""
        total = self.total() - self._own
        begun, self._begun = self._begun, total
        return (total - begun) / len(self._parameters)


def norm_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


class Case:
    """A training loop on a counted team; ``step`` makes one call of ``step()``."""

    model: Callable[[], nn.Sequential] = staticmethod(small_model)
    local_steps = 1
    ahead = False

    def __init__(self) -> None:
        self.team = Counted()
        self.team.local_steps = self.local_steps
        self.net = type(self).model()
        inner = torch.optim.AdamW(self.net.parameters(), lr=0.01, weight_decay=0.1)
        self.optimizer = Optimizer(inner, self.net, self.team)
        if self.ahead:
            self.team.anticipated = (self.team.pending, np.full(self.team.layout.rows, 4.0, dtype=np.float32))
        self.writes = Writes(self.net, inner)

    def step(self, index: int) -> None:
        self.optimizer.zero_grad()
        backward(self.net, index)
        self.optimizer.step()

    def meetings(self, index: int) -> int:
        """How often the team is met in that step."""
        return 1 if (index + 1) % self.local_steps == 0 else 0


class Accumulated(Case):
    def meetings(self, index: int) -> int:
        return 2 if index % 3 else 1

    def step(self, index: int) -> None:
        with self.optimizer.no_sync() if index % 3 else contextlib.nullcontext():
            super().step(index)


class Scaled(Case):
    def __init__(self) -> None:
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def meetings(self, index: int) -> int:
        return 2 if index == 1 else 1  # without a contribution

    def step(self, index: int) -> None:
        self.optimizer.zero_grad()
        loss = self.net(torch.ones(2, 4)).sum() * (float("inf") if index == 1 else 1.0)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


class WithBuffers(Case):
    model = staticmethod(norm_model)


class Written(Case):
    def step(self, index: int) -> None:
        self.optimizer.zero_grad()
        backward(self.net, index)
        for parameter in self.net.parameters():
            parameter.data.mul_(0.5)
        self.optimizer.step()


class Ahead(Case):
    ahead = True


class AheadAccumulated(Accumulated):
    ahead = True


class Local(Case):
    local_steps = 3


class Computed(Case):
    """With a closure; nothing arrives between two steps."""

    def step(self, index: int) -> None:
        def closure() -> float:
            self.optimizer.zero_grad()
            backward(self.net, index)
            return 1.0

        self.optimizer.step(closure)


@pytest.mark.parametrize(
    "case", [Case, Accumulated, Scaled, WithBuffers, Written, Ahead, AheadAccumulated, Local, Computed]
)
@pytest.mark.filterwarnings("ignore:parameter .* written")
def test_the_model_is_written_at_most_once_and_the_team_met_as_seldom_as_can_be(case: type[Case]) -> None:
    loop = case()
    for index in range(6):
        meetings = loop.team.meetings
        loop.writes.since()
        loop.step(index)
        last = (index + 1) % case.local_steps == 0
        assert loop.writes.since() == (1 if last else 0)
        assert loop.team.meetings - meetings == loop.meetings(index)
    assert loop.team.contributions > 1
    loop.optimizer.close()


def test_a_closure_computes_from_what_has_arrived_until_then() -> None:
    loop = Computed()
    loop.team.replica += np.float32(0.5)
    arrived = loop.team.replica.copy()
    seen: list[np.ndarray] = []
    hook = loop.net.register_forward_pre_hook(
        lambda *_: seen.append(loop.net[0].weight.detach().numpy().ravel().copy())
    )
    meetings = loop.team.meetings
    loop.writes.since()
    loop.step(0)
    hook.remove()
    np.testing.assert_array_equal(seen[0], arrived[: seen[0].size])
    assert (loop.writes.since(), loop.team.meetings - meetings) == (2, 2)


@pytest.mark.parametrize(("policy", "expected"), [("bsp", 2), ("rog:4", 2), ("rowcast", 1)])
def test_over_sockets_one_call_comes_to_the_network_thread_unless_the_gate_is_closed(
    policy: str, expected: int
) -> None:
    me = threading.get_ident()
    calls: list[int] = []
    with LiveServer(policy) as server:
        model, team = small_model(), Team(Endpoint("127.0.0.1", server.port), name="robot")
        with Optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, team) as optimizer:
            assert team._network is not None
            loop = team._network.loop
            call = loop.call_soon_threadsafe

            def counted(*arguments: Any, **options: Any) -> Any:
                if threading.get_ident() == me:
                    calls.append(1)
                return call(*arguments, **options)

            loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
            for index in range(5):
                optimizer.zero_grad()
                backward(model, index)
                optimizer.step()
            assert len(calls) == expected * 5
