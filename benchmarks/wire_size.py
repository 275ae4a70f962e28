"""Bytes on the wire for one full push of the reference layout, index, scales and frame headers included."""

from __future__ import annotations

import numpy as np

from common import Figure, arguments, finish, reference_layout
from rowcast.codecs import REGISTRY
from rowcast.config import LinkSettings
from rowcast.delivery.outbox import Outbox
from rowcast.delivery.residual import Residual
from rowcast.delivery.snapshot import Snapshot
from rowcast.delivery.transfer import Request
from rowcast.delivery.window import Window
from rowcast.sync import parse_policy
from rowcast.wire import encode


def full_push(layout, policy_text: str, rate_bps: float) -> tuple[int, int]:
    """Bytes and frames of a push of every row at a link rate (bit/s), which sets the size of the frames."""
    policy = parse_policy(policy_text)
    random = np.random.default_rng(0)
    vector = random.standard_normal(layout.elements, dtype=np.float32)
    residual = Residual(layout, vector)
    window = Window(LinkSettings(initial_rate_bps=rate_bps))
    outbox = Outbox(residual, window, Snapshot(layout, vector, settles=False))
    residual.stamps[:] = random.integers(0, 4, layout.rows)
    outbox.link_ready()
    outbox.begin(0.0, Request(5, policy.row_codec, policy.choose_push, 1e9))
    size = frames = 0
    while (message := outbox.next_frame(0.0)) is not None:
        size += len(encode(message))
        frames += 1
        outbox.acknowledged(0.0, message.number)
    return size, frames


def main() -> None:
    options = arguments(__doc__).parse_args()
    layout, name = reference_layout(tiny=options.tiny)
    whole = 4 * layout.elements
    figures = []
    for policy in ("bsp", "rog:4"):
        for rate in (1e9, 90e6, 20e6, 5e6):
            size, frames = full_push(layout, policy, rate)
            figures.append(
                Figure(
                    f"onebit, {policy}, frames for {rate / 1e6:g} Mbit/s",
                    100 * size / whole,
                    "% of float32",
                    bound=3.3 if rate >= 20e6 else None,
                    note=f"{size} bytes, {frames} frames",
                )
            )
    for codec in ("raw", "half", "sparse", "topk64", "topk16", "dct128", "dct32"):
        assert codec in REGISTRY
        size, frames = full_push(layout, f"bsp?codec={codec}", 90e6)
        figures.append(
            Figure(f"{codec}, bsp", 100 * size / whole, "% of float32", note=f"{size} bytes, {frames} frames")
        )
    finish(f"One full push, {name}", figures, options)


if __name__ == "__main__":
    main()
