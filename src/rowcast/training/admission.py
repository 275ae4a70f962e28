"""How workers come: who is let in, who brings the parameters, who resumes, and when the team starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rowcast.delivery.inbox import Inbox
from rowcast.errors import LinkLost, ParametersConflict
from rowcast.rows import Layout
from rowcast.session.limits import StrangerLimits
from rowcast.session.link import Link
from rowcast.session.liveness import Progress
from rowcast.session.memory import Memory
from rowcast.session.newcomers import Newcomers
from rowcast.session.recurring import Recurring
from rowcast.session.seeding import PROBES, Provenance, Seeding, Verdict
from rowcast.session.states import Event
from rowcast.session.tables import table_parts
from rowcast.session.texts import shorten
from rowcast.training.branches import Branches
from rowcast.training.member import NOT_STARTED, Member, MemberState
from rowcast.training.welcoming import welcome_of
from rowcast.wire import Hello, Leave, Start, Through, Waiting

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["Admission"]


class Admission:
    """Lets workers into a team, and back into it.

    Args:
        team: the team.
        secret: the team's shared secret, or ``None``.
        entropy: source of random bytes.
        recurring: tells what strangers do again and again.

    Attributes:
        newcomers: connections that are not members yet.
        seeding: whose parameters the team begins with.
        by_link: members by their connection.
        branches: relays that come.
        left_at: when a worker was there last (s).
    """

    def __init__(self, team: Team, secret: bytes | None, entropy: Callable[[int], bytes], recurring: Recurring) -> None:
        self._team = team
        self._entropy = entropy
        self._recurring = recurring
        self._life = entropy(16)
        self._memory = Memory()
        self.newcomers = Newcomers(self._life, secret, entropy, StrangerLimits(team.settings))
        self.seeding = Seeding(self._life, team.settings.gather_s)
        self.by_link: dict[Link, Member] = {}
        self.branches = Branches(team, self.refuse)
        self.left_at = 0.0
        self._readied: dict[str, None] = {}  # who was ready to start once; some may have gone

    # -- connections -------------------------------------------------------------------------------------------

    def connected(self, now: float, link: Link) -> None:
        """Somebody connected.

        Raises:
            LinkLost: there are too many strangers, or this address failed too often; close the connection.
        """
        if (refused := self.newcomers.refuses(now, link)) is not None:
            self._recurring.tell(now, refused[0], link.peer, refused[1])
            raise LinkLost(refused[1])
        link.opened(now)
        self._team.notifier.say(link, self.newcomers.enter(link))

    def disconnected(self, now: float, link: Link, cause: str) -> None:
        """A connection ended."""
        if self.newcomers.lost(now, link) and not link.closing:
            self._recurring.tell(now, "no hello", link.peer, f"no introduction before it ended: {cause}")
        self._team.notifier.forget(link)
        self.branches.forget(link)
        member = self.by_link.pop(link, None)
        if member is None or member.link is not link:
            return
        member.link = None
        member.lost_at = self.left_at = now
        member.owed.link_lost()
        self._team.journal.record(now, "link_down", peer=member.name, cause=shorten(cause))
        self._team.rule.link_lost(now, member)

    def session_of(self, link: Link) -> bytes:
        """The session of a worker that waits until it is let in; empty where nobody does on this connection."""
        hello = self.newcomers.queue.get(link)
        return b"" if hello is None else hello.session

    def received_from(self, name: str, life: bytes) -> int | None:
        remembered, member = self._memory.received_in(name, life), self._team.members.get(name)
        return member.inbox.received if remembered is None and member is not None else remembered

    # -- joining -----------------------------------------------------------------------------------------------

    def greet(self, now: float, link: Link, hello: Hello) -> None:
        """A worker introduces itself.

        Raises:
            RemoteProtocolError: what it says is not well-formed, or out of turn.
            LinkLost: another server leads its team now; close the connection.
        """
        if (refusal := self.newcomers.refusal(now, link, hello)) is not None:
            self.refuse(now, link, link.peer, *refusal)
            return
        if not self._wants_to_join(now, link, hello):
            return
        if self.branches.is_loop(now, link, hello.name, (hello.session,)):
            return
        member = self._team.members.get(hello.name)
        if member is not None and member.is_resumed_by(hello, self._team.rule.newest(member)):
            self._resume(now, link, hello, member)
            return
        if member is not None and member.link is not None and member.session != hello.session:
            text = f"a worker named {hello.name!r} is connected; choose another --name"
            self.refuse(now, link, hello.name, "name", text)
            return
        verdict = self._judge(now, link, hello)
        if verdict is not None and member is not None:
            self._replace(now, member, hello)  # who is refused drops nobody
            verdict = self._judge(now, link, hello)  # it may have been the one that brought the parameters
        if verdict is not None:
            self._follow(now, link, hello, verdict)

    def _follow(self, now: float, link: Link, hello: Hello, verdict: Verdict) -> None:
        """Do with a worker what was decided."""
        if verdict is Verdict.WAIT:
            self.newcomers.wait(link, hello)
            left_s = self.seeding.gathers_until - now
            reason = f"workers that trained before the server was started, for {left_s:.1f} s at most (gather_s)"
            self._team.notifier.say(link, Waiting(0, reason))
            if self.newcomers.trained() >= self._team.gate.expected:
                self.seeding.complete()
                self.choose_seed(now)
        elif verdict is Verdict.SEED:
            if self.seeding.provenance is not None:
                self.begin_anew(now, f"{hello.name} brings other parameters")
            self._admit(now, link, hello)
        elif self._team.model.ledger is None:
            self.newcomers.wait(link, hello)
            first = "the first worker, which is sending the parameters"
            above = self._team.above
            reason = first if above is None or not above.decides else f"the server above {above.name}"
            self._team.notifier.say(link, Waiting(0, reason))
        else:
            self._admit(now, link, hello)

    def _wants_to_join(self, now: float, link: Link, hello: Hello) -> bool:
        """Its proof was right: give ours. Whether it wants to be a member, and not only to measure the link."""
        if (proof := self.newcomers.prove(link, hello)) is not None:
            self._team.notifier.say(link, proof)
        self.newcomers.check_form(hello)
        if hello.wish == PROBES:
            self.newcomers.begin_probes(now, link, hello.name)
            return False
        team = self._team
        if hello.team == team.tenure.team and hello.served > team.tenure.term:
            team.served_elsewhere = max(team.served_elsewhere, hello.served)
            link.introduced = True
            raise LinkLost(f"another server served {hello.name} in term {hello.served}")
        return True

    def _judge(self, now: float, link: Link, hello: Hello) -> Verdict | None:
        """Whether a worker brings the parameters, takes the team's, or waits until that is decided.

        Returns:
            What becomes of it; ``None``: it was refused.
        """
        others = any(
            member.link is not None or member.gated for name, member in self._team.members.items() if name != hello.name
        )
        above = self._team.above
        if above is not None and above.decides and self._team.model.ledger is None:
            return Verdict.JOIN  # it waits until the parameters are here
        try:
            verdict = self.seeding.judge(now, hello, begun=self._team.gate.opened, others=others)
        except ParametersConflict as error:
            self.refuse(now, link, hello.name, "parameters", str(error))
            return None
        layout = self._team.model.layout
        if verdict is Verdict.JOIN and layout is not None and hello.layout != layout.digest:
            for part in table_parts(layout.to_table()):
                self._team.notifier.say(link, part)
            self.refuse(now, link, hello.name, "layout", "its model has another layout than the team's")
            return None
        return verdict

    def choose_seed(self, now: float) -> None:
        """Who may have been on the way has come, or will not: one of those who wait brings the parameters."""
        if self.seeding.provenance is None and (first := self.newcomers.next_in_queue()) is not None:
            self.greet(now, *first)

    def fresh_at(self) -> float | None:
        """When the model is forgotten because nobody is there (s), or ``None``."""
        fresh_after_s = self._team.settings.fresh_after_s
        if fresh_after_s is None or self._team.model.ledger is None:
            return None
        there = self.newcomers.queue or any(member.link is not None for member in self._team.members.values())
        return None if there else self.left_at + fresh_after_s

    def begin_anew(self, now: float, cause: str) -> None:
        """Forget the parameters and everybody: who comes next may bring others."""
        self._recurring.notices.append(f"the team begins anew: {cause}")
        self.send_away(now, cause, goes_on=False)
        self._team.model.forget()
        self.seeding.forget()
        self._team.gate.reset()

    def send_away(self, now: float, cause: str, *, goes_on: bool) -> None:
        """Nobody is a member any longer; who comes back joins anew.

        Args:
            now: time (s).
            cause: in words.
            goes_on: what they have sent counts on, and must not count twice.
        """
        for member in list(self._team.members.values()):
            if (link := member.link) is not None:
                self.by_link.pop(link, None)
                self._team.notifier.say(link, Leave(cause))
                link.closing = True
                member.link = None
            if goes_on and member.state not in NOT_STARTED:
                self._memory.remember(member.name, member.session, member.life, member.inbox.received)
            self._team.departures.drop(now, member, cause, returns=goes_on)

    def refuse(self, now: float, link: Link, peer: str, code: str, text: str) -> None:
        """Tell a worker why it is not let in, and close its connection."""
        text = shorten(text)
        link.introduced = code != "secret"
        self._recurring.tell(now, f"refused: {code}", peer, text)
        self._team.notifier.refuse(link, code, text)

    def _admit(self, now: float, link: Link, hello: Hello) -> None:
        """A worker (or a new life of one) that this server does not know yet."""
        if self._team.model.ledger is None:
            how, state = "seed", MemberState.SEEDING
            self.seeding.chosen(hello)
        elif self._team.model.suffices(hello.state):
            how, state = "equal", MemberState.RECEIVING
        else:
            how, state = "receive", MemberState.RECEIVING
        layout = self._team.model.layout or Layout.from_shapes([("unknown", (1,))])
        member = Member(
            hello.name,
            hello.session,
            self._team.model.outbox_for(hello.name, layout),
            Inbox(layout),
            state,
            link=link,
            progress=Progress(self._team.settings.stuck_limit_s, self._team.settings.heartbeat_s),
        )
        member.iteration = self.provenance.iteration  # until the gate says where it begins
        self._team.members[hello.name] = member
        self.forget_absent(now)
        if self._team.model.ledger is not None:
            self._team.model.ledger.admit(member)
        self._team.finished.discard(hello.name)
        if how == "receive":
            member.owed.send_state()
        received = self._memory.received(hello)
        # Who was here before says so until it has heard that its numbers start again: another life tells it apart.
        known = received is not None or hello.server == self._life
        member.life = self._entropy(16) if known else self._life
        self._connect(now, link, member, hello, how, received=received or 0)

    def _resume(self, now: float, link: Link, hello: Hello, member: Member) -> None:
        """The same life of a worker is back on a new connection."""
        self._hang_up(now, member)
        delivered, restored = member.owed.resume(now, hello.received)
        member.link = link
        member.given_up = False
        iteration = hello.iteration
        if member.state in (MemberState.WAITING, MemberState.QUEUED, MemberState.PULLING):
            member.state = MemberState.COMPUTING
        if not hello.joined and member.state in (MemberState.READY, MemberState.COMPUTING):
            # The permission to start was lost with the link: once more. It keeps its place at the gate.
            member.state = MemberState.RECEIVING
        elif (
            self._team.rule.recounts
            and member.state is MemberState.COMPUTING
            and (not member.gated or member.recounted)
        ):
            # It counts from elsewhere now; and it must hear so again if the link was lost before it could.
            if not member.gated:
                self._count(now, member)
            member.recounted = True
            iteration = member.iteration
        self._team.rule.resumed(member)
        if iteration != hello.iteration:
            member.owed.renumber(iteration)
        member.dirty = True
        self._team.journal.record(now, "resume", peer=member.name, delivered=delivered, restored=restored)
        how = "seed" if member.state is MemberState.SEEDING and not hello.server else "resume"
        self._connect(now, link, member, hello, how, iteration)

    def _replace(self, now: float, member: Member, hello: Hello) -> None:
        """Another life of this worker has come, or the same one that cannot go on in its session."""
        self._hang_up(now, member)
        if (member.session, member.life) == (hello.session, hello.server):
            self._memory.remember(member.name, member.session, member.life, member.inbox.received)
        self.drop(now, member, "started afresh", returns=member.session == hello.session)

    def _hang_up(self, now: float, member: Member) -> None:
        """Close a connection that its worker has left for another one."""
        old, member.link = member.link, None
        if old is not None:
            self.by_link.pop(old, None)
            old.closing = True
            self._team.notifier.wake(old)
            member.owed.link_lost()
            self._team.rule.link_lost(now, member)

    def _connect(
        self,
        now: float,
        link: Link,
        member: Member,
        hello: Hello,
        how: str,
        iteration: int | None = None,
        received: int = 0,
    ) -> None:
        self.newcomers.let_in(now, link, hello.name)
        link.conversation.move(Event.LET_IN)
        self.branches.forget(link)  # as a member it says so again
        member.seed.connect()
        self.by_link[link] = member
        link.decoder.trusted = True
        link.heard_at = now  # one that had to wait for its turn had nothing to say
        if self._team.model.layout is not None:
            link.decoder.streams.update(self._team.rule.streams(self._team.model.layout))
        member.owed.link_ready()
        self._team.journal.record(
            now, "link_up", peer=member.name, congestion_control=link.congestion_control, shaped_by=link.shaped_by
        )
        iteration = member.iteration if iteration is None else iteration
        received = member.inbox.received or received
        welcome = welcome_of(self._team, member, how, self.provenance, iteration=iteration, received=received)
        if self._team.above is not None:
            self._team.notifier.say(link, Through(self._team.above.name))
        self._team.notifier.say(link, welcome)
        self._team.journal.record(
            now,
            "join",
            peer=member.name,
            epoch=self._team.gate.epoch,
            iteration=member.iteration,
            how=how,
            members=len(self._team.gate.versions),
        )

    # -- the start ---------------------------------------------------------------------------------------------

    def is_ready(self, now: float, member: Member) -> None:
        """It holds the parameters: it starts with the others, or at once if they have."""
        if member.gated:
            member.state = MemberState.COMPUTING
            self._say_start(member)
            return
        member.state = MemberState.READY
        self._readied[member.name] = None
        member.waiting_since = now
        member.next_notice = now + self._team.settings.patience_s
        self.begin_if_complete(now)

    def begin_if_complete(self, now: float) -> None:
        """Those who are ready begin: the team is complete, or was once and nobody else may be on the way."""
        resumed = self.seeding.resumed and now >= self.seeding.gathers_until
        if not (self._team.gate.opened or resumed or len(self._readied) >= self._team.gate.expected):
            return  # asked by each that is ready: a large team is not to be looked through each time
        ready = [other for other in self._team.members.values() if other.state is MemberState.READY]
        resumes = bool(ready) and resumed
        self._team.gate.opened = self._team.gate.opened or resumes or len(ready) >= self._team.gate.expected
        if not self._team.gate.opened:
            return
        for other in ready:
            self._count(now, other)
            other.owed.renumber(other.iteration)
            other.state = MemberState.COMPUTING
        for other in ready:
            self._say_start(other)
        self._team.rule.open_gate(now)

    def _say_start(self, member: Member) -> None:
        if member.link is not None:
            start = Start(member.iteration, self._team.rule.size(), self._team.gate.epoch)
            self._team.notifier.say(member.link, start)

    def _count(self, now: float, member: Member) -> None:
        """Let the gate count a worker from now on."""
        self._team.gate.admit(member, least=self._team.rule.least_iteration())
        self._team.rule.admit(now, member)
        if self._team.model.ledger is not None:
            self._team.model.ledger.keep_back(member, self._team.members.values())

    def seeded(self, now: float, member: Member) -> None:
        """The first worker has sent all parameters: it is ready, and others may come in."""
        origin = self.provenance
        past = f"trained for {origin.iteration} iterations" if origin.trained else "not trained in a team yet"
        self._recurring.notices.append(f"the team's parameters are those of {origin.worker}, {past}")
        self.is_ready(now, member)
        self.let_in_queue(now)

    def let_in_queue(self, now: float) -> None:
        """The parameters are there: those who have waited for them may come in."""
        for link, hello in self.newcomers.in_turn():
            self.greet(now, link, hello)

    @property
    def provenance(self) -> Provenance:
        """Whose the team's parameters are; somebody was let in."""
        provenance = self.seeding.provenance
        assert provenance is not None
        return provenance

    # -- departures --------------------------------------------------------------------------------------------

    def drop(self, now: float, member: Member, cause: str, *, returns: bool = False) -> None:
        """Forget a worker; if it was the first one and had not sent all parameters, the next one does."""
        self.left_at = now
        if member.link is not None:
            self.by_link.pop(member.link, None)
        self._team.departures.drop(now, member, cause, returns=returns)
        if member.state is MemberState.SEEDING and self._team.model.ledger is None:
            self._team.model.forget()
            self.seeding.forget()
            self.choose_seed(now)

    def finished(self, now: float, member: Member) -> None:
        """A worker has delivered all of its work. One that has forgotten that joins anew, and nothing counts twice."""
        self._memory.remember(member.name, member.session, member.life, member.inbox.received)
        self.drop(now, member, "finished")

    def expel(self, now: float, member: Member, cause: str) -> None:
        """Drop a worker; should it ever come back, it joins anew, and what it sent does not count twice."""
        self._memory.remember(member.name, member.session, member.life, member.inbox.received)
        self.drop(now, member, cause, returns=True)

    def forget_absent(self, now: float) -> None:
        """Of the workers that have been away for long, keep as many as the settings say."""
        settings = self._team.settings
        if len(self._team.members) - len(self.by_link) <= settings.absent_workers:
            return  # so many are absent at most: asked by each that joins, who is not to look through a large team
        limit = f"more than {settings.absent_workers} workers are absent (absent_workers)"
        for member in self._team.departures.too_long_away(now, settings.absence_limit_s, settings.absent_workers):
            self.forget(now, member, f"forgotten after {now - member.lost_at:.0f} s without a link: {limit}", limit)

    def forget(self, now: float, member: Member, cause: str, why: str) -> None:
        """Forget a worker that may come back: it joins anew, and what it sent does not count twice."""
        self.expel(now, member, cause)
        what = "what it was owed; it will join anew and receive the parameters"
        self._recurring.dropped(now, member.name, what, why)
