"""The handshake, both sides: a challenge, a hello with its proof, and the proof in return."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from rowcast.errors import AuthenticationFailed, ConfigError, RemoteProtocolError, visible
from rowcast.wire import Challenge, Hello, Proof
from rowcast.wire.auth import matches, server_proof, worker_proof

__all__ = ["ServerHandshake", "WorkerHandshake", "check_name", "expect_countable", "is_name"]

MAX_ITERATION = 1 << 30
MAX_NAME = 200

#: What else a proof that does not fit may mean, where it is bound to a channel.
_MIDDLE = ", or somebody stands in between with a certificate of his own"


class WorkerHandshake:
    """The worker's side of one connection.

    Args:
        secret: the team's shared secret, or ``None``.
        entropy: source of random bytes.

    Attributes:
        proven: the server has proved that it knows the secret, or there is none. Before that nothing it says counts.
    """

    def __init__(self, secret: bytes | None, entropy: Callable[[int], bytes]) -> None:
        self.proven = secret is None
        self._secret = secret
        self._entropy = entropy
        self._challenge: Challenge | None = None
        self._channel = b""
        self._hello: Hello | None = None

    def answer(self, challenge: Challenge, hello: Hello, channel: bytes = b"") -> Hello:
        """``hello`` with a nonce and the proof that the challenge asks for.

        Args:
            challenge: what the server asks.
            hello: what the worker says of itself.
            channel: SHA-256 of the server's certificate, as it was seen here; empty where there is no TLS.

        Raises:
            AuthenticationFailed: one side has a secret and the other has none.
            RemoteProtocolError: a second challenge.
        """
        if self._challenge is not None:
            raise RemoteProtocolError("expected one challenge, got a second one")
        if challenge.secret_needed != (self._secret is not None):
            has, lacks = ("server", "worker") if challenge.secret_needed else ("worker", "server")
            raise AuthenticationFailed(
                f"the {has} has a shared secret and this {lacks} has none; give both the same --secret-file"
            )
        self._challenge = challenge
        hello = msgspec.structs.replace(hello, nonce=self._entropy(16), proof=b"")
        if self._secret is not None:
            hello = msgspec.structs.replace(hello, proof=worker_proof(self._secret, challenge, hello, channel))
        self._hello, self._channel = hello, channel
        return hello

    def verify(self, proof: Proof) -> None:
        """Check that the server knows the secret as well.

        Raises:
            AuthenticationFailed: it does not.
            RemoteProtocolError: a proof out of turn.
        """
        if self._secret is None or self._challenge is None or self._hello is None or self.proven:
            raise RemoteProtocolError("expected a proof once, after a hello with one, got one out of turn")
        if not matches(server_proof(self._secret, self._challenge, self._hello, self._channel), proof.proof):
            raise AuthenticationFailed("its proof does not fit the secret" + (_MIDDLE if self._channel else ""))
        self.proven = True

    def expect_introduced(self) -> None:
        """Raise where the server lets in who has not said who it is.

        Raises:
            RemoteProtocolError: no hello was said.
        """
        if self._hello is None:
            raise RemoteProtocolError("expected a welcome after a hello, got one out of turn")


class ServerHandshake:
    """The server's side of one connection.

    Args:
        life: 16 bytes that name this life of the server.
        secret: the team's shared secret, or ``None``.
        entropy: source of random bytes.

    Attributes:
        challenge: what the worker must answer.
    """

    def __init__(self, life: bytes, secret: bytes | None, entropy: Callable[[int], bytes]) -> None:
        self._secret = secret
        self._proved = False
        self.challenge = Challenge(life, entropy(16), secret is not None)

    def accepts(self, hello: Hello, channel: bytes = b"") -> bool:
        """Whether the worker proved that it knows the secret, in this channel (see :class:`.Link`)."""
        if self._secret is None:
            return True
        return matches(worker_proof(self._secret, self.challenge, hello, channel), hello.proof)

    def prove(self, hello: Hello, channel: bytes = b"") -> Proof | None:
        """The server's proof in return; ``None`` without a secret, and when it was given before."""
        if self._secret is None or self._proved:
            return None
        self._proved = True
        return Proof(server_proof(self._secret, self.challenge, hello, channel))


def expect_countable(iteration: int) -> None:
    """Refuse a count that the stamps of the rows (int32) could not follow.

    Raises:
        RemoteProtocolError: it is larger than any correct peer counts.
    """
    if iteration > MAX_ITERATION:
        raise RemoteProtocolError(f"expected an iteration up to {MAX_ITERATION}, got {iteration}")


def is_name(name: str) -> bool:
    """Whether a worker may have this name: it is shown on terminals and pages, and stands in journals."""
    return 0 < len(name) <= MAX_NAME and name.isprintable()


def check_name(name: str) -> None:
    """Refuse a name that no server takes.

    Raises:
        ConfigError: it is empty, too long, or has characters that cannot be shown.
    """
    if not is_name(name):
        raise ConfigError(f"name: expected a printable name of 1 .. {MAX_NAME} characters, got {visible(name, 60)!r}")
