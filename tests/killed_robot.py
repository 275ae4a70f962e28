"""A robot in a process of its own, which kills itself in a phase of a step; see ``test_state_dir.py``.

Arguments: port of the server, name, folder of its state, journal, steps, update, phase (or "never"), and how often that
is passed before.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

from live import IMPATIENT, LAYOUT, start_of
from rowcast.drivers.kept import arrays
from rowcast.drivers.kept.keeper import Keeper
from rowcast.drivers.sockets import Endpoint, Security, Team
from rowcast.journal import open_journal


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Killer(Keeper):
    """Dies when it is time to. There is a picture for each step: it waits for one before the next, and before it dies.

    Only the phase "picture" dies while one is being written; there nothing is computed meanwhile.
    """

    phase, left = "never", 0

    def note(self, note):
        super().note(note)
        self.passed(type(note).__name__)

    def turn(self, now, node):
        self._await_picture()
        super().turn(now, node)
        if self.phase == "picture":
            self._await_picture()

    def passed(self, phase):
        if phase == self.phase:
            Killer.left -= 1
            if self.left == 0:
                self.die()

    def die(self):
        self._await_picture()
        die()


def main(port, name, folder, journal, steps, update, phase, left):
    Killer.phase, Killer.left = phase, int(left)
    sys.modules["rowcast.drivers.sockets.team"].Keeper = Killer
    write = arrays._write

    def torn(file, data):
        if phase == "picture" and len(data) > 1000:
            Killer.left -= 1
            if Killer.left <= 0:
                write(file, memoryview(data)[: len(data) // 2])
                die()
        write(file, data)

    arrays._write = torn
    with open_journal(name, journal) as records:
        team = Team(
            Endpoint("127.0.0.1", int(port), Security(None)),
            name=name,
            settings=replace(IMPATIENT, state_limit_s=0.0),
            state_dir=folder,
            journal=records,
        )
        team.start(LAYOUT, start_of().copy())
        while team.iteration < int(steps):
            proposed = team.replica - float(update)
            team.exchange(([proposed[spec.start : spec.stop] for spec in LAYOUT.tensors], 1.0, team.replica.copy()))
            if phase == "computing" and team.iteration == int(left):
                team._keeper.die()
        team.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
