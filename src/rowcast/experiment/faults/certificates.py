"""The certificates of a team that a fault script is played with, and what may be wrong with one."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from rowcast.drivers.sockets.certificates import ROBOT, Authority
from rowcast.drivers.sockets.credentials import AUTHORITY, AUTHORITY_KEY, TeamFolder
from rowcast.experiment.faults.script import FaultScript

__all__ = ["TeamFiles"]

#: Certificates are valid for so many days; one that has expired, since half a day.
DAYS, EXPIRED_DAYS = 30.0, -0.5


class TeamFiles:
    """A team's folder, with a file for each robot.

    Args:
        folder: where it is made.
        script: whose team.
    """

    def __init__(self, folder: Path, script: FaultScript) -> None:
        self.folder = folder
        self._team, self._foreign = TeamFolder(folder), TeamFolder(folder.with_name("another-team"))
        self._held: dict[str, bytes] = {}
        self._team.make(DAYS)
        self._foreign.make(DAYS)
        self._files = {name: self._team.add(name, DAYS) for name in script.team.names}

    def of(self, name: str) -> Path:
        """The file of a robot."""
        return self._files[name]

    def harm(self, name: str, state: str) -> None:
        """What it has is ``expired`` now, ``foreign`` (another team's), or ``revoked``."""
        if state == "revoked":
            self._team.revoke(name)
            return
        path = self._files[name]
        self._held[name] = path.read_bytes()
        if state == "foreign":
            self._put(path, self._foreign.add(name, DAYS).read_bytes())
            return
        key = load_pem_private_key((self.folder / AUTHORITY_KEY).read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        certificate = x509.load_pem_x509_certificate((self.folder / AUTHORITY).read_bytes())
        self._put(path, Authority(key, certificate).issue(ROBOT, name, EXPIRED_DAYS).bundle(certificate))

    def mend(self, name: str) -> None:
        """It has its own again."""
        self._put(self._files[name], self._held.pop(name))

    def _put(self, path: Path, content: bytes) -> None:
        """Whoever reads it sees the old one or the new one."""
        fresh = path.with_name(f"{path.name}.new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(content)
        fresh.replace(path)
