"""Where a server's state lies, as a user writes it: a folder, or a log in NATS JetStream."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from rowcast.config import StateSettings
from rowcast.drivers.state.disk import Disk, RealDisk
from rowcast.drivers.state.log import RowLog
from rowcast.errors import ConfigError, near_match, visible

__all__ = ["JetStreamAddress", "is_in_jetstream", "state_at"]

_FORM = "nats://HOST[:PORT][,HOST[:PORT]...]/NAME[?replicas=3&user=NAME&password_file=FILE&ca=FILE]"
_HOST = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_OPTIONS = ("replicas", "user", "password_file", "ca")
_PORT = 4222
MOST_REPLICAS = 5


def is_in_jetstream(state: str) -> bool:
    """Whether a user means a log in JetStream, and no folder."""
    return "://" in state


@dataclass(frozen=True)
class JetStreamAddress:
    """A log in NATS JetStream.

    Attributes:
        hosts: ``HOST:PORT`` of servers of one cluster, any of which may be asked.
        name: of the log.
        tls: everything travels inside TLS.
        replicas: on so many servers the log lies; ``None``: one if it is new, and as many as it has otherwise.
        user, password_file: who this is; empty and ``None``: nobody is asked.
        ca: certificates that the servers' are checked with; ``None``: those of the system.
    """

    hosts: tuple[str, ...]
    name: str
    tls: bool = False
    replicas: int | None = None
    user: str = ""
    password_file: Path | None = None
    ca: Path | None = None

    def __str__(self) -> str:
        return f"{'tls' if self.tls else 'nats'}://{','.join(self.hosts)}/{self.name}"

    @property
    def is_local(self) -> bool:
        """What is said to the servers does not leave this machine."""
        from rowcast.drivers.sockets.tcp import is_loopback  # that package needs this one

        return all(is_loopback(host.rpartition(":")[0].strip("[]")) for host in self.hosts)

    @classmethod
    def of(cls, text: str) -> JetStreamAddress:
        """The same from what a user writes.

        Raises:
            ConfigError: it is of another form.
        """
        scheme, _, rest = text.partition("://")
        place, _, query = rest.partition("?")
        hosts, _, name = place.partition("/")
        if "@" in hosts:  # it would be seen in the list of processes; it is not shown again
            raise ConfigError(
                "--state: expected no password in an address, got one with '@'; give ?user=NAME&password_file=FILE"
            )
        if scheme not in ("nats", "tls") or _NAME.fullmatch(name) is None:
            raise ConfigError(
                f"--state: expected {_FORM}, NAME of at most 64 letters, digits, '-' and '_', got {visible(text)}"
            )
        options = _options(query)
        files = {key: Path(options[key]) for key in ("password_file", "ca") if key in options}
        if ("user" in options) != ("password_file" in options):
            raise ConfigError("--state: expected user and password_file, got one of them; give both, or neither")
        return cls(
            tuple(_host(each) for each in hosts.split(",")),
            name,
            scheme == "tls",
            _replicas(options.get("replicas")),
            options.get("user", ""),
            files.get("password_file"),
            files.get("ca"),
        )


def _host(text: str) -> str:
    found = _HOST.fullmatch(text)
    port = _PORT if found is None or found["port"] is None else int(found["port"])
    if found is None or not 0 < port < 1 << 16:
        raise ConfigError(f"--state: expected HOST or HOST:PORT of a NATS server, got {visible(text)!r}; form: {_FORM}")
    return f"{found['host']}:{port}"


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as error:
        raise ConfigError(f"--state: expected options as KEY=VALUE&KEY=VALUE, got {visible(query)!r}") from error
    for key, value in pairs:
        if key not in _OPTIONS:
            raise ConfigError(f"--state: unknown option {visible(key)!r}; {near_match(key, _OPTIONS)}")
        if not value:
            raise ConfigError(f"--state: expected a value for {key}, got none; leave the option out")
    if len(dict(pairs)) < len(pairs):
        raise ConfigError(f"--state: expected each option once, got {visible(query)!r}")
    return dict(pairs)


def _replicas(text: str | None) -> int | None:
    if text is None:
        return None
    if re.fullmatch(rf"[1-{MOST_REPLICAS}]", text) is None:
        raise ConfigError(f"--state: replicas: expected a number in 1 .. {MOST_REPLICAS}, got {visible(text)!r}")
    return int(text)


def state_at(state: str, settings: StateSettings) -> Disk | RowLog:
    """Open the place of a server's state.

    Args:
        state: path of a folder, or the address of a log in JetStream.
        settings: for a log in JetStream, how long an owner may be silent, and JetStream away.

    Raises:
        ConfigError: the folder cannot be made, or the address not be read, or nothing fitting answers there.
    """
    if not is_in_jetstream(state):
        return RealDisk(Path(state))
    from rowcast.drivers.state.jetstream import JetStreamLog  # a library of its own is needed

    return JetStreamLog(JetStreamAddress.of(state), lease_s=settings.lease_s, away_s=settings.log_away_s)
