"""Worker and server as state machines: messages in, messages and timers out.

Neither reads a clock, a socket or a thread: every entry point takes ``now`` (seconds, monotonic), ``poll`` hands
out the next message to send, and ``next_timer`` says when to call ``on_timer``. Every driver runs these objects.
"""

from rowcast.nodes.port import Port
from rowcast.nodes.server import ServerNode
from rowcast.nodes.start import record_start
from rowcast.nodes.worker import Phase, WorkerNode

__all__ = ["Phase", "Port", "ServerNode", "WorkerNode", "record_start"]
