"""Frames made by hand: of any kind, content and version, with checksums that are right."""

from __future__ import annotations

import struct
import zlib
from binascii import crc_hqx

from rowcast.wire import PROTOCOL_VERSION


def framed(kind, body, version=PROTOCOL_VERSION, sequence=0, length=None, stream=0):
    """A frame with the header of version 2 and of all that follow."""
    length = len(body) if length is None else length
    start = struct.pack(">2sBBIIH", b"RC", version, kind, stream << 24 | length, zlib.crc32(body), sequence)
    return start + crc_hqx(start, 0xFFFF).to_bytes(2, "big") + body


def framed_as_version_1(kind, body):
    """Version 1 had a header of 12 bytes, and one checksum for all."""
    start = struct.pack(">2sBBI", b"RC", 1, kind, len(body))
    return start + zlib.crc32(body, zlib.crc32(start)).to_bytes(4, "big") + body
