"""Sentences from the other side, as they may be shown to people."""

from __future__ import annotations

import msgspec

from rowcast.errors import visible
from rowcast.wire import Busy, Leave, Message, Refusal, Waiting
from rowcast.wire.fields import Control

__all__ = ["readable"]

#: Fields that people read; all else in a message is compared, not shown.
_SENTENCES: dict[type[Message], tuple[str, ...]] = {
    Leave: ("cause",),
    Refusal: ("code", "text"),
    Waiting: ("reason",),
    Busy: ("cause",),
}


def readable(message: Message) -> Message:
    """The message, its sentences made :func:`~rowcast.errors.visible`: they end in logs, errors and displays."""
    names = _SENTENCES.get(type(message))
    if names is None:
        return message
    assert isinstance(message, Control)
    return msgspec.structs.replace(message, **{name: visible(getattr(message, name)) for name in names})
