"""Where a server is, and what makes sure that both ends are who they say."""

from __future__ import annotations

from dataclasses import dataclass, field

from rowcast.config import Secret
from rowcast.drivers.sockets.tcp import is_loopback, unresolved
from rowcast.errors import ConfigError

__all__ = ["Endpoint", "Security"]


@dataclass(frozen=True)
class Security:
    """How a team is kept among itself.

    Attributes:
        secret: the team's shared secret, or ``None``.
        insecure: do without one beyond loopback, too.
    """

    secret: bytes | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if self.secret is not None:
            object.__setattr__(self, "secret", Secret(self.secret))  # shown nowhere

    def check_join(self, host: str) -> None:
        """Refuse to join a team beyond loopback without a shared secret, unless the user asked for it.

        Raises:
            ConfigError: ``host`` is not on loopback, there is no secret, and :attr:`insecure` is not set; or it cannot
                be a name, or (without a secret) it stands for no address.
        """
        try:
            host.encode("idna")
        except UnicodeError as error:
            raise ConfigError(unresolved(host, error)) from error
        if self._exposes(host):
            raise ConfigError(
                f"connecting to {host} without a shared secret is refused; give --secret-file (the server's), "
                "or --insecure if the network is yours alone"
            )

    def check_listen(self, host: str) -> None:
        """Refuse to let anybody in from beyond loopback, unless the user asked for it.

        Raises:
            ConfigError: ``host`` is not on loopback, there is no secret, and :attr:`insecure` is not set; or it stands
                for no address.
        """
        if self._exposes(host):
            raise ConfigError(
                f"listening on {host} without a shared secret would let anybody in; "
                "give --secret-file (the same file to every worker), or --insecure if the network is yours alone"
            )

    def _exposes(self, host: str) -> bool:
        return self.secret is None and not self.insecure and not is_loopback(host)


@dataclass(frozen=True)
class Endpoint:
    """Where a worker finds its server.

    Attributes:
        host, port: the server.
        security: the shared secret, or that there is none.
        shaped_by: name of the bandwidth trace under the connection, for the journal.
        shown_as: how it is called to the user, where something stands in between; else the address itself.
    """

    host: str
    port: int = 7117
    security: Security = field(default=Security())
    shaped_by: str | None = None
    shown_as: str = ""

    def __str__(self) -> str:
        return self.shown_as or f"{self.host}:{self.port}"
