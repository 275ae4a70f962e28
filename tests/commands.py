"""The ``rowcast`` command in this process."""

from __future__ import annotations

import contextlib
import logging
import signal
import warnings
from collections.abc import Callable, Iterator

import pytest

from rowcast.cli import main

__all__ = ["Run", "running"]

#: What a command is given, and its exit code, standard output and standard error.
Run = Callable[..., tuple[int, str, str]]


@contextlib.contextmanager
def running(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *group: str) -> Iterator[Run]:
    """Runs commands (of a group); afterwards log and signals are as they were."""
    log = logging.getLogger("rowcast")
    before = (list(log.handlers), log.level, log.propagate, signal.getsignal(signal.SIGTERM))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([*group, *(str(word) for word in words)])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    try:
        yield run
    finally:
        log.handlers, log.level, log.propagate = before[:3]
        signal.signal(signal.SIGTERM, before[3])
