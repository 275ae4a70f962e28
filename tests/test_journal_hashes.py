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
    "bsp": "d8f8270f89341147",
    "ssp:3": "e51ddf9f88e08d5a",
    "asp": "38b556769ae99483",
    "rog:4": "3ea017da78744a76",
    "rog:4?compat=artifact": "4e15f8534abee5aa",
    "rog:4?granularity=tensor": "79ac5cd568f9ff5d",
    "flown:3": "70dab743ec22b8b6",
    "localsgd:4": "85d6563debdcf50c",
    "diloco:4": "85d6563debdcf50c",
    "rowcast": "ede13909732fb43d",
    "rowcast:4": "3bf4ebae6328961e",
    "rowcast:4?pulls=common": "d7070e0a870792d8",
    "rowcast:4?elastic=off&ahead=0": "d17f8590028047d6",
    "bsp?row_weights=contributors": "d8f8270f89341147",
    "rowcast:4?row_weights=contributors": "3bf4ebae6328961e",
}
CONTENT: dict[str, str] = {
    "bsp": "f3b5110dbd4e9f83",
    "ssp:3": "e9e16ddf3d3e916e",
    "asp": "e9e16ddf3d3e916e",
    "rog:4": "bdbebb6fa0b03bbc",
    "rog:4?compat=artifact": "0318a320aad7f67b",
    "rog:4?granularity=tensor": "626a96dcd9e7c4cf",
    "flown:3": "b3a7d787bd07ce7a",
    "localsgd:4": "645e81f463fa4dd3",
    "diloco:4": "645e81f463fa4dd3",
    "rowcast": "81a5795ee803ce3b",
    "rowcast:4": "af42d05dfa352e52",
    "rowcast:4?pulls=common": "bd4c306f6b284047",
    "rowcast:4?elastic=off&ahead=0": "af42d05dfa352e52",
    "bsp?row_weights=contributors": "f3b5110dbd4e9f83",
    "rowcast:4?row_weights=contributors": "af42d05dfa352e52",
}
CUTS: dict[str, str] = {
    "bsp": "d643c9b049fc7ac8",
    "ssp:3": "2f47a4c0b6170339",
    "asp": "06e1c60d55ae5704",
    "rog:4": "c143c0bc42e5008f",
    "rog:4?compat=artifact": "920461e59d6e5217",
    "rog:4?granularity=tensor": "35dad48a7e39bce0",
    "flown:3": "da824501866735b3",
    "localsgd:4": "0934b9600e56c188",
    "diloco:4": "f21cb8a9232e99f9",
    "rowcast": "b2ea37267b2dfb4f",
    "rowcast:4": "2f531363854e32eb",
    "rowcast:4?pulls=common": "c92c41ec3612982d",
    "rowcast:4?elastic=off&ahead=0": "0f735fa50efca356",
    "bsp?row_weights=contributors": "a269006bc30a3449",
    "rowcast:4?row_weights=contributors": "ad701dbaf41a855f",
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
