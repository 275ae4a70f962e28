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
from rowcast.drivers.virtual import Device, Simulation, VirtualSeat
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
HOLLOW: dict[str, str] = {
    "bsp": "fe528ef38c6a2cf6",
    "ssp:3": "d713c82fb78118fd",
    "asp": "e91a4b808973d34b",
    "rog:4": "b095cba3dbea929d",
    "rog:4?compat=artifact": "bd9b029682818d8a",
    "rog:4?granularity=tensor": "e8e1d8cc70e8f2a2",
    "flown:3": "86d5d49e758dea91",
    "localsgd:4": "d491bd1dbe0060c2",
    "diloco:4": "d491bd1dbe0060c2",
    "rowcast": "8c2dd692d7dd377d",
    "rowcast:4": "6f44ce472e3b872a",
    "rowcast:4?pulls=common": "0c783ab628d25c37",
    "rowcast:4?elastic=off&ahead=0": "c347b56149216afb",
    "bsp?row_weights=contributors": "fe528ef38c6a2cf6",
    "rowcast:4?row_weights=contributors": "6f44ce472e3b872a",
}
CONTENT: dict[str, str] = {
    "bsp": "6a1db54d4fc81e16",
    "ssp:3": "a2993f731abc7e25",
    "asp": "a2993f731abc7e25",
    "rog:4": "87364bf5525a1a27",
    "rog:4?compat=artifact": "a789130e0c5023ed",
    "rog:4?granularity=tensor": "1e842eb5466158df",
    "flown:3": "0c8df1a667f19aa7",
    "localsgd:4": "f11f2626a5a35162",
    "diloco:4": "f11f2626a5a35162",
    "rowcast": "8c066c39fd9412f8",
    "rowcast:4": "b5ee30127a89dafd",
    "rowcast:4?pulls=common": "2804a43d88dc51cf",
    "rowcast:4?elastic=off&ahead=0": "b5ee30127a89dafd",
    "bsp?row_weights=contributors": "6a1db54d4fc81e16",
    "rowcast:4?row_weights=contributors": "b5ee30127a89dafd",
}
CUTS: dict[str, str] = {
    "bsp": "95371b6fef41584b",
    "ssp:3": "d294650508510c2b",
    "asp": "1b291c8c88318222",
    "rog:4": "744b5ba64545ef6a",
    "rog:4?compat=artifact": "9c1bbf2df585fe23",
    "rog:4?granularity=tensor": "297b113d82f410ff",
    "flown:3": "20d8be6121a41345",
    "localsgd:4": "c48376e7fe4ceb94",
    "diloco:4": "f96fdd84bbeb6324",
    "rowcast": "70b15b580e73e513",
    "rowcast:4": "d6c09bf42421afcf",
    "rowcast:4?pulls=common": "c8384c44347a21ce",
    "rowcast:4?elastic=off&ahead=0": "7bb2170dd6b71ed9",
    "bsp?row_weights=contributors": "40a2d98ccc1f21a2",
    "rowcast:4?row_weights=contributors": "b626b824cae9a91a",
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


def hollow_run(policy, journal, *, cut=False):
    """40 s of three robots of which only the time matters."""
    simulation, entropy = team_of(policy, journal)
    layout = LAYOUT.hollow()
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
        simulation.add_hollow(node, device, trace, trace, amounts=amounts)
    if cut:
        simulation.clock.at(9.0, partial(simulation.cut, "robot-0", 3.0))
        simulation.clock.at(21.5, partial(simulation.cut, "robot-1", 0.7))
    simulation.run(40.0)


def content_run(policy, journal):
    """Eight iterations of three robots, which deliver all and say goodbye."""
    code = "&codec=raw" if "?" in policy else "?codec=raw"
    simulation, entropy = team_of(policy + code, journal)

    def train(seat, amount):
        seat.start(LAYOUT, LAYOUT.zeros())
        for _ in range(8):
            with seat.hold():
                proposed = seat.replica - np.float32(amount)
                seat.accumulate([proposed[spec.start : spec.stop] for spec in LAYOUT.tensors], 1.0)
            seat.exchange()
        seat.finish()

    for index, trace in enumerate(traces()):
        name = f"robot-{index}"
        seat = VirtualSeat(
            simulation,
            name,
            Device(0.4 + 0.2 * index, spread=0.2, seed=index),
            (trace, trace),
            entropy=entropy,
            settings=WORKER,
            link_settings=LINKS,
            journal=journal(name),
        )
        seat.train(partial(train, seat, 2**index))
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
    "HOLLOW": (hollow_run, HOLLOW),
    "CONTENT": (content_run, CONTENT),
    "CUTS": (partial(hollow_run, cut=True), CUTS),
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
