"""What a process does once, as it starts: it loads libraries."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["loading"]


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Nothing is looked for that could be freed while libraries are loaded within.

    To load PyTorch makes some hundred thousand objects which stay. To look through them again and again takes a quarter
    of the time that a robot needs until it is ready.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
