"""Rows of a tensor that a peer sends: in order, each once, and no more bytes than the tensor has."""

from __future__ import annotations

import numpy as np

from rowcast.codecs.tensors import tensor_codec_by_id
from rowcast.codecs.tensors.base import expect_carried
from rowcast.errors import ConfigError, RemoteProtocolError
from rowcast.inference.model import ModelSpec
from rowcast.inference.work import Piece
from rowcast.wire import Rows

__all__ = ["TensorRows", "frame_of"]


class TensorRows:
    """Takes in the rows of some tensors of one request.

    Args:
        model: knows their types.
        ops: the operators that make them; frames of stream ``1 + place`` belong to each.

    Attributes:
        received: rows that have come of each.
        bytes: payload that has come.
    """

    def __init__(self, model: ModelSpec, ops: tuple[int, ...]) -> None:
        self._model = model
        self._ops = ops
        self.received = dict.fromkeys(ops, 0)
        self.bytes = 0

    @property
    def complete(self) -> bool:
        """All rows of all tensors are here."""
        return all(self._model.tensor(op).rows == rows for op, rows in self.received.items())

    def take(self, rows: Rows) -> Piece:
        """The rows of a frame; the payload is copied.

        Raises:
            RemoteProtocolError: rows of a tensor that is not sent, out of order, there already, or none that it has; a
                codec that does not carry it, or more bytes than it makes of so many rows.
        """
        place = rows.stream - 1
        if not 0 <= place < len(self._ops):
            raise RemoteProtocolError(f"rows: expected a stream in 1 .. {len(self._ops)}, got {rows.stream}")
        op = self._ops[place]
        tensor = self._model.tensor(op)
        start, stop = int(rows.rows[0]), int(rows.rows[-1]) + 1
        if start != self.received[op] or stop - start != len(rows.rows) or stop > tensor.rows:
            raise RemoteProtocolError(
                f"rows of operator {op}: expected those from {self.received[op]} on, of {tensor.rows}, one behind the "
                f"other, got {len(rows.rows)} in {start} .. {stop - 1}"
            )
        codec = tensor_codec_by_id(rows.codec)
        slab = tensor.slab(start, stop)
        try:
            expect_carried(codec, slab)
        except ConfigError as error:
            raise RemoteProtocolError(f"rows of operator {op}: {error}") from error
        most = codec.most_bytes(slab)
        if len(rows.payload) > most:
            raise RemoteProtocolError(
                f"rows of operator {op}: expected at most {most} bytes for {stop - start} rows, got {len(rows.payload)}"
            )
        self.received[op] = stop
        self.bytes += len(rows.payload)
        return Piece(op, start, stop, rows.codec, rows.payload.copy())


def frame_of(request: int, place: int, piece: Piece, *, slab_end: bool = False) -> Rows:
    """The frame that carries a piece; who sends it numbers it.

    Args:
        request: number of the request.
        place: of the tensor in the request's list.
        piece: rows and their payload.
        slab_end: with it, all rows that came of a slab of the input have been sent.
    """
    assert piece.payload is not None
    return Rows(
        number=0,
        iteration=request,
        codec=piece.codec,
        absolute=True,
        quota_end=slab_end,
        rows=np.arange(piece.start, piece.stop, dtype=np.int64),
        payload=piece.payload,
        stream=1 + place,
    )
