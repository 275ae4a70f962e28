"""The relay: one node for a driver, with connections from below and one to the server above."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec
from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.errors import ConfigError, LinkLost, LocalProtocolError, RemoteProtocolError, RowcastError
from rowcast.journal import Journal
from rowcast.session.client import JoinRequest
from rowcast.session.link import Link
from rowcast.session.seeding import Provenance
from rowcast.sync import Policy
from rowcast.training.member import Member, MemberState
from rowcast.training.relay.rule import RelayRule
from rowcast.training.relay.upstream import Upstream
from rowcast.training.relay.upstream_rule import UpstreamRule
from rowcast.training.rules.base import ServerRule
from rowcast.training.server import ServerNode
from rowcast.training.team import Team
from rowcast.training.worker_state import WorkerState
from rowcast.wire import Message, Rows, Share, Supply

__all__ = ["RelayNode", "check_relayed"]


class RelayNode(ServerNode):
    """A relay: to the workers below a server, to the server above a worker.

    The first worker below brings the layout and parameters, with which the relay joins above; then all workers join
    the relay with the parameters of the team above. Iterations are counted here as the gate below counts them, and
    above in the worker's count: :attr:`level` and the worker's iteration are the same moment.

    The connection to the server above is one of the node's: its :attr:`~rowcast.session.Link.upward` is set. The
    driver makes it when :attr:`connect_at` says so.

    Args:
        name: of the relay, unique among those that join the server above.
        policy: that of the server above.
        settings: of the server below; ``expected_workers``: so many count above from the start.
        worker_settings: of the worker above.
        link_settings, secret, journal, entropy: see :class:`rowcast.training.ServerNode`.

    Attributes:
        upper: the worker above; ``None`` before a worker has brought the layout.
        level: iterations of the gate below that were passed on.

    Raises:
        ConfigError: the policy is not one that a relay can sum up for.
    """

    upper: Upstream | None

    def __init__(
        self,
        name: str,
        policy: Policy,
        *,
        settings: ServerSettings | None = None,
        worker_settings: WorkerSettings | None = None,
        link_settings: LinkSettings | None = None,
        secret: bytes | None = None,
        journal: Journal | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        check_relayed(policy)
        self.name = name
        self.policy_name = policy.name
        self.upper = None
        self.level = 0
        self._worker_settings = worker_settings or WorkerSettings()
        self._entropy = entropy
        self._flushed = False
        self._joined = False
        self._stirred = False
        super().__init__(
            policy,
            # The model is that of the server above: it is not forgotten where nobody is there.
            settings=dataclasses.replace(settings or ServerSettings(), fresh_after_s=None),
            link_settings=link_settings,
            secret=secret,
            journal=journal or Journal(name),
            entropy=entropy,
        )
        self.session_before = entropy(16)
        self.team.above = self

    def _make_rule(self, policy: Policy, team: Team) -> ServerRule:
        self._relay_rule = RelayRule(team)
        return self._relay_rule

    # -- as the server below sees it (rowcast.training.above.Above) ----------------------------------------------

    @property
    def session(self) -> bytes:
        """Names this life of the relay to the server above."""
        return self.session_before if self.upper is None else self.upper.client.session

    @property
    def decides(self) -> bool:
        """The server above says what the parameters are."""
        return self.upper is not None

    @property
    def over(self) -> bool:
        """Nothing more comes from above."""
        return self.upper is not None and self.upper.over

    def brought(self, now: float, member: Member) -> None:
        """A worker has brought the layout and parameters: join above with them. It joins anew then, like the others."""
        layout = self.team.model.layout
        if layout is None:
            raise LocalProtocolError("relay: expected a layout before the end of the parameters")
        origin = self._admission.provenance
        wish = "mine" if origin.wished else ""
        self.upper = Upstream(
            layout,
            member.owed.snapshot.parameters,
            self,
            settings=self._worker_settings,
            link_settings=self.team.links,
            request=JoinRequest(self.secret, wish),
            journal=self.journal,
            entropy=self._entropy,
        )
        self.upper.iteration = origin.iteration
        if origin.trained:
            self.upper.client.training = origin.training
        member.state = MemberState.READY
        self.frames_applied.pop(member.name, None)  # those were of a session that ends here
        self._admission.send_away(now, f"{self.name} joins the server above first", goes_on=True)

    def pass_up(self, codec: Codec, message: Rows) -> None:
        """Rows have come from below."""
        assert self.upper is not None
        self.upper.take(codec, message)

    def share_of(self, supply: Supply) -> Share | None:
        """See :class:`rowcast.training.above.Above`."""
        return None if self.upper is None else self.upper.share_of(supply)

    # -- as the worker above sees it ---------------------------------------------------------------------------

    def sessions_below(self) -> list[bytes]:
        """Sessions of the relays below."""
        waiting = self._admission.branches.waiting.values()
        return [one for below in (*(m.below for m in self.members.values()), *waiting) for one in below]

    def leaves(self) -> int:
        """Workers below among whom updates are shared; before the first ones begin, as many as are expected."""
        if not self.gate.opened:
            return max(self.gate.expected, sum(member.leaves for member in self.members.values()))
        return self._relay_rule.leaves()

    def passes_down(self, codec: Codec, message: Rows, numbers: npt.NDArray[np.int64] | None) -> bool:
        """An update has come from above: take it in and owe it below; ``False``: nobody below holds parameters yet.

        Args:
            codec, message: the update.
            numbers: see :meth:`rowcast.training.proposal.replica.Replica.apply`; ``None``: its rows hold all that the
                server above has acknowledged.
        """
        ledger, upper = self.team.model.ledger, self.upper
        if ledger is None or upper is None:
            return False
        self._relay_rule.coming(message, upper.outbox.acknowledged_frames if numbers is None else numbers)
        ledger.add(codec, message, self._relay_rule.owing())
        self.team.departures.wake_draining()
        return True

    def joined_above(self, now: float) -> None:
        """The parameters here are the team's, of the worker's iteration; perhaps others than before."""
        upper, model = self.upper, self.team.model
        assert upper is not None and model.layout is not None
        client = upper.client
        if model.ledger is not None and client.how == "receive":
            self._admission.send_away(now, f"{self.name} has received other parameters from above", goes_on=True)
            self.level = max(self.level, self._relay_rule.floor.lowest)
        if model.ledger is None:
            model.complete(model.layout, upper.replica)
            self.level = upper.iteration
        self._joined = True
        trained = client.goes_on or upper.iteration > 0
        self._admission.seeding.decided(
            Provenance(client.origin, client.training, trained, wished=False, iteration=self.level)
        )
        anticipates = self.policy.reads_own_writes and not model.layout.is_timing_only
        self._relay_rule.joined_above(self.level, upper.passage if anticipates else None)
        self._admission.let_in_queue(now)

    def heard_horizon(self) -> None:
        """The server above has told how fresh what is here is."""
        upper = self.upper
        assert upper is not None and isinstance(upper.rule, UpstreamRule)
        told, policy = upper.rule.told, upper.policy
        assert told is not None and policy is not None
        self.team.policy = policy
        ahead = upper.iteration - self.level
        self._relay_rule.heard_horizon(told.horizon - ahead, told.newest - ahead, told.members)

    def heard_share(self) -> None:
        """The server above has told what of the team's batch is that of those below."""
        self._sharing.renew()

    # -- passing on --------------------------------------------------------------------------------------------

    def _pass_on(self, now: float) -> None:
        """Something has happened below or above: tell the other end what follows from it."""
        upper, rule = self.upper, self._relay_rule
        self._stirred = True
        if upper is None or upper.over:
            return
        upper.tell_leaves()
        if not self._joined or not isinstance(upper.rule, UpstreamRule):
            return
        if len(self.gate.versions):
            self._flushed = False
            while upper.state is WorkerState.COMPUTING and rule.floor.lowest > self.level:
                self.level += 1
                upper.exchange_sum(now, rule.usual_size(), rule.most_momentum())
        elif upper.state is WorkerState.COMPUTING:
            self._end(now, upper)
        apart = upper.rule.apart(now)
        if apart != rule.apart:
            rule.apart = apart
            self.team.notifier.wake_all(self.members.values())

    def _end(self, now: float, upper: Upstream) -> None:
        """Nobody below counts: what has come from there is delivered, and if all have finished the relay has too."""
        members = self.members.values()
        if any(self.team.departures.is_awaited(member) for member in members):
            return
        if any(member.state is MemberState.DRAINING and member.finish_wait for member in members):
            upper.finish(now)
        elif self.gate.opened and not self._flushed:
            self._flushed = True
            upper.outbox.send_everything(now, upper.iteration)

    def _passed_over(self) -> None:
        """The end above may have come: those who have finished below may go."""
        if self.over:
            self.team.departures.wake_draining()

    # -- the driver's side: the connection to the server above ----------------------------------------------------

    @property
    def failure(self) -> RowcastError | None:
        """Why the relay cannot go on, or ``None``."""
        return None if self.upper is None else self.upper.failure

    @property
    def finished_all(self) -> bool:
        """All workers below have finished, and were told goodbye."""
        return self.over and not self.members

    @property
    def connect_at(self) -> float | None:
        """When the driver is to try to connect to the server above (s); ``None``: it is not to."""
        return None if self.upper is None else self.upper.connect_at

    def connecting(self, now: float, address: str) -> None:
        """The driver tries to connect to the server above, at ``address`` (for people)."""
        if self.upper is not None:
            self.upper.connecting(now, address)

    def connect_failed(self, now: float, cause: str) -> None:
        """The attempt came to nothing."""
        if self.upper is not None:
            self.upper.connect_failed(now, cause)
            self._told()

    def _told(self) -> None:
        """What the worker has to tell people is told here."""
        upper = self.upper
        if upper is not None and upper.notices:
            self.notices.extend(upper.notices)
            upper.notices.clear()

    def _above(self, link: Link) -> Upstream | None:
        """The worker whose connection this is; ``None``: it is one from below."""
        if not link.upward:
            return None
        if self.upper is None:
            raise LocalProtocolError("relay: expected no connection to the server above before it is asked for")
        return self.upper

    # -- the driver's side: see ServerNode for each ----------------------------------------------------------------

    def listen(self, now: float) -> None:
        """See :class:`ServerNode`; one that had given up and is started again looks for the server above anew."""
        super().listen(now)
        if self.upper is not None:
            self.upper.failure = None
            self.upper.search.restarted(now)

    def link_up(self, now: float, link: Link) -> None:
        if (upper := self._above(link)) is None:
            super().link_up(now, link)
        else:
            upper.link_up(now, link)
        self._pass_on(now)

    def secured(self, now: float, link: Link, channel: bytes, identity: str | None) -> None:
        link.secure(channel, identity)

    def link_down(self, now: float, link: Link, cause: str) -> None:
        if (upper := self._above(link)) is None:
            super().link_down(now, link, cause)
        elif upper.link is link:
            upper.link_down(now, cause)
            self._told()
            self._passed_over()
        self._pass_on(now)

    def heard(self, now: float, link: Link, begun: tuple[int, int] = (0, 0)) -> None:
        if (upper := self._above(link)) is None:
            super().heard(now, link, begun)
        elif upper.link is link:
            upper.heard(now)
            link.decoder.hold(*begun)

    def blame(self, now: float, link: Link, error: RowcastError) -> None:
        if (upper := self._above(link)) is None:
            super().blame(now, link, error)
        elif isinstance(error, RemoteProtocolError):
            upper.blame(now, error)
            link.closing = True

    def receive(self, now: float, link: Link, message: Message) -> None:
        if (upper := self._above(link)) is None:
            super().receive(now, link, message)
        elif upper.link is link and not link.closing:
            upper.receive(now, message)

    def arrived(self, now: float, link: Link, count: int) -> str | None:
        cause = super().arrived(now, link, count)
        if link.upward:
            self._told()
            self._passed_over()
            if link.closing and cause is None and not link.control:
                cause = "closed"
        self._pass_on(now)
        return cause

    def poll(self, now: float, link: Link) -> Message | None:
        if (upper := self._above(link)) is None:
            return super().poll(now, link)
        return upper.poll(now) if upper.link is link else None

    def farewell(self, link: Link, cause: str) -> None:
        """See :class:`ServerNode`; the server above keeps this relay's place."""
        if (upper := self._above(link)) is None:
            super().farewell(link, cause)
        elif upper.link is link:
            link.closing = True

    def take_ready(self) -> list[Link]:
        ready = super().take_ready()
        upper = self.upper
        if self._stirred and upper is not None and upper.link is not None:
            ready.append(upper.link)
        self._stirred = False
        return ready

    def next_wake(self) -> float | None:
        due = super().next_wake()  # when to connect, the driver asks apart
        upper = self.upper
        above = None if upper is None or upper.link is None else upper.next_wake()
        return due if above is None else above if due is None else min(due, above)

    def on_timer(self, now: float) -> list[tuple[Link, str]]:
        dead = super().on_timer(now)
        upper = self.upper
        if upper is not None and upper.link is not None:
            link = upper.link
            try:
                upper.on_timer(now)
            except LinkLost as error:
                dead.append((link, str(error)))
        self._pass_on(now)
        return dead


def check_relayed(policy: Policy) -> None:
    """Refuse policies that a relay cannot sum up for.

    Raises:
        ConfigError: it is one.
    """
    if not policy.streaming:
        raise ConfigError(
            f"relay: expected a policy that streams rows, as 'rowcast:8', got {policy.name!r}; rows that travel in "
            "pushes and pulls go to the server itself"
        )
    if policy.row_weights != "members" or policy.feedback < 1:
        raise ConfigError(
            f"relay: expected a policy with row_weights=members and feedback=1, got {policy.name!r}: in a sum it "
            "cannot be told any longer who has sent what"
        )
