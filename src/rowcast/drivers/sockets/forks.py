"""What a forked child does with the connections of its parent: it lets go of them, and touches nothing else.

A child (a worker of a ``DataLoader``, say) that kept a copy of a connection open would hide its parent's death: the
other end sees no end of the connection while anybody has it. The copy is not closed by the objects that it belongs to
(asyncio would take the parent's sockets out of a selector that both share), its number is given to ``/dev/null``.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable
from typing import Protocol

__all__ = ["let_go_in_children"]


class _HasNumber(Protocol):
    def fileno(self) -> int: ...


_held: weakref.WeakKeyDictionary[object, tuple[_HasNumber, ...]] = weakref.WeakKeyDictionary()


def let_go_in_children(holder: object, sockets: Iterable[_HasNumber]) -> None:
    """A process that is forked while ``holder`` lives does not keep these sockets open; closed ones do not matter."""
    _held[holder] = tuple(sockets)


def _let_go() -> None:
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            for sockets in list(_held.values()):
                for sock in sockets:
                    if sock.fileno() >= 0:
                        os.dup2(nothing, sock.fileno(), inheritable=False)
        finally:
            os.close(nothing)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
