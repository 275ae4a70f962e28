"""Journals of short runs in virtual time, byte for byte: what a rebuild must not change, for every policy.

Amounts and updates are whole numbers, so that no sum depends on the order of a machine's additions. A change of
behaviour that is meant renews the table: ``python tests/test_journal_hashes.py`` prints it.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from functools import partial

import numpy as np
import pytest

from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.drivers.virtual import Device, Simulation, VirtualWorker
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.links.channel import CHANNELS
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training import ServerNode, WorkerNode

LAYOUT = Layout.from_shapes([("weight", (60, 32)), ("bias", (20,))])
LINKS = LinkSettings(frame_s=0.05, window_s=0.1)
SERVER = ServerSettings(expected_workers=3, gather_s=0.0, patience_s=5.0)
WORKER = WorkerSettings(patience_s=5.0)

POLICIES = (
    "bsp",
    "ssp:3",
    "asp",
    "rog:4",
    "rog:4?compat=artifact",
    "rog:4?granularity=tensor",
    "flown:3",
    "localsgd:4",
    "diloco:4",
    "rowcast",
    "rowcast:4",
    "rowcast:4?pulls=common",
    "rowcast:4?elastic=off&ahead=0",
    "bsp?row_weights=contributors",
    "rowcast:4?row_weights=contributors",
)

#: First 16 digits of the SHA-256 of all journals of a run.
TIMING_ONLY: dict[str, str] = {
    "bsp": "aee8f7c398c5567e",
    "ssp:3": "fe02b820d1795327",
    "asp": "f91c2d1c794066f4",
    "rog:4": "ff461131fc577256",
    "rog:4?compat=artifact": "226daa2e514efcf3",
    "rog:4?granularity=tensor": "48cddd6357c7a652",
    "flown:3": "e98b5b9bd12136d5",
    "localsgd:4": "7d604a0834760039",
    "diloco:4": "7d604a0834760039",
    "rowcast": "62146c41f36a3cc0",
    "rowcast:4": "9aa55bfb9665e416",
    "rowcast:4?pulls=common": "b8b1921a9c000b02",
    "rowcast:4?elastic=off&ahead=0": "161dc91ec6d365f0",
    "bsp?row_weights=contributors": "aee8f7c398c5567e",
    "rowcast:4?row_weights=contributors": "9aa55bfb9665e416",
}
CONTENT: dict[str, str] = {
    "bsp": "f698f07aff0eae4e",
    "ssp:3": "3fdb3ee0afd2469a",
    "asp": "3fdb3ee0afd2469a",
    "rog:4": "fe09f5b6008b9d5a",
    "rog:4?compat=artifact": "821009feb7755b2c",
    "rog:4?granularity=tensor": "cdf2a82aacb5a74f",
    "flown:3": "67026388d96041b1",
    "localsgd:4": "9fb4a2c7e96a7f12",
    "diloco:4": "9fb4a2c7e96a7f12",
    "rowcast": "d9525377167eb3db",
    "rowcast:4": "c1baf2d13c996ddf",
    "rowcast:4?pulls=common": "46de0f70b81a5300",
    "rowcast:4?elastic=off&ahead=0": "c1baf2d13c996ddf",
    "bsp?row_weights=contributors": "f698f07aff0eae4e",
    "rowcast:4?row_weights=contributors": "c1baf2d13c996ddf",
}
CUTS: dict[str, str] = {
    "bsp": "702b565f4b443774",
    "ssp:3": "579a75ff35016a32",
    "asp": "98902d669841ecae",
    "rog:4": "7af6c7d3436cae7f",
    "rog:4?compat=artifact": "4256e1835a8af243",
    "rog:4?granularity=tensor": "53cae87f36a2e120",
    "flown:3": "74ba7b73ec20c4af",
    "localsgd:4": "8fd1dd1efdf1b5df",
    "diloco:4": "03150aa100b6b658",
    "rowcast": "a4f41353f070e939",
    "rowcast:4": "faae465920f28268",
    "rowcast:4?pulls=common": "aa7c434acec511e9",
    "rowcast:4?elastic=off&ahead=0": "e5bace62e07b9dab",
    "bsp?row_weights=contributors": "ff5a7119d06f9d51",
    "rowcast:4?row_weights=contributors": "6c578a81e4251d8f",
}


def traces():
    """Links that fade, the first one down to nothing for four seconds."""
    for index in range(3):
        times = np.arange(0.0, 40.0, 2.0)
        rates = 4e4 * (1 + (np.arange(20) * (index + 3)) % 7)
        if index == 0:
            rates[6:8] = 0.0
        yield Trace(times, rates, f"link-{index}", loop=True, duration_s=40.0)


def team_of(policy, journal, **options):
    entropy = random.Random(1).randbytes
    server = ServerNode(
        parse_policy(policy), settings=SERVER, link_settings=LINKS, journal=journal("server"), entropy=entropy
    )
    return Simulation(server, channel=CHANNELS["airtime"](), **options), entropy


def timing_run(policy, journal, *, cut=False):
    """40 s of three robots of which only the time matters."""
    simulation, entropy = team_of(policy, journal)
    layout = LAYOUT.timing_only()
    amounts = (1 + np.arange(layout.rows) % 5).astype(np.float32)
    for index, trace in enumerate(traces()):
        name = f"robot-{index}"
        node = WorkerNode(
            name,
            layout,
            layout.zeros(),
            settings=WORKER,
            link_settings=LINKS,
            journal=journal(name),
            entropy=entropy,
        )
        device = Device(0.4 + 0.2 * index, spread=0.2, seed=index)
        simulation.add_timing_only(node, device, trace, trace, amounts=amounts)
    if cut:
        simulation.clock.at(9.0, partial(simulation.cut, "robot-0", 3.0))
        simulation.clock.at(21.5, partial(simulation.cut, "robot-1", 0.7))
    simulation.run(40.0)


def content_run(policy, journal):
    """Eight iterations of three robots, which deliver all and say goodbye."""
    code = "&codec=raw" if "?" in policy else "?codec=raw"
    simulation, entropy = team_of(policy + code, journal)

    def train(worker, amount):
        worker.start(LAYOUT, LAYOUT.zeros())
        for _ in range(8):
            with worker.hold():
                proposed = worker.replica - np.float32(amount)
                worker.accumulate([proposed[spec.start : spec.stop] for spec in LAYOUT.tensors], 1.0)
            worker.exchange()
        worker.finish()

    for index, trace in enumerate(traces()):
        name = f"robot-{index}"
        worker = VirtualWorker(
            simulation,
            name,
            Device(0.4 + 0.2 * index, spread=0.2, seed=index),
            (trace, trace),
            entropy=entropy,
            settings=WORKER,
            link_settings=LINKS,
            journal=journal(name),
        )
        worker.train(partial(train, worker, 2**index))
    simulation.run(math.inf)
    assert simulation.finished


def digest(run, policy):
    """The hash of all that a run records."""
    journals: dict[str, list[dict]] = {}

    def journal(name):
        return Journal(name, journals.setdefault(name, []).append)

    run(policy, journal)
    text = "\n".join(json.dumps(record) for name in sorted(journals) for record in journals[name])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


RUNS = {
    "TIMING_ONLY": (timing_run, TIMING_ONLY),
    "CONTENT": (content_run, CONTENT),
    "CUTS": (partial(timing_run, cut=True), CUTS),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", RUNS)
def test_journals_are_the_same_to_the_byte(kind, policy):
    run, table = RUNS[kind]
    assert digest(run, policy) == table[policy]


if __name__ == "__main__":
    for kind, (run, _) in RUNS.items():
        print(f"{kind}: dict[str, str] = {{")
        for policy in POLICIES:
            print(f'    "{policy}": "{digest(run, policy)}",')
        print("}")
