"""What a worker is doing."""

from __future__ import annotations

import enum

__all__ = ["EXCHANGING", "WorkerState"]


class WorkerState(enum.Enum):
    """What the worker is doing, whether its link is up or not."""

    JOINING = "joining"
    COMPUTING = "computing"
    ASKING = "asking"
    PUSHING = "pushing"
    WAITING = "waiting"
    PULLING = "pulling"
    FINISHING = "finishing"
    DONE = "done"


#: An exchange is under way: the training loop is blocked in ``step()``.
EXCHANGING = (WorkerState.ASKING, WorkerState.PUSHING, WorkerState.WAITING, WorkerState.PULLING)
