"""What a TCP connection reports to, and asks."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Protocol

from rowcast.errors import RemoteProtocolError
from rowcast.wire import Message

if TYPE_CHECKING:
    from rowcast.drivers.sockets.connection import Connection
    from rowcast.drivers.sockets.tls import Channel

__all__ = ["Owner"]


class Owner(Protocol):
    """What a connection reports to: a server, or what connects to one. All calls come from the event loop.

    Who keeps no log inherits :meth:`position` and :meth:`committed_to`: nothing is held.
    """

    def on_open(self, connection: Connection, sock: socket.socket) -> None:
        """The connection stands."""

    def on_secured(self, connection: Connection, channel: Channel) -> None:
        """TLS stands. Raises RemoteProtocolError where the other end is nobody who may be there."""

    def on_bytes(self, connection: Connection, begun: tuple[int, int]) -> None:
        """Something arrived, and nothing (more) of it can be read yet.

        Args:
            connection: where.
            begun: of a record of TLS that is not whole, bytes that are here, and all of them; (0, 0): there is none.
        """

    def on_read(self, connection: Connection, count: int) -> str | None:
        """So many bytes arrived, and lie in the decoder's buffer; why the connection must end, or ``None``."""

    def on_garbage(self, connection: Connection, error: RemoteProtocolError) -> None:
        """What arrived is nothing that can be read."""

    def on_failure(self, connection: Connection, error: Exception) -> None:
        """A fault of this process came up while it served the connection: say so, and end what cannot go on."""

    def after_read(self) -> None:
        """All messages of a read were handled."""

    def after_write(self) -> None:
        """The kernel took bytes again, and what there was to send was handed to it."""

    def on_closed(self, connection: Connection, cause: str) -> None:
        """The connection ended."""

    def next_message(self, connection: Connection) -> Message | None:
        """What to send next."""

    def position(self) -> int:
        """What must be committed before that may leave; see :meth:`committed_to`."""
        return 0

    def committed_to(self) -> int:
        """How far all is committed: what was given at a later :meth:`position` is held until then."""
        return 0
