"""The messages between a robot and a server that run one model together; see :mod:`rowcast.wire.messages`.

``w>`` is sent by robots only, ``s>`` by servers only.
"""

from __future__ import annotations

from typing import ClassVar

from rowcast.wire.fields import Control, Count, Finite, Tensors

__all__ = ["INFERENCES", "Answer", "Busy", "Drop", "Request", "Served"]


class Served(Control, frozen=True):
    """s> You are in, and may ask for inferences of the model that your hello named."""

    KIND: ClassVar[int] = 24
    server: bytes  #: 16 random bytes, one value for each life of the server
    live: bool  #: the parameters change while they are served; otherwise they are those that the hello named
    version: Count  #: of the parameters
    requests: Count  #: so many may be under way at once, 1 or more
    forward_s: Finite  #: seconds of the whole model on the server, for one input


class Request(Control, frozen=True):
    """w> Compute this; the rows of its tensors follow, each tensor on the stream ``1 + its place in up``.

    What is computed follows from the two lists: everything that ``down`` needs, from ``up`` on.
    """

    KIND: ClassVar[int] = 25
    number: Count  #: counts up by one or more
    up: Tensors  #: operators whose tensors the worker sends, ascending
    down: Tensors  #: operators whose tensors the worker wants, ascending; on the stream ``1 + place`` back
    codecs: Tensors  #: ``wire_id`` of the tensor codec of each in ``down``
    slabs: Count  #: at most so many row frames have ``quota_end``: compute what has come up to there, 1 or more
    deadline_s: Finite  #: the answer is of no use after so many seconds from now on; 0: always


class Drop(Control, frozen=True):
    """w> The answer to this request is not wanted any more; no rows of it follow."""

    KIND: ClassVar[int] = 26
    number: Count


class Answer(Control, frozen=True):
    """s> All rows of the tensors that the request wanted have been sent, before this message."""

    KIND: ClassVar[int] = 27
    number: Count
    version: Count  #: of the parameters that all of it was computed with
    compute_s: Finite  #: seconds of computation, shared by the requests that were computed together
    queued_s: Finite  #: seconds that it waited for others, from its last row on


class Busy(Control, frozen=True):
    """s> This request is not computed; nothing more comes of it."""

    KIND: ClassVar[int] = 28
    number: Count
    wait_s: Finite  #: ask again after so many seconds
    cause: str


INFERENCES: tuple[type[Control], ...] = (Served, Request, Drop, Answer, Busy)
