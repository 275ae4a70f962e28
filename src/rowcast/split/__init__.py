"""PyTorch models whose inference is split between a robot and a server: captured, planned, computed in parts.

::

    model = rowcast.split.capture(net.eval(), example=camera_uint8)
    rowcast.split.serve(model, "0.0.0.0:7118", secret_file="team.secret")         # on the server

    with rowcast.split.Remote("10.0.0.1:7118", model, name="robot-1", secret_file="team.secret",
                              deadline_s=0.12) as remote:                          # on the robot
        answer = remote(image)

* :func:`capture`: the operators of a live module, as a :class:`Captured` model.
* :class:`Captured`: a graph for :mod:`rowcast.planning`, and the code of any :class:`Part` of it.
* :class:`RowStream`: operators computed row by row, as rows arrive.
* :func:`serve`, :class:`Serving`: a server for a captured model; :class:`Remote`: the model as a robot calls it.
"""

from __future__ import annotations

from rowcast.errors import CaptureError
from rowcast.split.capture import capture
from rowcast.split.captured import Captured
from rowcast.split.part import Part
from rowcast.split.remote import Answer, Remote, RemoteOptions
from rowcast.split.rowstream import RowStream
from rowcast.split.serving import Serving, serve

__all__ = [
    "Answer",
    "CaptureError",
    "Captured",
    "Part",
    "Remote",
    "RemoteOptions",
    "RowStream",
    "Serving",
    "capture",
    "serve",
]
