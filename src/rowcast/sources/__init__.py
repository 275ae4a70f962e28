"""Sources of samples: recorded files, directories that grow, topics of brokers.

Each follows :class:`rowcast.streams.Source`; a client library is imported when a source that needs it is made.
:func:`make_source` makes one of a text.
"""

from rowcast.sources.base import PulledSource
from rowcast.sources.csv_file import CsvRow, CsvSource, ValidRange
from rowcast.sources.directory import DirectorySource
from rowcast.sources.joined import join_sources
from rowcast.sources.kafka import KafkaSource
from rowcast.sources.mcap_file import McapSource
from rowcast.sources.mqtt import MqttSource
from rowcast.sources.numbering import number_payload
from rowcast.sources.registry import REGISTRY, make_source, register
from rowcast.sources.replay import ReplaySource
from rowcast.sources.rosbag import RosbagSource
from rowcast.sources.still import StillFilter
from rowcast.sources.text import SourceKind, SourceText

__all__ = [
    "REGISTRY",
    "CsvRow",
    "CsvSource",
    "DirectorySource",
    "KafkaSource",
    "McapSource",
    "MqttSource",
    "PulledSource",
    "ReplaySource",
    "RosbagSource",
    "SourceKind",
    "SourceText",
    "StillFilter",
    "ValidRange",
    "join_sources",
    "make_source",
    "number_payload",
    "register",
]
