"""What strangers do again and again: told once, then counted, and told once a minute."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from rowcast.errors import visible
from rowcast.journal import Journal

__all__ = ["EVERY_S", "HERE", "Recurring"]

#: How long the same kind of event is counted before it is told again (s).
EVERY_S = 60.0
#: In the place of a peer: the fault lies at this end.
HERE = "this machine"
#: Different others that are named, and sentences that wait for the driver, at most.
MOST_NAMED, MOST_NOTICES = 3, 100
#: Addresses that are told apart, and kinds of events, at most.
MOST_PEERS, MOST_KINDS = 1000, 1000


@dataclass
class _Window:
    """A kind of event, from when it was last told.

    Attributes:
        since: when that was (s); ``count``: events after it; ``peers``: whom they came from; ``text``: of the last one.
    """

    since: float
    count: int = 0
    peers: set[str] = field(default_factory=set)
    text: str = ""


class Recurring:
    """Tells of the first event of its kind at once, and of those in the minute after it by their number.

    So whoever repeats something a thousand times a second fills neither the journal nor the log.

    Args:
        journal: receives the event ``error`` for the first, and ``repeated`` for the others.

    Attributes:
        notices: the same as sentences for people; the driver shows and removes them.
    """

    def __init__(self, journal: Journal) -> None:
        self.notices: deque[str] = deque(maxlen=MOST_NOTICES)
        self._journal = journal
        self._windows: dict[tuple[str, str], _Window] = {}

    def tell(self, now: float, kind: str, peer: str, text: str, *, member: bool = False) -> None:
        """Something went wrong.

        Args:
            now: the time (s).
            kind: what, for the journal: the class of an error.
            peer: who is at the other end, or :data:`HERE`; a link, behind the last colon, does not make it another one.
            text: a sentence.
            member: ``peer`` is a member: its errors are counted apart, and the journal has all of them, for they cost
                a handshake each and belong to the run.
        """
        self.on_timer(now)
        key = kind, peer if member else ""
        if member:
            self._journal.record(now, "error", peer=peer, error=kind, message=text)
        window = self._windows.get(key)
        if window is not None:
            window.count += 1
            if len(window.peers) < MOST_PEERS:
                window.peers.add(peer if member else peer.rpartition(":")[0] or peer)
            window.text = text
            return
        if len(self._windows) >= MOST_KINDS:
            del self._windows[next(iter(self._windows))]
        self._windows[key] = _Window(now)
        if not member:
            self._journal.record(now, "error", peer=peer, error=kind, message=text)
        self.notices.append(
            visible(text) if peer == HERE else f"connection from {visible(peer)} closed: {visible(text)}"
        )

    def dropped(self, now: float, peer: str, what: str, why: str) -> None:
        """Something was dropped so that memory stays bounded: into the journal, and to the user."""
        self._journal.record(now, "dropped", peer=peer, what=what, why=why)
        self.notices.append(f"{peer}: dropped {what}: {why}")

    @property
    def counts(self) -> bool:
        """Something was told less than a minute ago, so that it is counted: :meth:`due` may say when it is told."""
        return bool(self._windows)

    def due(self) -> float | None:
        """When :meth:`on_timer` must be called (s), or ``None``."""
        if not self._windows:
            return None
        return min((window.since + EVERY_S for window in self._windows.values() if window.count), default=None)

    def on_timer(self, now: float, *, ending: bool = False) -> None:
        """Time passed; with ``ending`` all that was counted is told."""
        for key, window in list(self._windows.items()):
            if now < window.since + EVERY_S and not ending:
                continue
            del self._windows[key]
            if not window.count:
                continue
            # While it goes on it is counted only.
            self._windows[key] = _Window(now)
            peers = sorted(window.peers)
            lasted_s = now - window.since
            if not key[1]:
                self._journal.record(
                    now,
                    "repeated",
                    error=key[0],
                    count=window.count,
                    over_s=round(lasted_s, 3),
                    peers=len(peers),
                    peer=peers[0],
                    message=window.text,
                )
            if peers == [HERE]:
                self.notices.append(f"{window.count} times more in {lasted_s:.0f} s: {visible(window.text)}")
                continue
            named = ", ".join(map(visible, peers[:MOST_NAMED]))
            more = f" and {len(peers) - MOST_NAMED} others" if len(peers) > MOST_NAMED else ""
            self.notices.append(
                f"{window.count} more connections in {lasted_s:.0f} s, from {named}{more}, closed for the same reason: "
                f"{visible(window.text)}"
            )
