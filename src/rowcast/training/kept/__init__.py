"""What a worker needs to go on after its process was killed: a picture of it, and notes of what came after.

A picture (:mod:`~rowcast.training.kept.picture`) is taken between two steps. It is older than what the server knows of
the worker at the end. So each frame is noted before it is sent, and each frame that came before it is acknowledged
(:mod:`~rowcast.training.kept.notes`). Both together lead to the state at the end (:mod:`~rowcast.training.kept.replay`)
but for what was computed since the picture; the server's welcome then tells which frames it has applied, and the worker
goes on (:mod:`~rowcast.training.kept.recovery`). Here these are values; where they are kept is a driver's business.
"""

from rowcast.training.kept.notes import (
    SESSION_NOTES,
    Acknowledged,
    Finished,
    Finishing,
    Joined,
    Note,
    Notebook,
    Received,
    Resumed,
    Sent,
    Started,
)
from rowcast.training.kept.picture import Extras, Picture
from rowcast.training.kept.recovery import Recovery
from rowcast.training.kept.replay import Replay

__all__ = [
    "SESSION_NOTES",
    "Acknowledged",
    "Extras",
    "Finished",
    "Finishing",
    "Joined",
    "Note",
    "Notebook",
    "Picture",
    "Received",
    "Recovery",
    "Replay",
    "Resumed",
    "Sent",
    "Started",
]
