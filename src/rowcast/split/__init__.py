"""PyTorch models whose inference is split between a robot and a server: captured, planned, computed in parts.

::

    model = rowcast.split.capture(net.eval(), example=camera_uint8)
    robot, server = model.part(ops, wanted), model.part(others, model.graph.outputs)

* :func:`capture`: the operators of a live module, as a :class:`Captured` model.
* :class:`Captured`: a graph for :mod:`rowcast.planning`, and the code of any :class:`Part` of it.
* :class:`RowStream`: operators computed row by row, as the rows of what they read arrive.
"""

from __future__ import annotations

from rowcast.errors import CaptureError
from rowcast.split.capture import capture
from rowcast.split.captured import Captured
from rowcast.split.part import Part
from rowcast.split.rowstream import RowStream

__all__ = ["CaptureError", "Captured", "Part", "RowStream", "capture"]
