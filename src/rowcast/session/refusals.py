"""The codes of refusals: what a server says when it closes a connection, and what a worker makes of that."""

from __future__ import annotations

from rowcast.errors import (
    AuthenticationFailed,
    CertificateRevoked,
    RemoteProtocolError,
    StreamDamaged,
    TlsNeeded,
    VersionMismatch,
)
from rowcast.session.texts import shorten

__all__ = ["IDENTITY", "code_of", "identity_error"]

#: Refusals of who a worker is, and the error that each means there.
IDENTITY: dict[str, type[AuthenticationFailed]] = {
    "secret": AuthenticationFailed,
    "tls": AuthenticationFailed,
    "certificate": AuthenticationFailed,
    "revoked": CertificateRevoked,
}

#: The first class that fits decides.
_BY_CLASS: tuple[tuple[type[Exception], str], ...] = (
    (StreamDamaged, "damaged"),
    (VersionMismatch, "version"),
    (TlsNeeded, "tls"),
    (CertificateRevoked, "revoked"),
    (AuthenticationFailed, "certificate"),
)


def code_of(error: Exception) -> str:
    """The code of a refusal for what was wrong with the peer, or with what it sent."""
    return next((code for kind, code in _BY_CLASS if isinstance(error, kind)), "protocol")


def identity_error(code: str, text: str) -> RemoteProtocolError | None:
    """The error that a refusal of who a worker is means there; ``None``: it is a refusal of something else."""
    kind = IDENTITY.get(code)
    return None if kind is None else kind(shorten(text))
