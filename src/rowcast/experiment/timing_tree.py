"""A tree of relays of which only the timing is simulated."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from rowcast.config import LinkSettings
from rowcast.drivers.virtual import Device, TreeSimulation
from rowcast.errors import ConfigError
from rowcast.experiment.runners.virtual import CALM_WORKER, calm_server
from rowcast.experiment.settings import VIRTUAL_LINKS
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training import ServerNode, WorkerNode
from rowcast.training.relay import RelayNode

__all__ = ["timing_tree"]


def timing_tree(
    policy: str,
    layout: Layout,
    devices: Sequence[Device],
    links: Sequence[tuple[Trace, Trace]],
    uplinks: Sequence[tuple[Trace, Trace]],
    journals: Sequence[Journal],
    *,
    link_settings: LinkSettings = VIRTUAL_LINKS,
    seed: int = 0,
) -> TreeSimulation:
    """The unchanged nodes of a tree of two levels on the driver in virtual time, ready to run.

    Args:
        policy: policy text; one that streams rows.
        layout: the model's rows.
        devices: what computes, one for each worker.
        links: up and down, one pair for each worker.
        uplinks: up and down, one pair for each relay. Each has as many workers: the first ones are below the first.
        journals: where each worker's events go, one for each worker.
        link_settings: frames and windows, of all links.
        seed: of what is random (nonces).

    Raises:
        ConfigError: workers that cannot be shared among the relays evenly, or a policy that a relay cannot sum up for.
    """
    relays = len(uplinks)
    each = len(devices) // max(relays, 1)
    if relays < 1 or each < 1 or each * relays != len(devices):
        raise ConfigError(
            f"tree: expected 1 relay or more and as many workers below each, got {relays} relays and {len(devices)} "
            "workers; change one of the two"
        )
    parsed, timing, entropy = parse_policy(policy), layout.timing_only(), random.Random(seed)
    server = ServerNode(
        parsed,
        settings=calm_server(relays),
        link_settings=link_settings,
        journal=_unkept("server"),
        entropy=entropy.randbytes,
    )
    tree = TreeSimulation(server)
    for number in range(relays):
        node = RelayNode(
            f"relay-{number}",
            parsed,
            settings=calm_server(each),
            worker_settings=CALM_WORKER,
            link_settings=link_settings,
            journal=_unkept(f"relay-{number}"),
            entropy=entropy.randbytes,
        )
        below = tree.add_relay(node, *uplinks[number])
        for index in range(number * each, (number + 1) * each):
            worker = WorkerNode(
                f"robot-{index}",
                timing,
                timing.zeros() + np.float32(1),  # what the server holds once it was seeded
                settings=CALM_WORKER,
                link_settings=link_settings,
                journal=journals[index],
                entropy=entropy.randbytes,
            )
            below.add_timing_only(worker, devices[index], *links[index])
    return tree


def _unkept(name: str) -> Journal:
    return Journal(name, lambda record: None)
