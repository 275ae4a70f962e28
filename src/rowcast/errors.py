"""Every error Rowcast raises on purpose, and who is to blame.

::

    RowcastError
     +-- ConfigError              a setting, a policy name, a file that the user gave
     |    +-- CaptureError        a model whose operators cannot be captured: file, line and what to do
     |    +-- TraceError          a bandwidth trace file: file, line and reason
     |    +-- DataError           a data folder or data file
     +-- ProtocolError
     |    +-- LocalProtocolError  this process used Rowcast against its rules
     |    +-- RemoteProtocolError the peer sent what no correct peer sends
     |         +-- StreamDamaged    bytes were changed, lost or doubled on the way; the link is made anew
     |         +-- VersionMismatch
     |         +-- AuthenticationFailed
     |         |    +-- CertificateRevoked
     |         +-- TlsNeeded        one end speaks TLS, and the other one does not
     +-- LayoutMismatch           two models that are not the same shape
     +-- ParametersConflict       training would be overwritten, and nobody asked for that
     +-- LinkLost                 the connection ended; the cause is in the message
     |    +-- ServerUnavailable   nobody answers at the server's address
     +-- ModelMismatch            robot and server have not built the same model
     +-- DeadlineMissed           no answer in time, and nothing to fall back on
     +-- ServerBusy               the server computes for others; it says when to ask again
     +-- NonFiniteGradient        NaN or Inf where an update was expected
     +-- SourceEnded              a stream of samples has an end, and everything was delivered
     +-- SteppedDown              another server leads the team; this one never will again
     +-- StreamGap                samples of a stream are gone before they were read
     +-- WorkerFailed             a worker process of an experiment ended badly, or hangs
     +-- MeterError               a power sensor is missing, cannot be read, or is frozen

Each message says what was expected, what came, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AuthenticationFailed",
    "CaptureError",
    "CertificateRevoked",
    "ConfigError",
    "DataError",
    "DeadlineMissed",
    "LayoutMismatch",
    "LinkLost",
    "LocalProtocolError",
    "MeterError",
    "ModelMismatch",
    "NonFiniteGradient",
    "ParametersConflict",
    "ProtocolError",
    "RemoteProtocolError",
    "RowcastError",
    "ServerBusy",
    "ServerUnavailable",
    "SourceEnded",
    "StateDamaged",
    "SteppedDown",
    "StreamDamaged",
    "StreamGap",
    "TlsNeeded",
    "TraceError",
    "VersionMismatch",
    "WorkerFailed",
    "near_match",
    "visible",
]


class RowcastError(Exception):
    """Base of every error that Rowcast raises on purpose."""


class ConfigError(RowcastError):
    """A setting, a name or a file that the user gave cannot be used."""


class CaptureError(ConfigError):
    """A model cannot be captured as a graph of operators; the message names file and line of its code."""


class TraceError(ConfigError):
    """A bandwidth trace cannot be read; the message names file, line and reason."""


class DataError(ConfigError):
    """A data folder or data file is missing or not in the expected format."""


class ProtocolError(RowcastError):
    """Base of the errors of the protocol between a worker and a server."""


class LocalProtocolError(ProtocolError):
    """This process used Rowcast against its rules; mend the calling code."""


class RemoteProtocolError(ProtocolError):
    """The peer sent bytes that no correct peer sends; the connection is closed."""


class StreamDamaged(RemoteProtocolError):
    """Bytes were changed, lost or doubled on the way; nobody is to blame, and the link is made anew."""


class VersionMismatch(RemoteProtocolError):
    """The peer speaks another version of the protocol."""


class AuthenticationFailed(RemoteProtocolError):
    """The peer did not prove that it knows the shared secret, or that it belongs to the team."""


class CertificateRevoked(AuthenticationFailed):
    """The peer's certificate was taken back: it belongs to the team no longer."""


class TlsNeeded(RemoteProtocolError):
    """One end speaks TLS, and the other one does not; nothing was read of what it said."""


class LayoutMismatch(RowcastError):
    """Two nodes hold models of different shape; the message names the first tensor that differs."""


class ParametersConflict(RowcastError):
    """A worker would overwrite the training of others, or others its own; the message says how to ask for that."""


class LinkLost(RowcastError):
    """The connection to a peer ended; the message carries the cause."""


class ServerUnavailable(LinkLost):
    """Nobody answered at the server's address within the time allowed."""


class ModelMismatch(RowcastError):
    """Robot and server have not built the same model; the message names the first difference."""


class DeadlineMissed(RowcastError):
    """The answer was not there at its deadline, and there was nothing to fall back on; the message says why."""


class ServerBusy(RowcastError):
    """The server has more to compute than it can in time.

    Attributes:
        wait_s: ask again after so many seconds.
    """

    def __init__(self, text: str, wait_s: float) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class NonFiniteGradient(RowcastError):
    """A gradient holds NaN or Inf; the step was refused and counted as "no contribution"."""


class SourceEnded(RowcastError):
    """A stream of samples has come to its end, and everything was delivered."""


class StreamGap(RowcastError):
    """Samples of a stream were deleted before they were read; the message says how many, and how to go on."""


class WorkerFailed(RowcastError):
    """A worker process of an experiment ended badly, or hangs; the message ends with the tail of its log."""


class SteppedDown(RowcastError):
    """This server led the team, and does so no longer: another one does, or may."""


class StateDamaged(RowcastError):
    """What was kept of a node on a disk cannot be read as it was written, or is of another release; it says what."""


class MeterError(RowcastError):
    """A power sensor is missing, cannot be read, or shows one value for too long; its figures do not count."""


def near_match(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, or the list of all.

    Returns a sentence fragment such as ``"did you mean 'rog:4'?"``.
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}? (known: {', '.join(names)})"
    return f"known: {', '.join(names)}"


def visible(text: str, limit: int = 500) -> str:
    """Text from outside (a peer, a file) as it may be shown: on a terminal, in a log line, in an error, on a page.

    What a terminal or a page would obey or hide becomes an escape such as ``\\x1b``: control characters, line breaks,
    marks that turn the direction of writing, characters without a shape.

    Args:
        text: what came.
        limit: characters of it that are shown; an ellipsis stands for the rest.
    """
    if len(text) <= limit and text.isprintable():
        return text
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text[:limit]
    )
    return shown if len(text) <= limit else f"{shown}\u2026"
