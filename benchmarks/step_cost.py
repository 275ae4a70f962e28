"""What one step costs beside the gradient, on the reference layout: each stage, as a multiple of one copy.

The limit is memory bandwidth: a copy of the same vector reads and writes each element once. Accumulating reads
three vectors and writes one, encoding reads and writes pending, decoding reads and writes what is owed and the
parameters, applying reads and writes the replica.

Beside these, the wrapper's own share: what ``rowcast.Optimizer.step()`` takes beside the inner optimizer's step, the
network included, over unshaped loopback (:mod:`step_share` lists what it reads and writes).
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from common import Figure, arguments, best_s, finish, reference_layout
from device_cost import device_figures
from rowcast.config import LinkSettings
from rowcast.delivery.inbox import Inbox
from rowcast.delivery.transfer import Request
from rowcast.drivers.crew import lend_threads
from rowcast.errors import ConfigError
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.tasks.devices import device_of
from rowcast.training.worker import WorkerNode
from rowcast.wire import FrameDecoder, FrameEncoder, RowLimits
from step_share import PAUSE_S, measure

REPEAT = 15

#: Steps whose shortest counts, and of each policy the most that the wrapper's own share may be.
STEPS = 15
SHARES = {"rowcast": 12.0, "rog:4": None}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--policy", default="rog:4")
    parser.add_argument("--rate-mbps", type=float, default=1000.0, help="link rate, which sets the size of a frame")
    parser.add_argument("--device", default="cpu", help="where parameters are, such as cuda; that is measured there")
    options = parser.parse_args()
    lend_threads()
    layout, name = reference_layout(tiny=options.tiny)
    if options.device != "cpu":
        on_device(layout, name, options)
        return
    repeat = 1 if options.tiny else REPEAT
    policy = parse_policy(options.policy)
    codec = policy.row_codec
    random = np.random.default_rng(0)
    replica = random.standard_normal(layout.elements, dtype=np.float32)
    # One frame of the largest size after another, as on a fast link.
    settings = LinkSettings(initial_rate_bps=options.rate_mbps * 1e6)
    worker = WorkerNode("bench", layout, replica, link_settings=settings)
    proposed = replica - random.standard_normal(layout.elements, dtype=np.float32) * np.float32(1e-3)
    sources = [proposed[spec.start : spec.stop] for spec in layout.tensors]
    target = np.empty_like(replica)

    copy_s = best_s(lambda: np.copyto(target, replica), repeat)
    accumulate_s = best_s(lambda: worker.accumulate(sources, 0.25), repeat)

    outbox, residual = worker.outbox, worker.residual
    residual.stamps[:] = random.integers(0, 4, layout.rows)
    stamps = residual.stamps.copy()
    outbox.link_ready()
    everything = 1e9  # seconds: no deadline cuts the rows beyond the quota

    def select() -> None:
        residual.measured = True
        residual.stamps[:] = stamps
        outbox.begin(0.0, Request(5, codec, policy.choose_push, everything))

    select_s = best_s(select, repeat)

    def encode_all() -> None:
        transfer = outbox.transfer
        assert transfer is not None
        transfer.place = 0
        while (message := outbox.next_frame(0.0)) is not None:
            frames.append(message)
            outbox.acknowledged(0.0, message.number)

    frames: list = []

    def select_and_encode() -> None:
        frames.clear()
        select()
        encode_all()

    encode_s = best_s(select_and_encode, repeat) - select_s

    def pack() -> list[bytes]:
        encoder = FrameEncoder()
        return [encoder.encode(message) for message in frames]

    wire = pack()
    pack_s = best_s(pack, repeat)

    parameters = replica.copy()
    owed = layout.zeros()

    def decode(targets: list[tuple[np.ndarray, float]]) -> None:
        decoder = FrameDecoder()
        decoder.trusted, decoder.streams[0] = True, RowLimits(layout.rows)
        inbox = Inbox(layout)
        inbox.received = frames[0].number - 1
        for data in wire:
            for message in decoder.feed(data):
                accepted = inbox.accept(message)
                assert accepted is not None
                for vector, sign in targets:
                    accepted.add(layout, message.payload, message.rows, vector, sign)

    decode_s = best_s(lambda: decode([(parameters, -1.0), (owed, 1.0)]), repeat)
    apply_s = best_s(lambda: decode([(replica, -1.0)]), repeat)

    stages = {
        "accumulate (check, add, reduce)": accumulate_s,
        "select": select_s,
        "encode all rows": encode_s,
        "frame (index, CRC)": pack_s,
        "decode at the server (parameters and owed)": decode_s,
        "decode and apply at the worker": apply_s,
    }
    total_s = sum(stages.values())
    coding_s = encode_s + decode_s + apply_s
    megabytes = 4 * layout.elements / 1e6
    figures = [Figure("copy of the vector", copy_s * 1e3, "ms", note=f"{megabytes:.1f} MB, {name}")]
    figures += [
        Figure(stage, seconds * 1e3, "ms", note=f"{seconds / copy_s:.2f} copies") for stage, seconds in stages.items()
    ]
    figures += [
        Figure("total", total_s * 1e3, "ms"),
        Figure("total / copy", total_s / copy_s, "ratio", bound=10.0),
        Figure("encode, decode and apply / copy", coding_s / copy_s, "ratio", bound=6.0),
        Figure("frames", len(frames), "frames", note=f"{sum(len(m.rows) for m in frames)} rows, {codec.name}"),
    ]
    for policy, bound in SHARES.items():
        share = measure(layout, policy, 2, 0.0) if options.tiny else measure(layout, policy, STEPS)
        note = f"{share.step_s * 1e3:.1f} ms, {share.team_s / share.copy_s:.2f} copies of it in exchange()"
        figures.append(
            Figure(f"own share of a step, {policy} / copy", share.step_s / share.copy_s, "ratio", bound, note=note)
        )
    finish(f"Cost of a step, {layout.rows} rows, {layout.elements} elements, 1 worker", figures, options)


def on_device(layout: Layout, name: str, options: argparse.Namespace) -> None:
    """The same where parameters are on a device; see :mod:`device_cost`."""
    try:
        device = device_of(options.device)
    except ConfigError as error:
        sys.exit(str(error))
    figures = device_figures(layout, device, *((1, 1, 0.0) if options.tiny else (REPEAT, STEPS, PAUSE_S)))
    finish(f"Cost of a step on {device}, {layout.rows} rows, {layout.elements} elements, {name}", figures, options)


if __name__ == "__main__":
    main()
