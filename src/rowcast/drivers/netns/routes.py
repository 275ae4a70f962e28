"""Where a frame goes: over which links, and out of which port. Stations reach each other by way of the access point."""

from __future__ import annotations

from collections.abc import Mapping

from rowcast.drivers.netns.forward_spec import ForwardSpec, down_link, up_link

__all__ = ["Route", "Routes"]

#: Links that a frame enters, and those over which it then goes on.
Route = tuple[tuple[int, tuple[int, ...]], ...]


class Routes:
    """Made once of the specification; ports are numbered: 0 the access point, then the stations.

    Frames to a group (broadcast, ARP, multicast) go to all others: from a station over its uplink, and from the access
    point over each downlink by itself.

    Attributes:
        ports: the hosts, in the order of their numbers.
    """

    def __init__(self, spec: ForwardSpec) -> None:
        self.ports = (spec.access_point, *(station.port for station in spec.stations))
        stations = range(len(spec.stations))
        self._down_of = {station.port.address: down_link(index) for index, station in enumerate(spec.stations)}
        self._routes = [self._from_access_point(), *(self._from_station(spec, index) for index in stations)]
        self._to_all: list[Route] = [
            tuple((down_link(index), ()) for index in stations),
            *(((up_link(own), tuple(down_link(index) for index in stations if index != own)),) for own in stations),
        ]

    def _from_access_point(self) -> Mapping[bytes, Route]:
        return {address: ((down, ()),) for address, down in self._down_of.items()}

    def _from_station(self, spec: ForwardSpec, own: int) -> Mapping[bytes, Route]:
        up = up_link(own)
        others = {address: ((up, (down,)),) for address, down in self._down_of.items() if down != down_link(own)}
        return {spec.access_point.address: ((up, ()),), **others}

    def route(self, port: int, frame: bytes) -> Route:
        """Where a frame goes that has come at a port; nowhere if nobody has its address."""
        if frame[0] & 1:
            return self._to_all[port]
        return self._routes[port].get(frame[:6], ())

    def sink(self, link: int, frame: bytes) -> int | None:
        """The port out of which a frame goes that has come out of a link; ``None``: it only goes on."""
        if link & 1:
            return link // 2 + 1
        return None if frame[:6] in self._down_of else 0

    def names(self, link: int) -> dict[str, str]:
        """What a link is called in the counters: the interface of its station, and which way."""
        return {"station": self.ports[1 + link // 2].interface, "way": "down" if link & 1 else "up"}
