"""Texts that travel or are recorded: cut where they are made, so that none outgrows a message or a journal."""

from __future__ import annotations

__all__ = ["TEXT_BYTES", "shorten"]

#: A text that one node tells another, or that it records of another.
TEXT_BYTES = 1000


def shorten(text: str, most_bytes: int = TEXT_BYTES) -> str:
    """``text`` in at most ``most_bytes`` bytes of UTF-8, the end left out if need be; always fit to be sent."""
    content = text.encode(errors="backslashreplace")
    if len(content) <= most_bytes:
        return content.decode()
    return content[: most_bytes - 3].decode(errors="ignore") + "..."
