"""Where a page is shown, and to whom."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from rowcast.errors import ConfigError

__all__ = ["PageAddress"]

#: Characters of a token at least.
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class PageAddress:
    """An address to listen on, and the token without which nothing is shown.

    Attributes:
        host, port: of this machine.
        token: empty: who reaches the address (on loopback only) may look.
    """

    host: str
    port: int
    token: str = ""

    @classmethod
    def of(cls, text: str, token_file: Path | None = None) -> PageAddress:
        """Read ``PORT`` (loopback) or ``HOST:PORT``; beyond loopback a token is made where no file holds one.

        Raises:
            ConfigError: it is neither, or the file cannot be used.
        """
        host, _, port = text.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        if not port.isdecimal() or not 0 <= int(port) < 1 << 16:
            raise ConfigError(f"--page: expected PORT or HOST:PORT, as 8080 or 0.0.0.0:8080, got {text!r}")
        if token_file is not None:
            return cls(host, int(port), _read_token(token_file))
        return cls(host, int(port), "" if is_loopback(host) else secrets.token_urlsafe(24))

    def bind(self) -> socket.socket:
        """A socket that listens there.

        Raises:
            ConfigError: the port is in use, or the address is none of this machine.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"--page {self.host}:{self.port}: cannot listen there: {why}; give another port, or 0 for any"
            ) from error

    def url(self, port: int) -> str:
        """What to open, where the system chose ``port``."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::", "") else self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{port}/" + (f"?token={self.token}" if self.token else "")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only.

    No name is looked up but ``localhost``: it is also asked of names that pages elsewhere were made to have.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--page-token-file {path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not all(char.isalnum() or char in "-_" for char in token):
        raise ConfigError(
            f"--page-token-file {path}: expected {SHORTEST_TOKEN} or more letters, digits, '-' and '_', got "
            f"{len(token)} characters; make one: python -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"--page-token-file {path}: others can read it; chmod 600 {path}")
    return token
