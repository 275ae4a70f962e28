"""Links: what a wireless link carries over time, from files and from models.

A :class:`Trace` is piecewise-constant bandwidth; drivers ask it when so many bits will have passed. A
:class:`Channel` carries transfers over several links at a time. A profile is a kind of link: built in or fitted to
a trace, it makes traces. A :class:`WideArea` is links between cities, which have a delay as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rowcast.config import as_number
from rowcast.errors import ConfigError, near_match
from rowcast.links.channel import CHANNELS, Channel, EqualThroughput, Independent, SharedAirtime
from rowcast.links.files import MOST_MBPS, SUFFIXES, load_team, load_trace, save_csv
from rowcast.links.fitting import fit
from rowcast.links.likeness import differences
from rowcast.links.stats import TraceStats
from rowcast.links.synth import PROFILES, LinkState, MarkovProfile, outdoor, synthesise
from rowcast.links.topics import TopicAddress
from rowcast.links.trace import Trace
from rowcast.links.wide_area import WideArea, parse_wide_area

__all__ = [
    "CHANNELS",
    "PROFILES",
    "Channel",
    "EqualThroughput",
    "Independent",
    "LinkState",
    "MarkovProfile",
    "SharedAirtime",
    "Trace",
    "TraceStats",
    "WideArea",
    "differences",
    "fit",
    "load_team",
    "load_trace",
    "named_trace",
    "outdoor",
    "parse_wide_area",
    "save_csv",
    "synthesise",
]


def named_trace(text: str, seed: int | Sequence[int] = 0, duration_s: float = 600.0) -> Trace:
    """The trace that a user asked for in words.

    Args:
        text: a profile's name (``"outdoor"``), ``"constant:20"`` (Mbit/s), the path of a trace file, or a topic of a
            recording (``"drive.mcap?topic=/bandwidth&field=data"``).
        seed: for profiles: which trace of this kind; see :func:`synthesise`.
        duration_s: for profiles: length in seconds, after which the trace starts again.

    Raises:
        ConfigError: ``text`` is none of these (the message names the nearest that is), or links between cities:
            their delay is no part of a trace.
        TraceError: the file cannot be read.
    """
    kind, colon, value = text.partition(":")
    if text in PROFILES:
        return synthesise(PROFILES[text], seed, duration_s)
    if kind == "constant" and colon:
        return Trace.constant(_mbps(text, value) * 1e6, name=text)
    if (wide := parse_wide_area(text)) is not None:
        raise ConfigError(
            f"link {text!r}: has a delay, which a trace cannot say; expected a link of 'rowcast compare --links'; for "
            f"the bandwidth alone write 'constant:{wide.mbps[0]:g}'"
        )
    if TopicAddress.parse(text) is not None:
        return load_trace(text)
    path = Path(text)
    if path.suffix.lower() in (*SUFFIXES, ".gz") or path.is_file():
        return load_trace(path)
    raise ConfigError(
        f"unknown link {text!r}: {near_match(text, [*PROFILES, 'constant:MBPS'])},"
        f" or the path of a trace file ({', '.join(SUFFIXES)}), or a topic of a recording (FILE.mcap?topic=...)"
    )


def _mbps(text: str, value: str) -> float:
    mbps = as_number(value)
    if mbps is None or not 0 <= mbps <= MOST_MBPS:
        raise ConfigError(
            f"link {text!r}: {value!r} is not a rate; expected Mbit/s in 0 .. {MOST_MBPS:g}, as in 'constant:20'"
        )
    return mbps
