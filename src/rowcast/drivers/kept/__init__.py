"""Where a worker's own state is kept: a folder with pictures of it, and notes behind each."""

from rowcast.drivers.kept.folder import Kept
from rowcast.drivers.kept.keeper import Keeper

__all__ = ["Keeper", "Kept"]
