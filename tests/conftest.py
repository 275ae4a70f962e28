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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread, so that sums are in the same order each time."""
    from rowcast.experiment.runners.virtual import one_thread

    with one_thread():
        yield


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting models of whoever runs the tests are neither used nor kept."""
    monkeypatch.setenv("ROWCAST_CACHE", "off")
