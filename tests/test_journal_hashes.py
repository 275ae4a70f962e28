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
    "bsp": "79779eb63ed71ec3",
    "ssp:3": "621d5b66e5d79062",
    "asp": "627b563f02273d06",
    "rog:4": "3ea017da78744a76",
    "rog:4?compat=artifact": "ec4c45466773fc20",
    "rog:4?granularity=tensor": "b91b84695c3f30d7",
    "flown:3": "972c3634511f5fd8",
    "localsgd:4": "aa1877a4dc3baa43",
    "diloco:4": "aa1877a4dc3baa43",
    "rowcast": "11b94676e8d71f4e",
    "rowcast:4": "8c0e6f4391d13806",
    "rowcast:4?pulls=common": "2c353ff078f99dd6",
    "rowcast:4?elastic=off&ahead=0": "6ebf46054ad1572e",
    "bsp?row_weights=contributors": "79779eb63ed71ec3",
    "rowcast:4?row_weights=contributors": "8c0e6f4391d13806",
}
CONTENT: dict[str, str] = {
    "bsp": "073c9c848db7790f",
    "ssp:3": "89d37cb502d935b3",
    "asp": "89d37cb502d935b3",
    "rog:4": "241ae109747a39f6",
    "rog:4?compat=artifact": "2043bf26c194a3a3",
    "rog:4?granularity=tensor": "5c88c83c26aeaaa9",
    "flown:3": "eae6db9b2fc67171",
    "localsgd:4": "66cc0c9e58cd55ee",
    "diloco:4": "66cc0c9e58cd55ee",
    "rowcast": "38ba4299a40f358b",
    "rowcast:4": "4ae45367c13a64da",
    "rowcast:4?pulls=common": "b53f98bf4b5384d4",
    "rowcast:4?elastic=off&ahead=0": "4ae45367c13a64da",
    "bsp?row_weights=contributors": "073c9c848db7790f",
    "rowcast:4?row_weights=contributors": "4ae45367c13a64da",
}
CUTS: dict[str, str] = {
    "bsp": "6ad31a7fe1b052bd",
    "ssp:3": "e3ae187d8811dbe4",
    "asp": "b32432d51d64e030",
    "rog:4": "c143c0bc42e5008f",
    "rog:4?compat=artifact": "9549ebd3972b07af",
    "rog:4?granularity=tensor": "b0e21743ad889493",
    "flown:3": "553ae0ca72ac4c8e",
    "localsgd:4": "91d293b0a7c410af",
    "diloco:4": "aef9ab39e0b8c375",
    "rowcast": "836fe183c60bed95",
    "rowcast:4": "31fa140c344975b6",
    "rowcast:4?pulls=common": "1d37e2f390578672",
    "rowcast:4?elastic=off&ahead=0": "66178d3d65c9d526",
    "bsp?row_weights=contributors": "fa6f08ff8251b09a",
    "rowcast:4?row_weights=contributors": "b8bf070e3f1a936f",
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
