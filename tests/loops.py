"""Teams of real optimizers in virtual time; shared by the tests of what training comes to."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable

from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.drivers.virtual import Device, Simulation, VirtualWorker
from rowcast.links import Trace
from rowcast.sync import parse_policy
from rowcast.training import ServerNode


def run_team(
    policy: str,
    robots: int,
    loop: Callable[[int, VirtualWorker], None],
    *,
    rate_bps: float = 2e4,
    compute_s: float = 1.0,
    spread: float = 0.2,
    settings: WorkerSettings | None = None,
    link_settings: LinkSettings | None = None,
) -> tuple[ServerNode, list[VirtualWorker]]:
    """Run a training loop in each of so many workers to the end.

    Args:
        loop: the training loop of a robot: its index and its worker.
        rate_bps: of each link, both directions.
        compute_s, spread: see :class:`Device`.
        settings, link_settings: of each worker.

    Returns:
        The server and the workers.
    """
    entropy = random.Random(0)
    server = ServerNode(
        parse_policy(policy), settings=ServerSettings(expected_workers=robots), entropy=entropy.randbytes
    )
    simulation = Simulation(server)
    trace, ended = Trace.constant(rate_bps), []
    workers = []

    def whole(index: int, worker: VirtualWorker) -> None:
        loop(index, worker)
        ended.append(index)

    for index in range(robots):
        device = Device(compute_s, spread, seed=index)
        worker = VirtualWorker(
            simulation,
            f"robot-{index}",
            device,
            (trace, trace),
            entropy=entropy.randbytes,
            settings=settings,
            link_settings=link_settings,
        )
        worker.train(functools.partial(whole, index, worker))
        workers.append(worker)
    simulation.run(math.inf)
    assert sorted(ended) == list(range(robots)), "not everybody finished"
    return server, workers
