"""Where a server's state lies: snapshots and a log of inputs, in one folder."""

from rowcast.drivers.state.disk import Disk, OpenFile, RealDisk
from rowcast.drivers.state.keeper import ServerKeeper, TeamSpec

__all__ = ["Disk", "OpenFile", "RealDisk", "ServerKeeper", "TeamSpec"]
