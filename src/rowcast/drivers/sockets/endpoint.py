"""Where a server is, and what makes sure that both ends are who they say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict

from rowcast.config import Secret, read_secret
from rowcast.drivers.sockets.tcp import is_loopback, split_address, unresolved
from rowcast.errors import ConfigError

if TYPE_CHECKING:
    from rowcast.drivers.sockets.certificates import Holder
    from rowcast.drivers.sockets.tls import Channel

__all__ = ["Endpoint", "GuestTls", "HostTls", "Security", "SecurityWords"]


class SecurityWords(TypedDict, total=False):
    """How a user says what :class:`Security` holds, the same wherever somebody connects or listens."""

    secret_file: str | Path | None  #: file with the shared secret
    team: str | Path | None  #: a worker's file of ``rowcast team add``, or a server's folder of ``rowcast team init``
    insecure: bool  #: do without either beyond loopback, in the clear


class GuestTls(Protocol):
    """TLS at the end that connects."""

    def open(self) -> Channel:
        """TLS on a new connection. Raises ConfigError where that cannot be set up any longer."""

    def admit(self, channel: Channel) -> tuple[bytes, Holder | None]:
        """The handshake is over: what the proofs are bound to, and who is at the other end.

        Raises RemoteProtocolError where that is nobody who may be there.
        """


class HostTls(GuestTls, Protocol):
    """TLS at the end that listens."""

    def look(self) -> str:
        """Notice what has changed in its files; returns why it cannot, or nothing."""

    def taken_back(self, holder: Holder) -> str:
        """Why who was admitted may not be here any longer; empty: it may."""


@dataclass(frozen=True)
class Security:
    """How a team is kept among itself: by a shared secret or by certificates, both inside TLS 1.3.

    Without either, and only then, everything travels in the clear: on loopback, or where :attr:`insecure` says so.

    Attributes:
        secret: the team's shared secret, or ``None``.
        team: in place of a secret: a server's folder of ``rowcast team init``, a worker's file of ``rowcast team add``.
        insecure: do without either beyond loopback, too.

    Raises:
        ConfigError: both a secret and a team.
    """

    secret: bytes | None = None
    insecure: bool = False
    team: Path | None = None

    def __post_init__(self) -> None:
        if self.secret is not None:
            object.__setattr__(self, "secret", Secret(self.secret))  # shown nowhere
        if self.secret is not None and self.team is not None:
            raise ConfigError("expected a shared secret or the certificates of a team, got both; leave one of them out")

    @classmethod
    def of(
        cls, secret_file: str | Path | None = None, team: str | Path | None = None, insecure: bool = False
    ) -> Security:
        """The same from what a user gives.

        Raises:
            ConfigError: an unreadable file, or both.
        """
        secret = None if secret_file is None else read_secret(secret_file)
        return cls(secret, insecure, None if team is None else Path(team))

    def check_join(self, host: str) -> None:
        """Refuse to join a team beyond loopback without a secret or a certificate, unless the user asked for it.

        Raises:
            ConfigError: ``host`` is not on loopback, there is neither, and :attr:`insecure` is not set; or it cannot
                be a name, or (without either) it stands for no address.
        """
        try:
            host.encode("idna")
        except UnicodeError as error:
            raise ConfigError(unresolved(host, error)) from error
        if self._exposes(host):
            raise ConfigError(
                f"connecting to {host} without a shared secret is refused; give --secret-file (the server's) or --team "
                "(this robot's), or --insecure if the network is yours alone"
            )

    def check_listen(self, host: str) -> None:
        """Refuse to let anybody in from beyond loopback, unless the user asked for it.

        Raises:
            ConfigError: ``host`` is not on loopback, there is no secret and no team, and :attr:`insecure` is not set;
                or it stands for no address.
        """
        if self._exposes(host):
            raise ConfigError(
                f"listening on {host} without a shared secret would let anybody in; give --secret-file (the same file "
                "to every worker) or --team (rowcast team init), or --insecure if the network is yours alone"
            )

    def guest(self, name: str) -> GuestTls | None:
        """TLS for who connects under this name; ``None``: there is neither a secret nor a team.

        Raises:
            ConfigError: the file of the robot cannot be used, or it is another one's.
        """
        if self.team is not None:
            from rowcast.drivers.sockets.secured import TeamGuest

            guest = TeamGuest(self.team)
            if guest.name != name:
                raise ConfigError(
                    f"team file {self.team}: it is that of {guest.name!r}, and this worker is {name!r}; join under the "
                    f"name of the file, or make another one with 'rowcast team add'"
                )
            return guest
        if self.secret is None:
            return None
        from rowcast.drivers.sockets.secured import SecretGuest

        return SecretGuest()

    def standby(self) -> GuestTls | None:
        """TLS for a server that connects to the one that it follows; ``None``: there is neither a secret nor a team.

        Raises:
            ConfigError: the folder of the team cannot be used.
        """
        if self.team is None:
            return self.guest("")
        from rowcast.drivers.sockets.certificates import SERVER
        from rowcast.drivers.sockets.credentials import OWN
        from rowcast.drivers.sockets.secured import TeamGuest

        return TeamGuest(self.team / OWN, SERVER)

    def host(self, has_secret: bool) -> HostTls | None:
        """TLS for who listens; ``None``: there is neither a secret (here or at the node) nor a team.

        Raises:
            ConfigError: the folder of the team cannot be used.
        """
        if self.team is not None:
            from rowcast.drivers.sockets.secured import TeamHost

            if has_secret:
                raise ConfigError("expected a node without a secret beside the certificates of a team, got one with")
            return TeamHost(self.team)
        if not has_secret and self.secret is None:
            return None
        from rowcast.drivers.sockets.secured import SecretHost

        return SecretHost()

    def _exposes(self, host: str) -> bool:
        return self.secret is None and self.team is None and not self.insecure and not is_loopback(host)


@dataclass(frozen=True)
class Endpoint:
    """Where a worker finds its server.

    Attributes:
        host, port: the server.
        security: the shared secret or the worker's certificate, or that there is neither.
        shaped_by: name of the bandwidth trace under the connection, for the journal.
        others: where else the server may be: its standby, as (host, port).
        shown_as: how it is called to the user, where something stands in between; else the address itself.
    """

    host: str
    port: int = 7117
    security: Security = field(default=Security())
    shaped_by: str | None = None
    shown_as: str = ""
    others: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, text: str, security: Security) -> Endpoint:
        """The same from the addresses that a user gives, by commas.

        Raises:
            ConfigError: one of them is none.
        """
        (host, port), *others = (split_address(each.strip()) for each in text.split(","))
        return cls(host, port, security, others=tuple(others))

    def check_join(self) -> None:
        """See :meth:`Security.check_join`."""
        for host in (self.host, *(host for host, _ in self.others)):
            self.security.check_join(host)

    def __str__(self) -> str:
        return self.shown_as or f"{self.host}:{self.port}"
