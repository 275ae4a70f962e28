"""Training of one model by a team, as state machines: messages in, messages and timers out.

Neither the worker nor the server reads a clock, a socket or a thread: every entry point takes ``now`` (seconds,
monotonic), ``poll`` hands out the next message to send, ``next_wake`` says when to call ``on_timer``, and a worker's
``connect_at`` when to try to connect. Every driver runs these objects.
"""

from rowcast.training.server import ServerNode
from rowcast.training.worker import WorkerNode, WorkerState

__all__ = ["ServerNode", "WorkerNode", "WorkerState"]
