"""What a server needs to survive its own death: its state as a value, and a log of all that it heard.

A driver gives its inputs to a :class:`RecordedServer`, which appends them to a log, and lets nothing out before the log
is committed. :func:`recover` builds the server again. Where the log lies is the business of the driver: files on this
machine and NATS JetStream are in :mod:`rowcast.drivers.state`, whose ``RowLog`` says what is asked of another place. In
a test an :class:`Appendix` is enough, with a :class:`State` and the records behind it: ``rowcast.testing.durable``.
"""

from rowcast.durability.leadership import Leadership, Standing
from rowcast.durability.recorded import Appendix, Drawn, RecordedServer
from rowcast.durability.records import Record, decode
from rowcast.durability.recovery import Recovery, Replay, recover
from rowcast.durability.state import State, capture, restore

__all__ = ["Appendix", "Drawn", "Leadership", "Record", "RecordedServer", "Recovery", "Replay", "Standing", "State"]
__all__ += ["capture", "decode", "recover", "restore"]
