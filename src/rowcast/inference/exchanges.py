"""What is sent to the server for inferences, and what comes back."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

from rowcast.codecs.tensors import tensor_codec_by_name
from rowcast.errors import RemoteProtocolError
from rowcast.inference.inference import Inference
from rowcast.inference.model import ModelSpec, Side, robot_side
from rowcast.inference.tensor_rows import TensorRows, frame_of
from rowcast.inference.work import Piece, Work, cuts
from rowcast.planning import Plan
from rowcast.planning.coding import RAW
from rowcast.wire import Answer, Request, Rows

__all__ = ["Exchange", "Exchanges"]

#: So many requests that were dropped are remembered: the server may have answered them already.
MOST_DROPPED = 256


class Exchange:
    """What is sent for one inference, and what comes back.

    Args:
        model: the model.
        number: names the request on this connection.
        inference: whose it is.
        plan: which tensors travel.

    Attributes:
        number: of the request.
        inference: whose it is.
        side: what the robot computes.
        work: what is to be taken in next, slab by slab, or came from the server.
        frames: row frames to be sent.
        inbox: what has come of each tensor.
        answer: what the server says when it has sent everything, or ``None``.
        complete: the robot's side is, and ``value`` the model's answer.
    """

    def __init__(self, model: ModelSpec, number: int, inference: Inference, plan: Plan) -> None:
        self.number = number
        self.inference = inference
        self.plan = plan
        self.side: Side = robot_side(model.graph, plan.up, plan.down)
        self.frames: deque[Rows] = deque()
        self.inbox = TensorRows(model, plan.down)
        self.answer: Answer | None = None
        self.complete = False
        self.value: Any = None
        self._codecs = _codecs(plan.up, plan.up_codecs)
        self._down = _codecs(plan.down, plan.down_codecs)
        self._slab_ends: set[Work] = set()
        self.work: deque[Work] = deque(self._inputs(model))

    @property
    def done(self) -> bool:
        """The answer is here, and what the server says about it."""
        return self.complete and self.answer is not None

    def request(self, deadline_s: float) -> Request:
        """The message that begins it; the answer is of use for so long (s), 0: always."""
        plan = self.plan
        return Request(self.number, plan.up, plan.down, tuple(self._down.values()), plan.slabs, deadline_s)

    def took(self, piece: Piece) -> None:
        """Rows came from the server."""
        self.work.append(self._work((piece,)))

    def made(self, work: Work, pieces: Sequence[Piece]) -> None:
        """Rows of tensors that the server needs are there: what came of some work."""
        for left, piece in enumerate(pieces, 1 - len(pieces)):
            slab_end = left == 0 and work in self._slab_ends
            self.frames.append(frame_of(self.number, self.plan.up.index(piece.op), piece, slab_end=slab_end))

    def _inputs(self, model: ModelSpec) -> list[Work]:
        """The rows of the inputs, in the order in which they are to be sent."""
        tensors = {op: model.tensor(op) for op in model.graph.inputs}
        slabs = self.plan.slabs
        # Rows that are only passed on travel in pieces; what computes on them gets whole slabs. The first piece goes by
        # itself, so that it is on its way while the others are encoded.
        fine = not self.side.ops
        work: list[Work] = []
        for slab in range(slabs):
            pieces: list[Piece] = []
            for op, tensor in tensors.items():
                start, stop = -(-tensor.rows * slab // slabs), -(-tensor.rows * (slab + 1) // slabs)
                edges = cuts(tensor, start, stop, slabs) if fine else [(start, stop)]
                pieces.extend(Piece(op, first, last) for first, last in edges if first < last)
            groups = [pieces[:1], pieces[1:]] if fine and not work else [pieces]
            work.extend(self._work(group) for group in groups if group)
            self._slab_ends.update(work[-1:])
        return work

    def _work(self, pieces: Sequence[Piece]) -> Work:
        return Work(self.number, self.side, pieces, self._codecs, self.inference.inputs)


class Exchanges:
    """Those of one robot, by the number of the request. Numbers count on over all connections.

    Args:
        model: the model.
    """

    def __init__(self, model: ModelSpec) -> None:
        self._model = model
        self._number = 0
        self._open: dict[int, Exchange] = {}
        self._dropped: set[int] = set()
        self._to_forget: list[Hashable] = []
        self._worked: tuple[Exchange, Sequence[Work], float] | None = None  # what the engine does, and since when (s)

    def restart(self) -> None:
        """A new connection stands: nothing is on its way."""
        self._dropped = set()

    def all(self) -> list[Exchange]:
        """Those under way, the oldest first."""
        return list(self._open.values())

    def open(self, inference: Inference, plan: Plan) -> Exchange:
        """Begin one."""
        self._number += 1
        exchange = Exchange(self._model, self._number, inference, plan)
        self._open[exchange.number] = inference.remote = exchange
        return exchange

    def under_way(self, key: Hashable) -> Exchange | None:
        """That of a request, if it is under way."""
        return self._open.get(key) if isinstance(key, int) else None

    def find(self, number: int) -> Exchange | None:
        """That of a request; ``None``: it was dropped, and this was on its way.

        Raises:
            RemoteProtocolError: there was no such request on this connection.
        """
        exchange = self._open.get(number)
        if exchange is None and number not in self._dropped:
            raise RemoteProtocolError(f"expected the number of a request that was made, got {number}")
        return exchange

    def close(self, now: float, exchange: Exchange) -> None:
        """Nothing more is sent, taken in or computed for it."""
        del self._open[exchange.number]
        if not exchange.done:
            self._dropped.add(exchange.number)
        if len(self._dropped) > MOST_DROPPED:
            self._dropped.remove(min(self._dropped))
        exchange.inference.remote = None
        if self._worked is not None and self._worked[0] is exchange:
            _, works, since = self._worked
            for work in works:
                work.cancelled = True
            exchange.inference.spent.robot_s += now - since
        if not exchange.complete:
            self._to_forget.append(exchange.number)

    def to_send(self) -> Exchange | None:
        """The oldest that has row frames to be sent."""
        return next((exchange for exchange in self._open.values() if exchange.frames), None)

    def take_work(self, now: float) -> Sequence[Work]:
        """What the engine is to do next: all that came from the server, or the next slab to be sent."""
        for exchange in self._open.values():
            if exchange.work:
                works = [exchange.work.popleft()]
                while exchange.work and exchange.work[0].pieces[0].payload is not None:
                    works.append(exchange.work.popleft())
                self._worked = exchange, works, now
                return works
        return ()

    def worked(self) -> None:
        """The engine has done what it took, or could not."""
        self._worked = None

    def take_forgotten(self) -> list[Hashable]:
        """Requests that the engine is to forget."""
        forgotten, self._to_forget = self._to_forget, []
        return forgotten


def _codecs(ops: Sequence[int], names: Sequence[str]) -> dict[int, int]:
    """``wire_id`` of the tensor codec of each tensor; without names all travel as they are."""
    chosen = names or [RAW] * len(ops)
    return {op: tensor_codec_by_name(name).wire_id for op, name in zip(ops, chosen, strict=True)}
