"""Certificates of teams for tests: and files that are wrong in their own ways."""

from __future__ import annotations

import datetime
import shutil
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from rowcast.drivers.sockets import certificates
from rowcast.drivers.sockets.certificates import ROBOT, SERVER, Authority
from rowcast.drivers.sockets.credentials import AUTHORITY, AUTHORITY_KEY, OWN, TeamFolder


def new_team(path, *names):
    """A folder of a team with a file for each of these robots."""
    folder = TeamFolder(path)
    folder.make(days=100)
    for name in names:
        folder.add(name, days=100)
    return folder


def file_of(folder, name):
    return folder.path / "robots" / f"{name}.pem"


def authority_of(folder):
    key = load_pem_private_key((folder.path / AUTHORITY_KEY).read_bytes(), None)
    return Authority(key, x509.load_pem_x509_certificate((folder.path / AUTHORITY).read_bytes()))


def issue(folder, path, role, name, *, days=100, from_now_days=0):
    """A bundle of this team that begins and ends when it is told."""
    authority = authority_of(folder)
    then = certificates.now_utc() + datetime.timedelta(days=from_now_days)
    with mock.patch.object(certificates, "now_utc", lambda: then):
        issued = authority.issue(role, name, days)
    path.write_bytes(issued.bundle(authority.certificate))
    path.chmod(0o600)
    return path


def give_server(folder, **times):
    """Another certificate of the server, with these dates."""
    issue(folder, folder.path / OWN, SERVER, "Rowcast server", **times)


def robot_file(folder, path, **times):
    return issue(folder, path, ROBOT, "robot", **times)


def copied(folder, path):
    """The same team in another folder, to be changed."""
    shutil.copytree(folder.path, path)
    return TeamFolder(path)
