"""Offloads of an interface: with them, what one packet is to a link is 64 KB of payload to TCP."""

from __future__ import annotations

import ctypes
import fcntl
import socket
from fnmatch import fnmatchcase

__all__ = ["switch_off", "switched_on", "wait_for_carrier"]

#: What is switched off: cutting up and joining of packets, and checksums that are left out.
_PATTERNS = ("tx-*segmentation", "tx-gso-*", "tx-checksum-*", "tx-scatter-gather*", "rx-gro*", "rx-lro", "rx-checksum")
_SIOCETHTOOL = 0x8946
_ETHTOOL_GLINK = 0x0000000A


def switch_off(interface: str) -> None:
    """Switch off everything that would make packets of the size of a link's into larger ones; all that can be.

    Raises:
        OSError: the kernel refuses.
    """
    from pyroute2.ethtool.ioctl import IoctlEthtool

    tool = IoctlEthtool(interface)
    try:
        features = tool.get_features()
        for name, on, changeable, *_ in list(features):
            if on and changeable and _matters(name):
                features[name] = False
        tool.set_features(features)
    finally:
        tool.close()


def switched_on(interface: str) -> list[str]:
    """Those of them that are on, read from the kernel, by the names that ``ethtool -k`` has for them."""
    from pyroute2.ethtool.ioctl import IoctlEthtool

    tool = IoctlEthtool(interface)
    try:
        return [name for name, on, changeable, *_ in tool.get_features() if on and changeable and _matters(name)]
    finally:
        tool.close()


def wait_for_carrier(interface: str) -> bool:
    """Whether the interface may send: the kernel finishes what is pending of its link before it answers.

    Otherwise it may be up to a second late, and drop what is sent until then.
    """
    value = (ctypes.c_uint32 * 2)(_ETHTOOL_GLINK, 0)
    request = bytearray(interface.encode("ascii").ljust(16, b"\0"))
    request += ctypes.addressof(value).to_bytes(8, "little").ljust(24, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    return bool(value[1])


def _matters(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _PATTERNS)
