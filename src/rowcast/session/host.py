"""What every node that others connect to does with bytes that arrive."""

from __future__ import annotations

import abc

from rowcast.errors import LinkLost, RemoteProtocolError, RowcastError
from rowcast.session.link import Link
from rowcast.wire import Message

__all__ = ["Host"]


class Host(abc.ABC):
    """Takes bytes in: the other end lives, and what became whole with them is handled, message by message."""

    @abc.abstractmethod
    def heard(self, now: float, link: Link, begun: tuple[int, int] = (0, 0)) -> None:
        """Bytes arrived, whole message or not; ``begun``: see :meth:`rowcast.wire.FrameDecoder.hold`."""

    @abc.abstractmethod
    def receive(self, now: float, link: Link, message: Message) -> None:
        """Handle one message."""

    @abc.abstractmethod
    def blame(self, now: float, link: Link, error: RowcastError) -> None:
        """What came was wrong."""

    def arrived(self, now: float, link: Link, count: int) -> str | None:
        """So many bytes arrived on ``link``, and lie in its decoder's buffer.

        Returns:
            Why the driver must close the connection; ``None``: it stands.
        """
        self.heard(now, link)
        try:
            for message in link.decoder.filled(count):
                self.receive(now, link, message)
        except RemoteProtocolError as error:
            self.blame(now, link, error)
        except LinkLost as error:
            return str(error) or "left"
        return None
