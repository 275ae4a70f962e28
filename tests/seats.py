"""Teams of real optimizers in virtual time; shared by the tests of what training comes to."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable

from rowcast.config import ServerSettings
from rowcast.drivers.virtual import Device, Simulation, VirtualSeat
from rowcast.links import Trace
from rowcast.sync import parse_policy
from rowcast.training import ServerNode


def run_team(
    policy: str,
    robots: int,
    loop: Callable[[int, VirtualSeat], None],
    *,
    rate_bps: float = 2e4,
    compute_s: float = 1.0,
    spread: float = 0.2,
) -> tuple[ServerNode, list[VirtualSeat]]:
    """Run a training loop in each of so many seats to the end.

    Args:
        loop: the training loop of a robot: its index and its seat.
        rate_bps: of each link, both directions.
        compute_s, spread: see :class:`Device`.

    Returns:
        The server and the seats.
    """
    entropy = random.Random(0)
    server = ServerNode(
        parse_policy(policy), settings=ServerSettings(expected_workers=robots), entropy=entropy.randbytes
    )
    simulation = Simulation(server)
    trace, ended = Trace.constant(rate_bps), []
    seats = []

    def whole(index: int, seat: VirtualSeat) -> None:
        loop(index, seat)
        ended.append(index)

    for index in range(robots):
        device = Device(compute_s, spread, seed=index)
        seat = VirtualSeat(simulation, f"robot-{index}", device, (trace, trace), entropy=entropy.randbytes)
        seat.train(functools.partial(whole, index, seat))
        seats.append(seat)
    simulation.run(math.inf)
    assert sorted(ended) == list(range(robots)), "not everybody finished"
    return server, seats
