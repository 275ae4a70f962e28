"""A worker and a server that has not proved who it is: believe nothing, say so, look on."""

from __future__ import annotations

from rowcast.errors import LinkLost
from rowcast.session.texts import shorten
from rowcast.wire import Leave, Message, Refusal

__all__ = ["IN_TEAM", "KNOWS_SECRET", "Doubt", "claim_of", "said"]

#: What a server has to prove: with a shared secret, and with certificates.
KNOWS_SECRET = "knows the shared secret"
IN_TEAM = "belongs to this team"

#: Between two notices about the same thing at most (s).
NOTICE_CAP_S = 60.0


class Doubt:
    """Remembers what was wrong with a server, and tells the user now and then.

    Args:
        name: the worker.
        claim: what a server has to prove.
        pause_s: between the first notice and the second; then twice as long each time, up to a minute.
        notices: where sentences for the user are added.

    Attributes:
        cause: what was wrong with the newest server that proved nothing; empty once one did.
    """

    def __init__(self, name: str, claim: str, pause_s: float, notices: list[str]) -> None:
        self.cause = ""
        self._name = name
        self._claim = claim
        self._first_pause_s = self._pause_s = pause_s
        self._notices = notices
        self._next_notice: float | None = None

    def raised(self, now: float, peer: str, what: str) -> LinkLost:
        """The error to raise, which ends the connection and nothing else.

        Args:
            now: time (s).
            peer: the server's address.
            what: what it did instead.
        """
        self.cause = f"the server at {peer} did not prove that it {self._claim}: {what}"
        if self._next_notice is None or now >= self._next_notice:
            self._notices.append(f"{self._name}: {self.cause}; trying again")
            self._next_notice = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, NOTICE_CAP_S)
        return LinkLost(self.cause)

    def settle(self) -> None:
        """A server has proved it."""
        self.cause = ""
        self._pause_s, self._next_notice = self._first_pause_s, None


def claim_of(secret: bytes | None) -> str:
    """What a server has to prove to a worker with this secret; one without has certificates, or asks for nothing."""
    return IN_TEAM if secret is None else KNOWS_SECRET


def said(message: Message) -> str:
    """What an unproven server said, for people: quoted, so that no byte of it acts on a terminal, and short."""
    if isinstance(message, Refusal):
        return f"it refused this worker ({shorten(message.code, 20)!r}: {shorten(message.text, 200)!r})"
    if isinstance(message, Leave):
        return f"it said goodbye ({shorten(message.cause, 200)!r})"
    return f"it sent {type(message).__name__} before its proof"
