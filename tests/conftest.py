"""What holds for every test."""

import signal


def pytest_configure() -> None:
    """Ctrl-C interrupts here and in the processes that tests start.

    A shell that is no terminal's starts what it runs in the background with SIGINT ignored, and children inherit that:
    a test that interrupts something would wait for it until its limit.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
