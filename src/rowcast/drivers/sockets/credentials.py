"""The files of a team: what ``rowcast team`` makes, what the server reads of it, and the one file of a robot.

A team is a folder::

    ca.key          the authority's key: who has it can make robots; the server does not need it
    ca.pem          the authority's certificate
    server.pem      the server's key, its certificate, and that of the authority
    revoked.pem     what was taken back: a list (CRL) that the authority has signed
    issued/         every certificate that was made, without its key
    robots/         the file of each robot, to be copied to it: its key, its certificate, that of the authority

Each file with a key is made with mode 600 and never written over; each other one appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import logging
import os
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from rowcast.config.secret import warn_if_shared
from rowcast.drivers.sockets.certificates import ROBOT, SERVER, Authority, Holder, Issued, key_pem, now_utc
from rowcast.errors import ConfigError, visible

__all__ = ["Credential", "Member", "TeamFolder", "read_credential", "read_revoked"]

log = logging.getLogger("rowcast")

AUTHORITY_KEY, AUTHORITY, OWN, REVOKED = "ca.key", "ca.pem", "server.pem", "revoked.pem"
#: No file of a team is longer.
MOST_BYTES = 16 << 20
MOST_FILE_NAME = 200


@dataclass(frozen=True)
class Credential:
    """What one end of a connection has; its key stays in its file.

    Attributes:
        path: where it was read.
        holder: whose certificate it is.
        certificate: the certificate (DER).
        authority: certificate of the team's authority (PEM).
    """

    path: Path
    holder: Holder
    certificate: bytes
    authority: str

    @property
    def said(self) -> str:
        """Whose it is and how long it is valid, for people."""
        holder = self.holder
        return (
            f"that of {holder.who}, valid from {holder.begins:%Y-%m-%d %H:%M} to {holder.ends:%Y-%m-%d %H:%M} UTC; by "
            f"the clock of this machine it is {now_utc():%Y-%m-%d %H:%M}"
        )


@dataclass(frozen=True)
class Member:
    """A certificate that a team has made.

    Attributes:
        holder: whose it is.
        revoked: since when it is taken back, as text; empty: it is not.
    """

    holder: Holder
    revoked: str

    @property
    def state(self) -> str:
        """``valid``, ``expired`` or ``revoked``, by this machine's clock."""
        if self.revoked:
            return "revoked"
        return "valid" if now_utc() < self.holder.ends else "expired"


def read_credential(path: str | Path, role: str) -> Credential:
    """Read a key and its certificates, as ``rowcast team`` has written them.

    Args:
        path: a robot's file, or the server's.
        role: :data:`~rowcast.drivers.sockets.certificates.ROBOT` or
            :data:`~rowcast.drivers.sockets.certificates.SERVER`: what it is to be used as.

    Raises:
        ConfigError: it cannot be read, is no such file, its parts do not fit each other, or it is for something else.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(
            f"team file {path}: expected the file of one {role}, got a folder; "
            "a robot's is the one that 'rowcast team add NAME' has written"
        )
    content, found = _read(path)
    warn_if_shared(found, "team file", path)
    try:
        key = load_pem_private_key(content, None)
        own, authority = x509.load_pem_x509_certificates(content)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"team file {path}: expected a key and two certificates (PEM), as 'rowcast team' writes them"
        ) from error
    holder = Holder.of(own)
    if holder is None or own.public_key() != key.public_key() or not _signed_by(own, authority):
        raise ConfigError(f"team file {path}: its key and its certificates do not fit each other; copy it anew")
    if holder.role != role:
        raise ConfigError(
            f"team file {path}: expected the file of a {role}, got that of {holder.who}; "
            + ("make one with 'rowcast team add NAME'" if role == ROBOT else "give the team's folder")
        )
    return Credential(path, holder, own.public_bytes(Encoding.DER), authority.public_bytes(Encoding.PEM).decode())


def read_revoked(path: Path, authority: str) -> dict[int, str]:
    """Certificates that were taken back: when, by serial number.

    Raises:
        ConfigError: the list cannot be read, or the team's authority has not signed it.
    """
    content, _ = _read(path)
    try:
        found = x509.load_pem_x509_crl(content)
        signer = x509.load_pem_x509_certificate(authority.encode())
        fits = found.is_signature_valid(signer.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: expected a list of revoked certificates (PEM): {error}") from error
    if not fits:
        raise ConfigError(f"{path}: the team's authority has not signed this list; make one with 'rowcast team revoke'")
    return {each.serial_number: f"{each.revocation_date_utc:%Y-%m-%d %H:%M:%S} UTC" for each in found}


class TeamFolder:
    """The folder of a team, for who makes and takes back its certificates.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    # -- making ------------------------------------------------------------------------------------------------

    def make(self, days: float) -> None:
        """A new team: its authority, and a certificate of its server that is valid for so many days.

        Raises:
            ConfigError: there is one already, or the folder cannot be written.
        """
        if (self.path / AUTHORITY).exists() or (self.path / AUTHORITY_KEY).exists():
            raise ConfigError(
                f"team {self.path}: there is one already; 'rowcast team add NAME' makes the file of a robot, 'rowcast "
                "team server' a new certificate of the server, and another folder another team"
            )
        with self._writing():
            for folder in (self.path, self.path / "issued", self.path / "robots"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            authority = Authority.make(f"Rowcast team {self.path.resolve().name}")
            new_key_file(self.path / AUTHORITY_KEY, key_pem(authority.key))
            _replace(self.path / AUTHORITY, authority.certificate.public_bytes(Encoding.PEM))
            self._write_revoked(authority, [], 1)
            self._issue_server(authority, days)

    def renew_server(self, days: float) -> Holder:
        """A new certificate of the server; a server that runs takes it within a second.

        Raises:
            ConfigError: there is no such team, or its folder cannot be read or written.
        """
        with self._writing():
            return self._issue_server(self._authority(), days)

    def add(self, name: str, days: float, *, replace: bool = False) -> Path:
        """A key and a certificate of a robot.

        Args:
            name: the only name under which it may speak.
            days: for so long it is valid.
            replace: it has one, which is taken back.

        Returns:
            The file to copy to the robot.

        Raises:
            ConfigError: it has one; or as :meth:`renew_server`.
        """
        with self._writing():
            authority = self._authority()
            if self._valid(name):
                if not replace:
                    raise ConfigError(
                        f"team {self.path}: {visible(name)!r} has a certificate; with --replace it is revoked, and a "
                        "new one made"
                    )
                self._revoke(authority, name)
            issued = authority.issue(ROBOT, name, days)
            path = self.path / "robots" / f"{_file_name(name, issued)}.pem"
            path.unlink(missing_ok=True)
            new_key_file(path, issued.bundle(authority.certificate))
            self._note(issued)
        return path

    def revoke(self, name: str) -> int:
        """Take back every certificate of a robot; a server that runs closes its connections within seconds.

        Returns:
            How many there were.

        Raises:
            ConfigError: it has none that is valid; or as :meth:`renew_server`.
        """
        with self._writing():
            authority = self._authority()
            if not self._valid(name):
                valid = {each.holder.name for each in self._robots() if each.state == "valid"}
                known = ", ".join(sorted(valid))
                raise ConfigError(
                    f"team {self.path}: expected a robot with a certificate that is not revoked, got "
                    f"{visible(name)!r}; there are: {visible(known) or 'none'}"
                )
            return self._revoke(authority, name)

    # -- reading -----------------------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """Every certificate that was made, by name; the one that is valid stands last.

        Raises:
            ConfigError: there is no such team, or its folder cannot be read.
        """
        revoked = read_revoked(self.path / REVOKED, self._text(AUTHORITY))
        found = []
        for path in sorted((self.path / "issued").glob("*.pem")):
            try:
                holder = Holder.of(x509.load_pem_x509_certificate(_read(path)[0]))
            except ValueError as error:
                raise ConfigError(f"{path}: expected a certificate (PEM)") from error
            if holder is not None:
                found.append(Member(holder, revoked.get(holder.serial, "")))
        return sorted(found, key=lambda each: (each.holder.role != SERVER, each.holder.name, each.state == "valid"))

    # -- inside ------------------------------------------------------------------------------------------------

    def _valid(self, name: str) -> list[Member]:
        return [each for each in self._robots() if each.holder.name == name and each.state == "valid"]

    def _robots(self) -> list[Member]:
        return [each for each in self.members() if each.holder.role == ROBOT]

    def _revoke(self, authority: Authority, name: str) -> int:
        known = x509.load_pem_x509_crl(_read(self.path / REVOKED)[0])
        number = known.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        gone = {each.serial_number for each in known}
        new = [
            x509.RevokedCertificateBuilder().serial_number(each.holder.serial).revocation_date(now_utc()).build()
            for each in self._robots()
            if each.holder.name == name and each.holder.serial not in gone
        ]
        self._write_revoked(authority, [*known, *new], number + 1)
        return len(new)

    def _write_revoked(self, authority: Authority, revoked: list[x509.RevokedCertificate], number: int) -> None:
        _replace(self.path / REVOKED, authority.revocations(revoked, number).public_bytes(Encoding.PEM))

    def _issue_server(self, authority: Authority, days: float) -> Holder:
        issued = authority.issue(SERVER, "Rowcast server", days)
        fresh = self.path / f"{OWN}.new"
        fresh.unlink(missing_ok=True)
        new_key_file(fresh, issued.bundle(authority.certificate))
        fresh.replace(self.path / OWN)
        return self._note(issued)

    def _note(self, issued: Issued) -> Holder:
        certificate = issued.certificate
        _replace(self.path / "issued" / f"{certificate.serial_number:040x}.pem", certificate.public_bytes(Encoding.PEM))
        holder = Holder.of(certificate)
        assert holder is not None
        return holder

    def _authority(self) -> Authority:
        certificate = x509.load_pem_x509_certificate(self._text(AUTHORITY).encode())
        content, found = _read(self.path / AUTHORITY_KEY)
        warn_if_shared(found, "key file", self.path / AUTHORITY_KEY)
        try:
            key = load_pem_private_key(content, None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{self.path / AUTHORITY_KEY}: expected a private key (PEM)") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigError(f"{self.path / AUTHORITY_KEY}: it is not the key of {self.path / AUTHORITY}")
        return Authority(key, certificate)

    def _text(self, name: str) -> str:
        if not (self.path / name).exists():
            raise ConfigError(f"team {self.path}: there is none; 'rowcast team init {self.path}' makes one")
        return _read(self.path / name)[0].decode(errors="replace")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One of us at a time changes the folder, and an error names it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self.path / ".lock").open("a") as lock:
                _lock(lock.fileno())
                yield
        except OSError as error:
            raise ConfigError(f"team {self.path}: {error.strerror}: {error.filename}") from error


def _file_name(name: str, issued: Issued) -> str:
    quoted = urllib.parse.quote(name, safe=" @+")
    short = len(quoted) <= MOST_FILE_NAME and not quoted.startswith((".", "-"))
    return quoted if short else f"robot-{issued.certificate.serial_number:x}"


def new_key_file(path: Path, content: bytes) -> None:
    """Write a file that nobody else may read, and that was not there, whatever the umask is.

    Raises:
        OSError: it is there already, or cannot be written.
    """
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    with os.fdopen(number, "wb") as file:
        if hasattr(os, "fchmod"):
            os.fchmod(number, 0o600)
        file.write(content)
        file.flush()
        os.fsync(number)


def _replace(path: Path, content: bytes) -> None:
    """Write a file that others may read; who looks at it sees the old one or the new one."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES), os.fstat(file.fileno())
    except OSError as error:
        raise ConfigError(f"team file {path}: cannot be read: {error.strerror}") from error


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _lock(number: int) -> None:
    try:
        import fcntl
    except ImportError:  # no such locks there: two commands at once may lose one of their changes
        return
    fcntl.flock(number, fcntl.LOCK_EX)
