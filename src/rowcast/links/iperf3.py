"""What ``iperf3 -J`` writes, as a trace: the rate of each interval, all streams together."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rowcast.errors import TraceError
from rowcast.links.trace import Trace

__all__ = ["trace_of_iperf3"]

#: An interval that begins later than the one before ends is a gap (s).
_GAP_S = 0.05


def trace_of_iperf3(path: Path, text: str, *, loop: bool = True) -> Trace:
    """The trace of a measurement with ``iperf3 -J``, with ``-R`` or without, over TCP or UDP.

    An interval lasts until the next one begins. Those that iperf3 was told to omit (``-O``) are left out.

    Args:
        path: for messages, and the trace's name.
        text: what iperf3 wrote.

    Raises:
        TraceError: iperf3 tells of an error and has no interval; it is not what iperf3 writes; or time goes back.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise TraceError(f"{path}: not JSON ({error}); expected what 'iperf3 -J' writes") from error
    intervals = content.get("intervals") if isinstance(content, dict) else None
    if not isinstance(intervals, list):
        raise TraceError(f"{path}: expected what 'iperf3 -J' writes, with a list 'intervals'")
    rows = [_row(path, place, interval) for place, interval in enumerate(intervals)]
    kept = [row for row in rows if row is not None]
    if not kept:
        said = f"; iperf3 says: {content['error']!r}" if "error" in content else ""
        raise TraceError(f"{path}: no intervals{said}; measure again, as in 'iperf3 -c SERVER -t 600 -i 0.2 -J'")
    starts = np.array([start for start, _, _ in kept])
    for place in np.flatnonzero(np.diff(starts) <= 0):
        raise TraceError(
            f"{path}: interval {place + 2} begins at {starts[place + 1]:g} s, not after {starts[place]:g} s"
        )
    ends = np.array([end for _, end, _ in kept])
    if gaps := np.flatnonzero(starts[1:] - ends[:-1] > _GAP_S).tolist():
        raise TraceError(f"{path}: nothing is known of {ends[gaps[0]]:g} to {starts[gaps[0] + 1]:g} s; measure again")
    rates = np.array([bps for _, _, bps in kept])
    return Trace(starts - starts[0], rates, path.name, loop, duration_s=float(ends[-1] - starts[0]))


def _row(path: Path, place: int, interval: Any) -> tuple[float, float, float] | None:
    """Start, end (s) and rate (bit/s) of an interval; ``None``: it is to be omitted."""
    try:
        whole = interval["sum"]
        start, end, bps = (float(whole[name]) for name in ("start", "end", "bits_per_second"))
        omitted = bool(whole.get("omitted", False))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TraceError(f"{path}: interval {place + 1}: expected 'sum' with start, end, bits_per_second") from error
    if omitted:
        return None
    if not (0 <= start < end < math.inf and 0 <= bps < math.inf):
        raise TraceError(f"{path}: interval {place + 1}: {start:g} to {end:g} s at {bps:g} bit/s cannot be")
    return start, end, bps
