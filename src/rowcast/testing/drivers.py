"""The conformance suite of drivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings, ServerSettings
from rowcast.errors import LinkLost
from rowcast.rows import Layout
from rowcast.session import Link
from rowcast.sync import Policy, parse_policy
from rowcast.training import ServerNode
from rowcast.training.rules.streamed import StreamedRule
from rowcast.wire import Ack, Computed, Message, PullEnd, Rows

__all__ = ["DriverTeam", "check_driver"]

Vector = npt.NDArray[np.float32]

#: 120 rows and 6,435 elements: 26 kB in the raw codec, some ten frames.
_LAYOUT = Layout.from_shapes([("weight", (119, 54)), ("bias", (9,))])
#: Frames so small that a push has many, whatever the link.
_LINKS = LinkSettings(frame_max_bytes=2048)
#: Every family but `powersgd`. A momentum of a half keeps all sums exact in float32; when an outer learning rate that
#: adapts is told would hang on the links.
_POLICIES = (
    "bsp?codec=raw",
    "ssp:2?codec=raw",
    "asp?codec=raw",
    "rog:2?codec=raw",
    "flown:2?codec=raw",
    "localsgd:2?codec=raw",
    "diloco:2?codec=raw&outer_lr=1&outer_momentum=0.5",
    "rowcast:2?codec=raw&auto_lr=off&ahead=1",
)
_STEPS = 5


class DriverTeam(Protocol):
    """What the checks use of a worker's team: a part of :class:`rowcast.optim.TeamLike`."""

    @property
    def replica(self) -> Vector:
        """The parameters, flat float32."""

    @property
    def iteration(self) -> int:
        """Iterations finished."""

    def start(self, layout: Layout, parameters: Vector) -> None:
        """Join."""

    def hold(self) -> AbstractContextManager[object]:
        """While entered, the replica does not change."""

    def accumulate(self, sources: Sequence[Vector], weight: float) -> None:
        """Propose."""

    def exchange(self) -> None:
        """Push, gate, pull."""

    def finish(self) -> None:
        """Deliver and receive everything, say goodbye."""

    def leave(self) -> None:
        """Go now."""


#: A training loop. It runs in its worker's team, at the same time as those of the others.
Loop = Callable[[DriverTeam], None]

#: What a driver brings along: run the server, one worker for each name with these link settings and its loop, until
#: all loops have ended; raise what a loop raised. Workers reconnect when they lose their link.
RunTeam = Callable[[ServerNode, LinkSettings, Mapping[str, Loop]], None]


def check_driver(run_team: RunTeam) -> None:
    """Check that a driver carries what the nodes say, and does what they ask; raises AssertionError if not.

    Updates are whole numbers, so that sums are exact and are compared exactly. With a policy of every family, in the
    raw code:

    * Workers train, finish, and agree with the server on every element; everything computed is delivered (2, 5).
    * Whenever a worker is let go to compute, it is no further ahead than the slack (3), and where rows are streamed,
      than what the policy allows in an outage.
    * The server closes connections in the middle of pushes and pulls, a frame or its acknowledgement gets lost:
      the workers come back, nothing is lost and nothing comes twice (7).
    * A worker that leaves does not hold the others, and what was delivered of its updates are whole rows (6, 8).

    Args:
        run_team: takes a server node, settings of the links, and a training loop for each name of a worker; returns
            when all loops have ended.
    """
    for policy in _POLICIES:
        _check_training(run_team, policy, workers=3, cuts=False)
        _check_training(run_team, policy, workers=2, cuts=True)
        # What adapts may send the largest elements of a row and not all of it.
        _check_leaving(run_team, f"{policy}&adapt=off" if parse_policy(policy).adapt else policy)


class _Watched(ServerNode):
    """A server that notes how far ahead workers are let go, and hangs up in the middle of transfers if told.

    Attributes:
        gaps: iteration - oldest version, each time a worker is let go to compute.
        hung_up: connections ended.
    """

    def __init__(self, policy: str, *, workers: int, cuts: bool) -> None:
        super().__init__(
            parse_policy(policy), settings=ServerSettings(expected_workers=workers, gather_s=0.0), link_settings=_LINKS
        )
        self.gaps: list[int] = []
        self.hung_up = 0
        self._cuts = cuts
        self._heard = 0

    def poll(self, now: float, link: Link) -> Message | None:
        message = super().poll(now, link)
        oldest = self.versions.oldest()
        if isinstance(message, PullEnd) and oldest is not None:
            self.gaps.append(message.iteration - oldest)
        return message

    def receive(self, now: float, link: Link, message: Message) -> None:
        if isinstance(message, Computed):
            self._note_gap(link, message)
        if self._cuts and self.gate.opened and isinstance(message, (Rows, Ack)):
            self._heard += 1
            # A frame is lost, or it arrived and only its acknowledgement is lost; frames up, acknowledgements down.
            place = self._heard % 29
            if place == 9:
                self._hang_up_now()
            super().receive(now, link, message)
            if place == 20:
                self._hang_up_now()
            return
        super().receive(now, link, message)

    def _note_gap(self, link: Link, message: Computed) -> None:
        """Who streams opens its gate itself: it did so for the iteration that it has finished."""
        oldest, rule = self.versions.oldest(), self.rule
        member = next((one for one in self.members.values() if one.link is link), None)
        if member is not None and member.gated and oldest is not None and isinstance(rule, StreamedRule):
            self.gaps.append(message.iteration - 1 + rule.streamed(member).shift - oldest)

    def _hang_up_now(self) -> None:
        self.hung_up += 1
        raise LinkLost("cut by the check")


def _check_training(run_team: RunTeam, policy: str, *, workers: int, cuts: bool) -> None:
    server = _Watched(policy, workers=workers, cuts=cuts)
    ends: dict[str, Vector] = {}
    amounts = {f"worker-{index}": 10**index for index in range(workers)}

    def loop(name: str, amount: int) -> Loop:
        def train(team: DriverTeam) -> None:
            team.start(_LAYOUT, _start())
            while team.iteration < _STEPS:
                _propose(team, amount)
                team.exchange()
            team.finish()
            ends[name] = team.replica.copy()

        return train

    run_team(server, _LINKS, {name: loop(name, amount) for name, amount in amounts.items()})
    assert server.parameters is not None and set(ends) == set(amounts), f"{policy}: not everybody finished"
    for name, replica in ends.items():
        assert np.array_equal(replica, server.parameters), f"{policy}: {name} and the server do not agree"
    moved = _start() - server.parameters
    computed = sum(sum(_steps(server.policy, amount, _STEPS)) for amount in amounts.values())
    assert (moved == computed).all(), f"{policy}: {computed} computed, {moved.min():g} .. {moved.max():g} delivered"
    assert not server.members, f"{policy}: the server still counts {sorted(server.members)}"
    _check_gaps(server)
    assert server.hung_up >= (3 if cuts else 0), f"{policy}: the cuts did not come"


def _check_leaving(run_team: RunTeam, policy: str) -> None:
    server = _Watched(policy, workers=3, cuts=False)
    ends: dict[str, Vector] = {}

    def stay(name: str) -> Loop:
        def train(team: DriverTeam) -> None:
            team.start(_LAYOUT, _start())
            while team.iteration < 2 * _STEPS:
                _propose(team, 1)
                team.exchange()
            team.finish()
            ends[name] = team.replica.copy()

        return train

    def leave(team: DriverTeam) -> None:
        team.start(_LAYOUT, _start())
        while team.iteration < 2:
            _propose(team, 1000)
            team.exchange()
        _propose(team, 1000)
        team.leave()

    run_team(server, _LINKS, {"stays": stay("stays"), "leaves": leave, "stays-too": stay("stays-too")})
    assert server.parameters is not None and set(ends) == {"stays", "stays-too"}, f"{policy}: somebody was held"
    for name, replica in ends.items():
        assert np.array_equal(replica, server.parameters), f"{policy}: {name} and the server do not agree"
    policy_of_team = server.policy
    rest = _start() - server.parameters - np.float32(2 * sum(_steps(policy_of_team, 1, 2 * _STEPS)))
    per_row = rest[_LAYOUT.offsets[:-1]]
    assert np.array_equal(rest, np.repeat(per_row, _LAYOUT.lengths)), f"{policy}: a part of a row was delivered"
    # Where rows are streamed, some may have left before it did of the update that it did not exchange.
    steps = _steps(policy_of_team, 1000, 3 if policy_of_team.streaming else 2)
    whole = {sum(steps[:count]) for count in range(len(steps) + 1)}
    assert set(per_row) <= whole, f"{policy}: delivered of who left: {sorted(set(per_row))}"
    left = [record for record in server.journal.records if record["event"] == "leave" and record["peer"] == "leaves"]
    assert len(left) == 1, f"{policy}: the departure was recorded {len(left)} times"
    _check_gaps(server)


def _check_gaps(server: _Watched) -> None:
    slack = server.policy.slack
    assert server.gaps, f"{server.policy.name}: nobody was let go"
    if slack is not None:
        most = slack + server.policy.ahead
        assert max(server.gaps) <= most, f"{server.policy.name}: a worker was let go {max(server.gaps)} ahead"


def _steps(policy: Policy, amount: int, count: int) -> list[float]:
    """What so many equal contributions come to, one by one (see :func:`rowcast.testing.books.outer_step`)."""
    found, velocity = [], 0.0
    for _ in range(count):
        velocity = policy.outer_momentum * velocity + amount
        momentum = policy.outer_momentum * velocity
        found.append(policy.outer_lr * (amount + momentum))
    return found


def _start() -> Vector:
    return np.arange(_LAYOUT.elements, dtype=np.float32) % 100


def _propose(team: DriverTeam, amount: int) -> None:
    with team.hold():
        proposed = team.replica - np.float32(amount)
        team.accumulate([proposed[spec.start : spec.stop] for spec in _LAYOUT.tensors], 1.0)
