"""A team of which only the timing is simulated: rows have sizes and ages, and no content."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from rowcast.config import LinkSettings
from rowcast.drivers.virtual import Device, ServerCosts, Simulation
from rowcast.experiment.runners.virtual import CALM_WORKER, calm_server
from rowcast.experiment.settings import VIRTUAL_LINKS
from rowcast.journal import Journal
from rowcast.links import Trace, WideArea
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training import ServerNode, WorkerNode

__all__ = ["timing_team"]


def timing_team(
    policy: str,
    layout: Layout,
    devices: Sequence[Device],
    links: Sequence[tuple[Trace, Trace]] | WideArea,
    journals: Sequence[Journal],
    *,
    link_settings: LinkSettings = VIRTUAL_LINKS,
    costs: ServerCosts | None = None,
    seed: int = 0,
) -> Simulation:
    """The unchanged nodes on the driver in virtual time, ready to run.

    Args:
        policy: policy text.
        layout: the model's rows.
        devices: what computes, one for each worker.
        links: up and down, one pair for each worker; or links between cities, with their delays.
        journals: where each worker's events go, one for each worker.
        link_settings: frames and windows.
        costs: the server's own work.
        seed: of what is random (nonces).
    """
    timing = layout.timing_only()
    entropy = random.Random(seed)
    server = ServerNode(
        parse_policy(policy),
        settings=calm_server(len(devices)),
        link_settings=link_settings,
        journal=Journal("server", lambda record: None),
        entropy=entropy.randbytes,
    )
    delays = {}
    if isinstance(links, WideArea):
        delays = {f"robot-{index}": links.delay_s(index) for index in range(len(devices))}
        links = [(links.trace(index), links.trace(index)) for index in range(len(devices))]
    simulation = Simulation(server, costs=costs, delay_s=delays)
    for index, (device, (up, down), journal) in enumerate(zip(devices, links, journals, strict=True)):
        node = WorkerNode(
            f"robot-{index}",
            timing,
            # What the server holds once it was seeded: the others need not be sent it.
            timing.zeros() + np.float32(1),
            settings=CALM_WORKER,
            link_settings=link_settings,
            journal=journal,
            entropy=entropy.randbytes,
        )
        simulation.add_timing_only(node, device, up, down)
    return simulation
