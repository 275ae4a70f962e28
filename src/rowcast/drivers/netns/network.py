"""A network of namespaces: one for each host, and one called ``air`` where the other ends of their interfaces lie.

Nothing carries packets between the ends in ``air`` until a medium does: a process that reads and writes them raw, or a
bridge of the kernel (:mod:`~rowcast.drivers.netns.kernel_shaper`).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rowcast.drivers.netns.cleaning import remove_all
from rowcast.drivers.netns.namespaces import inside, make_namespace
from rowcast.drivers.netns.offloads import switch_off, wait_for_carrier
from rowcast.drivers.netns.places import names_folder
from rowcast.drivers.netns.records import Owner, Record, all_records, records_locked
from rowcast.drivers.netns.rights import why_not
from rowcast.errors import ConfigError

__all__ = ["AIR", "INTERFACE", "MTU_BYTES", "Network"]

T = TypeVar("T")

#: The namespace of the medium.
AIR = "air"
#: What a host calls its interface.
INTERFACE = "radio"
MTU_BYTES = 1500
#: Hosts in 10.77.0.0/16, of which the last byte is never 0 or 255.
_PREFIX, _PREFIX_BITS, _MOST_HOSTS = "10.77", 16, 250
#: The ends in ``air`` are named after the hosts; Linux allows interfaces 15 letters.
_HOST = re.compile(r"[a-z0-9][a-z0-9_-]{0,14}")
_LABEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
#: Names that an interface in ``air`` or a folder of settings of the kernel has.
_RESERVED = {AIR, "all", "default", "lo"}
_numbers = itertools.count()


class Network:
    """Hosts that lie in namespaces of their own; entering the context makes them, leaving it removes everything.

    Namespaces are called ``rowcast-TOKEN-HOST``. Each host has an interface :data:`INTERFACE` with a private address
    and permanent neighbours, so that nothing is asked or announced on the air; no IPv6; offloads off on both ends;
    ``lo`` up; the congestion control pinned, and nothing of one connection remembered for the next. Nothing is made
    or changed outside these namespaces.

    Args:
        hosts: their names, the access point first: up to 15 of ``a-z0-9_-``.
        congestion_control: of TCP in every namespace; ``None``: what the machine has by default.
        label: the token of the names; ``None``: one that no other process has.

    Attributes:
        hosts: as given.
        token: of the names.
        congestion_control: of TCP in every namespace, read from the kernel; known inside the context.

    Raises:
        ConfigError: names that cannot be used.

    Entering the context raises ConfigError when networks cannot be made here, a name is in use, or the congestion
    control is not to be had; what was made until then is removed.

    Example::

        with Network(["server", "robot-0"], congestion_control="reno") as network:
            subprocess.run(network.command("robot-0", ["ip", "address"]))
    """

    def __init__(
        self, hosts: Sequence[str], *, congestion_control: str | None = None, label: str | None = None
    ) -> None:
        self.hosts = tuple(hosts)
        _check_hosts(self.hosts)
        if label is not None and not _LABEL.fullmatch(label):
            raise ConfigError(f"label {label!r}: expected up to 40 of a-z, 0-9, '_' and '-', a letter or digit first")
        self._wanted_control = congestion_control
        self._control: str | None = None
        self._owner = Owner.this_process()
        self.token = label or f"{self._owner.pid}-{self._owner.started}-{next(_numbers)}"
        self._record: Record | None = None

    # ------------------------------------------------------------------ asking

    @property
    def congestion_control(self) -> str:
        """Of TCP in every namespace, as the kernel says."""
        if self._control is None:
            raise ConfigError("network: the congestion control is known once the network is made; enter its context")
        return self._control

    def namespace(self, host: str) -> str:
        """The name of a host's namespace, or of ``air``'s, as ``ip netns list`` shows it."""
        self._index(host)
        return f"rowcast-{self.token}-{host}"

    def path(self, host: str) -> Path:
        """The file that stands for a host's namespace, or ``air``'s."""
        return names_folder() / self.namespace(host)

    def command(self, host: str, argv: Sequence[str]) -> list[str]:
        """What runs a program inside a host's namespace, or ``air``; the process is the program itself then."""
        return ["nsenter", f"--net={self.path(host)}", "--", *argv]

    def inside(self, host: str, function: Callable[[], T]) -> T:
        """What ``function`` returns, or raises, in a thread inside a host's namespace, or ``air``."""
        return inside(self.path(host), function)

    def address(self, host: str) -> str:
        """The IPv4 address of a host."""
        return f"{_PREFIX}.0.{self._index(host) + 1}"

    def mac(self, host: str) -> str:
        """The hardware address of a host's interface."""
        return f"02:00:00:00:00:{self._index(host) + 1:02x}"

    def end(self, host: str) -> str:
        """The name of the interface in ``air`` whose other end is the host's."""
        self._index(host)
        return host

    def _index(self, host: str) -> int:
        if host == AIR:
            return len(self.hosts)
        try:
            return self.hosts.index(host)
        except ValueError:
            raise ConfigError(f"network: no host {host!r}; expected one of {', '.join(self.hosts)}") from None

    # ------------------------------------------------------------------ making and removing

    def __enter__(self) -> Network:
        if (reason := why_not()) is not None:
            raise ConfigError(reason)
        names = [self.namespace(host) for host in (*self.hosts, AIR)]
        try:
            self._claim(names)
            for host in (*self.hosts, AIR):
                self._make(host)
            self._control = self._furnish()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _claim(self, names: list[str]) -> None:
        """Say whose the names are before there are any, so that whatever happens now can be cleaned up."""
        with records_locked():
            taken = [name for name in names if (names_folder() / name).exists()]
            for record in all_records()[0]:
                if record.token == self.token or set(taken) & set(record.namespaces):
                    whose = (
                        f"process {record.owner.pid} has it; choose another label, or wait for its end"
                        if record.owner.lives
                        else f"process {record.owner.pid} left it when it died; run rowcast emulate --clean"
                    )
                    raise ConfigError(f"network {self.token!r}: the name is in use: {whose}")
            if taken:
                raise self._foreign(taken[0])
            self._record = Record(self.token, self._owner, tuple(names))
            self._record.save()

    def _make(self, host: str) -> None:
        name = self.namespace(host)
        try:
            make_namespace(self.path(host))
        except FileExistsError:
            self._keep_off(name)
            raise self._foreign(name) from None
        except OSError as error:
            raise ConfigError(f"namespace {name}: cannot be made: {error.strerror or error}") from error

    def _keep_off(self, name: str) -> None:
        """Somebody else made a namespace of this name just now: it is not to be removed with ours."""
        assert self._record is not None
        with records_locked():
            kept = tuple(other for other in self._record.namespaces if other != name)
            self._record = Record(self.token, self._owner, kept)
            self._record.save()

    def _foreign(self, name: str) -> ConfigError:
        return ConfigError(
            f"namespace {name}: the name is in use, and not by rowcast; choose another label, or ip netns delete {name}"
        )

    def _furnish(self) -> str:
        """Interfaces, addresses, settings; returns the congestion control."""
        from pyroute2 import NetlinkError

        try:
            controls = {self.inside(host, self._settings) for host in (*self.hosts, AIR)}
            self.inside(AIR, self._pairs)
            for host in self.hosts:
                self.inside(host, partial(self._host_side, host))
            self.inside(AIR, self._air_side)
            for host in self.hosts:
                if not self.inside(host, lambda: wait_for_carrier(INTERFACE)):
                    raise ConfigError(f"network {self.token!r}: the interface of {host} has no carrier; try again")
        except NetlinkError as error:
            raise ConfigError(
                f"network {self.token!r}: the kernel refuses an interface: {os.strerror(error.code)}"
            ) from error
        except OSError as error:
            raise ConfigError(f"network {self.token!r}: cannot be set up: {error}") from error
        return controls.pop()

    def _settings(self) -> str:
        """In each namespace, before it has interfaces."""
        for scope in ("all", "default"):
            quiet = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
            if quiet.exists():
                quiet.write_text("1\n", encoding="ascii")
        # What one connection learned about the path would make the next one faster than the first.
        _setting("tcp_no_metrics_save").write_text("1\n", encoding="ascii")
        file = _setting("tcp_congestion_control")
        if self._wanted_control is not None:
            try:
                file.write_text(f"{self._wanted_control}\n", encoding="ascii")
            except OSError:
                raise _no_control(self._wanted_control) from None
        return file.read_text(encoding="ascii").strip()

    def _pairs(self) -> None:
        """In ``air``: pairs of interfaces, the far ones born in the namespaces of their hosts."""
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            for index, host in enumerate(self.hosts):
                handle = os.open(self.path(host), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    far = {"ifname": INTERFACE, "address": self.mac(host), "mtu": MTU_BYTES, "net_ns_fd": handle}
                    near = f"02:00:00:00:01:{index + 1:02x}"
                    ip.link("add", kind="veth", ifname=self.end(host), address=near, mtu=MTU_BYTES, peer=far)
                finally:
                    os.close(handle)

    def _host_side(self, host: str) -> None:
        from pyroute2 import IPRoute

        switch_off(INTERFACE)
        with IPRoute() as ip:
            radio = _up(ip, "lo", INTERFACE)[1]
            ip.addr("add", index=radio, address=self.address(host), prefixlen=_PREFIX_BITS)
            for other in self.hosts:
                if other != host:
                    ip.neigh("add", ifindex=radio, dst=self.address(other), lladdr=self.mac(other), state="permanent")

    def _air_side(self) -> None:
        from pyroute2 import IPRoute

        ends = [self.end(host) for host in self.hosts]
        for end in ends:
            switch_off(end)
        with IPRoute() as ip:
            _up(ip, "lo", *ends)
        for end in ends:
            wait_for_carrier(end)

    def _remove(self) -> None:
        """End what still runs inside, and take everything away; the record goes last."""
        record, self._record = self._record, None
        if record is not None:
            remove_all(record)


def _check_hosts(hosts: tuple[str, ...]) -> None:
    if not 2 <= len(hosts) <= _MOST_HOSTS:
        raise ConfigError(f"network: expected 2 to {_MOST_HOSTS} hosts, got {len(hosts)}")
    for host in hosts:
        if not _HOST.fullmatch(host) or host in _RESERVED:
            raise ConfigError(
                f"host {host!r}: expected up to 15 of a-z, 0-9, '_' and '-', a letter or digit first, and none of"
                f" {', '.join(sorted(_RESERVED))}"
            )
    if len(set(hosts)) != len(hosts):
        raise ConfigError(f"network: expected hosts of different names, got {', '.join(hosts)}")


def _setting(name: str) -> Path:
    """A setting of the namespace in which the thread is."""
    return Path("/proc/sys/net/ipv4") / name


def _no_control(wanted: str) -> ConfigError:
    """Why a namespace does not get this congestion control."""
    available, allowed = (
        _setting(f"tcp_{which}_congestion_control").read_text(encoding="ascii").split()
        for which in ("available", "allowed")
    )
    start = f"congestion control {wanted!r}: "
    if wanted not in available:
        return ConfigError(f"{start}the kernel has none of this name; expected one of {', '.join(available)}")
    return ConfigError(
        f"{start}the kernel gives namespaces only {', '.join(allowed)}; choose one, or as root of the machine:"
        f" sysctl -w net.ipv4.tcp_allowed_congestion_control='{' '.join([*allowed, wanted])}'"
    )


def _up(ip: Any, *names: str) -> list[int]:
    """Bring interfaces up; returns their numbers."""
    indices = [ip.link_lookup(ifname=name)[0] for name in names]
    for index in indices:
        ip.link("set", index=index, state="up")
    return indices
