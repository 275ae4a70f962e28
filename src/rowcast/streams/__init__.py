"""Streams of samples: where they are from, what of them is kept, and when how many make a batch.

Nothing in here reads a clock, a file or a socket. Sources are in :mod:`rowcast.sources`; what joins both with a training
loop is :class:`rowcast.StreamLoader`, and in virtual time the simulator.
"""

from rowcast.streams.sample import MOST_PARTITIONS, Positions, Sample
from rowcast.streams.source import Source

__all__ = ["MOST_PARTITIONS", "Positions", "Sample", "Source"]
