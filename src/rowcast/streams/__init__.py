"""Streams of samples: where they are from, what of them is kept, and when how many make a batch.

Nothing in here reads a clock, a file or a socket. Sources are in :mod:`rowcast.sources`; what joins both with a
training loop is :class:`rowcast.StreamLoader`, and in virtual time the simulator.
"""

from rowcast.streams.batch import BatchRule, FixedBatch, Held, RateBatch, SpeedBatch, TeamBatch, parse_batch
from rowcast.streams.buffer import Buffer, BufferRule, parse_buffer
from rowcast.streams.feed import Feed, FeedBatch
from rowcast.streams.injection import Injection, parse_injection
from rowcast.streams.patterns import StreamPattern, parse_streams, read_rates
from rowcast.streams.rates import RateMeter, RateTrace
from rowcast.streams.rehearsal import MOST_REHEARSED, Importance, Rehearsal, Reservoir, parse_rehearsal
from rowcast.streams.sample import MOST_PARTITIONS, Positions, Sample
from rowcast.streams.sharing import share
from rowcast.streams.source import Source
from rowcast.streams.topk import AdaptiveTopK, TopK, compresses, parse_topk

__all__ = [
    "MOST_PARTITIONS",
    "MOST_REHEARSED",
    "AdaptiveTopK",
    "BatchRule",
    "Buffer",
    "BufferRule",
    "Feed",
    "FeedBatch",
    "FixedBatch",
    "Held",
    "Importance",
    "Injection",
    "Positions",
    "RateBatch",
    "RateMeter",
    "RateTrace",
    "Rehearsal",
    "Reservoir",
    "Sample",
    "Source",
    "SpeedBatch",
    "StreamPattern",
    "TeamBatch",
    "TopK",
    "compresses",
    "parse_batch",
    "parse_buffer",
    "parse_injection",
    "parse_rehearsal",
    "parse_streams",
    "parse_topk",
    "read_rates",
    "share",
]
