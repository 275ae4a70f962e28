"""What the drivers need of the nodes that they drive; what these work at is not their business."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from rowcast.errors import LinkLost, RemoteProtocolError, RowcastError
from rowcast.session import Link
from rowcast.wire import Message

__all__ = ["GuestNode", "GuestSettings", "HostNode", "taken_in"]


class GuestSettings(Protocol):
    """The settings of a guest that a driver reads."""

    @property
    def silence_limit_s(self) -> float:
        """An attempt to connect that takes longer has failed."""

    @property
    def patience_s(self) -> float:
        """Seconds of waiting after which the user is told for what."""


class GuestNode(Protocol):
    """A node that connects to a host: a worker of a team (:class:`rowcast.training.WorkerNode`), for example."""

    failure: RowcastError | None
    notices: list[str]
    standby: str  #: where else the host may be, host:port, as it has told; or empty

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> GuestSettings: ...

    @property
    def over(self) -> bool:
        """Its work is done: it wants no connection any more."""

    @property
    def connect_at(self) -> float | None:
        """When the driver is to try to connect (s); ``None``: it is not to."""

    def connecting(self, now: float, address: str) -> None: ...

    def connect_failed(self, now: float, cause: str) -> None: ...

    def link_up(self, now: float, link: Link) -> None: ...

    def link_down(self, now: float, cause: str) -> None: ...

    def heard(self, now: float) -> None: ...

    def receive(self, now: float, message: Message) -> None: ...

    def blame(self, now: float, error: RemoteProtocolError) -> str: ...

    def poll(self, now: float) -> Message | None: ...

    def next_wake(self, before: float = ...) -> float | None: ...

    def on_timer(self, now: float) -> None: ...

    def leave(self, now: float, cause: str) -> None: ...

    def waits_for(self, now: float) -> str | None: ...


def taken_in(node: GuestNode, now: float, link: Link, count: int) -> str | None:
    """So many bytes arrived for a guest, and lie in the decoder's buffer of its link.

    Returns:
        Why the driver must close the connection; ``None``: it stands.
    """
    node.heard(now)
    try:
        for message in link.decoder.filled(count):
            node.receive(now, message)
    except RemoteProtocolError as error:
        return node.blame(now, error)
    except LinkLost as error:
        return str(error) or "left"
    return None


class HostNode(Protocol):
    """A node that others connect to: the server of a team (:class:`rowcast.training.ServerNode`), for example."""

    @property
    def has_secret(self) -> bool:
        """Who connects must prove that he knows a secret."""

    @property
    def notices(self) -> deque[str]:
        """Sentences for the user, oldest first; the driver shows and removes them."""

    def listen(self, now: float) -> None: ...

    def stop(self, now: float) -> None: ...

    def link_up(self, now: float, link: Link) -> None: ...

    def secured(self, now: float, link: Link, channel: bytes, identity: str | None) -> None:
        """TLS stands on a link that came up without (``link.secured`` was false); no message has come on it.

        Args:
            now: the time (s).
            link: the connection.
            channel: see :attr:`rowcast.session.Link.channel`.
            identity: see :attr:`rowcast.session.Link.identity`.
        """

    def link_down(self, now: float, link: Link, cause: str) -> None: ...

    def heard(self, now: float, link: Link, begun: tuple[int, int] = ...) -> None: ...

    def arrived(self, now: float, link: Link, count: int) -> str | None: ...

    def blame(self, now: float, link: Link, error: RowcastError) -> None: ...

    def poll(self, now: float, link: Link) -> Message | None: ...

    def farewell(self, link: Link, cause: str) -> None: ...

    def expel(self, now: float, link: Link, cause: str) -> None: ...

    def trouble(self, now: float, kind: str, text: str) -> None: ...

    def take_ready(self) -> list[Link]: ...

    def next_wake(self) -> float | None: ...

    def on_timer(self, now: float) -> list[tuple[Link, str]]: ...
