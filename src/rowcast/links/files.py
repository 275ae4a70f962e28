"""Bandwidth traces as files: read and written.

What is read (a further ``.gz`` is unpacked on the way):

======================= =============================================================================
``.csv``                a header that names a time column (``time_s``; also ``t_s`` or ``t_start_s``)
                        and a rate column (``mbps``; also ``dl_mbps``); other columns are ignored. A
                        row holds until the next one. Rows before time 0 are history: the last row at or
                        before 0 counts as time 0. A last row without a rate gives the end of the trace;
                        without it, the last row lasts as long as the median row.
``.up .down .mahi .txt`` mahimahi: one whole number per line, the millisecond at which one packet of 1500
                        bytes may pass; counted in bins of 100 ms.
``.txt``, two columns   seconds and Mbit/s, no header; moved to start at 0.
======================= =============================================================================

Source of the mahimahi format: Netravali et al., "Mahimahi: Accurate Record-and-Replay for HTTP",
USENIX ATC 2015. Its traces start again after the last millisecond, and so do these.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rowcast.errors import TraceError
from rowcast.links.trace import Trace

__all__ = ["load_team", "load_trace", "save_csv"]

TIME_COLUMNS = ("time_s", "t_s", "t_start_s")
RATE_COLUMNS = ("mbps", "dl_mbps")
MAHIMAHI_SUFFIXES = (".up", ".down", ".mahi", ".txt")
SUFFIXES = (".csv", *MAHIMAHI_SUFFIXES)

_PACKET_BITS = 1500 * 8
_BIN_MS = 100
_LONGEST_MS = 30 * 24 * 3600 * 1000  # a month; beyond it the numbers are not milliseconds

Row = tuple[int, float, float]  # line number, time in seconds, rate in Mbit/s


def load_trace(path: str | Path, *, loop: bool = True) -> Trace:
    """Read a bandwidth trace; the formats are in this module's text.

    Raises:
        TraceError: the file is missing, empty or breaks its format; the message names file, line and reason.
    """
    path = Path(path)
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in SUFFIXES:
        raise TraceError(
            f"{path}: unknown kind of file {suffix!r}; expected one of {', '.join(SUFFIXES)} (or .gz of it)"
        )
    lines = _lines(path)
    if suffix == ".csv":
        return _from_rows(path, list(_csv_rows(path, lines)), loop)
    first = next((line.split() for line in lines if line.strip()), [])
    if suffix == ".txt" and len(first) == 2:
        return _from_rows(path, _two_columns(path, lines), loop)
    return _mahimahi(path, lines, loop)


def load_team(folder: str | Path) -> list[Trace]:
    """The traces that a team recorded together: every trace file of a folder, in the order of their names.

    Raises:
        TraceError: there is none, or one breaks its format.
    """
    paths = sorted(path for path in Path(folder).iterdir() if Path(path.name.removesuffix(".gz")).suffix in SUFFIXES)
    if not paths:
        raise TraceError(f"{folder}: expected trace files ({', '.join(SUFFIXES)} or .gz of it), found none")
    return [load_trace(path) for path in paths]


def save_csv(trace: Trace, path: str | Path) -> None:
    """Write a trace as CSV (``time_s,mbps``) that :func:`load_trace` reads back to the same trace.

    Raises:
        TraceError: the trace has no end, or the file cannot be written.
    """
    if math.isinf(trace.duration_s):
        raise TraceError(f"{path}: trace {trace.name!r} has no end; cut(0, seconds) it before saving")
    rows = [f"{t!r},{rate / 1e6!r}" for t, rate in zip(trace.times_s.tolist(), trace.rates_bps.tolist(), strict=True)]
    try:
        Path(path).write_text("\n".join(["time_s,mbps", *rows, f"{trace.duration_s!r},"]) + "\n", encoding="utf-8")
    except OSError as error:
        raise TraceError(f"{path}: cannot be written: {error.strerror}") from error


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        lines = content.decode("utf-8-sig").splitlines()
    except (EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: not a text file: {error}") from error
    except OSError as error:  # also a file that is not gzip
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not any(line.strip() for line in lines):
        raise TraceError(f"{path}, line 1: the file is empty")
    return lines


def _csv_rows(path: Path, lines: Sequence[str]) -> Iterator[Row]:
    """The rows of a CSV file; the rate of an end mark is nan."""
    reader = _cells(path, lines)
    _, cells = next(reader)
    header = [cell.strip() for cell in cells]
    time_at, rate_at = (
        next((header.index(name) for name in names if name in header), -1) for names in (TIME_COLUMNS, RATE_COLUMNS)
    )
    if time_at < 0 or rate_at < 0:
        raise TraceError(
            f"{path}, line 1: expected a header with the columns time_s (seconds) and mbps (Mbit/s),"
            f" got {','.join(header)!r}"
        )
    ended = 0
    for number, cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if ended:
            raise TraceError(f"{path}, line {ended}: no rate; only the last row, which marks the end, may lack it")
        if len(cells) <= max(time_at, rate_at):
            raise TraceError(f"{path}, line {number}: expected {len(header)} cells, got {len(cells)}")
        rate = cells[rate_at].strip()
        ended = 0 if rate else number
        yield number, _number(path, number, cells[time_at]), _number(path, number, rate) if rate else math.nan


def _cells(path: Path, lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise TraceError(f"{path}, line {reader.line_num}: not CSV: {error}") from error


def _two_columns(path: Path, lines: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != 2:
            raise TraceError(f"{path}, line {number}: expected seconds and Mbit/s, got {line.strip()!r}")
        rows.append((number, _number(path, number, cells[0]), _number(path, number, cells[1])))
    start_s = rows[0][1]
    return [(number, time_s - start_s, mbps) for number, time_s, mbps in rows]


def _from_rows(path: Path, rows: list[Row], loop: bool) -> Trace:
    end_s = rows.pop()[1] if rows and math.isnan(rows[-1][2]) else None
    if not rows:
        raise TraceError(f"{path}, line 2: no rows below the header")
    before = -math.inf
    for number, time_s, mbps in rows:
        if mbps < 0:
            raise TraceError(f"{path}, line {number}: rate {mbps:g} Mbit/s is negative")
        if time_s <= before:
            raise TraceError(f"{path}, line {number}: time {time_s:g} s does not come after {before:g} s")
        before = time_s
    history = sum(1 for _, time_s, _ in rows if time_s <= 0)
    if history == 0:
        raise TraceError(
            f"{path}, line {rows[0][0]}: the first row is at {rows[0][1]:g} s, expected one at or before 0"
        )
    kept = rows[history - 1 :]
    times = np.array([time_s for _, time_s, _ in kept])
    times[0] = 0.0
    if end_s is None:
        end_s = float(times[-1]) + (float(np.median(np.diff(times))) if len(times) > 1 else 1.0)
    elif end_s <= times[-1]:
        raise TraceError(f"{path}, last line: the end at {end_s:g} s does not come after {times[-1]:g} s")
    rates = np.array([mbps for _, _, mbps in kept]) * 1e6
    return Trace(times, rates, path.name, loop, duration_s=end_s)


def _mahimahi(path: Path, lines: Sequence[str], loop: bool) -> Trace:
    stamps: list[int] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        if not (text.isascii() and text.isdigit()):
            raise TraceError(f"{path}, line {number}: expected a whole number of milliseconds, got {text!r}")
        if len(text) > 18 or int(text) > _LONGEST_MS:
            raise TraceError(f"{path}, line {number}: {text} ms is more than a month; expected milliseconds")
        stamp = int(text)
        if stamps and stamp < stamps[-1]:
            raise TraceError(f"{path}, line {number}: time {stamp} ms goes back behind {stamps[-1]} ms")
        stamps.append(stamp)
    if stamps[-1] == 0:
        raise TraceError(f"{path}, line {len(lines)}: the last packet is at 0 ms; the trace has no length")
    # A packet at the edge of two bins passed in the earlier one, so that the last packet lies in the last bin.
    bins = np.maximum(np.ceil(np.array(stamps) / _BIN_MS).astype(np.int64) - 1, 0)
    packets = np.bincount(bins).astype(np.float64)
    times = np.arange(len(packets)) * _BIN_MS / 1000
    rates = packets * (_PACKET_BITS * 1000 / _BIN_MS)
    return Trace(times, rates, path.name, loop, duration_s=len(packets) * _BIN_MS / 1000)


def _number(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TraceError(f"{path}, line {line}: {text.strip()!r} is not a number")
    return value
