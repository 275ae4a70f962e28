"""What the exit code of the ``rowcast`` command says."""

from __future__ import annotations

import enum

from rowcast.errors import (
    ConfigError,
    LayoutMismatch,
    LinkLost,
    ModelMismatch,
    ParametersConflict,
    RemoteProtocolError,
    SteppedDown,
    StreamGap,
)

__all__ = ["MEANINGS", "ExitCode", "exit_code"]


class ExitCode(enum.IntEnum):
    """The exit codes."""

    FINE = 0
    INTERNAL = 1
    USAGE = 2
    LINK = 3
    REFUSED = 4
    STEPPED_DOWN = 5
    INTERRUPTED = 130


#: For ``--help`` and the manual.
MEANINGS: dict[ExitCode, str] = {
    ExitCode.FINE: "all went well",
    ExitCode.INTERNAL: "an internal error, a failed check, or a process of an experiment failed",
    ExitCode.USAGE: "wrong usage, setting or file; or samples that are gone from a source",
    ExitCode.LINK: "the link or the server is not there",
    ExitCode.REFUSED: "refused by the other end: secret, certificate, layout, version, name, parameters or model",
    ExitCode.STEPPED_DOWN: "another server leads the team, or may: this one has stepped down",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}

#: The first class that fits decides.
_BY_CLASS: tuple[tuple[type[Exception], ExitCode], ...] = (
    (ConfigError, ExitCode.USAGE),
    (StreamGap, ExitCode.USAGE),
    (LayoutMismatch, ExitCode.REFUSED),
    (ParametersConflict, ExitCode.REFUSED),
    (ModelMismatch, ExitCode.REFUSED),
    (RemoteProtocolError, ExitCode.REFUSED),
    (LinkLost, ExitCode.LINK),
    (SteppedDown, ExitCode.STEPPED_DOWN),
)


def exit_code(error: BaseException) -> ExitCode:
    """The exit code for what ended the command."""
    return next((code for kind, code in _BY_CLASS if isinstance(error, kind)), ExitCode.INTERNAL)
