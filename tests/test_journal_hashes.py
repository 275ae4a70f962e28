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
    "bsp": "b6d28da6641be4a5",
    "ssp:3": "a71986ee5c31ad7f",
    "asp": "441fd9d79e734062",
    "rog:4": "0635a718333647e6",
    "rog:4?compat=artifact": "57cf64c29257e1a5",
    "rog:4?granularity=tensor": "05d74531764697c6",
    "flown:3": "57adda9a0b5c21ba",
    "localsgd:4": "2006d3b0b5604e15",
    "diloco:4": "2006d3b0b5604e15",
    "rowcast": "4a4c48c3e813d082",
    "rowcast:4": "a4fc42f3a53a3a09",
    "rowcast:4?pulls=common": "efa16e1baeeea0c0",
    "rowcast:4?elastic=off&ahead=0": "e9bc34c3cce92119",
    "bsp?row_weights=contributors": "b6d28da6641be4a5",
    "rowcast:4?row_weights=contributors": "a4fc42f3a53a3a09",
}
CONTENT: dict[str, str] = {
    "bsp": "c73a2ccfd792eb5a",
    "ssp:3": "fad1407f838f72b6",
    "asp": "fad1407f838f72b6",
    "rog:4": "20eec3b065eda9ff",
    "rog:4?compat=artifact": "0c1936d58fa24a3f",
    "rog:4?granularity=tensor": "05a88326d6fafcb7",
    "flown:3": "93a80eb1cce16518",
    "localsgd:4": "e429bcd33bc40754",
    "diloco:4": "e429bcd33bc40754",
    "rowcast": "476f25a535da6e3c",
    "rowcast:4": "da856a128bcaef63",
    "rowcast:4?pulls=common": "5750fd0116a431e0",
    "rowcast:4?elastic=off&ahead=0": "da856a128bcaef63",
    "bsp?row_weights=contributors": "c73a2ccfd792eb5a",
    "rowcast:4?row_weights=contributors": "da856a128bcaef63",
}
CUTS: dict[str, str] = {
    "bsp": "256f31c6ef7004fa",
    "ssp:3": "cbb871ecfa041b15",
    "asp": "f87bbf6671ab6b19",
    "rog:4": "766ac219ca56dae3",
    "rog:4?compat=artifact": "daaf53f8b2f36079",
    "rog:4?granularity=tensor": "e9375747004db22f",
    "flown:3": "82b9a2d3c06733fd",
    "localsgd:4": "5781a20c785b9014",
    "diloco:4": "273ad248a5d2c4a7",
    "rowcast": "94f1c2d8642291f8",
    "rowcast:4": "e9050195fa52ffa5",
    "rowcast:4?pulls=common": "20c2ad2b5ada231d",
    "rowcast:4?elastic=off&ahead=0": "222232b1add253e0",
    "bsp?row_weights=contributors": "c08d392a92b47b35",
    "rowcast:4?row_weights=contributors": "6da8993d348e47b5",
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
