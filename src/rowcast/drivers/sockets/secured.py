"""Who may connect to whom: TLS as the two ends set it up, with a shared secret or with the certificates of a team."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from rowcast.drivers.sockets.certificates import ROBOT, SERVER, Holder, self_signed
from rowcast.drivers.sockets.credentials import (
    AUTHORITY,
    OWN,
    REVOKED,
    Credential,
    read_credential,
    read_revoked,
)
from rowcast.drivers.sockets.tls import Channel, channel_hash, context_of, load_issued
from rowcast.errors import AuthenticationFailed, CertificateRevoked, ConfigError, RemoteProtocolError

__all__ = ["SecretGuest", "SecretHost", "TeamGuest", "TeamHost"]

#: How a file is told from the one that was there before: device, number, size, when it was last written.
_Mark = tuple[int, int, int, int]


class SecretHost:
    """The end that listens, with a shared secret: a certificate for its life, which the proofs are bound to."""

    def __init__(self) -> None:
        issued = self_signed()
        self._context = context_of(server_side=True)
        load_issued(self._context, issued)
        self._hash = channel_hash(issued.certificate.public_bytes(Encoding.DER))

    def open(self) -> Channel:
        """TLS on a new connection."""
        return Channel(self._context, server_side=True)

    def admit(self, channel: Channel) -> tuple[bytes, Holder | None]:
        """What the proofs are bound to, and who the peer is: nobody knows before it has proved the secret."""
        return self._hash, None

    def look(self) -> str:
        """Nothing changes."""
        return ""

    def taken_back(self, holder: Holder) -> str:
        """Nothing is taken back."""
        return ""


class SecretGuest:
    """The end that connects, with a shared secret: it takes any certificate, and proves the secret bound to it."""

    def __init__(self) -> None:
        self._context = context_of(server_side=False)

    def open(self) -> Channel:
        """TLS on a new connection."""
        return Channel(self._context, server_side=False)

    def admit(self, channel: Channel) -> tuple[bytes, Holder | None]:
        """What the proofs are bound to."""
        return channel_hash(channel.peer_certificate), None


class TeamHost:
    """The end that listens, with the folder of a team.

    The files are read again when they have changed, so that a robot can be taken back, and the server be given a new
    certificate, while it runs.

    Args:
        folder: see :mod:`rowcast.drivers.sockets.credentials`.

    Raises:
        ConfigError: one of its files is missing, or does not fit the others.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not folder.is_dir():
            raise ConfigError(
                f"team {folder}: expected a folder, got {'a file' if folder.exists() else 'nothing'}; a server takes "
                "the one that 'rowcast team init' has made, and only a robot the file of 'rowcast team add'"
            )
        self._marks = self._marks_now()
        self._load()

    def open(self) -> Channel:
        """TLS on a new connection."""
        return Channel(self._context, server_side=True)

    def admit(self, channel: Channel) -> tuple[bytes, Holder | None]:
        """What the channel is known by, and the robot at the other end.

        Raises:
            AuthenticationFailed: its certificate is that of no robot, or was taken back.
        """
        try:
            holder = Holder.of(x509.load_der_x509_certificate(channel.peer_certificate))
        except ValueError as error:
            raise AuthenticationFailed("its certificate cannot be read; make one with 'rowcast team add'") from error
        if holder is None or holder.role not in (ROBOT, SERVER):  # a server is a standby; it has no name to join under
            raise AuthenticationFailed("its certificate is not that of a robot; make one with 'rowcast team add NAME'")
        if cause := self.taken_back(holder):
            raise CertificateRevoked(cause)
        return self._hash, holder

    def taken_back(self, holder: Holder) -> str:
        """Why a robot may not be here any longer; empty: it may."""
        since = self._revoked.get(holder.serial)
        if since is None:
            return ""
        return (
            f"the certificate of {holder.who} was revoked on {since}; if that was a mistake, make a new one with "
            "'rowcast team add NAME --replace'"
        )

    def look(self) -> str:
        """Read the files again if they have changed; returns why that cannot be done, or nothing.

        What was in force stays so then: nobody comes back because a list is damaged.
        """
        try:
            marks = self._marks_now()
            if marks != self._marks:
                self._load()
                self._marks = marks
        except (ConfigError, OSError, ssl.SSLError) as error:
            return f"{error}; what was read before stays in force"
        return ""

    def _load(self) -> None:
        credential = read_credential(self._folder / OWN, SERVER)
        revoked = read_revoked(self._folder / REVOKED, credential.authority)
        context = _with(credential, server_side=True)
        self._context, self._revoked, self._hash = context, revoked, channel_hash(credential.certificate)

    def _marks_now(self) -> tuple[_Mark, ...]:
        return tuple(_mark(self._folder / name) for name in (AUTHORITY, OWN, REVOKED))


class TeamGuest:
    """The end that connects, with the file of a robot, which is read again when it has changed.

    Args:
        path: see :func:`~rowcast.drivers.sockets.credentials.read_credential`.
        role: of whom the file is; a server connects to the server that it follows.

    Raises:
        ConfigError: it cannot be used.
    """

    def __init__(self, path: Path, role: str = ROBOT) -> None:
        self._path, self._role = path, role
        self._load(_mark(path))

    @property
    def name(self) -> str:
        """The only name under which this robot may speak."""
        return self._credential.holder.name

    def open(self) -> Channel:
        """TLS on a new connection.

        Raises:
            ConfigError: the file has changed, and cannot be used any longer.
        """
        if (mark := _mark(self._path)) != self._read:
            self._load(mark)
        credential = self._credential
        return Channel(self._context, server_side=False, own=lambda: credential.said)

    def admit(self, channel: Channel) -> tuple[bytes, Holder | None]:
        """What the channel is known by, and the server at the other end.

        Raises:
            RemoteProtocolError: its certificate is not that of the team's server.
        """
        certificate = channel.peer_certificate
        holder = Holder.of(x509.load_der_x509_certificate(certificate))
        if holder is None or holder.role != SERVER:
            raise RemoteProtocolError("its certificate is not that of a server; whoever answers there is none")
        return channel_hash(certificate), holder

    def _load(self, mark: _Mark) -> None:
        credential = read_credential(self._path, self._role)
        self._context, self._credential, self._read = _with(credential, server_side=False), credential, mark


def _with(credential: Credential, *, server_side: bool) -> ssl.SSLContext:
    context = context_of(server_side=server_side, authority=credential.authority)
    context.load_cert_chain(credential.path, password="")  # never asked for at a terminal
    return context


def _mark(path: Path) -> _Mark:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"team file {path}: cannot be read: {error.strerror}") from error
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
