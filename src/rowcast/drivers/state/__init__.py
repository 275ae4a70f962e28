"""Where a server's state lies: snapshots and a log of inputs, in a folder or in NATS JetStream."""

from rowcast.drivers.state.address import JetStreamAddress, state_at
from rowcast.drivers.state.disk import Disk, OpenFile, RealDisk
from rowcast.drivers.state.keeper import ServerKeeper, Warm
from rowcast.drivers.state.log import Found, GroupStore, LogWriter, RowLog
from rowcast.drivers.state.mirror import Mirror
from rowcast.drivers.state.spec import RelaySpec, TeamSpec

__all__ = [
    "Disk",
    "Found",
    "GroupStore",
    "JetStreamAddress",
    "LogWriter",
    "Mirror",
    "OpenFile",
    "RealDisk",
    "RelaySpec",
    "RowLog",
    "ServerKeeper",
    "TeamSpec",
    "Warm",
    "state_at",
]
