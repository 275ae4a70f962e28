"""How a robot comes to a server that answers inferences: introductions, proofs, and which model it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from rowcast.config import AskerSettings, Secret
from rowcast.errors import (
    AuthenticationFailed,
    LinkLost,
    ModelMismatch,
    RemoteProtocolError,
    RowcastError,
)
from rowcast.inference.model import ModelSpec
from rowcast.journal import Journal
from rowcast.session.doubt import Doubt, claim_of, said
from rowcast.session.link import Link
from rowcast.session.proof import WorkerHandshake
from rowcast.session.refusals import identity_error
from rowcast.session.seeding import ASKS
from rowcast.session.states import CLIENT, ClientState, Conversation, Event
from rowcast.session.tables import TableParts
from rowcast.session.texts import shorten
from rowcast.wire import Challenge, Heartbeat, Hello, LayoutTable, Message, Proof, Refusal, RowLimits, Served, Welcome
from rowcast.wire.fields import MAX_STREAM

__all__ = ["Door", "first_difference"]

#: A description of the server's is read up to twice the length of our own and so much more.
DESCRIPTION_ROOM_BYTES = 1 << 16
#: Refusals with which a robot need not come back.
_FINAL = ("version", "model")


class Door:
    """The robot's part of the conversation until it may ask, on each connection anew.

    Args:
        name: the robot.
        model: what it has built.
        settings: see :mod:`rowcast.config`.
        secret: the shared secret, or ``None``.
        journal: where errors are recorded.
        notices: where sentences for the user are added.
        entropy: source of random bytes.

    Attributes:
        served: what the server has said when it let the robot in, on the connection that stands; or ``None``.
        proven: it has proved that it knows the secret, or there is none.
    """

    def __init__(
        self,
        name: str,
        model: ModelSpec,
        settings: AskerSettings,
        secret: bytes | None,
        *,
        journal: Journal,
        notices: list[str],
        entropy: Callable[[int], bytes],
    ) -> None:
        self.served: Served | None = None
        self._name = name
        self._model = model
        self._secret = None if secret is None else Secret(secret)
        self._journal = journal
        self._entropy = entropy
        self._session = entropy(16)
        self._handshake = WorkerHandshake(self._secret, entropy)
        self._doubt = Doubt(name, claim_of(secret), settings.patience_s, notices)
        self._table = TableParts(0)
        self._difference = ""

    @property
    def proven(self) -> bool:
        return self._handshake.proven

    @property
    def unproven(self) -> str:
        """What was wrong with the newest server that did not prove that it knows the secret; empty once one did."""
        return self._doubt.cause

    def connected(self, link: Link) -> None:
        """A connection stands, and nothing was said on it."""
        self._handshake = WorkerHandshake(self._secret, self._entropy)
        link.conversation = Conversation(ClientState.UNPROVEN if self._secret is not None else ClientState.PROVEN)
        link.decoder.trusted = self.proven
        own = sum(len(line) + 1 for line in self._model.describe())
        self._table = TableParts(2 * own + DESCRIPTION_ROOM_BYTES)
        self._difference = ""
        self.served = None

    def lost(self) -> None:
        """The connection is gone."""
        self.served = None

    def doubt(self, now: float, peer: str, what: str) -> LinkLost:
        """The error to raise for a server that has not proved that it knows the secret; it ends the connection."""
        return self._doubt.raised(now, peer, what)

    def hear(self, now: float, link: Link, message: Message) -> RowcastError | None:
        """Handle a message of a server that has not let the robot in.

        Returns:
            Why the robot need not try again, or ``None``.

        Raises:
            RemoteProtocolError: it has no place in the conversation.
            LinkLost: close the connection.
        """
        if link.conversation.state is ClientState.UNPROVEN:
            self._hear_stranger(now, link, message)
            return None
        if isinstance(message, Challenge):
            try:
                link.say(self._hello(message, link.channel))
            except AuthenticationFailed as error:
                return error
        elif isinstance(message, Served):
            self._enter(link, message)
        elif isinstance(message, LayoutTable):
            if (table := self._table.add(message)) is not None:
                self._difference = first_difference(self._model.describe(), table)
        elif isinstance(message, Refusal):
            return self._refused(now, message)
        elif isinstance(message, Welcome):
            raise RemoteProtocolError("expected a server that answers inferences, got the welcome of one that trains")
        return None

    def _hear_stranger(self, now: float, link: Link, message: Message) -> None:
        """Believe nothing but the proof."""
        if isinstance(message, Heartbeat):
            return
        if type(message) not in CLIENT[ClientState.UNPROVEN].session:
            raise self.doubt(now, link.peer, said(message))
        try:
            if isinstance(message, Challenge):
                link.say(self._hello(message, link.channel))
                return
            self._handshake.verify(cast(Proof, message))
        except RemoteProtocolError as error:
            raise self.doubt(now, link.peer, str(error)) from error
        link.conversation.move(Event.PROVED)
        link.decoder.trusted = True
        self._doubt.settle()

    def _hello(self, challenge: Challenge, channel: bytes) -> Hello:
        hello = Hello(
            name=self._name,
            session=self._session,
            nonce=b"",
            proof=b"",
            layout=self._model.digest,
            state=self._model.parameters,
            server=b"",
            joined=False,
            iteration=0,
            received=0,
            wish=ASKS,
        )
        return self._handshake.answer(challenge, hello, channel)

    def _enter(self, link: Link, served: Served) -> None:
        self._handshake.expect_introduced()
        if served.requests < 1 or served.forward_s < 0:
            raise RemoteProtocolError(
                f"served: expected 1 request or more and a time, got {served.requests} and {served.forward_s:g} s"
            )
        link.conversation.move(Event.SERVED)
        limits = RowLimits(self._model.most_rows)
        link.decoder.streams.update(dict.fromkeys(range(1, MAX_STREAM + 1), limits))
        self.served = served

    def _refused(self, now: float, refusal: Refusal) -> RowcastError | None:
        code, text = shorten(refusal.code, 20), refusal.text
        self._journal.record(now, "error", peer="server", error=f"refused: {code}", message=text)
        if code == "model":
            return ModelMismatch(
                f"{text}{': ' if self._difference else ''}{self._difference}; build the same model "
                "from the same checkpoint on both sides"
            )
        if (error := identity_error(code, text)) is not None:
            return error
        if code in _FINAL:
            return RemoteProtocolError(f"the server refused this robot ({code}): {text}")
        raise LinkLost(f"the server refused this robot ({code}): {text}")


def first_difference(mine: Sequence[str], theirs: bytes) -> str:
    """The first line in which two descriptions of a model differ, in words; empty where they do not."""
    lines = theirs.decode(errors="backslashreplace").split("\n")
    for own, other in zip(mine, lines, strict=False):
        if own != other:
            return f"here {shorten(own, 300)!r}, on the server {shorten(other, 300)!r}"
    if len(mine) != len(lines):
        return f"here {len(mine)} operators and parameters, on the server {len(lines)}"
    return ""
