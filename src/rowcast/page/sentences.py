"""What happened, in words: the lines of the page's log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rowcast.errors import visible
from rowcast.journal import Record

__all__ = ["sentence"]

#: How serious a line is; the page writes the word, and does not only colour it.
FINE, NOTE, TROUBLE = "info", "note", "trouble"


def _because(record: Record, field: str = "cause") -> str:
    cause = record.get(field)
    return f": {cause}" if cause else ""


def _amount(value: Any, form: str = "{:.3g}") -> str:
    return form.format(value) if isinstance(value, int | float) and not isinstance(value, bool) else "?"


def _start(record: Record) -> str:
    policy = record.get("policy")
    return f"starts as {record.get('role') or 'a node'}, rowcast {record.get('version') or '?'}" + (
        f", policy {policy}" if policy else ""
    )


def _dropped(record: Record) -> str:
    return f"dropped {record.get('what')} of {record.get('peer')}: {record.get('why')}"


def _standby(record: Record) -> str:
    peer = record.get("peer")
    return f"standby {peer or ''} {record.get('what')}{_because(record)}".replace("  ", " ")


def _slack(record: Record) -> str:
    return f"slack {_amount(record.get('before'))} to {_amount(record.get('slack'))}: {record.get('why')}"


def _outer(record: Record) -> str:
    return f"outer learning rate {_amount(record.get('before'))} to {_amount(record.get('outer_lr'))}"


def _restarted(record: Record) -> str:
    return f"is back after a restart, {_amount(record.get('inputs'))} inputs behind the snapshot"


def _repeated(record: Record) -> str:
    return f"{record.get('error')} {_amount(record.get('count'))} times more: {record.get('message')}"


def _gap(record: Record) -> str:
    return f"{_amount(record.get('records'))} records are missing here{_because(record, 'why')}"


def _recovered(record: Record) -> str:
    return f"goes on from iteration {_amount(record.get('iteration'))} after it was killed"


#: Event -> how serious, and the sentence about the robot (or, without one, the node).
_TEXTS: Mapping[str, tuple[str, Callable[[Record], str]]] = {
    "start": (FINE, _start),
    "link_up": (FINE, lambda record: "link up"),
    "link_down": (TROUBLE, lambda record: f"link down{_because(record)}"),
    "join": (FINE, lambda record: f"joined ({record.get('how')}), {_amount(record.get('members'))} count"),
    "leave": (NOTE, lambda record: f"left{_because(record)}; {_amount(record.get('members'))} count"),
    "restarted": (NOTE, _restarted),
    "standby": (NOTE, _standby),
    "absent": (
        TROUBLE,
        lambda record: f"absent, silent for {_amount(record.get('silent_s'))} s: nobody waits for it any longer",
    ),
    "slack": (FINE, _slack),
    "outer_lr": (FINE, _outer),
    "return": (FINE, lambda record: f"returns at iteration {_amount(record.get('iteration'))}"),
    "clipped": (
        NOTE,
        lambda record: (
            f"updates scaled down in {_amount(record.get('rows'))} rows, up to "
            f"{_amount(record.get('largest'))} times too large"
        ),
    ),
    "quarantined": (TROUBLE, lambda record: f"quarantined{_because(record)}; its updates do not count"),
    "released": (FINE, lambda record: "released: its updates count again"),
    "waiting": (
        NOTE,
        lambda record: f"has waited {_amount(record.get('waited_s'))} s for {record.get('for')}",
    ),
    "served": (FINE, lambda record: "inferences are served"),
    "busy": (NOTE, lambda record: f"turned away{_because(record)}"),
    "task": (FINE, lambda record: f"{record.get('what')}: {record.get('detail')}"),
    "resume": (
        FINE,
        lambda record: (
            f"resumes: {_amount(record.get('delivered'))} frames had arrived, "
            f"{_amount(record.get('restored'))} are sent again"
        ),
    ),
    "recovered": (NOTE, _recovered),
    "drained": (FINE, lambda record: f"has sent and received everything, iteration {_amount(record.get('iteration'))}"),
    "dropped": (TROUBLE, _dropped),
    "error": (TROUBLE, lambda record: f"{record.get('error')}: {record.get('message')}"),
    "repeated": (TROUBLE, _repeated),
    "gap": (TROUBLE, _gap),
    "end": (NOTE, lambda record: f"ends{_because(record)}"),
}


def sentence(record: Record) -> tuple[str, str] | None:
    """How serious an event is ('info', 'note' or 'trouble') and what happened; ``None``: it is none for the log."""
    known = _TEXTS.get(record["event"])
    if known is None:
        return None
    level, text = known
    return level, visible(text(record))
