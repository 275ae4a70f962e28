"""What one peer alone lacks: a vector to which updates are added, and from which rows are taken when they are sent.

Rows are encoded when they are sent, not before. Encoding moves what the code expresses out of the vector and into the
frame; what it does not express stays and is sent later (error feedback: Seide et al., Interspeech 2014).

There are two kinds: :class:`~rowcast.delivery.residual.Residual` knows in which iteration each row was last sent,
:class:`~rowcast.delivery.floored.Floored` up to which iteration the peer holds everybody's contributions to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Above, Codec, Thresholded, codec_by_name, codec_for
from rowcast.codecs.base import fitting
from rowcast.delivery.arrivals import Arrivals
from rowcast.rows import Layout
from rowcast.rows.kernels import row_abs_sums
from rowcast.wire import Rows

__all__ = ["MAX_STAMP", "NO_ROWS", "Backlog", "Due"]

MAX_STAMP = int(np.iinfo(np.int32).max)
NO_ROWS = np.zeros(0, dtype=np.int64)
NO_ROWS.setflags(write=False)


@dataclass(slots=True)
class Due:
    """The rows that may be sent now.

    Attributes:
        eligible: rows that are due and not zero, int64 ascending.
        zeros: rows that are due and zero: there is nothing to send in them, int64 ascending.
        travelled: rows that were sent in this iteration already, int64 ascending.
        stamps: int32 [rows], see the backlog; a view.
        abs_sums: float32 [rows], sum |.| of each row; a view.
    """

    eligible: npt.NDArray[np.int64]
    zeros: npt.NDArray[np.int64]
    travelled: npt.NDArray[np.int64]
    stamps: npt.NDArray[np.int32]
    abs_sums: npt.NDArray[np.float32]


class Backlog(ABC):
    """The vector, the sizes of its rows, and the updates that are noted and not added yet.

    Args:
        layout: the layout.
        vector: the flat float32 vector, taken over and changed in place. Empty: the peer lacks nothing.
        stamps: int32 [rows], an iteration for each row; changed in place by what is noted, and by the kind of backlog.
        changed: bool [rows] where it is recorded which rows have changed since they were sent; otherwise bool [0].

    Attributes:
        abs_sums: float32 [rows], sum |vector| of each row; up to date while :attr:`measured` is set, which
            whoever adds to the vector without measuring must clear.
        place, limit: see :class:`~rowcast.delivery.arrivals.Share`.
        most_elements: a frame holds rows of so many elements at most, or one row; ``None``: that makes no difference.
        grown: something was added; whoever asks clears it.
    """

    def __init__(
        self,
        layout: Layout,
        vector: npt.NDArray[np.float32],
        stamps: npt.NDArray[np.int32],
        changed: npt.NDArray[np.bool_],
    ) -> None:
        self.layout = layout
        self.abs_sums = np.zeros(layout.rows, dtype=np.float32)
        self.measured = False
        self.place = 0
        self.limit = MAX_STAMP
        self.most_elements: int | None = None
        self.grown = False
        self._vector = vector
        self._stamps = stamps
        self._changed = changed
        self._name = ""
        self._arrivals: Arrivals | None = None

    @property
    def own(self) -> Backlog:
        """What this peer alone lacks: all of it."""
        return self

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """What the peer lacks, flat float32, up to date."""
        self.catch_up()
        return self._vector

    @vector.setter
    def vector(self, vector: npt.NDArray[np.float32]) -> None:
        self._vector = vector

    @property
    def stamps(self) -> npt.NDArray[np.int32]:
        """int32 [rows], an iteration for each row, up to date; which one depends on the kind."""
        self.catch_up()
        return self._stamps

    @property
    def empty(self) -> bool:
        """The peer lacks nothing."""
        return not self.vector.any()

    @property
    def magnitude(self) -> float:
        """Sum |.| of what the peer lacks of the parameters, when it was measured last."""
        return float(self.abs_sums[: self.layout.parameter_rows].sum())

    def total(self) -> npt.NDArray[np.float32]:
        """Everything that the peer lacks and that is not on its way, flat float32 (for the books); read only."""
        return self.vector

    # -- what is added -----------------------------------------------------------------------------------------

    def subscribe(self, name: str, arrivals: Arrivals) -> None:
        """From now on the peer, called ``name``, lacks what is noted in ``arrivals``."""
        self._name, self._arrivals = name, arrivals
        arrivals.join(name, self)

    def unsubscribe(self) -> None:
        """The peer never lacks more than now."""
        if self._arrivals is not None:
            self._arrivals.leave(self._name)
            self._arrivals = None

    def catch_up(self) -> None:
        """Add all that was noted."""
        arrivals = self._arrivals
        if arrivals is None or self.place == arrivals.head:
            return
        oldest = arrivals.replay(self.place, self.limit, self._vector, self._stamps, self._changed)
        self.place = arrivals.head
        self.measured = False
        self.grown = True
        self.noted(oldest)
        arrivals.caught_up(self._name)

    def take_in(self, codec: Codec, message: Rows, floor: npt.NDArray[np.int32] | None) -> None:
        """Add one update.

        Args:
            codec, message: the update.
            floor: see :meth:`~rowcast.delivery.arrivals.Arrivals.touch`; ``None`` where rows are not streamed.
        """
        codec.add(self.layout, message.payload, message.rows, self.vector, 1.0)
        self.measured = False
        self.grown = True

    # -- what is due -------------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Bring :attr:`abs_sums` up to date."""
        self.catch_up()
        if not self.measured and len(self._vector):
            row_abs_sums(self._vector, self.layout.offsets, self.abs_sums)
        self.measured = True

    def due(self, iteration: int, *, refine: bool = False) -> Due:
        """The rows that may be sent in ``iteration``.

        Args:
            refine: instead of these, the rows that are not due: what the code has left of them.
        """
        self.measure()
        due = self.is_due(iteration)
        if refine:
            due = ~due
        eligible = (due & (self.abs_sums != 0)).nonzero()[0]
        zeros = travelled = NO_ROWS
        if len(eligible) < len(due) and not refine:  # otherwise every row has something to send, and none of it went
            zeros = (due & (self.abs_sums == 0)).nonzero()[0]
            travelled = self.travelled(due)
        return Due(eligible, zeros, travelled, self._stamps, self.abs_sums)

    def remaining(self) -> npt.NDArray[np.int64]:
        """All rows that are not zero, whether they are due or not; int64 ascending."""
        self.measured = False
        self.measure()
        return np.flatnonzero(self.abs_sums)

    def fit(self, codec: Codec, room: float | Above) -> Codec:
        """The form of a code in which all rows take ``room`` bytes together; the code itself where it has none.

        Args:
            codec: the code.
            room: bytes; or how much may travel where only what is beyond a threshold does.
        """
        self.catch_up()
        if not len(self._vector):
            return codec
        if isinstance(room, Above):
            return codec.above(self.layout, self._vector, room) if isinstance(codec, Thresholded) else codec
        code = fitting(codec)
        return codec if code is None else code.fit(self.layout, self._vector, room)

    # -- what is sent ------------------------------------------------------------------------------------------

    def take(
        self, rows: npt.NDArray[np.int64], codec: Codec, iteration: int
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Encode ``rows``: what the code expresses is taken out of the vector.

        Returns:
            The payload, and what :meth:`put_back` needs: int32 [k], see :meth:`held`.
        """
        self.catch_up()
        payload = codec.encode(self.layout, self._vector, rows)
        self.measured = False
        before = self.held(rows)
        self.mark_sent(rows, iteration)
        return payload, before

    def put_back(self, message: Rows, before: npt.NDArray[np.int32], place: int = -1) -> None:
        """A frame was lost: the peer lacks what it holds.

        Args:
            message: the frame.
            before: what :meth:`take` returned with it.
            place: where it stands in a shared log, which makes no difference here.
        """
        self.catch_up()
        message.code.add(self.layout, message.payload, message.rows, self._vector, 1.0)
        self.measured = False
        self.mark_lost(message.rows, before)

    def settle(self, rows: npt.NDArray[np.int64], parameters: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The parameters of ``rows`` are sent as they are, with all that the peer lacks of them.

        Args:
            parameters: the parameters of these rows, in the raw codec.

        Returns:
            What is to be sent, in the raw codec.
        """
        self.catch_up()
        if len(self._vector):
            codec_for(self.layout, codec_by_name("raw")).encode(self.layout, self._vector, rows)  # zeroes the rows
            self.measured = False
        return parameters

    # -- what depends on the kind; all that was noted is added when these are called ---------------------------

    @abstractmethod
    def is_due(self, iteration: int) -> npt.NDArray[np.bool_]:
        """bool [rows]: which rows are to be sent in ``iteration``, if they are not zero."""

    @abstractmethod
    def travelled(self, due: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """Rows that were sent in this iteration already; ``due`` is what :meth:`is_due` has returned."""

    @abstractmethod
    def held(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """int32 [k]: what is recorded of ``rows``, and would be again if they did not arrive; a copy."""

    @abstractmethod
    def mark_sent(self, rows: npt.NDArray[np.int64], iteration: int) -> None:
        """Record that ``rows`` were sent in ``iteration``, or that there was nothing to send in them."""

    @abstractmethod
    def mark_lost(self, rows: npt.NDArray[np.int64], before: npt.NDArray[np.int32]) -> None:
        """Record that ``rows`` have not arrived; ``before`` is what :meth:`held` returned before they were sent."""

    @abstractmethod
    def renumber(self, iteration: int) -> None:
        """The peer counts from ``iteration`` now."""

    @abstractmethod
    def noted(self, oldest: int) -> None:
        """Noted updates were added; ``oldest`` is what :meth:`~rowcast.delivery.arrivals.Arrivals.replay` returned."""
