"""Reads a meter beside a training, and tells the team."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from rowcast.energy import Meter
from rowcast.energy.live import LiveEnergy, Told
from rowcast.errors import RowcastError

__all__ = ["MeteredTeam", "metered"]

log = logging.getLogger("rowcast")

#: A meter of power is read so often (s); figures are told so often (s).
READ_EVERY_S, TELL_EVERY_S = 0.1, 1.0
#: So long a read may take that is under way at the end (s): jetson-stats has a value each second at the least.
LIMIT_S = 5.0


class MeteredTeam(Protocol):
    """What of a team is needed: a :class:`rowcast.Team` is one."""

    name: str

    def report(self, **metrics: float) -> None: ...

    def note(self, what: str, detail: str) -> None: ...


@contextlib.contextmanager
def metered(
    team: MeteredTeam, meter: Meter, *, read_every_s: float = READ_EVERY_S, tell_every_s: float = TELL_EVERY_S
) -> Iterator[None]:
    """While entered, ``meter`` is read on a thread of its own, and its figures are reported to ``team``.

    They are ``power_w`` (W, mean since the last one) and ``energy_j`` (J since this was entered), see
    :mod:`rowcast.energy.live`; so they are in the journal, and the server shows them. What is measured is noted at the
    beginning. A meter that fails costs its figures and one warning, not the training.

    Args:
        team: this robot's place in a team that it has joined.
        meter: proved already, as :func:`rowcast.energy.open_meter` gives it; the caller closes it.
        read_every_s, tell_every_s: how often it is read, and told (s).
    """
    live = LiveEnergy(meter, tell_every_s)
    ended = threading.Event()

    def follow() -> None:
        try:
            while not ended.wait(read_every_s):
                told = live.sample(time.monotonic())
                if told is not None:
                    _tell(team, told)
        except RowcastError as error:
            # The team is gone; the training itself is told so where it meets it.
            log.warning("%s: its energy is not told any longer: %s", team.name, error)

    thread = threading.Thread(target=follow, name="rowcast-meter", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LIMIT_S)


def _tell(team: MeteredTeam, told: Told) -> None:
    if told.happened:
        team.note("energy", told.happened)
    if told.trouble:
        log.warning("%s: %s", team.name, told.happened)
    if told.figures:
        team.report(**told.figures)
