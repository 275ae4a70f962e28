"""The socket driver: asyncio over TCP, and a shaper that puts a bandwidth trace under a connection."""

from rowcast.drivers.sockets.answering import InferenceServer
from rowcast.drivers.sockets.asking import InferenceThread
from rowcast.drivers.sockets.durable import DurableServer
from rowcast.drivers.sockets.endpoint import Endpoint, Security
from rowcast.drivers.sockets.following import Standby
from rowcast.drivers.sockets.leading import LeadingServer
from rowcast.drivers.sockets.server import Server
from rowcast.drivers.sockets.shaper import Shaper
from rowcast.drivers.sockets.team import Team
from rowcast.drivers.sockets.uplink import Uplink

__all__ = ["DurableServer", "Endpoint", "InferenceServer", "InferenceThread", "LeadingServer", "Security", "Server"]
__all__ += ["Shaper", "Standby", "Team", "Uplink"]
