"""What holds for every test."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest


def pytest_configure() -> None:
    """Ctrl-C interrupts here and in the processes that tests start.

    A shell that is no terminal's starts what it runs in the background with SIGINT ignored, and children inherit that:
    a test that interrupts something would wait for it until its limit.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def opened() -> Iterator[Callable[..., Any]]:
    """Opens a source of samples, behind positions if some are given; it is closed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def open_source(source: Any, *positions: Any) -> Any:
            stack.callback(source.close)
            source.open(*positions)
            return source

        yield open_source
