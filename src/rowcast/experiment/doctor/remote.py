"""Checks of the way to a server, from the name to the bandwidth; the first that fails ends them."""

from __future__ import annotations

import datetime
import errno
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from cryptography import x509

from rowcast.drivers.sockets.certificates import ROBOT, Holder, now_utc
from rowcast.drivers.sockets.credentials import read_credential
from rowcast.drivers.sockets.endpoint import Endpoint
from rowcast.drivers.sockets.probing import Flow, Prober, ProbesRefused, RoundTrips
from rowcast.drivers.sockets.tcp import unresolved
from rowcast.errors import AuthenticationFailed, ConfigError, LinkLost, RowcastError, VersionMismatch
from rowcast.experiment.doctor.check import Check
from rowcast.version import __version__

__all__ = ["certificate_check", "clock_check", "flow_check", "remote_checks", "trips_check", "version_check"]

#: Where a socket connects to, as the system writes it.
Address = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]

#: A connection, or a single answer, takes no longer (s).
LIMIT_S = 5.0
#: A certificate that is valid for less is worth a word (days).
SOON_DAYS = 30
#: A path with less splits packets that most of the internet carries whole (bytes; IPv6 asks for it).
LEAST_MTU = 1280
#: Longer round trips make the window of a fading link the limit (s).
LONG_TRIP_S = 0.25
#: Slower, and rows of a push are older than a few iterations (bit/s).
SLOW_BPS = 1e6
#: Clocks that differ by more make journals hard to compare (s), and by more certificates fail (s).
CLOCK_WARN_S, CLOCK_FAIL_S = 1.0, 86_400.0
#: Bytes of a parameter in the code of the published policies, about: one bit and its scale.
ENCODED_BYTES = 0.14


def remote_checks(endpoint: Endpoint, name: str, parameters: int) -> Iterator[Check]:
    """Go to a server as a worker of this name would, and measure the way.

    Args:
        endpoint: the server, with the secret or the certificate.
        name: the worker; nobody of that name is disturbed.
        parameters: of the model that is to be trained.
    """
    if endpoint.security.team is not None:
        check = credential_check(endpoint.security.team)
        yield check
        if check.status == "fail":
            return
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        remedy = "check the spelling and the name server, or give the address itself"
        yield Check("name", "fail", unresolved(endpoint.host, error), remedy)
        return
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    yield Check("name", "ok", f"{endpoint.host} is {', '.join(addresses)}")
    family, _, _, _, address = found[0]
    check = route_check(family, address)
    yield check
    if check.status == "fail":
        return
    check, sock = port_check(family, address)
    yield check
    if sock is not None:
        yield from _inside(sock, endpoint, name, parameters)


def _inside(sock: socket.socket, endpoint: Endpoint, name: str, parameters: int) -> Iterator[Check]:
    with closing(sock):
        try:
            endpoint.security.check_join(endpoint.host)
            prober = Prober(sock, endpoint, name, LIMIT_S)
        except RowcastError as error:
            yield refused_check(error)
            return
        with closing(prober):
            yield Check("introduction", "ok", _how(endpoint))
            if endpoint.security.team is not None:
                yield certificate_check(
                    "server's certificate", Holder.of(x509.load_der_x509_certificate(prober.certificate))
                )
            try:
                trips = prober.round_trips()
                yield from (version_check(trips.release), trips_check(trips), clock_check(trips))
                for way, flow in (("up", prober.up), ("down", prober.down)):
                    yield flow_check(way, flow(), parameters)
                yield mtu_check(prober.mtu_bytes)
            except (LinkLost, RowcastError) as error:
                text = f"the link did not bear the measurement: {error}"
                yield Check(
                    "link", "fail", text, "small packets pass and large ones do not? lower the MTU of the interface"
                )


def _how(endpoint: Endpoint) -> str:
    if endpoint.security.team is not None:
        return "TLS 1.3, both ends have proved their certificates"
    if endpoint.security.secret is not None:
        return "TLS 1.3, both ends have proved the shared secret"
    return "in the clear: there is neither a secret nor a certificate"


# -- one check each ------------------------------------------------------------------------------------------------


def credential_check(path: Path) -> Check:
    """The file of a robot: can it be used, and for how long?"""
    try:
        holder = read_credential(path, ROBOT).holder
    except ConfigError as error:
        return Check("own certificate", "fail", str(error), "copy the file that 'rowcast team add NAME' has written")
    return certificate_check("own certificate", holder)


def certificate_check(what: str, holder: Holder | None, now: datetime.datetime | None = None) -> Check:
    """The dates of a certificate, by this machine's clock (or ``now``)."""
    if holder is None:
        return Check(what, "fail", "it is not one that 'rowcast team' has made", "make one with 'rowcast team'")
    now = now or now_utc()
    found = f"that of {holder.who}, valid from {holder.begins:%Y-%m-%d} to {holder.ends:%Y-%m-%d}"
    anew = f"make a new one: 'rowcast team {'add NAME --replace' if holder.role == ROBOT else 'server'}'"
    if now < holder.begins:
        return Check(what, "fail", f"{found}; it is {now:%Y-%m-%d %H:%M} UTC here", "set the clock of this machine")
    if now >= holder.ends:
        return Check(what, "fail", f"{found}: it has expired; it is {now:%Y-%m-%d %H:%M} UTC here", anew)
    if holder.ends - now < datetime.timedelta(days=SOON_DAYS):
        return Check(what, "warn", f"{found}: {(holder.ends - now).days} days are left", anew)
    return Check(what, "ok", found)


def route_check(family: int, address: Address) -> Check:
    """From which address of this machine packets would go; nothing is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            own = sock.getsockname()[0]
    except OSError as error:
        remedy = "join the network of the server, or set a route to it (ip route)"
        return Check("route", "fail", f"no way to {address[0]}: {error.strerror}", remedy)
    return Check("route", "ok", f"to {address[0]} from {own}")


def port_check(family: int, address: Address) -> tuple[Check, socket.socket | None]:
    """Connect; the check and the socket."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(LIMIT_S)
    before = time.perf_counter()
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        where = f"{address[0]!s} port {address[1]!s}"
        if error.errno == errno.ECONNREFUSED:
            remedy = "start the server (rowcast serve --host 0.0.0.0), or check the port"
            return Check("port", "fail", f"{where}: nobody listens there", remedy), None
        if isinstance(error, TimeoutError):
            remedy = "open the port in the firewalls in between; is the server's machine on?"
            return Check("port", "fail", f"{where}: no answer in {LIMIT_S:g} s", remedy), None
        return Check("port", "fail", f"{where}: {error.strerror}", "check address and network"), None
    return Check("port", "ok", f"open, connected in {1e3 * (time.perf_counter() - before):.3g} ms"), sock


def refused_check(error: RowcastError) -> Check:
    """The connection stands, and the server and this machine did not come together."""
    text = str(error)
    if isinstance(error, ProbesRefused):
        remedy = "update the server: with this release it answers probes; the link itself was not measured"
        return Check("introduction", "warn", f"the server answers no probes: {text}", remedy)
    if isinstance(error, VersionMismatch):
        return Check("versions of both", "fail", text, "install the same release on both machines")
    if isinstance(error, ConfigError | AuthenticationFailed):
        return Check("introduction", "fail", text, "give both ends the same --secret-file, or files of one team")
    if isinstance(error, LinkLost):
        remedy = "does a Rowcast server listen there? its log says why it closed the connection"
        return Check("introduction", "fail", text, remedy)
    return Check("introduction", "fail", text, "does a Rowcast server with the same secret or team listen there?")


def version_check(release: str) -> Check:
    """The server's release against the one here."""
    found = f"the server runs rowcast {release or 'of unknown release'}, this machine {__version__}"
    if release != __version__:
        return Check("versions of both", "warn", found, "install the same release on both machines")
    return Check("versions of both", "ok", found)


def trips_check(trips: RoundTrips) -> Check:
    """How long a word and its answer take."""
    found = f"{1e3 * trips.median_s:.3g} ms ({1e3 * trips.least_s:.3g} to {1e3 * trips.most_s:.3g} ms)"
    if trips.median_s > LONG_TRIP_S:
        return Check("round trip", "warn", found, "move nearer to the access point; look for who else loads the link")
    return Check("round trip", "ok", found)


def clock_check(trips: RoundTrips) -> Check:
    """Wall clocks of both machines; only certificates and people read them."""
    off = trips.offset_s
    found = f"the server's clock is {abs(off):.3g} s {'ahead' if off >= 0 else 'behind'} (to {trips.least_s / 2:.2g} s)"
    if abs(off) > CLOCK_FAIL_S:
        return Check("clock", "fail", found, "set the clocks (chrony, timedatectl): certificates will be refused")
    if abs(off) > CLOCK_WARN_S + trips.least_s / 2:
        return Check("clock", "warn", found, "set the clocks (chrony, timedatectl): times of journals do not fit")
    return Check("clock", "ok", found)


def flow_check(way: str, flow: Flow, parameters: int) -> Check:
    """Bandwidth in one direction, and what it means for a model."""
    rate = flow.rate_bps
    whole_s = 8 * ENCODED_BYTES * parameters / rate
    found = (
        f"{rate / 1e6:.3g} Mbit/s ({flow.bytes / 2**20:.3g} MiB in {flow.seconds:.2g} s): a whole model of "
        f"{parameters:,} parameters takes about {whole_s:.2g} s"
    )
    if rate < SLOW_BPS:
        return Check(f"bandwidth {way}", "warn", found, "use a policy that sends rows: --policy rowcast or rog:4")
    return Check(f"bandwidth {way}", "ok", found)


def mtu_check(mtu_bytes: int | None) -> Check:
    """The largest packet of the path, behind a measurement that has filled packets."""
    if mtu_bytes is None:
        return Check("MTU", "ok", "full packets pass; the system does not say how large they are")
    if mtu_bytes < LEAST_MTU:
        return Check(
            "MTU", "warn", f"{mtu_bytes} bytes", f"raise it to {LEAST_MTU} or more on the interfaces in between"
        )
    return Check("MTU", "ok", f"{mtu_bytes} bytes, and full packets pass")
