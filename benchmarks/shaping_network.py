"""Namespaces for :mod:`shaping`: an access point and stations, each with a cable that ends in the namespace "air"."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rowcast.errors import ConfigError

__all__ = ["Host", "Network", "network", "offloads_off"]

_SIOCETHTOOL = 0x8946
#: linux/ethtool.h: transmit checksums, scatter-gather, TSO, GSO, GRO.
_SWITCHES = {"tx": 0x17, "sg": 0x19, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}


@dataclass(frozen=True)
class Host:
    """A host: its namespace and address, its end of the cable, and the end in the air."""

    namespace: str
    address: str
    interface: str
    mac: str
    air_interface: str

    def command(self, *words: str) -> list[str]:
        """A command line that runs in its namespace."""
        return ["ip", "netns", "exec", self.namespace, *words]


@dataclass(frozen=True)
class Network:
    """The namespace of the medium, the access point and the stations."""

    air: str
    access_point: Host
    stations: tuple[Host, ...]

    def command(self, *words: str) -> list[str]:
        """A command line that runs where the cables end."""
        return ["ip", "netns", "exec", self.air, *words]


@contextlib.contextmanager
def network(stations: int, offloads: bool = False) -> Iterator[Network]:
    """Build a network, and take it down.

    To be replaced by ``rowcast.drivers.netns.network`` when that is there: this is the one place to change.

    Args:
        stations: how many, beside the access point.
        offloads: leave segmentation and checksums to interfaces that do not do them, as they are by default.

    Raises:
        ConfigError: namespaces are not allowed here; the text says why.
    """
    prefix = f"rcsh{os.getpid()}"
    air = f"{prefix}-air"
    made: list[str] = []
    try:
        _ip("netns", "add", air)
        made.append(air)
        for place in range(stations + 1):
            name = f"{prefix}-{place}"
            _ip("netns", "add", name)
            made.append(name)
            _ip("-n", air, "link", "add", f"host{place}", "type", "veth", "peer", "name", f"air{place}")
        names = [f"{end}{place}" for place in range(stations + 1) for end in ("host", "air")]
        if not offloads:
            script = "import sys, shaping_network as n; n.offloads_off(sys.argv[1:])"
            _run(["ip", "netns", "exec", air, sys.executable, "-c", script, *names], cwd=Path(__file__).parent)
        hosts = [_connect(air, f"{prefix}-{place}", place) for place in range(stations + 1)]
        yield Network(air, hosts[0], tuple(hosts[1:]))
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _connect(air: str, name: str, place: int) -> Host:
    interface, air_interface, address = f"host{place}", f"air{place}", f"10.213.0.{place + 1}"
    (link,) = json.loads(_ip("-n", air, "-j", "link", "show", interface))
    _ip("-n", air, "link", "set", interface, "netns", name)
    for there in (air, name):
        # Nobody is to talk who was not asked to.
        silence = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
        _run(["ip", "netns", "exec", there, "sh", "-c", f"test ! -e /proc/sys/net/ipv6 || {silence}"])
    _ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
    _ip("-n", name, "link", "set", "lo", "up")
    _ip("-n", name, "link", "set", interface, "up")
    _ip("-n", air, "link", "set", air_interface, "arp", "off", "up")
    return Host(name, address, interface, link["address"], air_interface)


def offloads_off(interfaces: Sequence[str]) -> None:
    """Switch off what lets an interface pass packets that are larger than its MTU, or have no checksum."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for interface in interfaces:
            for switch in _SWITCHES.values():
                value = array.array("I", [switch, 0])
                request = struct.pack("16sP16x", interface.encode(), value.buffer_info()[0])
                fcntl.ioctl(sock, _SIOCETHTOOL, request)


def _ip(*words: str) -> str:
    return _run(["ip", *words])


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    except OSError as error:
        raise ConfigError(f"{command[0]}: cannot be run: {error.strerror}; expected the package iproute2") from error
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise ConfigError(f"namespaces are not allowed here: {' '.join(command)}: {reason[-1]}; run as root")
    return done.stdout
