"""The robot: asks a server for inferences, and answers itself where the link does not let it.

Here is what the driver calls. What a connection leads to before the robot may ask is the business of
:mod:`~rowcast.inference.door`; how an inference goes of :mod:`~rowcast.inference.asker_core`; what travels of
:mod:`~rowcast.inference.inference`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from rowcast.config import AskerSettings
from rowcast.errors import (
    AuthenticationFailed,
    LinkLost,
    RemoteProtocolError,
    RowcastError,
    ServerUnavailable,
    StreamDamaged,
    VersionMismatch,
)
from rowcast.inference.asker_core import AskerCore
from rowcast.inference.door import Door
from rowcast.inference.model import ModelSpec
from rowcast.inference.plans import Planning
from rowcast.journal import Journal
from rowcast.session.link import Link
from rowcast.session.liveness import Streak
from rowcast.session.readable import readable
from rowcast.session.reconnect import Reconnect
from rowcast.session.states import ClientState, Event
from rowcast.session.texts import shorten
from rowcast.wire import Ack, Answer, Busy, Heartbeat, Leave, Message, Refusal, Rows

__all__ = ["AskerNode"]


class AskerNode(AskerCore):
    """One robot that asks for inferences.

    Args:
        name: stable name, unique among the robots of the server.
        model: what it has built.
        planning: what the robot decides with; another one can take its place at any time.
        settings: see :mod:`rowcast.config`.
        secret: the shared secret, or ``None``.
        journal: where events are recorded.
        entropy: source of random bytes (replaced in tests).

    Attributes:
        failure: why it cannot go on with the server, or ``None``.
        notices: sentences for the user, oldest first; the driver shows and removes them.
        over: it has left.
    """

    def __init__(
        self,
        name: str,
        model: ModelSpec,
        planning: Planning,
        *,
        settings: AskerSettings | None = None,
        secret: bytes | None = None,
        journal: Journal | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.settings = settings or AskerSettings()
        super().__init__(name, model, planning, self.settings, journal or Journal(name))
        self.notices: list[str] = []
        self.standby = ""
        self.failure: RowcastError | None = None
        self.over = False
        self._door = Door(
            name, model, self.settings, secret, journal=self.journal, notices=self.notices, entropy=entropy
        )
        self._search = Reconnect(self.settings.reconnect_first_s, self.settings.reconnect_cap_s, entropy)
        self._refusals = Streak()
        self._lost_at: float | None = None

    def ask(self, now: float, inputs: Any, deadline_s: float | None = None) -> int:
        """See :meth:`AskerCore.ask`. Of a robot that has given up, or left, the outcome says why."""
        ticket = super().ask(now, inputs, deadline_s)
        if self.failure is not None or self.over:
            self.end_all(now, self.failure or LinkLost(f"{self.name}: it has left"))
        return ticket

    # -- connections -------------------------------------------------------------------------------------------

    @property
    def connect_at(self) -> float | None:
        """When the driver is to try to connect (s): at once if that is over; ``None``: it is not to."""
        settled = self.over or self.link is not None or self.failure is not None
        return None if settled else self._search.connect_at

    def connecting(self, now: float, address: str) -> None:
        """The driver tries to connect to the server at ``address`` (for people)."""
        self._search.trying(now, address)

    def connect_failed(self, now: float, cause: str) -> None:
        """The attempt came to nothing; ``cause`` says why, for people."""
        limit_s = math.inf if self.has_fallback else self.settings.connect_limit_s
        if self._search.failed(now, cause, limit_s):
            return
        if self._door.unproven and self._door.unproven == self._search.cause:
            self.fail(
                now,
                AuthenticationFailed(
                    f"{self.name}: {self._door.unproven}; give both the same secret, or files of the same team"
                ),
            )
        else:
            self.fail(
                now,
                ServerUnavailable(
                    f"{self.name}: expected a server for this model at {self._search.address} within {limit_s:g} s, "
                    f"got: {cause}; start one with 'rowcast split serve', or check the address"
                ),
            )

    def link_up(self, now: float, link: Link) -> None:
        """A connection to the server stands."""
        self.link = link
        self._search.connected(now)
        self._door.connected(link)
        link.opened(now)
        self.journal.record(
            now, "link_up", peer=link.peer, congestion_control=link.congestion_control, shaped_by=link.shaped_by
        )

    def link_down(self, now: float, cause: str) -> None:
        """The connection ended."""
        if self.link is None:
            return
        cause = shorten(cause)
        self.journal.record(now, "link_down", peer=self.link.peer, cause=cause)
        self.link.conversation.move(Event.LOST)
        self.link = None
        was_in = self.served
        self._door.lost()
        if was_in:
            self._search.welcomed(now, self._refusals.length(self.answers))
            if self._lost_at is None and not self.over:
                self._lost_at = now
                self.notices.append(f"{self.name}: link to the server lost ({cause}); reconnecting")
        if not self.over and self.failure is None:
            self.connect_failed(now, cause)
        self.abandon_all(now, LinkLost(f"the link to the server was lost: {cause}"))

    def heard(self, now: float) -> None:
        """Bytes arrived, whole message or not: the link lives."""
        if self.link is not None:
            self.link.heard(now)

    def blame(self, now: float, error: RemoteProtocolError) -> str:
        """What the server sent was wrong: close the connection. Damage on the way is a cut link, nothing more."""
        text = shorten(str(error))
        self.journal.record(now, "error", peer="server", error=type(error).__name__, message=text)
        if isinstance(error, StreamDamaged):
            return text
        if isinstance(error, AuthenticationFailed):  # the server does not let in who this is
            self.fail(now, error)
            return text
        if self.link is not None and not (self._door.proven and self.link.secured):
            return str(self._door.doubt(now, self.link.peer, text))
        if isinstance(error, VersionMismatch) and not self.served:
            self.fail(now, error)
        else:
            self._count_refusal(now, error)
        return text

    def _count_refusal(self, now: float, error: RemoteProtocolError) -> None:
        """One end found the other's messages wrong: try again, but not for ever."""
        if self.served and self._refusals.add(self.answers) > self.settings.refusals_limit:
            self.fail(now, error)

    def fail(self, now: float, error: RowcastError) -> None:
        """Give up: the driver stops, and whoever asks gets ``error``."""
        self.failure = self.failure or error
        if self.link is not None:
            self.link.closing = True
        self.end_all(now, self.failure)

    def leave(self, now: float, cause: str) -> None:
        """Go at once; nothing is answered any more."""
        if self.link is not None:
            self.link.say(Leave(shorten(cause)))
            self.link.closing = True
        self.over = True
        self.end_all(now, LinkLost(f"{self.name}: {cause}"))
        self.journal.record(now, "end", cause=cause)

    @property
    def served(self) -> bool:
        """The server has let the robot in, on a connection that stands."""
        return self._door.served is not None

    def waits_for(self, now: float) -> str | None:
        """What a long wait is for, for people."""
        if self.served:
            return f"waiting for an answer; the link gives about {self.uplink.rate_bps / 1e6:.3g} Mbit/s"
        return f"waiting for the server at {self._search.address}: {self._search.cause}"

    # -- messages ----------------------------------------------------------------------------------------------

    def receive(self, now: float, message: Message) -> None:
        """Handle one message.

        Raises:
            RemoteProtocolError: it has no place in the conversation; close the connection.
            LinkLost: the server said goodbye, or did not prove that it knows the secret; close the connection.
        """
        link = self.link
        if link is None:
            raise RemoteProtocolError(f"expected nothing without a connection, got {type(message).__name__}")
        if link.conversation.state is not ClientState.UNPROVEN:
            link.conversation.expect(message)
            message = readable(message)
        if isinstance(message, Heartbeat) and self._door.proven:
            link.told(now, message.arrived)
        elif isinstance(message, Leave) and self._door.proven:
            raise LinkLost(f"the server said goodbye: {message.cause}")
        elif not self.served:
            self._hear_at_the_door(now, link, message)
        elif isinstance(message, Refusal):
            error = RemoteProtocolError(f"the server refused this robot ({shorten(message.code, 20)}): {message.text}")
            if message.code != "damaged":
                self._count_refusal(now, error)
            raise LinkLost(str(error))
        else:
            self._hear(now, message)

    def _hear_at_the_door(self, now: float, link: Link, message: Message) -> None:
        error = self._door.hear(now, link, message)
        if error is not None:
            self.fail(now, error)
        if (served := self._door.served) is not None:
            if self._lost_at is not None:
                self.notices.append(f"{self.name}: link to the server is back, after {now - self._lost_at:.3g} s")
                self._lost_at = None
            self.journal.record(
                now, "served", peer="server", live=served.live, version=served.version, forward_s=served.forward_s
            )
            self.welcomed(now, served)

    def _hear(self, now: float, message: Message) -> None:
        """Handle a message about inferences."""
        if isinstance(message, Rows):
            self.rows_came(now, message)
        elif isinstance(message, Ack):
            self.uplink.acknowledged(now, message.number, message.stream)
        elif isinstance(message, Answer):
            self.answered(now, message)
        elif isinstance(message, Busy):
            self.turned_away(now, message)
        else:
            raise RemoteProtocolError(f"expected a message about inferences, got {type(message).__name__}")

    def poll(self, now: float) -> Message | None:
        """The next message to send, or ``None``. Control overtakes rows."""
        link = self.link
        if link is None:
            return None
        message = link.next_control(now) if link.control else None
        if message is not None or link.closing or not self.served:
            return message
        if (rows := self.next_rows(now)) is not None:
            link.spoke_at = now
        return rows

    # -- time --------------------------------------------------------------------------------------------------

    def next_wake(self, before: float = math.inf) -> float | None:
        """When :meth:`on_timer` must be called (s); ``None``: not at all, or not before the time ``before``.

        Without a connection that is not before :attr:`connect_at`.
        """
        due = min(before, self.due_at())
        link, settings = self.link, self.settings
        if link is None:
            if (connect_at := self.connect_at) is not None:
                due = min(due, connect_at)
        else:
            if self.served:
                due = min(due, link.spoke_at + settings.heartbeat_s)
            if not (self.served or self._door.proven):
                due = min(due, link.opened_at + settings.silence_limit_s)
            due = min(due, link.silent_at(settings.silence_limit_s))
        return due if due < before else None

    def on_timer(self, now: float) -> None:
        """Time passed.

        Raises:
            LinkLost: the server has been silent for too long; close the connection.
        """
        self.pass_time(now)
        link, settings = self.link, self.settings
        if link is None:
            return
        if link.is_silent(now, settings.silence_limit_s, settings.heartbeat_s):
            raise LinkLost(f"nothing came from the server for {settings.silence_limit_s:g} s")
        if not self._door.proven and now >= link.opened_at + settings.silence_limit_s:
            raise self._door.doubt(now, link.peer, f"no proof came for {settings.silence_limit_s:g} s")
        if self.served and now >= link.spoke_at + settings.heartbeat_s:
            link.spoke_at = now
            link.say(Heartbeat({"rate_bps": self.uplink.rate_bps}, link.decoder.arrived))
