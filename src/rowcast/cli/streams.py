"""Standard output and error that do not end what they tell about."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from rich.console import Console
from rich.text import Text

from rowcast.errors import visible

__all__ = ["PlainConsole", "Steady", "steady_output"]


class PlainConsole(Console):
    """A console that shows text as it is: what others have named is no markup, no link, no emoji and no escape code."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as text for the screen; its lines stay lines."""
        return super().render_str("\n".join(visible(line, 4000) for line in text.split("\n")), **options)


class Steady:
    """A text stream whose writing never fails: hours of training do not end because a log is on a full disk.

    Characters that the terminal's encoding lacks are written as escapes, for the same reason.

    Attributes:
        failure: the last error, or ``None``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        """Write, or remember why not."""
        with self._remembering():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or remember why not."""
        with self._remembering():
            self._stream.flush()

    def finish(self) -> None:
        """Flush at the end; what cannot be written is dropped, so that the interpreter does not try again."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
        except ValueError:
            if not self._stream.closed:
                raise
            self.failure = OSError(errno.EBADF, "it was closed")


@contextlib.contextmanager
def steady_output() -> Iterator[Steady]:
    """Standard output and error are steady while entered; gives standard output."""
    before = sys.stdout, sys.stderr
    streams = Steady(before[0]), Steady(before[1])
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in streams)
    try:
        yield streams[0]
    finally:
        for stream in streams:
            stream.finish()
        sys.stdout, sys.stderr = before
