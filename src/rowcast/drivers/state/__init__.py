"""Where a server's state lies: snapshots and a log of inputs, in one folder."""

from rowcast.drivers.state.disk import Disk, OpenFile, RealDisk
from rowcast.drivers.state.keeper import RelaySpec, ServerKeeper, TeamSpec, Warm
from rowcast.drivers.state.mirror import Mirror

__all__ = ["Disk", "Mirror", "OpenFile", "RealDisk", "RelaySpec", "ServerKeeper", "TeamSpec", "Warm"]
