"""Recorded messages: what is in MCAP files and in rosbag2 folders, whole or as a power loss leaves them.

:class:`McapFile` finds messages as bytes, :func:`open_rosbag2` has the library's readers, and :func:`read_topic` gives
the messages of one topic, decoded.
"""

from rowcast.bags.mcap_index import DamagedChunk, McapFile, Message, Segment
from rowcast.bags.order import in_order, packs_messages
from rowcast.bags.rosbag2 import open_rosbag2
from rowcast.bags.topics import read_topic

__all__ = [
    "DamagedChunk",
    "McapFile",
    "Message",
    "Segment",
    "in_order",
    "open_rosbag2",
    "packs_messages",
    "read_topic",
]
