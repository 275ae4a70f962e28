"""Two teams in memory for the tests of rowcast.optim, and what they promise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from rowcast.errors import NonFiniteGradient
from rowcast.optim import TeamLike
from rowcast.optim.team import Update
from rowcast.rows import Layout


def small_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def backward(model: nn.Module, step: int) -> None:
    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    nn.functional.mse_loss(model(features), features[:, :2]).backward()


def flat(model: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().float().numpy().ravel() for p in model.parameters()])


class Hub:
    """A server that adds what any member pushes to what it owes every member: no gate, no loss."""

    def __init__(self, members: int) -> None:
        self.size = members
        self.initial: np.ndarray | None = None
        self.members: list[HubTeam] = []

    def member(self) -> HubTeam:
        team = HubTeam(self)
        self.members.append(team)
        return team


class HubTeam:
    """One member; everything pushed is delivered at the next exchange of each member."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.members = hub.size
        self.local_steps = 1
        self.leads = False
        self.anticipated: tuple[np.ndarray, np.ndarray] | None = None
        self.iteration = 0
        self.exchanges = self.contributions = self.finishes = self.leaves = self.stills = 0
        self.held = False
        self.sources_seen: list[np.ndarray] = []
        self.metrics: list[dict[str, float]] = []
        self.notes: list[tuple[str, str]] = []
        self.fail_at: BaseException | None = None

    def start(self, layout: Layout, parameters: np.ndarray) -> None:
        assert parameters.dtype == np.float32 and parameters.shape == (layout.elements,)
        self.layout = layout
        self.replica = parameters
        if self.hub.initial is None:
            self.hub.initial = parameters.copy()
        self.replica[:] = self.hub.initial
        self.pending = layout.zeros()
        self.owed = layout.zeros()

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        assert not self.held
        self.held = True
        self.stills += 1
        try:
            yield
        finally:
            self.held = False

    def accumulate(self, sources: Sequence[np.ndarray], weight: float, origin: np.ndarray | None = None) -> None:
        assert not self.held and len(sources) == len(self.layout.tensors)
        origin = self.replica if origin is None else origin
        assert origin.dtype == np.float32 and origin.shape == (self.layout.elements,)
        for spec, source in zip(self.layout.tensors, sources, strict=True):
            assert source.dtype == np.float32 and source.flags.c_contiguous
            assert source.shape == (spec.stop - spec.start,)
            if not np.isfinite(source).all():
                raise NonFiniteGradient(f"proposal for {spec.name!r} holds NaN or Inf")
        self.sources_seen = list(sources)
        for spec, source in zip(self.layout.tensors, sources, strict=True):
            rows = slice(spec.start, spec.stop)
            self.pending[rows] += np.float32(weight) * (origin[rows] - source)
        self.contributions += 1

    def exchange(self, update: Update | None = None, then: Callable[[], None] | None = None) -> None:
        assert not self.held
        refused: NonFiniteGradient | None = None
        try:
            if update is not None:
                self.accumulate(*update)
        except NonFiniteGradient as error:
            refused = error
        self.exchanges += 1
        self.iteration += 1
        if self.fail_at is not None:
            raise self.fail_at
        self.deliver()
        if refused is not None:
            raise refused
        if then is not None:
            with self.still():
                then()

    def deliver(self) -> None:
        for member in self.hub.members:
            member.owed += self.pending
        self.pending[:] = 0
        self.replica -= self.owed
        self.owed[:] = 0

    def report(self, **metrics: float) -> None:
        self.metrics.append(metrics)

    def note(self, what: str, detail: str) -> None:
        self.notes.append((what, detail))

    def finish(self, wait: bool = True, timeout_s: float | None = None) -> None:
        self.finishes += 1
        self.deliver()

    def leave(self) -> None:
        self.leaves += 1

    def abandon(self) -> None:
        self.leaves += 1


class EchoTeam(HubTeam):
    """A team of one: what it pushes comes back at once."""

    def __init__(self) -> None:
        super().__init__(Hub(1))
        self.hub.members.append(self)


def test_the_fakes_are_teams() -> None:
    team: TeamLike = EchoTeam()
    layout = Layout.from_shapes([("a", (2,)), ("b", (3,))])
    team.start(layout, np.zeros(5, dtype=np.float32))
    team.accumulate([np.full(2, -1, np.float32), np.full(3, -2, np.float32)], 0.5)
    assert not team.replica.any()
    team.exchange()
    assert team.replica.tolist() == [-0.5, -0.5, -1, -1, -1] and team.iteration == 1


def test_a_bad_source_leaves_pending_alone() -> None:
    team = EchoTeam()
    team.start(Layout.from_shapes([("a", (1,)), ("b", (1,))]), np.zeros(2, dtype=np.float32))
    with pytest.raises(NonFiniteGradient, match="'b'"):
        team.accumulate([np.ones(1, np.float32), np.full(1, np.nan, np.float32)], 1.0)
    assert not team.pending.any()
