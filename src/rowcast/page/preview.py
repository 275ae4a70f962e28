"""A first look at a long run: its end, and samples of what came before, in a moment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from rowcast.journal import Record
from rowcast.page.model import Team

__all__ = ["preview"]

#: What is read of all journals together: of their ends, and in samples before.
END_BYTES, SAMPLES_BYTES = 3 << 20, 4 << 20
SAMPLE_BYTES = 16 << 10
_decode = msgspec.json.Decoder().decode


def preview(places: dict[Path, int]) -> Team:
    """What the team is by now, about: the curves of the whole run are of samples, and the log is of the end.

    Args:
        places: the journals, and at which byte of each to begin.

    Lines that cannot be read are left out; who reads the journals in full tells of them.
    """
    found: list[Record] = []
    for path, begin in places.items():
        found += _sampled(path, begin, len(places))
    found.sort(key=lambda record: float(record["t"]))
    team = Team()
    for record in found:
        team.take(record)
    return team


def _sampled(path: Path, begin: int, count: int) -> Iterator[Record]:
    """Records of samples of a journal, and of its end."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        end = max(size - END_BYTES // count, begin)
        samples = max(SAMPLES_BYTES // count // SAMPLE_BYTES, 2)
        step = max((end - begin) // samples, SAMPLE_BYTES)
        for place in range(begin, end, step):
            file.seek(place)
            yield from _records(file.read(min(SAMPLE_BYTES, end - place)), whole=place == begin)
        file.seek(end)
        yield from _records(file.read(), whole=end == begin)


def _records(data: bytes, *, whole: bool) -> Iterator[Record]:
    """The records of whole lines in ``data``; unless it is ``whole`` its first line is the end of one."""
    lines = data.split(b"\n")
    for line in lines[0 if whole else 1 : -1]:
        try:
            record = _decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("t"), int | float) and {"node", "event"} <= record.keys():
            yield record
