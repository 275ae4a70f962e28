"""A picture of a worker: all that it needs to go on, as it was between two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rowcast.errors import LocalProtocolError
from rowcast.training.kept.notes import readable_later
from rowcast.wire import Rows

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore

__all__ = ["Extras", "Flying", "Picture", "Place", "Progress"]


@dataclass(frozen=True)
class Extras:
    """What belongs to a picture beside the worker itself: what the training loop has.

    Attributes:
        arrays: by name.
        values: whatever JSON can hold.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    values: Any


@dataclass(frozen=True, slots=True)
class Flying:
    """A frame that was sent and not acknowledged.

    Attributes:
        message: the frame.
        before: int32 [k], in which iterations its rows were sent before; empty for frames of parameters.
    """

    message: Rows
    before: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Place:
    """A place in a team; see :class:`~rowcast.session.client.Client`.

    Attributes:
        session: 16 bytes that name the life of the worker.
        joined: its parameters are the team's.
    """

    session: bytes
    server: bytes
    joined: bool
    training: bytes
    origin: str
    how: str


@dataclass(frozen=True)
class Progress:
    """How far a worker has come.

    Attributes:
        iteration: iterations finished, in the team's count; the exchange of the last one has not begun.
        finished: the same as the training loop has counted them.
        positions: how far the data was read up to there.
        policy: text of the team's policy.
        interval_s: what the last step took, up to its exchange (s).
        size, weight, inner_lr: see :class:`~rowcast.training.proposal.contribution.Contribution`.
        trust: sizes of the last updates, in the order in which they came.
    """

    iteration: int
    finished: int
    positions: bytes
    policy: str
    interval_s: float
    size: float
    weight: float
    inner_lr: float
    trust: tuple[float, ...]


@dataclass(frozen=True)
class Picture:
    """All that a worker needs to go on. Nothing in it changes any more.

    What is left out: which of its rows the server has and has not sent back, where gradients are computed from those as
    well (they come back), the factors that PowerSGD starts from, and measured rates.

    Attributes:
        name: of the worker.
        layout: digest of the layout.
        place, progress: where it is.
        sent, received: number of the newest row frame that was sent, and that came.
        flying: frames on their way, oldest first; they are not in ``pending``.
        vectors: float32 [elements]: ``replica``, ``pending``, and ``velocity`` where there is an outer momentum.
        stamps: int32 [rows], in which iteration each row was last sent.
        left: float32 [rows], sum |.| that the code left of each row then.
        computed: float64 [rows], sum of everything ever added to each row.
    """

    name: str
    layout: bytes
    place: Place
    progress: Progress
    sent: int
    received: int
    flying: tuple[Flying, ...]
    vectors: Mapping[str, npt.NDArray[np.float32]]
    stamps: npt.NDArray[np.int32]
    left: npt.NDArray[np.float32]
    computed: npt.NDArray[np.float64]

    @classmethod
    def of(cls, node: WorkerCore) -> Picture:
        """Take a picture; call it from :meth:`~rowcast.training.kept.notes.Notebook.turn`.

        Raises:
            LocalProtocolError: the worker has not joined, or its parameters are held.
        """
        if not node.joined or node.recovery is not None or node.holds:
            raise LocalProtocolError("picture: expected a worker that has joined and holds back nothing that arrived")
        client, contribution, residual = node.client, node.contribution, node.residual
        # Until its update was handed in, the newest step that took a time is the one before.
        handed_in = node.step.proposed >= node.step.started
        step = node.step if handed_in or node.done_step is None else node.done_step
        vectors = {"replica": node.replica.copy(), "pending": residual.copied()}
        if contribution.outer is not None:
            vectors["velocity"] = contribution.outer.velocity.copy()
        return cls(
            name=node.name,
            layout=node.layout.digest,
            place=Place(client.session, client.server, True, client.training, client.origin, client.how),
            progress=Progress(
                iteration=node.iteration,
                finished=node.delivered.finished,
                positions=node.positions,
                policy="" if node.policy is None else node.policy.name,
                interval_s=max(step.interval_s, 0.0),
                size=contribution.size,
                weight=contribution.weight,
                inner_lr=contribution.inner_lr,
                trust=contribution.trusted,
            ),
            sent=node.outbox.sent_frames,
            received=node.inbox.received,
            flying=tuple(Flying(readable_later(node.layout, one.message), one.before) for one in node.outbox.flights()),
            vectors=vectors,
            stamps=residual.stamps.copy(),
            left=residual.left.copy(),
            computed=node.computed.copy(),
        )
