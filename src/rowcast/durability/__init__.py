"""What a server needs to survive its own death: its state as a value, and a log of all that it heard.

A driver gives its inputs to a :class:`RecordedServer`, which appends them to a log, and lets nothing out before the log
is committed. :func:`recover` builds the server again. Where the log lies is the business of the driver: files on this
machine are in :mod:`rowcast.drivers.state`; another place needs an :class:`Appendix` and, to recover, a :class:`State`
and the records behind it.
"""

from rowcast.durability.leadership import Leadership, Standing
from rowcast.durability.recorded import Appendix, Drawn, RecordedServer
from rowcast.durability.records import Record, decode
from rowcast.durability.recovery import Recovery, Replay, recover
from rowcast.durability.state import State, capture, restore

__all__ = ["Appendix", "Drawn", "Leadership", "Record", "RecordedServer", "Recovery", "Replay", "Standing", "State"]
__all__ += ["capture", "decode", "recover", "restore"]
