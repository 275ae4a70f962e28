"""The form of a log in a stream: what each message is, and which groups the messages make.

A message belongs to one owner of the log and is of one kind. A group is packed as on a disk and cut into parts, which
follow one another. An owner that died, or could not tell whether a part was stored, leaves a group without an end, or
one that comes twice: the next one with this number is the same again, or takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from rowcast.drivers.state.groups import Groups, Segment, file_header, read_segments
from rowcast.errors import StateDamaged

__all__ = ["LAYOUT", "GroupPart", "SnapshotRecord", "description", "groups_of", "identity_of"]

#: The form of a log in a stream; another number is another form.
LAYOUT = 1
_ABOUT = "rowcast log, layout"


def description(identity: bytes) -> str:
    """What a stream says of itself: the layout of the log in it, and the 16 bytes that name it."""
    return f"{_ABOUT} {LAYOUT}, {identity.hex()}"


def identity_of(text: str, where: str) -> bytes:
    """The 16 bytes that name the log of a stream.

    Args:
        text: what the stream says of itself.
        where: the log, for the message.

    Raises:
        StateDamaged: it is no log, or one of another layout.
    """
    if not text.startswith(_ABOUT):
        raise StateDamaged(f"state {where}: expected a stream of Rowcast, got one of somebody else; give another name")
    layout, _, name = text.removeprefix(_ABOUT).partition(",")
    if layout.strip() != str(LAYOUT):
        raise StateDamaged(
            f"state {where}: expected a log of layout {LAYOUT}, got one of layout {layout.strip()}; use the release "
            "that wrote it"
        )
    try:
        identity = bytes.fromhex(name)
    except ValueError:
        identity = b""
    if len(identity) != 16:
        raise StateDamaged(
            f"state {where}: expected 16 bytes that name the log, got {name.strip()!r}; give another name"
        )
    return identity


class SnapshotRecord(msgspec.Struct, frozen=True):
    """A snapshot that is stored, in the log: from here on it counts.

    Attributes:
        first: number of the group that comes behind it.
        subject: of the messages that are its parts.
        begins, ends: sequences of the first and the last of them in the stream of snapshots; all before are
            superfluous.
        size: of the snapshot (bytes); ``sha256``: its digest, in hexadecimal.
    """

    first: int
    subject: str
    begins: int
    ends: int
    size: int
    sha256: str


@dataclass(frozen=True)
class GroupPart:
    """A part of a group.

    Attributes:
        number: of the group; ``part``: of the part, from 0; ``parts``: of the group.
        data: bytes of the packed group.
    """

    number: int
    part: int
    parts: int
    data: bytes


def groups_of(parts: Iterable[GroupPart], first: int, name: str) -> Groups:
    """The groups from ``first`` on.

    Args:
        parts: as they follow one another in the stream.
        first: number of the group to begin with; older ones may be there.
        name: of the stream, for messages.

    Raises, when it is read through:
        StateDamaged: a group is damaged or missing that was committed once.
    """
    whole = bytearray(file_header(first))
    begun: list[GroupPart] = []
    for part in parts:
        follows = begun and (part.number, part.part, part.parts) == (begun[0].number, len(begun), begun[0].parts)
        begun = [*begun, part] if follows else [part] if part.part == 0 else []
        if begun and len(begun) == begun[0].parts:
            whole += b"".join(each.data for each in begun)
            begun = []
    whole += b"".join(each.data for each in begun)  # the end of what was never committed
    return read_segments([Segment(name, first, bytes(whole))], first)
