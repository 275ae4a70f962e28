"""The messages between a worker and a server.

Each message is a frozen dataclass. Its fields travel in order in the compact binary form of
:mod:`rowcast.wire.fields`; nothing that arrives is ever unpickled or executed.

``w>`` is sent by workers only, ``s>`` by servers only, ``<>`` by both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rowcast.wire.index import encode_index, index_bytes

__all__ = [
    "CONTROL",
    "Ack",
    "Ask",
    "Cancel",
    "Challenge",
    "Computed",
    "Farewell",
    "Finish",
    "Go",
    "Grant",
    "Heartbeat",
    "Hello",
    "Horizon",
    "LayoutTable",
    "Leave",
    "Message",
    "Proof",
    "PullEnd",
    "PushEnd",
    "Refusal",
    "Rows",
    "Start",
    "StateEnd",
    "Waiting",
    "Welcome",
]


@dataclass(frozen=True)
class Message:
    """Base of all messages. ``KIND`` is the number in the frame header."""

    KIND: ClassVar[int]


@dataclass(frozen=True)
class Challenge(Message):
    """s> First message on a connection: prove that you know the secret."""

    KIND: ClassVar[int] = 1
    server: bytes  #: 16 random bytes, one value for each life of the server
    nonce: bytes  #: 16 random bytes
    secret_needed: bool


@dataclass(frozen=True)
class Hello(Message):
    """w> Who I am, what I hold, and the proof."""

    KIND: ClassVar[int] = 2
    name: str
    session: bytes  #: 16 random bytes, one value for each life of the worker
    nonce: bytes  #: 16 random bytes
    proof: bytes  #: HMAC over both nonces and every other field; empty without a secret
    layout: bytes  #: digest of the layout
    state: bytes  #: digest of the parameters
    server: bytes  #: the server life that this session knows; empty at the first joining
    joined: bool  #: its parameters are the team's
    iteration: int
    received: int  #: number of the last row frame received from the server in this session
    training: bytes = b""  #: names the training that its parameters belong to; empty where they are not a team's yet
    trained: int = 0  #: iterations of training behind its parameters
    wish: str = ""  #: ``mine``: its parameters are to be the team's; ``team``: the team's in any case; empty: neither


@dataclass(frozen=True)
class Proof(Message):
    """s> I know the secret too. Goes before all else that a worker is told whose hello was right."""

    KIND: ClassVar[int] = 23
    proof: bytes  #: HMAC over the challenge and the whole hello


@dataclass(frozen=True)
class LayoutTable(Message):
    """<> A piece of the layout: from the worker that seeds, or before a refusal, so that what differs can be named."""

    KIND: ClassVar[int] = 3
    part: bytes
    left: int  #: bytes of the table that follow in the next pieces


@dataclass(frozen=True)
class Welcome(Message):
    """s> You are in. ``how`` says what happens next: seed, equal, receive or resume."""

    KIND: ClassVar[int] = 4
    how: str
    server: bytes
    policy: str
    epoch: int
    members: int
    iteration: int  #: the worker goes on counting from here
    received: int  #: number of the last row frame received from the worker in this session
    state: bytes  #: digest of the server's parameters; empty where it has none yet
    training: bytes = b""  #: names the training that the team's parameters belong to
    origin: str = ""  #: the worker that brought the team's parameters


@dataclass(frozen=True, eq=False)
class Rows(Message):
    """<> Some rows. The only message whose size matters, and the only one that is acknowledged.

    Attributes:
        number: counts up by one for each row frame of a session and direction.
        iteration: the contribution of these rows is whole up to this iteration of the sender (push) or of the
            receiver (pull).
        codec: ``wire_id`` of the codec.
        absolute: the rows replace what the receiver holds, instead of being subtracted from it.
        quota_end: with this frame the quota of the push or pull is complete.
        rows: ascending row indices, int64 [k].
        payload: encoded rows, uint8.
    """

    KIND: ClassVar[int] = 5
    number: int
    iteration: int
    codec: int
    absolute: bool
    quota_end: bool
    rows: npt.NDArray[np.int64]
    payload: npt.NDArray[np.uint8]

    @cached_property
    def index(self) -> tuple[int, bytes]:
        """The index block: the number of its form, and its content; made once."""
        return encode_index(self.rows)

    @cached_property
    def content_bytes(self) -> int:
        """Bytes of index block and payload; counted once, and without making the block."""
        return index_bytes(self.rows) + len(self.payload)

    def numbered(self, number: int) -> Rows:
        """The same frame under another number. Rows, payload and index block are shared, and were made once."""
        copy = Rows(number, self.iteration, self.codec, self.absolute, self.quota_end, self.rows, self.payload)
        vars(copy).update(index=self.index, content_bytes=self.content_bytes)
        return copy


@dataclass(frozen=True)
class Ack(Message):
    """<> Every row frame up to this number was received and applied."""

    KIND: ClassVar[int] = 6
    number: int


@dataclass(frozen=True)
class Ask(Message):
    """w> An update is ready: may I push it? Only where the policy gives slots."""

    KIND: ClassVar[int] = 19
    iteration: int
    weight: float  #: averaging weight of the update, > 0: how much its worker counts
    rate_bps: float  #: measured delivery rate, bit/s


@dataclass(frozen=True)
class Grant(Message):
    """s> You have a slot: push."""

    KIND: ClassVar[int] = 20
    iteration: int
    held_s: float  #: seconds that this worker waited for the slot


@dataclass(frozen=True)
class PushEnd(Message):
    """w> Nothing more is sent for this iteration."""

    KIND: ClassVar[int] = 7
    iteration: int
    quota_s: float  #: seconds until the quota was acknowledged, or the best estimate of it
    compute_s: float  #: seconds that the gradient of this iteration took
    rate_bps: float  #: measured delivery rate, bit/s
    skipped: bool  #: this iteration made no contribution


@dataclass(frozen=True)
class Go(Message):
    """s> The gate is open; a pull follows."""

    KIND: ClassVar[int] = 8
    iteration: int
    mta_time_s: float  #: how long rows beyond the quota may travel in the next push
    held_s: float  #: seconds the gate held this worker
    staleness: int  #: iterations behind the fastest worker
    members: int
    epoch: int


@dataclass(frozen=True)
class PullEnd(Message):
    """s> Nothing more is sent for this pull: compute."""

    KIND: ClassVar[int] = 9
    iteration: int


@dataclass(frozen=True)
class Computed(Message):
    """w> An iteration is finished; its rows follow while the next one is computed. Only where rows are streamed."""

    KIND: ClassVar[int] = 21
    iteration: int
    compute_s: float  #: seconds that the gradient of this iteration took
    rate_bps: float  #: measured delivery rate, bit/s
    size: float  #: sum |.| of what this iteration contributed
    skipped: bool  #: this iteration made no contribution


@dataclass(frozen=True)
class Horizon(Message):
    """s> How fresh your parameters are. Travels in its place between row frames. Only where rows are streamed."""

    KIND: ClassVar[int] = 22
    horizon: int  #: with the rows before this message you hold everybody's contributions up to this iteration
    newest: int  #: iteration of the fastest worker
    slack: int  #: iterations that you may be ahead of the horizon
    members: int  #: among how many workers updates are shared: who counts, and who is in an outage
    epoch: int
    counted: bool  #: the gate counts you; otherwise nobody waits for you until your link has recovered


@dataclass(frozen=True)
class Cancel(Message):
    """s> Everybody's quota of this iteration has arrived: stop sending rows beyond yours."""

    KIND: ClassVar[int] = 10
    iteration: int


@dataclass(frozen=True)
class StateEnd(Message):
    """w> All parameters were sent (seeding)."""

    KIND: ClassVar[int] = 11


@dataclass(frozen=True)
class Start(Message):
    """s> You hold the team's parameters and the team is complete: compute."""

    KIND: ClassVar[int] = 18
    iteration: int  #: the worker goes on counting from here
    members: int
    epoch: int


@dataclass(frozen=True)
class Heartbeat(Message):
    """<> I am alive; what a progress display wants to know; and how much has arrived here."""

    KIND: ClassVar[int] = 12
    metrics: dict[str, float] = field(default_factory=dict)
    arrived: int = 0  #: bytes that have arrived on this connection: a slow transfer goes on


@dataclass(frozen=True)
class Waiting(Message):
    """s> Who the gate waits for on your behalf, and why."""

    KIND: ClassVar[int] = 13
    iteration: int
    reason: str


@dataclass(frozen=True)
class Finish(Message):
    """w> I compute no more and everything I computed is at the server."""

    KIND: ClassVar[int] = 14
    iteration: int
    wait: bool  #: send me also what the others still compute


@dataclass(frozen=True)
class Farewell(Message):
    """s> You hold everything. ``received`` row frames of yours were applied."""

    KIND: ClassVar[int] = 15
    received: int


@dataclass(frozen=True)
class Leave(Message):
    """<> I am going away, and why."""

    KIND: ClassVar[int] = 16
    cause: str


@dataclass(frozen=True)
class Refusal(Message):
    """<> I cannot go on with you, and why; the connection is closed after it.

    ``code`` is one of ``damaged``, ``protocol``, ``version``, ``secret``, ``layout``, ``name``, ``parameters``,
    ``model``.
    """

    KIND: ClassVar[int] = 17
    code: str
    text: str


#: Every message except :class:`Rows`, by its kind.
CONTROL: dict[int, type[Message]] = {
    message.KIND: message
    for message in (
        Challenge,
        Hello,
        Proof,
        LayoutTable,
        Welcome,
        Ack,
        Ask,
        Grant,
        PushEnd,
        Go,
        PullEnd,
        Computed,
        Horizon,
        Cancel,
        StateEnd,
        Start,
        Heartbeat,
        Waiting,
        Finish,
        Farewell,
        Leave,
        Refusal,
    )
}
