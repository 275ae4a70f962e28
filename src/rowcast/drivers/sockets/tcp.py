"""TCP as deadline-bounded sending needs it."""

from __future__ import annotations

import ipaddress
import socket

from rowcast.config import LinkSettings
from rowcast.errors import ConfigError, visible

__all__ = [
    "check_congestion_control",
    "is_loopback",
    "source_of",
    "split_address",
    "tuned",
    "unresolved",
]

#: Bytes that the kernel may hold unsent before the socket stops being writable.
NOTSENT_LOWAT_BYTES = 16 << 10
#: Largest piece handed to the kernel at once.
CHUNK_BYTES = 16 << 10


def _tune(sock: socket.socket, settings: LinkSettings) -> str | None:
    """Set the options of a connection; returns the congestion control in force, if the system tells.

    No delay for small messages, at most :data:`NOTSENT_LOWAT_BYTES` unsent in the kernel where the system has
    that, and the congestion control that the settings ask for.

    Raises:
        OSError: the system refuses an option.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)
    if not hasattr(socket, "TCP_CONGESTION"):
        return None
    if settings.congestion_control is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, settings.congestion_control.encode())
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).split(b"\0")[0].decode()


def tuned(sock: socket.socket, settings: LinkSettings) -> tuple[str | None, str]:
    """Set the options of a connection that may have ended already.

    Returns:
        The congestion control in force, if the system tells; and why it could not be set up, or nothing.
    """
    try:
        return _tune(sock, settings), ""
    except OSError as error:
        return None, error.strerror or str(error)


def source_of(host: str) -> str:
    """What failed attempts of an address are counted by: itself, or of IPv6 the network that one user has."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


def check_congestion_control(settings: LinkSettings) -> None:
    """Find out before the first connection whether the system takes the settings.

    Raises:
        ConfigError: it refuses that congestion control.
    """
    with socket.socket() as probe:
        try:
            _tune(probe, settings)
        except OSError as error:
            raise ConfigError(
                f"congestion_control: the system refuses {settings.congestion_control!r} ({error.strerror}); "
                "see /proc/sys/net/ipv4/tcp_available_congestion_control"
            ) from error


def split_address(text: str, default_port: int = 7117) -> tuple[str, int]:
    """``host``, ``host:port`` or ``[v6]:port`` as a pair.

    Raises:
        ConfigError: it is none of these.
    """
    host, port = text, str(default_port)
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ConfigError(f"address {text!r}: expected [host]:port")
        port = rest[1:] or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) < 1 << 16:
        raise ConfigError(f"address {text!r}: expected host:port with a port in 0 .. 65535")
    return host, int(port)


def unresolved(host: str, error: Exception) -> str:
    """What to tell a user whose host name stands for no address."""
    why = getattr(error, "strerror", None) or str(error)
    return (
        f"the name {host!r} cannot be resolved ({visible(why)}); check its spelling and the network, or give the "
        "address in numbers"
    )


def is_loopback(host: str) -> bool:
    """Whether every address that ``host`` stands for is on this machine's loopback.

    Raises:
        ConfigError: it stands for none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: no name at all, as one with a label of 64 letters
        raise ConfigError(unresolved(host, error)) from error
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)
