"""Training of one model by a team, as state machines: messages in, messages and timers out.

Neither the worker nor the server reads a clock, a socket or a thread: every entry point takes ``now`` (seconds,
monotonic), ``poll`` hands out the next message to send, and ``next_timer`` says when to call ``on_timer``. Every driver
runs these objects.
"""

from rowcast.training.server import ServerNode
from rowcast.training.worker import Phase, WorkerNode

__all__ = ["Phase", "ServerNode", "WorkerNode"]
