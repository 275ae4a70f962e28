"""The secret that a team shares."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from rowcast.errors import ConfigError, visible

__all__ = ["Secret", "read_secret", "warn_if_shared"]

log = logging.getLogger("rowcast")

#: Secret files of which the user was told, by device and inode.
_warned: set[tuple[int, int]] = set()


class Secret(bytes):
    """The team's shared secret: bytes that show themselves in no ``repr``, log line or traceback."""

    def __repr__(self) -> str:
        return f"Secret({len(self)} bytes, not shown)"

    __str__ = __repr__


def read_secret(path: str | Path) -> bytes:
    """The team's shared secret: the content of a file, surrounding white space aside.

    A file that other users of the machine may read or write is used, with a warning, once for each file.

    Raises:
        ConfigError: the file cannot be read, or holds fewer than 16 bytes.
    """
    try:
        with Path(path).open("rb") as file:
            found = os.fstat(file.fileno())
            secret = file.read().strip()
    except OSError as error:
        raise ConfigError(f"secret file {path}: cannot be read: {error.strerror}") from error
    if len(secret) < 16:
        raise ConfigError(
            f"secret file {path}: expected at least 16 bytes, got {len(secret)}; "
            "make one with: (umask 077; head -c 32 /dev/urandom | base64 > team.secret)"
        )
    warn_if_shared(found, "secret file", path)
    return Secret(secret)


def warn_if_shared(found: os.stat_result, kind: str, path: str | Path) -> None:
    """Warn, once for each file, where other users of the machine may read or write one with a secret or a key.

    Args:
        found: what the system says of the file.
        kind: what it is, for people.
        path: where it is.
    """
    # Where there are no such modes (Windows), they say nothing about who may read.
    if os.name != "posix" or not found.st_mode & 0o077 or (found.st_dev, found.st_ino) in _warned:
        return
    if _is_credential(path):
        return
    _warned.add((found.st_dev, found.st_ino))
    shown = visible(str(path))
    log.warning(
        "%s %s: other users of this machine can read or change it (mode %03o); chmod 600 %s",
        kind,
        shown,
        found.st_mode & 0o777,
        shown,
    )


def _is_credential(path: str | Path) -> bool:
    """Whether systemd has put a file there for this service alone: others are kept from the folder, not from it."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and Path(path).resolve().is_relative_to(Path(folder).resolve())
