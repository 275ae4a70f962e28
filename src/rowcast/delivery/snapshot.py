"""Parameters that are sent as they are, row by row: the first worker seeds the team, a newcomer is sent the state."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, codec_by_name, codec_for
from rowcast.delivery.placed import PlacedVector
from rowcast.rows import Layout
from rowcast.wire import Rows

__all__ = ["Snapshot", "replace_rows"]


class Snapshot:
    """Absolute rows on their way from, or to, one vector of parameters.

    Args:
        layout: the layout.
        parameters: flat float32; read when rows are sent, and written by :meth:`apply`.
        settles: what the peer lacks is part of these parameters, so that it lacks nothing of a row once its
            parameters were sent. True for the server; what a worker has pending is not in its replica.

    Attributes:
        codec: absolute rows are in this codec.
        due: bool [rows], rows whose parameters must be sent as they are, before anything else.
        left: whether there are any.
        placed: the parameters where they do not lie in host memory, see :meth:`move`; ``None``: they do.
    """

    def __init__(self, layout: Layout, parameters: npt.NDArray[np.float32], *, settles: bool) -> None:
        self.layout = layout
        self._parameters = parameters
        self.placed: PlacedVector | None = None
        self.settles = settles
        self.codec = codec_for(layout, codec_by_name("raw"))
        self.due = np.zeros(layout.rows, dtype=np.bool_)
        self.left = False

    @property
    def parameters(self) -> npt.NDArray[np.float32]:
        """Flat float32; a copy to read where they do not lie in host memory."""
        return self._parameters if self.placed is None else self.placed[:]

    def move(self, to: npt.NDArray[np.float32] | PlacedVector) -> None:
        """The parameters, as they are, lie there from now on."""
        if isinstance(to, np.ndarray):
            self._parameters, self.placed = to, None
        else:
            self._parameters, self.placed = np.zeros(0, dtype=np.float32), to

    def send_all(self) -> None:
        """All parameters are to be sent."""
        self.due[:] = self.left = True

    def cancel(self) -> None:
        """None are to be sent."""
        self.due[:] = self.left = False

    def take(self, room: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """The next rows, ascending, and their parameters: as many as fit into ``room`` bytes, at least one."""
        rows = np.flatnonzero(self.due)
        ends = np.cumsum(self.codec.row_bytes(self.layout)[rows])
        rows = rows[: max(int(np.searchsorted(ends, int(room), side="right")), 1)]
        self.due[rows] = False
        self.left = bool(self.due.any())
        if self.placed is not None:
            return rows, self.placed.encode(self.codec, rows, consume=False)
        return rows, self.codec.encode(self.layout, self._parameters, rows, consume=False)

    def put_back(self, rows: npt.NDArray[np.int64]) -> None:
        """``rows`` did not arrive."""
        self.due[rows] = self.left = True

    def apply(self, codec: Codec, message: Rows) -> None:
        """Write the rows of an absolute frame that has arrived into the parameters."""
        if self.placed is not None:
            self.placed.replace(message.payload, message.rows)
        else:
            replace_rows(self.layout, codec, message, self._parameters)


def replace_rows(layout: Layout, codec: Codec, message: Rows, vector: npt.NDArray[np.float32]) -> None:
    """Write the rows of an absolute frame into ``vector``."""
    # What stands there is taken out first; encoding is the compiled way of zeroing rows.
    codec.encode(layout, vector, message.rows)
    codec.add(layout, message.payload, message.rows, vector, 1.0)
