"""A log of packets that Wireshark opens: pcap with nanoseconds, written by dpkt.

Each write to the file is one system call with whole packets, so a process that is killed leaves a file that is whole up
to its last packet.
"""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from rowcast.errors import ConfigError

__all__ = ["PacketLog"]

#: So much is gathered before it is written (bytes).
_GATHER_BYTES = 1 << 15
#: Bytes in front of each packet.
_RECORD_BYTES = 16


class PacketLog:
    """Writes packets to a file.

    Args:
        path: the file; what was there is overwritten.
        snap_bytes: so much of each packet is kept; its whole length is noted.
        limit_bytes: the file grows to this size at most; packets beyond are counted, not kept.
        say: called once with a line when the limit is reached, or when the file cannot be written any more.

    Attributes:
        kept, skipped: packets in the file, and those that came after its end.

    Raises:
        ConfigError: dpkt is not installed, or the file cannot be written.
    """

    def __init__(
        self, path: str | Path, snap_bytes: int = 128, limit_bytes: int = 1 << 30, say: Callable[[str], None] = print
    ) -> None:
        try:
            from dpkt import pcap
        except ImportError:
            raise ConfigError(
                "packet log: expected the package dpkt, which is not installed; pip install 'rowcast[emulate]'"
            ) from None
        self._path, self._snap_bytes, self._limit_bytes, self._say = Path(path), snap_bytes, limit_bytes, say
        self._full = False
        self.kept = self.skipped = 0
        head = io.BytesIO()
        pcap.Writer(head, snaplen=snap_bytes, linktype=pcap.DLT_EN10MB, nano=True)
        self._header = (pcap.LEPktHdr if sys.byteorder == "little" else pcap.PktHdr)()
        self._gathered = [head.getvalue()]
        self._gathered_bytes = self._size_bytes = len(head.getvalue())
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"packet log {path}: cannot be written: {error.strerror}; name another file") from error
        self.flush()

    def add(self, time_s: float, packet: bytes) -> None:
        """Note a packet.

        Args:
            time_s: of the clock of the day (s since 1970).
            packet: an Ethernet frame.
        """
        kept = packet[: self._snap_bytes]
        if self._full or self._size_bytes + _RECORD_BYTES + len(kept) > self._limit_bytes:
            if not self._full:
                self._end(f"packet log {self._path}: has reached {self._limit_bytes} bytes; later packets are not kept")
            self.skipped += 1
            return
        header = self._header
        fraction, seconds = math.modf(time_s)
        header.tv_sec, header.tv_usec = int(seconds), min(int(fraction * 1e9), 999_999_999)
        header.caplen, header.len = len(kept), len(packet)
        record = bytes(header) + kept
        self.kept += 1
        self._gathered.append(record)
        self._size_bytes += len(record)
        self._gathered_bytes += len(record)
        if self._gathered_bytes >= _GATHER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if not self._gathered:
            return
        piece = b"".join(self._gathered)
        self._gathered.clear()
        self._gathered_bytes = 0
        try:
            written = os.write(self._file, piece)
            while written < len(piece):  # a disk that is full takes a part, and then says why
                written += os.write(self._file, piece[written:])
        except OSError as error:
            self._end(f"packet log {self._path}: cannot be written: {error.strerror}; later packets are not kept")

    def close(self) -> None:
        self.flush()
        os.close(self._file)

    def _end(self, line: str) -> None:
        self._full = True
        self._say(line)
