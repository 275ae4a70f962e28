"""The messages between a worker and a server.

The fields of each travel in order in the compact binary form of :mod:`rowcast.wire.fields`; those of :class:`Rows`,
which are most of the bytes, in a form of their own. Nothing that arrives is ever unpickled or executed.

A field may be added at the end of a control message, with a default: older peers skip it, and leave it out. Any other
change of a message needs another ``PROTOCOL_VERSION``.

``w>`` is sent by workers only, ``s>`` by servers only, ``<>`` by both; ``p>`` by a standby.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, overload

import msgspec
import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_id
from rowcast.wire.asides import ASIDES
from rowcast.wire.fields import (
    MAX_METRIC_NAME,
    MAX_METRICS,
    Claim,
    Control,
    Count,
    Finite,
    Message,
    Metrics,
    Places,
    StreamId,
)
from rowcast.wire.index import encode_index, index_bytes
from rowcast.wire.inferences import INFERENCES
from rowcast.wire.leading import LEADING
from rowcast.wire.relays import RELAYS
from rowcast.wire.slots import SLOTS
from rowcast.wire.streams import STREAMS

#: Unit of times that travel as whole numbers (s).
TICK_S = 1e-4

__all__ = [
    "CONTROL",
    "Ack",
    "Cancel",
    "Challenge",
    "Computed",
    "Farewell",
    "Finish",
    "Go",
    "Heartbeat",
    "Hello",
    "Horizon",
    "LayoutTable",
    "Lead",
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


class Challenge(Claim, frozen=True):
    """s> First message on a connection: prove that you know the secret."""

    KIND: ClassVar[int] = 1
    server: bytes  #: 16 random bytes, one value for each life of the server
    nonce: bytes  #: 16 random bytes
    secret_needed: bool


class Hello(Claim, frozen=True):
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
    iteration: Count
    received: Count  #: number of the last row frame received from the server in this session
    training: bytes = b""  #: names the training that its parameters belong to; empty where they are not a team's yet
    trained: Count = 0  #: iterations of training behind its parameters
    wish: str = ""  #: ``mine``: its parameters are to be the team's; ``team``: the team's in any case; empty: neither;
    #: ``infer``: it wants inferences computed: ``layout`` and ``state`` are digests of a graph and its parameters
    anew: bool = False  #: it cannot go on in its session: it joins anew, and is told how much of it had arrived
    team: bytes = b""  #: the team in which it was served last, where that counts terms
    served: Count = 0  #: the highest term of that team in which it was served


class Proof(Control, frozen=True):
    """s> I know the secret too. Goes before all else that a worker is told whose hello was right."""

    KIND: ClassVar[int] = 23
    proof: bytes  #: HMAC over the challenge and the whole hello


class LayoutTable(Control, frozen=True):
    """<> A piece of the layout: from the worker that seeds, or before a refusal, so that what differs can be named."""

    KIND: ClassVar[int] = 3
    part: bytes
    left: Count  #: bytes of the table that follow in the next pieces


class Welcome(Control, frozen=True):
    """s> You are in. ``how`` says what happens next: seed, equal, receive or resume."""

    KIND: ClassVar[int] = 4
    how: str
    server: bytes
    policy: str
    epoch: Count
    members: Count
    iteration: Count  #: the worker goes on counting from here
    received: Count  #: number of the last row frame received from the worker in this session
    state: bytes  #: digest of the server's parameters; empty where it has none yet
    training: bytes = b""  #: names the training that the team's parameters belong to
    origin: str = ""  #: the worker that brought the team's parameters
    positions: Places = b""  #: how far the data was read that is in them: of the last whole push of this name
    team: bytes = b""  #: 16 random bytes, one value for each team whose server keeps a log
    term: Count = 0  #: in which the server leads that team; 0: it keeps no log
    standby: str = ""  #: where the standby is, host:port; empty: there is none


T = TypeVar("T")


class _Once(Generic[T]):
    """A property that is worked out when it is first asked for; each frame has some.

    ``functools.cached_property`` takes a lock before Python 3.12, which costs more than what is worked out here.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function = function
        self._name = function.__name__

    @overload
    def __get__(self, instance: None, owner: type) -> _Once[T]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> _Once[T] | T:
        if instance is None:
            return self
        value = vars(instance)[self._name] = self._function(instance)
        return value


@dataclass(frozen=True, eq=False)
class Rows(Message):
    """<> Some rows. The only message whose size matters, and the only one that is acknowledged.

    Attributes:
        number: counts up by one for each row frame of a session and direction.
        iteration: these rows are whole up to this iteration of the sender (push) or of the receiver (pull).
        codec: ``wire_id`` of the codec.
        absolute: the rows replace what the receiver holds, instead of being subtracted from it.
        quota_end: with this frame the quota of the push or pull is complete; of a request: a slab is, so compute.
        rows: ascending row indices, int64 [k].
        payload: encoded rows, uint8.
        stream: which of the row streams of the connection they belong to, 0 .. 255; each counts its own frames.
        coder: not sent: the codec itself, at who encoded them; ``None`` where its number says all.
    """

    KIND: ClassVar[int] = 5
    number: int
    iteration: int
    codec: int
    absolute: bool
    quota_end: bool
    rows: npt.NDArray[np.int64]
    payload: npt.NDArray[np.uint8]
    stream: int = 0
    coder: Codec | None = None

    @property
    def code(self) -> Codec:
        """The codec of the payload.

        Raises:
            RemoteProtocolError: there is none with this number.
        """
        return codec_by_id(self.codec) if self.coder is None else self.coder

    @_Once
    def index(self) -> tuple[int, bytes]:
        """The index block: the number of its form, and its content; made once."""
        return encode_index(self.rows)

    @_Once
    def content_bytes(self) -> int:
        """Bytes of index block and payload; counted once, and without making the block."""
        return index_bytes(self.rows) + len(self.payload)

    def numbered(self, number: int) -> Rows:
        """The same frame under another number. Rows, payload and index block are shared, and were made once."""
        copy = Rows(
            number, self.iteration, self.codec, self.absolute, self.quota_end, self.rows, self.payload, self.stream
        )
        vars(copy).update(index=self.index, content_bytes=self.content_bytes)
        return copy


class Ack(Control, frozen=True):
    """<> Every row frame of a stream up to this number was received and applied."""

    KIND: ClassVar[int] = 6
    number: Count
    stream: StreamId = 0
    arrived: Count = 0  #: when that frame arrived, by a clock of the receiver, in units of 100 us; 0: not said

    @classmethod
    def at(cls, now: float, number: int, stream: int = 0) -> Ack:
        """The acknowledgement of a frame that arrived at ``now`` (s)."""
        return cls(number, stream, max(round(now / TICK_S), 0))

    @property
    def arrived_s(self) -> float | None:
        """When that frame arrived, by a clock of the receiver (s); ``None``: it does not say."""
        return self.arrived * TICK_S if self.arrived else None


class PushEnd(Control, frozen=True):
    """w> Nothing more is sent for this iteration."""

    KIND: ClassVar[int] = 7
    iteration: Count
    quota_s: Finite  #: seconds until the quota was acknowledged, or the best estimate of it
    compute_s: Finite  #: seconds that the gradient of this iteration took
    rate_bps: Finite  #: measured delivery rate, bit/s
    skipped: bool  #: this iteration made no contribution
    positions: Places = b""  #: how far its data was read up to here, where that is a stream; see ``Welcome``


class Go(Control, frozen=True):
    """s> The gate is open; a pull follows."""

    KIND: ClassVar[int] = 8
    iteration: Count
    mta_time_s: Finite  #: how long rows beyond the quota may travel in the next push
    held_s: Finite  #: seconds the gate held this worker
    staleness: Count  #: iterations behind the fastest worker
    members: Count
    epoch: Count


class PullEnd(Control, frozen=True):
    """s> Nothing more is sent for this pull: compute."""

    KIND: ClassVar[int] = 9
    iteration: Count


class Computed(Control, frozen=True):
    """w> An iteration is finished; its rows follow while the next one is computed. Only where rows are streamed."""

    KIND: ClassVar[int] = 21
    iteration: Count
    compute_s: Finite  #: seconds that the gradient of this iteration took, the wait for its data included
    rate_bps: Finite  #: measured delivery rate, bit/s
    size: Finite  #: sum |.| of what this iteration contributed
    skipped: bool  #: this iteration made no contribution
    momentum: Finite = 0.0  #: of the inner optimizer: decay of the average of gradients that it steps by


class Horizon(Control, frozen=True):
    """s> How fresh your parameters are. Travels in its place between row frames. Only where rows are streamed."""

    KIND: ClassVar[int] = 22
    horizon: Count  #: with the rows before this message you hold everybody's contributions up to this iteration
    newest: Count  #: iteration of the fastest worker
    slack: Count  #: iterations that you may be ahead of the horizon
    members: Count  #: among how many workers updates are shared: who counts, and who is in an outage
    epoch: Count
    counted: bool  #: the gate counts you; otherwise nobody waits for you until your link has recovered
    outer_lr: Finite = 0.0  #: factor on what you contribute from now on; 0: that of the policy


class Cancel(Control, frozen=True):
    """s> Everybody's quota of this iteration has arrived: stop sending rows beyond yours."""

    KIND: ClassVar[int] = 10
    iteration: Count


class StateEnd(Control, frozen=True):
    """w> All parameters were sent (seeding)."""

    KIND: ClassVar[int] = 11


class Start(Control, frozen=True):
    """s> You hold the team's parameters and the team is complete: compute."""

    KIND: ClassVar[int] = 18
    iteration: Count  #: the worker goes on counting from here
    members: Count
    epoch: Count


class Lead(Control, frozen=True):
    """s> Whether what you make of the buffers is what the team has in them. Only where their rule is ``first``."""

    KIND: ClassVar[int] = 30
    leads: bool  #: no longer, otherwise; nor after a ``Welcome``


class Heartbeat(Control, frozen=True):
    """<> I am alive; what a progress display wants to know; and how much has arrived here."""

    KIND: ClassVar[int] = 12
    metrics: Metrics = msgspec.field(default_factory=dict)
    arrived: Count = 0  #: bytes that have arrived on this connection: a slow transfer goes on

    def sendable(self) -> Heartbeat:
        """The first metrics that a peer takes: finite, with names that are not too long."""
        kept = [
            (name, value)
            for name, value in self.metrics.items()
            if math.isfinite(value) and len(name.encode()) <= MAX_METRIC_NAME
        ]
        if len(kept) == len(self.metrics) <= MAX_METRICS:
            return self
        return msgspec.structs.replace(self, metrics=dict(kept[:MAX_METRICS]))

    def check(self) -> None:
        """Measure the names in bytes."""
        for name in self.metrics:
            if len(name.encode()) > MAX_METRIC_NAME:
                raise ValueError(f"expected a name of at most {MAX_METRIC_NAME} bytes, got {len(name.encode())}")


class Waiting(Control, frozen=True):
    """s> Who the gate waits for on your behalf, and why."""

    KIND: ClassVar[int] = 13
    iteration: Count
    reason: str


class Finish(Control, frozen=True):
    """w> I compute no more and everything I computed is at the server."""

    KIND: ClassVar[int] = 14
    iteration: Count
    wait: bool  #: send me also what the others still compute


class Farewell(Control, frozen=True):
    """s> You hold everything. ``received`` row frames of yours were applied."""

    KIND: ClassVar[int] = 15
    received: Count


class Leave(Control, frozen=True):
    """<> I am going away, and why."""

    KIND: ClassVar[int] = 16
    cause: str


class Refusal(Control, frozen=True):
    """<> I cannot go on with you, and why; the connection is closed after it.

    ``code`` is one of ``damaged``, ``protocol``, ``version``, ``secret``, ``layout``, ``name``, ``parameters``,
    ``model``, ``standby``.
    """

    KIND: ClassVar[int] = 17
    code: str
    text: str


_ALL: tuple[type[Control], ...] = (
    Challenge,
    Hello,
    Proof,
    LayoutTable,
    Welcome,
    Ack,
    *SLOTS,
    PushEnd,
    Go,
    PullEnd,
    Computed,
    Horizon,
    Cancel,
    StateEnd,
    Start,
    Lead,
    *(*INFERENCES, *STREAMS, *ASIDES, *LEADING, *RELAYS),
    Heartbeat,
    Waiting,
    Finish,
    Farewell,
    Leave,
    Refusal,
)

#: Every message except :class:`Rows`, by its kind.
CONTROL: dict[int, type[Control]] = {message.KIND: message for message in _ALL}
