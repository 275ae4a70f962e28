"""One recorded session, and each of its bytes damaged in turn: the team always finishes, and nothing is lost.

The session runs in virtual time through the bytes of the wire format, so the same script gives the same bytes, up to
the one that is damaged. ``python tests/bitflips.py`` goes through all of them (``make fuzz``), the suite through a
sample.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import random
import sys
import time

import numpy as np

from rowcast.config import ServerSettings
from rowcast.rows import Layout
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.wire import HEADER_BYTES

#: Exact sums: updates are whole numbers, sent as they are, each counted in full.
POLICIES = ("bsp?codec=raw", "rog:4?codec=raw", "rowcast:4?codec=raw&auto_lr=off&anticipate=off")
DIRECTIONS = ("up", "down")

#: 10 rows and 34 elements.
LAYOUT = Layout.from_shapes([("weight", (8, 3)), ("bias", (9,)), ("scale", ())], small_tensor=1)

#: Whose link is damaged; it is the first one, which brings the parameters.
HIT = "robot0"
UPDATES = {HIT: 1, "robot1": 100}
STEPS = 3
#: When the link is cut, so that the session has a return in it.
CUT_AT_S = 0.12
#: Nothing here takes longer in virtual time unless it hangs.
LIMIT_S = 300.0


def team_of(policy, *, cut=True):
    """Two robots that make three steps each; one of them loses its link once, if there is to be a cut."""
    start = np.arange(LAYOUT.elements, dtype=np.float32)
    robots = [
        ScriptedWorker(
            name,
            lambda n, x, update=update: np.full(LAYOUT.elements, update, dtype=np.float32),
            iterations=STEPS,
            compute_s=0.05,
            rate_bps=1e6,
            delay_s=0.002,
            weight=1.0,
            initial=start,
        )
        for name, update in UPDATES.items()
    ]
    team = VirtualTeam(LAYOUT, policy, robots, server_settings=ServerSettings(expected_workers=2))
    if cut:
        team.at(CUT_AT_S, lambda: team.cut(HIT, 0.1))
    return team


def check(team):
    """Everybody has finished, and all that was computed was delivered, once."""
    assert not team.failures, team.failures
    assert team.finished, {name: (one.node.state, one.node.iteration) for name, one in team.workers.items()}
    expected = np.arange(LAYOUT.elements) - STEPS * sum(UPDATES.values())
    assert np.array_equal(team.server.parameters, expected), team.server.parameters
    for name, one in team.workers.items():
        assert np.array_equal(one.node.replica, expected), (name, one.node.replica)
        assert not one.node.pending.any(), name


@functools.cache
def frames_of(policy):
    """The frames that an undisturbed session carries on the link of :data:`HIT`: (first byte, length), by direction."""
    team = team_of(policy)
    worker = team.workers[HIT]
    # One piece for each connection: a cut may leave a part of a frame. The first one was made before we could look.
    pieces = {direction: [bytearray()] for direction in DIRECTIONS}
    link_up = worker.node.link_up

    def recorded(direction, deliver):
        def record(data):
            pieces[direction][-1] += data
            deliver(data)

        return record

    def begin(now, link):
        for direction in DIRECTIONS:
            pieces[direction].append(bytearray())
        link_up(now, link)

    for direction in DIRECTIONS:
        pipe = worker.pipe(direction)
        pipe.deliver = recorded(direction, pipe.deliver)
    worker.node.link_up = begin
    team.run(LIMIT_S)
    check(team)
    assert all(len(found) == 2 for found in pieces.values()), "expected one return"
    return {direction: _cut(found) for direction, found in pieces.items()}


def _cut(pieces):
    frames, first = [], 0
    for piece in pieces:
        place = 0
        while place < len(piece):
            length = HEADER_BYTES + int.from_bytes(piece[place + 4 : place + 8], "big")
            frames.append((first + place, min(length, len(piece) - place)))
            place += length
        first += len(piece)
    return frames


def bytes_of(policy, direction):
    """Length of the session in one direction."""
    first, length = frames_of(policy)[direction][-1]
    return first + length


def flip(policy, direction, byte, mask):
    """Run the session with one byte damaged; raises AssertionError where that costs more than time."""
    team = team_of(policy)
    team.damage(HIT, direction, byte, mask)
    _finish(team, f"{policy}, {direction}, byte {byte}, mask {mask:#x}")


def lose(policy, direction, first, count):
    """Run the session with some bytes swallowed, while the connection stands."""
    team = team_of(policy)
    team.lose(HIT, direction, first, count)
    _finish(team, f"{policy}, {direction}, {count} bytes lost at {first}")


def _finish(team, what):
    try:
        team.run(LIMIT_S)
        check(team)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error


def cases(*, every_bit=False, seed=0):
    """All of them: each byte with one bit (or each bit) flipped; each frame lost; a piece lost at each byte."""
    chance = random.Random(seed)
    for policy, direction in itertools.product(POLICIES, DIRECTIONS):
        for byte in range(bytes_of(policy, direction)):
            for bit in range(8) if every_bit else (chance.randrange(8),):
                yield flip, (policy, direction, byte, 1 << bit)
            yield lose, (policy, direction, byte, chance.randrange(1, 60))
        for first, length in frames_of(policy)[direction]:
            yield lose, (policy, direction, first, length)


def count_of(*, every_bit=False):
    """How many cases there must be: each byte flipped and swallowed, each frame lost."""
    sides = list(itertools.product(POLICIES, DIRECTIONS))
    runs = 9 if every_bit else 2
    return sum(runs * bytes_of(*side) + len(frames_of(side[0])[side[1]]) for side in sides)


def _run(case):
    function, arguments = case
    try:
        function(*arguments)
    except AssertionError as error:
        return str(error)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every-bit", action="store_true", help="eight runs for each byte instead of one")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    count, wrong = 0, []
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for what in pool.imap_unordered(_run, cases(every_bit=options.every_bit, seed=options.seed), chunksize=32):
            count += 1
            if what is not None:
                wrong.append(what)
                print(what, flush=True)
    print(f"{count} damaged sessions in {time.monotonic() - begun:.0f} s: {len(wrong)} went wrong")
    if count < max(count_of(every_bit=options.every_bit), 1):
        sys.exit("expected each byte of each session to be damaged")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
