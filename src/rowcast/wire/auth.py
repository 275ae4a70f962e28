"""Mutual proof of a shared secret: HMAC-SHA-256 over both nonces and what each side claims.

The proofs cover the bodies of challenge and hello as they travelled: every field, also those at the end that a peer of
another release has and this one does not know.

It keeps strangers out and tells the worker that the server is the right one. It does not hide what is sent nor
protect it afterwards: for that, run the connection inside TLS or a VPN.
"""

from __future__ import annotations

import hashlib
import hmac

from rowcast.wire.fields import emptied
from rowcast.wire.messages import Challenge, Hello

__all__ = ["matches", "server_proof", "worker_proof"]

_PROOF = Hello.__struct_fields__.index("proof")


def worker_proof(secret: bytes, challenge: Challenge, hello: Hello) -> bytes:
    """The worker's proof: over the challenge and every other field of its hello (32 bytes)."""
    return _digest(secret, b"rowcast worker\0", challenge.body + emptied(hello.body, _PROOF))


def server_proof(secret: bytes, challenge: Challenge, hello: Hello) -> bytes:
    """The server's proof in return, over the challenge and the whole hello (32 bytes)."""
    return _digest(secret, b"rowcast server\0", challenge.body + hello.body)


def matches(expected: bytes, given: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(expected, given)


def _digest(secret: bytes, purpose: bytes, claim: bytes) -> bytes:
    return hmac.new(secret, purpose + claim, hashlib.sha256).digest()
