"""Mutual proof of a shared secret: HMAC-SHA-256 over both nonces and what each side claims.

The proofs cover the bodies of challenge and hello as they travelled: every field, also those at the end that a peer of
another release has and this one does not know.

They tell each side that the other one knows the secret. What is said afterwards, TLS protects
(:mod:`rowcast.drivers.sockets.tls`); the proofs are bound to its channel: both cover the hash of the server's
certificate as each side has seen it (``tls-server-end-point`` of RFC 5929). Who sits in the middle has a certificate of
his own towards the worker, so that neither proof fits.
"""

from __future__ import annotations

import hashlib
import hmac

from rowcast.wire.fields import emptied
from rowcast.wire.leading import Follow
from rowcast.wire.messages import Challenge, Hello

__all__ = ["followed_proof", "follower_proof", "matches", "server_proof", "worker_proof"]

_PROOF = Hello.__struct_fields__.index("proof")
_FOLLOW_PROOF = Follow.__struct_fields__.index("proof")


def worker_proof(secret: bytes, challenge: Challenge, hello: Hello, channel: bytes = b"") -> bytes:
    """The worker's proof: over the challenge and every other field of its hello (32 bytes).

    Args:
        secret: the shared secret.
        challenge, hello: as they travelled.
        channel: SHA-256 of the server's certificate, as the worker has seen it; empty where there is no TLS.
    """
    return _digest(secret, b"rowcast worker", channel, challenge.body + emptied(hello.body, _PROOF))


def server_proof(secret: bytes, challenge: Challenge, hello: Hello, channel: bytes = b"") -> bytes:
    """The server's proof in return, over the challenge and the whole hello (32 bytes).

    Args:
        secret: the shared secret.
        challenge, hello: as they travelled.
        channel: SHA-256 of the server's own certificate; empty where there is no TLS.
    """
    return _digest(secret, b"rowcast server", channel, challenge.body + hello.body)


def follower_proof(secret: bytes, challenge: Challenge, follow: Follow, channel: bytes = b"") -> bytes:
    """The proof of a standby; as :func:`worker_proof`, and never the same."""
    return _digest(secret, b"rowcast standby", channel, challenge.body + emptied(follow.body, _FOLLOW_PROOF))


def followed_proof(secret: bytes, challenge: Challenge, follow: Follow, channel: bytes = b"") -> bytes:
    """The proof in return of the server that is followed (32 bytes)."""
    return _digest(secret, b"rowcast followed", channel, challenge.body + follow.body)


def matches(expected: bytes, given: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(expected, given)


def _digest(secret: bytes, purpose: bytes, channel: bytes, claim: bytes) -> bytes:
    # The hash has one length, so that no claim can be taken for a channel and another claim.
    bound = b" in tls-server-end-point\0" + channel if channel else b"\0"
    return hmac.new(secret, purpose + bound + claim, hashlib.sha256).digest()
