"""A worker as the server knows it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from rowcast.codecs import Codec
from rowcast.delivery.inbox import Inbox
from rowcast.delivery.outbox import Outbox
from rowcast.session.link import Link
from rowcast.session.liveness import Progress
from rowcast.training.seed import Seed
from rowcast.wire import Hello, Rows, Supply

__all__ = ["HELD", "NOT_STARTED", "Member", "MemberState", "MemberStatus"]


class MemberState(enum.Enum):
    """What the server does for a member."""

    SEEDING = "seeding"  #: it sends the first parameters
    RECEIVING = "receiving"  #: it is sent the parameters
    READY = "ready"  #: it holds the parameters and waits for the start
    COMPUTING = "computing"  #: it computes or pushes
    WAITING = "waiting"  #: it is held at the gate
    QUEUED = "queued"  #: its pull waits for a slot
    PULLING = "pulling"  #: it is sent what it is owed
    DRAINING = "draining"  #: it has finished and is sent everything


#: States of a worker that has not computed yet: forgotten when it goes away, there is nothing to come back to.
NOT_STARTED = (MemberState.SEEDING, MemberState.RECEIVING, MemberState.READY)

#: States of a worker that is told for whom it waits.
HELD = (MemberState.READY, MemberState.WAITING, MemberState.QUEUED)


@dataclass(eq=False)
class Member:
    """One worker of the team, connected or not.

    Attributes:
        session: the life of the worker; another one means that it started afresh.
        owed: what it has not received yet.
        inbox: what came from it.
        progress: whether its link is stuck.
        iteration: newest iteration whose push has ended.
        quota_iteration: newest iteration whose quota has arrived.
        begun_iteration: newest iteration of which anything has arrived: it holds the pull of the one before.
        link: its connection, or ``None`` while the link is down.
        gated: the gate counts it.
        given_up: its link has been down for so long that nobody expects it back.
        recounted: its iterations were given other numbers, and nothing has come from it since.
        lost_at: when its link was lost (s).
        pushing_since: when the first frame of its newest iteration arrived (s).
        woken_at: when a timer of it last went off (s).
        samples: how much it counts when slots are given: the averaging weight of its last update.
        dirty: something was added to what it is owed since the last drain began.
        seed: what it brings of the first parameters, while it is the first worker.
        metrics: what it reported last, for a progress display.
        life: the life of the server under which it was welcomed.
        leaves: workers whose updates it sends: 1, or for a relay all that are below it.
        below: of a relay: its session and those of the relays below it; empty: it is none.
        staged: rows of a push that has not ended, with their codes, where a push counts whole or not at all; ``None``
            where rows count as they come.
        staged_bytes: what those take in memory, about.
        supply: what it said of its stream; ``None`` where it has none.
        told_share: the share of the team's batch that it was told (samples), and on which connection.
        metrics_left_out: it reported more than is kept, and this was said.
    """

    name: str
    session: bytes
    owed: Outbox
    inbox: Inbox
    state: MemberState
    progress: Progress = field(default_factory=Progress)
    iteration: int = 0
    quota_iteration: int = 0
    begun_iteration: int = 0
    link: Link | None = None
    gated: bool = False
    given_up: bool = False
    recounted: bool = False
    lost_at: float = 0.0
    pushing_since: float = 0.0
    woken_at: float = 0.0
    waiting_since: float = 0.0
    next_notice: float = 0.0
    cancelled_iteration: int = 0
    samples: float = 1.0
    finish_wait: bool = True
    dirty: bool = True
    push_rows: int = 0
    push_zero_rows: int = 0
    push_bytes: int = 0
    seed: Seed = field(default_factory=Seed)
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_left_out: bool = False
    staged: list[tuple[Codec, Rows]] | None = None
    staged_bytes: int = 0
    supply: Supply | None = None
    told_share: tuple[Link | None, int] = (None, 0)
    life: bytes = b""
    leaves: int = 1
    below: tuple[bytes, ...] = ()

    def is_resumed_by(self, hello: Hello, newest: int) -> bool:
        """Whether ``hello`` is of the same life of the worker, and it can go on in its session.

        For that it knows all that it has acknowledged, and the ``newest`` iteration that it told of. One that was
        killed and goes on from what was kept may know less.
        """
        # A worker that knows no server at all lost its welcome with the link.
        same = self.session == hello.session and hello.server in (self.life, b"")
        knows = self.recounted or hello.iteration >= newest
        return same and knows and not hello.anew and hello.received >= self.owed.acknowledged_frames

    def take_push(self) -> dict[str, int]:
        """What has come since it was asked last, in the words of the event ``push``."""
        taken = {"rows": self.push_rows, "zero_rows": self.push_zero_rows, "bytes": self.push_bytes}
        self.push_rows = self.push_zero_rows = self.push_bytes = 0
        return taken

    def owes_more(self) -> None:
        """Something was added to what it is owed."""
        self.owed.source.own.measured = False
        self.dirty = True


@dataclass(frozen=True)
class MemberStatus:
    """A line of the progress display.

    Attributes:
        state: what it is doing, or since when its link is down.
        iteration: iterations finished, by its own count.
        staleness: iterations behind the fastest, by the gate's, which begins anew where one of the two was absent.
        waited_s: seconds held at the gate or for a slot so far, 0 when it is not.
        metrics: what it reported last.
    """

    name: str
    state: str
    iteration: int
    staleness: int
    waited_s: float
    metrics: dict[str, float]
