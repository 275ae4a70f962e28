"""One thing that was looked at, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rowcast.version import __version__

__all__ = ["Check", "Status", "as_json"]

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: 'ok', 'warn' (a worker runs, but not as well as it could) or 'fail' (it does not).
        found: what was found, with its units.
        remedy: what to do; empty where nothing is to be done.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""


def as_json(checks: Sequence[Check], server: str | None) -> dict[str, Any]:
    """The checks as ``rowcast doctor --json`` prints them.

    Args:
        checks: all that were made.
        server: the server that was asked for, or ``None``.
    """
    counts = {status: sum(check.status == status for check in checks) for status in ("ok", "warn", "fail")}
    return {"release": __version__, "server": server, **counts, "checks": [asdict(check) for check in checks]}
