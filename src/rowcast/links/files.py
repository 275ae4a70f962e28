"""Bandwidth traces as files: read and written.

What is read (a further ``.gz`` is unpacked on the way):

======================= =============================================================================
``.csv``                a header that names a time column (``time_s``; also ``t_s`` or ``t_start_s``)
                        and a rate column (``mbps``; also ``dl_mbps``); other columns are ignored. A
                        row holds until the next one. Rows before time 0 are history: the last row at or
                        before 0 counts as time 0. If there is none, the first row is moved to 0, as for
                        times since 1970. A last row without a rate gives the end of the trace; without
                        it, the last row lasts as long as the median row.
``.up .down .mahi .txt`` mahimahi: one whole number per line, the millisecond at which one packet of 1500
                        bytes may pass; counted in bins of 100 ms.
``.txt``, two columns   seconds and Mbit/s, no header; moved to start at 0. With a header: as CSV.
``.json``               what ``iperf3 -J`` writes: the rate of each interval, all streams together.
``.mcap?topic=...``     a topic of an MCAP file, of a ``.db3`` file or of the folder of a rosbag2; see
                        :mod:`rowcast.links.topics`.
======================= =============================================================================

In all but the last two, empty lines and lines that begin with ``#`` are left out. Columns are separated by commas,
semicolons or tabs (in ``.txt`` by blanks as well), the same in all lines. Numbers have a decimal point, and no other
marks.

Source of the mahimahi format: Netravali et al., "Mahimahi: Accurate Record-and-Replay for HTTP",
USENIX ATC 2015. Its traces start again after the last millisecond, and so do these.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rowcast.config import as_number
from rowcast.errors import TraceError
from rowcast.links.iperf3 import trace_of_iperf3
from rowcast.links.topics import TopicAddress, trace_of_topic
from rowcast.links.trace import Trace

__all__ = ["load_team", "load_trace", "save_csv"]

TIME_COLUMNS = ("time_s", "t_s", "t_start_s")
RATE_COLUMNS = ("mbps", "dl_mbps")
MAHIMAHI_SUFFIXES = (".up", ".down", ".mahi", ".txt")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
IPERF3_SUFFIX = ".json"
SUFFIXES = (".csv", *MAHIMAHI_SUFFIXES, IPERF3_SUFFIX)

_PACKET_BITS = 1500 * 8
_BIN_MS = 100
_LONGEST_MS = 7 * 24 * 3600 * 1000  # a week; beyond it the numbers are not milliseconds: 2026 is 1.8e9 s after 1970

#: Beyond these a number is not seconds (of a clock that began in 1970, say), or not Mbit/s.
_MOST_S = 1e11
MOST_MBPS = 1e9

_LINE_ENDS = re.compile("\r\n|\r|\n")  # and nothing else, so that lines are counted as an editor counts them
_SHOWN = 60  # characters of what came, in a message

Line = tuple[int, str]  # line number, what is on it
Row = tuple[int, float, float]  # line number, time in seconds, rate in Mbit/s


def load_trace(path: str | Path, *, loop: bool = True) -> Trace:
    """Read a bandwidth trace; the formats are in this module's text.

    Raises:
        TraceError: the file is missing, empty or breaks its format; the message names file, line and reason.
        ConfigError: a library that reads it is not installed.
    """
    if (address := TopicAddress.parse(str(path))) is not None:
        return trace_of_topic(address, loop=loop)
    path = Path(path)
    suffix = _kind(path)
    if suffix not in SUFFIXES:
        raise TraceError(
            f"{path}: unknown kind of file {suffix!r}; expected one of {', '.join(SUFFIXES)} (or .gz of it), or "
            "a topic, as in drive.mcap?topic=/bandwidth&field=data"
        )
    if suffix == IPERF3_SUFFIX:
        return trace_of_iperf3(path, _text(path), loop=loop)
    lines = _lines(path)
    if suffix == ".csv":
        return _from_rows(path, lines[0][0], list(_table(path, lines)), loop)
    separator = _separator_of(lines[0][1]) if suffix == ".txt" else ""
    first = [cell.strip().strip('"').casefold() for cell in _split(lines[0][1], separator)]
    if suffix == ".txt" and any(name in first for name in (*TIME_COLUMNS, *RATE_COLUMNS)):
        return _from_rows(path, lines[0][0], list(_table(path, lines, separator)), loop)
    if suffix == ".txt" and len(first) > 1:
        return _from_rows(path, lines[0][0], _two_columns(path, lines, separator), loop)
    return _mahimahi(path, lines, loop)


def _kind(path: Path) -> str:
    """The suffix that says what is in a file, in small letters."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def load_team(folder: str | Path) -> list[Trace]:
    """The traces that a team recorded together: every trace file of a folder, in the order of their names.

    Raises:
        TraceError: there is none, or one breaks its format.
    """
    try:
        paths = sorted(path for path in Path(folder).iterdir() if _kind(path) in SUFFIXES)
    except (OSError, ValueError) as error:
        raise TraceError(f"{folder}: expected a folder of trace files; {_why(error)}") from error
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


def _text(path: Path) -> str:
    """What a file holds."""
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: not a text file: {error}; expected UTF-8, save it as that") from error
    except (OSError, ValueError) as error:  # also a file that is not gzip, and a name that cannot be one
        raise TraceError(f"{path}: cannot be read: {_why(error)}") from error


def _lines(path: Path) -> list[Line]:
    """The lines that say something."""
    split = _LINE_ENDS.split(_text(path))
    lines = [(number, line) for number, line in enumerate(split, start=1) if _says_something(line)]
    if not lines:
        raise TraceError(f"{path}, line 1: the file is empty; expected a trace")
    return lines


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _table(path: Path, lines: Sequence[Line], separator: str | None = None) -> Iterator[Row]:
    """The rows below a header; the rate of an end mark is nan."""
    number, line = lines[0]
    if separator is None:
        separator = max(SEPARATORS, key=line.count)
    header = [cell.strip().casefold() for cell in _cells(path, number, line, separator)]
    time_at, rate_at = (
        next((header.index(name) for name in names if name in header), -1) for names in (TIME_COLUMNS, RATE_COLUMNS)
    )
    if time_at < 0 or rate_at < 0:
        raise TraceError(
            f"{path}, line {number}: expected a header with the columns time_s (seconds) and mbps (Mbit/s),"
            f" separated by commas, semicolons or tabs, got {_shown(','.join(header))}"
        )
    for at in (time_at, rate_at):
        if header.count(header[at]) > 1:
            raise TraceError(f"{path}, line {number}: the column {header[at]} stands twice; leave one of them out")
    ended = 0
    for number, line in lines[1:]:
        cells = _cells(path, number, line, separator)
        while len(cells) > len(header) and not cells[-1].strip():
            cells.pop()
        if not any(cell.strip() for cell in cells):
            continue
        if ended:
            raise TraceError(f"{path}, line {ended}: no rate; only the last row, which marks the end, may lack it")
        if len(cells) <= max(time_at, rate_at) or len(cells) > len(header):
            raise TraceError(
                f"{path}, line {number}: expected {len(header)} cells, got {len(cells)} between"
                f" {SEPARATORS.get(separator, 'blanks')}: {_shown(line)}{_decimal_comma(separator, line)}"
            )
        rate = cells[rate_at].strip()
        ended = 0 if rate else number
        time_s = _number(path, number, cells[time_at], "seconds", _MOST_S)
        yield number, time_s, _number(path, number, rate, "Mbit/s", MOST_MBPS) if rate else math.nan


def _cells(path: Path, number: int, line: str, separator: str) -> list[str]:
    if not separator:
        return line.split()
    try:
        return next(csv.reader([line], delimiter=separator, strict=True, skipinitialspace=True))
    except csv.Error as error:
        why = str(error).encode("unicode_escape").decode()  # it quotes the separator as it is
        raise TraceError(f"{path}, line {number}: not CSV: {why}; a row is one line") from error


def _separator_of(line: str) -> str:
    """What separates the columns of a ``.txt``; empty: blanks."""
    if ";" in line:
        return ";"
    words = line.split()
    # A comma in the middle of one of several words is a decimal comma.
    return "," if "," in line and (len(words) == 1 or any(word[0] == "," or word[-1] == "," for word in words)) else ""


def _split(line: str, separator: str) -> list[str]:
    return line.split(separator) if separator else line.split()


def _two_columns(path: Path, lines: Sequence[Line], separator: str) -> list[Row]:
    rows: list[Row] = []
    for number, line in lines:
        cells = _split(line, separator)
        if len(cells) != 2:
            raise TraceError(
                f"{path}, line {number}: expected seconds and Mbit/s, got {_shown(line)} between"
                f" {SEPARATORS.get(separator, 'blanks')}{_decimal_comma(separator, line)}"
            )
        time_s = _number(path, number, cells[0], "seconds", _MOST_S)
        rows.append((number, time_s, _number(path, number, cells[1], "Mbit/s", MOST_MBPS)))
    _check_order(path, rows)
    start_s = rows[0][1]
    return [(number, time_s - start_s, mbps) for number, time_s, mbps in rows]


def _check_order(path: Path, rows: Sequence[Row]) -> None:
    before = -math.inf
    for number, time_s, mbps in rows:
        if mbps < 0:
            raise TraceError(f"{path}, line {number}: rate {mbps:g} Mbit/s is negative; expected 0 or more")
        if time_s <= before:
            raise TraceError(f"{path}, line {number}: time {time_s:.10g} s does not come after {before:.10g} s")
        before = time_s


def _from_rows(path: Path, header: int, rows: list[Row], loop: bool) -> Trace:
    end_at, end_s = (rows[-1][0], rows.pop()[1]) if rows and math.isnan(rows[-1][2]) else (0, None)
    if not rows:
        raise TraceError(f"{path}, line {header + 1}: no rows below the header; expected a time and a rate in each")
    _check_order(path, rows)
    if end_s is not None and end_s <= rows[-1][1]:
        raise TraceError(f"{path}, line {end_at}: the end at {end_s:.10g} s does not come after {rows[-1][1]:.10g} s")
    start_s = max(rows[0][1], 0.0)
    history = max(sum(1 for _, time_s, _ in rows if time_s <= 0), 1)
    kept = rows[history - 1 :]
    times = np.array([time_s - start_s for _, time_s, _ in kept])
    times[0] = 0.0
    if end_s is None:
        end_s = float(times[-1]) + (float(np.median(np.diff(times))) if len(times) > 1 else 1.0)
    else:
        end_s -= start_s
    equal = np.flatnonzero(np.diff(times) <= 0)  # they were not, so far from 0
    if equal.size:
        raise TraceError(
            f"{path}, line {kept[equal[0] + 1][0]}: the time is too near to that of the row before; leave a row out"
        )
    if end_s <= times[-1]:
        raise TraceError(
            f"{path}, line {end_at or kept[-1][0]}: the end at {end_s:.10g} s does not come after {times[-1]:.10g} s"
        )
    rates = np.array([mbps for _, _, mbps in kept]) * 1e6
    return Trace(times, rates, path.name, loop, duration_s=end_s)


def _mahimahi(path: Path, lines: Sequence[Line], loop: bool) -> Trace:
    stamps: list[int] = []
    for number, line in lines:
        text = line.strip()
        if not (text.isascii() and text.isdigit()):
            also = ", or seconds and Mbit/s in two columns" if _kind(path) == ".txt" else ""
            raise TraceError(
                f"{path}, line {number}: expected a whole number of milliseconds{also}, got {_shown(text)}"
            )
        if len(text) > 18 or int(text) > _LONGEST_MS:
            raise TraceError(
                f"{path}, line {number}: {_shown(text)} ms is more than a week; expected milliseconds from the start"
            )
        stamp = int(text)
        if stamps and stamp < stamps[-1]:
            raise TraceError(f"{path}, line {number}: time {stamp} ms goes back behind {stamps[-1]} ms")
        stamps.append(stamp)
    if stamps[-1] == 0:
        raise TraceError(f"{path}, line {lines[-1][0]}: the last packet is at 0 ms; the trace has no length")
    # A packet at the edge of two bins passed in the earlier one, so that the last packet lies in the last bin.
    bins = np.maximum(np.ceil(np.array(stamps) / _BIN_MS).astype(np.int64) - 1, 0)
    packets = np.bincount(bins).astype(np.float64)
    times = np.arange(len(packets)) * _BIN_MS / 1000
    rates = packets * (_PACKET_BITS * 1000 / _BIN_MS)
    return Trace(times, rates, path.name, loop, duration_s=len(packets) * _BIN_MS / 1000)


def _number(path: Path, line: int, text: str, unit: str, most: float) -> float:
    text = text.strip()
    value = as_number(text)
    if value is None or math.isnan(value) or text.isalpha():  # nan and inf are no measurements
        plain = text.replace(",", ".").replace("_", "")
        good = plain != text and as_number(plain) is not None
        advice = f"write {plain}" if good else f"expected {unit}, such as 12.5"
        raise TraceError(f"{path}, line {line}: {_shown(text)} is not a number; {advice}")
    if abs(value) > most:
        raise TraceError(f"{path}, line {line}: {_shown(text)} is more than {most:g}; expected {unit}")
    return value


def _decimal_comma(separator: str, line: str) -> str:
    if separator == "," and line.count(",") > 1:
        return "; numbers have a decimal point"
    return ""


def _shown(text: str) -> str:
    """What came, in quotes and not too long; marks that a terminal would obey are escaped."""
    return repr(text.strip() if len(text) <= _SHOWN else f"{text.strip()[:_SHOWN]}...")
