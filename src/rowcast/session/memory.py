"""What a server remembers of workers that it has forgotten: how many of their frames it had applied."""

from __future__ import annotations

from rowcast.wire import Hello

__all__ = ["Memory"]

#: So many workers are remembered, a hundred bytes each; the one that was forgotten first goes.
MOST_REMEMBERED = 10_000


class Memory:
    """Sessions that may come back although nothing else is known of them.

    A worker keeps a frame until it is acknowledged. Which of them had arrived before its link was lost, only the server
    knows: without that, what they hold would be applied a second time.

    A worker that returns is welcomed under another life of the server. So its next hello tells whether it has heard
    that its numbers start again; if it has not, what is remembered here still holds.
    """

    def __init__(self) -> None:
        self._received: dict[str, tuple[bytes, bytes, int]] = {}

    def remember(self, name: str, session: bytes, life: bytes, received: int) -> None:
        """A worker is about to be forgotten.

        Args:
            name: the worker.
            session: its session.
            life: the life of the server that it knows.
            received: number of the last of its frames that was applied.
        """
        self._received.pop(name, None)
        self._received[name] = session, life, received
        if len(self._received) > MOST_REMEMBERED:
            del self._received[next(iter(self._received))]

    def received(self, hello: Hello) -> int | None:
        """Number of the last frame that was applied of a session; ``None`` where it is not known."""
        session, life, received = self._received.get(hello.name, (b"", b"", 0))
        return received if (session, life) == (hello.session, hello.server) else None

    def received_in(self, name: str, life: bytes) -> int | None:
        """The same by the worker's name, and the life of the server that it knows."""
        _, known, received = self._received.get(name, (b"", b"", 0))
        return received if known and known == life else None
