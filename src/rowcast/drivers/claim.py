"""One at a time: a file that processes lock while they do what only one of them may do."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from rowcast.errors import ConfigError

__all__ = ["claimed"]


@contextlib.contextmanager
def claimed(lock: Path, taken: str | None = None) -> Iterator[None]:
    """Nobody else is in such a block with this file.

    Args:
        lock: made if it is not there, and left there; the system unlocks it when a process dies.
        taken: what to say when somebody is; ``None``: wait for their end.

    Raises:
        ConfigError: somebody is, with the text ``taken``.
        OSError: the file cannot be made or locked.
    """
    with os.fdopen(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if taken is None else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ConfigError(taken) from None
        yield
