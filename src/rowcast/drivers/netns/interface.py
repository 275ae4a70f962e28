"""A raw end of an Ethernet interface: whole frames in and out, each with the moment at which the kernel took it.

What arrives lies in a ring of memory that is shared with the kernel (AF_PACKET, TPACKET_V2): taking a frame costs no
system call, and its time does not depend on when this process woke up. Needs CAP_NET_RAW in the network namespace.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import socket
import struct

from rowcast.errors import ConfigError

__all__ = ["HEADER_BYTES", "Interface", "InterfaceGone"]

#: Of an Ethernet frame: two addresses and the type.
HEADER_BYTES = 14

#: Frames of a ring, and the memory in one piece.
RING_FRAMES = 1024
BLOCK_BYTES = 1 << 16
#: What the kernel puts before a frame in the ring, at most.
LEAD_BYTES = 128
SEND_BUFFER_BYTES = 4 << 20

# linux/if_packet.h; the module socket has none of them.
_SOL_PACKET = 263
_PACKET_RX_RING = 5
_PACKET_STATISTICS = 6
_PACKET_VERSION = 10
_PACKET_QDISC_BYPASS = 20
_PACKET_IGNORE_OUTGOING = 23
_TPACKET_V2 = 1
_STATUS_USER = 1
_STATUS_CHECKSUM_NOT_READY = 1 << 3
_ETH_P_ALL = 3
_SIOCGIFMTU = 0x8921
_SO_SNDBUFFORCE = 32

#: struct tpacket2_hdr: status, length, what is there of it, where it begins, the network header, seconds, nanoseconds.
_FRAME = struct.Struct("=IIIHHII")
_STATUS = struct.Struct("=I")
#: Where the struct sockaddr_ll behind it says what kind of packet it is.
_KIND_AT = 32 + 10


class InterfaceGone(Exception):
    """The interface was taken away, or down; the text says which."""


class Interface:
    """Opens an interface of this network namespace.

    Args:
        name: of the interface.

    Attributes:
        name: of the interface.
        mtu: the longest payload of a frame (bytes).
        outgoing: frames that this machine sent itself and that were ignored.

    Raises:
        ConfigError: no such interface, or no right to open it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.outgoing = 0
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError:
            raise ConfigError(
                f"interface {name!r}: a raw socket is not allowed; run as root, or in a user namespace (CAP_NET_RAW)"
            ) from None
        try:
            request = struct.pack("=16si12x", name.encode(), 0)
            self.mtu = int(struct.unpack("=16si12x", fcntl.ioctl(self._socket, _SIOCGIFMTU, request))[1])
            self._open_ring()
            self._socket.bind((name, _ETH_P_ALL))
        except OSError as error:
            self._socket.close()
            known = ", ".join(each for _, each in socket.if_nameindex())
            raise ConfigError(
                f"interface {name!r}: {error.strerror}; expected one of those that are here: {known}"
            ) from error
        self._socket.setblocking(False)
        self._at = 0

    def _open_ring(self) -> None:
        frame_bytes = 1 << (self.mtu + HEADER_BYTES + 4 + LEAD_BYTES - 1).bit_length()
        blocks = RING_FRAMES * frame_bytes // max(BLOCK_BYTES, frame_bytes)
        sock = self._socket
        sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        sock.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        ring = struct.pack("=IIII", max(BLOCK_BYTES, frame_bytes), blocks, frame_bytes, RING_FRAMES)
        sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, ring)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
        except PermissionError:  # in a user namespace: as much as everybody may have
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._frame_bytes = frame_bytes
        self._ring = mmap.mmap(sock.fileno(), RING_FRAMES * frame_bytes)

    def fileno(self) -> int:
        return self._socket.fileno()

    def take(self, most: int) -> list[tuple[float, bytes]]:
        """Frames that have arrived, in order: when (s, clock of the day) and what.

        Args:
            most: no more than so many.

        Raises:
            ConfigError: a frame that was put together or left unfinished (offloads); the remedy is in the text.
        """
        found: list[tuple[float, bytes]] = []
        ring, place = self._ring, self._at * self._frame_bytes
        for _ in range(most):
            status, length, there, begin, _, seconds, nanoseconds = _FRAME.unpack_from(ring, place)
            if not status & _STATUS_USER:
                break
            if ring[place + _KIND_AT] == socket.PACKET_OUTGOING:
                self.outgoing += 1
            else:
                if length - HEADER_BYTES > self.mtu or there < length:
                    raise self._offloads(f"a packet of {length - HEADER_BYTES} bytes where {self.mtu} is the longest")
                if status & _STATUS_CHECKSUM_NOT_READY:
                    raise self._offloads("a packet without its checksum, which its receiver would throw away")
                found.append((seconds + nanoseconds * 1e-9, ring[place + begin : place + begin + length]))
            _STATUS.pack_into(ring, place, 0)
            self._at = (self._at + 1) % RING_FRAMES
            place = self._at * self._frame_bytes
        return found

    def check(self) -> None:
        """Look what is the matter with an interface that has something to tell, and no frame.

        Raises:
            InterfaceGone: it is down, or not there any more.
        """
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise InterfaceGone(f"interface {self.name!r}: {errno.errorcode.get(code, code)}")

    def exists(self) -> bool:
        """Whether there is an interface of this name."""
        return self.name in (name for _, name in socket.if_nameindex())

    def send(self, frame: bytes) -> bool:
        """Hand a frame to the interface; whether it was taken."""
        try:
            self._socket.send(frame)
        except OSError:  # down, gone, or the receiver does not keep up: on a wire the frame would be lost as well
            return False
        return True

    def missed(self) -> int:
        """Frames since the last call for which the ring had no room."""
        counts = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return int(struct.unpack("=II", counts)[1])

    def close(self) -> None:
        self._ring.close()
        self._socket.close()

    def _offloads(self, came: str) -> ConfigError:
        return ConfigError(
            f"interface {self.name!r}: {came}: offloads are on; switch them off at the host's end: "
            "ethtool -K INTERFACE tso off gso off gro off tx off"
        )
