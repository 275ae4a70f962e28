"""Where a server's state lies: snapshots and a log of inputs, in one folder."""

from rowcast.drivers.state.disk import Disk, OpenFile, RealDisk
from rowcast.drivers.state.keeper import Keeper, TeamSpec

__all__ = ["Disk", "Keeper", "OpenFile", "RealDisk", "TeamSpec"]
