"""The network of :mod:`shaping`: an access point and stations, as the product makes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from rowcast.drivers.netns import network as product
from rowcast.drivers.netns.network import AIR, INTERFACE

__all__ = ["Host", "Network", "network"]


@dataclass(frozen=True)
class Host:
    """A host: its namespace and address, its end of the cable, and the end in the air."""

    network: product.Network
    name: str

    @property
    def namespace(self) -> str:
        return self.network.namespace(self.name)

    @property
    def address(self) -> str:
        return self.network.address(self.name)

    @property
    def interface(self) -> str:
        return INTERFACE

    @property
    def mac(self) -> str:
        return self.network.mac(self.name)

    @property
    def air_interface(self) -> str:
        return self.network.end(self.name)

    def command(self, *words: str) -> list[str]:
        """A command line that runs in its namespace."""
        return self.network.command(self.name, words)


@dataclass(frozen=True)
class Network:
    """The namespace of the medium, the access point and the stations."""

    network: product.Network

    @property
    def access_point(self) -> Host:
        return Host(self.network, self.network.hosts[0])

    @property
    def stations(self) -> tuple[Host, ...]:
        return tuple(Host(self.network, name) for name in self.network.hosts[1:])

    def command(self, *words: str) -> list[str]:
        """A command line that runs where the cables end."""
        return self.network.command(AIR, words)


@contextlib.contextmanager
def network(stations: int) -> Iterator[Network]:
    """Build a network, and take it down.

    Args:
        stations: how many, beside the access point.

    Raises:
        ConfigError: namespaces are not allowed here; the text says why.
    """
    with product.Network(["ap", *(f"station-{place}" for place in range(stations))]) as made:
        yield Network(made)
