"""Mutual proof of a shared secret: HMAC-SHA-256 over both nonces and what each side claims.

It keeps strangers out and tells the worker that the server is the right one. It does not hide what is sent nor
protect it afterwards: for that, run the connection inside TLS or a VPN.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac

from rowcast.wire.fields import pack
from rowcast.wire.messages import Challenge, Hello

__all__ = ["matches", "server_proof", "worker_proof"]


def worker_proof(secret: bytes, challenge: Challenge, hello: Hello) -> bytes:
    """The worker's proof: over the challenge and every other field of its hello (32 bytes)."""
    claim = pack(challenge) + pack(dataclasses.replace(hello, proof=b""))
    return hmac.new(secret, b"rowcast worker\0" + claim, hashlib.sha256).digest()


def server_proof(secret: bytes, challenge: Challenge, hello: Hello) -> bytes:
    """The server's proof in return (32 bytes)."""
    return hmac.new(secret, b"rowcast server\0" + pack(challenge) + pack(hello), hashlib.sha256).digest()


def matches(expected: bytes, given: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(expected, given)
