"""What a large team costs its server, and what the code ``elements`` costs a robot.

Parts, of which ``--parts`` chooses: ``pushes``, the processor time of a push at a server with 16 and with 2,048
workers; ``elements``, the time to encode and decode the reference layout, beside one bit an element; ``messages``, the
processor time of a message in virtual time with 64 and with 1,000 workers. Only where they are named, since they take
minutes: ``memory``, versions of a worker, and 10,000 hollow workers at one server (``fleet_scale.py``); ``two_step``,
what teams learn in which elements beyond a threshold travel, beside one bit an element (``fleet_two_step.py``; it needs
Fashion-MNIST); and of trees of relays ``tree``, the accuracy of a tree and of a flat team (``fleet_tree.py``),
``root``, what the root costs (``fleet_root.py``), and ``leaves``, a tree of 10,000 hollow leaves (``fleet_tree.py``).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from common import Figure, arguments, best_s, finish, reference_layout
from fashion import write_noise
from fleet_root import root
from fleet_scale import memory, messages
from fleet_tree import leaves, tree
from fleet_two_step import DATA, two_step
from pulls import Team
from rowcast.codecs import Elements, codec_by_name
from rowcast.rows import Layout
from rowcast.wire import Computed, PushEnd

#: Parts with nothing to choose, by name.
SIMPLE = ("pushes", "elements", "messages", "memory", "tree", "root", "leaves")
USUAL, PARTS = SIMPLE[:3], (*SIMPLE, "two_step")
#: A push of a small model: what it costs is then what the server keeps for each worker.
SMALL = Layout.from_shapes([("block", [64, 32])])
TEAMS = (16, 2048)
POLICIES = ("rog:20", "rowcast:8?pulls=common")
PUSHERS, PUSHES = 16, 8
#: Shares of the elements that fit: the fewest that ever do, and more.
SHARES = (1 / 64, 0.05)


def push_s(policy: str, workers: int) -> float:
    """Processor seconds of the server for a push, where so many have joined and some of them push."""
    team = Team(SMALL, policy, workers)
    streamed = policy.startswith("rowcast")
    costs = []
    for iteration in range(1, 1 + PUSHES):
        team.cpu_s = 0.0
        for worker in team.workers[:PUSHERS]:
            if streamed:
                team.say(worker, Computed(iteration, compute_s=0.1, rate_bps=1e9, size=1.0, skipped=False))
            for rows, payload in team.pushes:
                team.push(worker, iteration, team.code, rows, payload)
                team.now += 1e-4
            if not streamed:
                team.say(worker, PushEnd(iteration, quota_s=0.1, compute_s=0.1, rate_bps=1e9, skipped=False))
        costs.append(team.cpu_s / PUSHERS)
        team.take_all()
        team.now += 0.1
    return min(costs)


def pushes(*, tiny: bool) -> list[Figure]:
    few, many = (16, 32) if tiny else TEAMS
    figures = []
    for policy in POLICIES:
        push_s(policy, few)  # kernels are loaded
        one, other = push_s(policy, few), push_s(policy, many)
        note = f"{1e3 * one:.2f} and {1e3 * other:.2f} ms"
        bound = None if tiny else 1.5
        figures.append(Figure(f"{policy}: a push at {many} / {few} workers", other / one, "ratio", bound, note=note))
    return figures


def elements(*, tiny: bool) -> list[Figure]:
    layout, name = reference_layout(tiny=tiny)
    vector = np.random.default_rng(0).standard_normal(layout.elements, dtype=np.float32)
    rows, repeat = np.arange(layout.rows, dtype=np.int64), 1 if tiny else 9
    onebit, code, target = codec_by_name("onebit"), Elements(), layout.zeros()
    payload = onebit.encode(layout, vector, rows, consume=False)
    encode_s = best_s(lambda: onebit.encode(layout, vector, rows, consume=False), repeat)
    add_s = best_s(lambda: onebit.add(layout, payload, rows, target, 1.0), repeat)
    figures = []
    for share in SHARES:
        room = 3 * layout.rows + 2 * share * layout.elements
        fitted = code.fit(layout, vector, room)
        sent = fitted.encode(layout, vector, rows, consume=False)
        what = f"elements, {100 * share:.1f} % fit"
        bound = 3.0 if share == SHARES[0] and not tiny else None
        ratio = best_s(lambda one=fitted: one.encode(layout, vector, rows, consume=False), repeat) / encode_s
        figures += [
            Figure(f"{what}: encode / onebit", ratio, "ratio", bound, note=f"{name}; {len(sent) / 1e3:.0f} kB"),
            Figure(
                f"{what}: decode / onebit",
                best_s(lambda each=sent: code.add(layout, each, rows, target, 1.0), repeat) / add_s,
                "ratio",
            ),
            Figure(
                f"{what}: fit / encode of onebit",
                best_s(lambda most=room: code.fit(layout, vector, most), repeat) / encode_s,
                "ratio",
            ),
        ]
    return figures


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--parts", default=",".join(USUAL), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FOLDER", help="of Fashion-MNIST, for two_step")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="of two_step; repeatable")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    figures = []
    for name, part in zip(SIMPLE, (pushes, elements, messages, memory, tree, root, leaves), strict=True):
        if name in parts:
            figures += part(tiny=options.tiny)
    if "two_step" in parts and options.tiny:
        with tempfile.TemporaryDirectory() as folder:
            write_noise(Path(folder), 1000)
            figures += two_step(Path(folder), only=options.only, tiny=True)
    elif "two_step" in parts:
        figures += two_step(options.data, only=options.only)
    finish("Fleets", figures, options)


if __name__ == "__main__":
    main()
