"""What it costs a robot to keep its own state (state_dir), on the reference layout with the state of AdamW.

A picture is copied between two steps, and written beside the training; both together may take 2 % of the time, and the
time from one picture to the next follows from that. The first figures are of pictures that are taken one after the
other, in copies of the parameters that were made in between. Then steps are made, with a tenth of the layout so that
there are many pictures: seconds in which the training loop was held up, and seconds of the processor behind it, over
all seconds that passed. Notes of frames are set against encoding those frames.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from common import Figure, arguments, finish, reference_layout
from rowcast.delivery.transfer import Request
from rowcast.drivers.crew import lend_threads
from rowcast.drivers.kept import Keeper
from rowcast.drivers.kept.keeper import SHARE
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training.kept import Extras
from rowcast.training.kept.notes import note_sent
from rowcast.training.worker import WorkerNode

#: What a step takes (s), and for how long steps are made (s).
STEP_S, RUN_S = 0.05, 30.0
REPEAT = 5
LONG_S = 3600.0


class Ledger(Keeper):
    """Writes down what pictures take.

    Attributes:
        blocked_s, cost_all_s: of each picture, seconds that the training loop was held up; and with the processor.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(Path(folder), "bench", LONG_S)
        self.blocked_s: list[float] = []
        self.cost_all_s: list[float] = []

    def _write(self, generation, picture, extras, blocked_s):
        super()._write(generation, picture, extras, blocked_s)
        self.blocked_s.append(blocked_s)
        self.cost_all_s.append(self.cost_s)


class Bench:
    """A worker of which a state is kept, without a team."""

    def __init__(self, layout: Layout, folder: str) -> None:
        random = np.random.default_rng(0)
        self.replica = random.standard_normal(layout.elements, dtype=np.float32)
        self.node = node = WorkerNode("bench", layout, self.replica)
        node.client.joined = True
        node.policy = parse_policy("rowcast")
        proposed = self.replica * np.float32(0.999)
        node.accumulate([proposed[spec.start : spec.stop] for spec in layout.tensors], 0.25)
        moments = [self.replica.copy(), self.replica.copy()]
        self.keeper = Ledger(folder)
        self.keeper.open(layout)
        self.keeper.exchange_extras(lambda: Extras({str(k): one.copy() for k, one in enumerate(moments)}, None))
        self.take()  # what is slow the first time
        self.keeper.blocked_s.clear()
        self.keeper.cost_all_s.clear()

    def take(self) -> None:
        self.keeper.last(self.node)
        self.keeper._await_picture()


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    lend_threads()
    layout, name = reference_layout(tiny=options.tiny)
    repeat = 1 if options.tiny else REPEAT
    with tempfile.TemporaryDirectory() as folder:
        bench, copies = Bench(layout, folder), []
        target = np.zeros_like(bench.replica)
        for _ in range(repeat):
            began = time.perf_counter()
            np.copyto(target, bench.replica)
            copies.append(time.perf_counter() - began)
            bench.take()
        keeper = bench.keeper
        blocked_s, cost_s = statistics.median(keeper.blocked_s), statistics.median(keeper.cost_all_s)
        size = max(path.stat().st_size for path in Path(folder).glob("picture-*"))
        note_s, encode_s = notes(bench.node, keeper, repeat)
        keeper.close(done=True)
    copy_s = statistics.median(copies)
    part = layout if options.tiny else tenth(layout)
    with tempfile.TemporaryDirectory() as folder:
        share, pictures, steps = adaptive(Bench(part, folder), 0.3 if options.tiny else RUN_S)
    figures = [
        Figure("copy of the vector", copy_s * 1e3, "ms", note=f"{4 * layout.elements / 1e6:.1f} MB, {name}"),
        Figure("a picture", size / 1e6, "MB", note="replica, pending, two moments of AdamW, books"),
        Figure("held up by a picture / copy", blocked_s / copy_s, "ratio", note="four copies into new memory"),
        Figure("a picture / copy", cost_s / copy_s, "ratio", note=f"with the processor behind; {cost_s * 1e3:.0f} ms"),
        Figure("from one picture to the next", cost_s / SHARE, "s", note=f"at {SHARE:.0%} of the time"),
        Figure("noting a push / copy", note_s / copy_s, "ratio", note=f"{note_s / encode_s:.2f} of encoding it"),
        Figure(
            "share of the time, a tenth of the layout",
            share,
            "ratio",
            bound=SHARE * 1.25,  # the last picture of the run is not paid for yet
            note=f"{pictures} pictures in {steps} steps",
        ),
    ]
    finish(f"Cost of keeping a robot's state, {layout.rows} rows, {layout.elements} elements", figures, options)


def tenth(layout: Layout) -> Layout:
    """The first tensors of a layout, of a tenth of its elements."""
    shapes, elements = [], 0
    for spec in layout.tensors:
        shapes.append((spec.name, spec.shape))
        elements += spec.stop - spec.start
        if elements >= layout.elements / 10:
            break
    return Layout.from_shapes(shapes)


def adaptive(bench: Bench, run_s: float) -> tuple[float, int, int]:
    """Make steps for so long; returns the share of the time that pictures took, how many there were, and of steps."""
    keeper, steps, began = bench.keeper, 0, time.perf_counter()
    while (passed_s := time.perf_counter() - began) < run_s:
        time.sleep(max((steps + 1) * STEP_S - passed_s, 0.0))
        keeper.turn(0.0, bench.node)
        steps += 1
    keeper._await_picture()
    passed_s = time.perf_counter() - began
    keeper.close(done=True)
    return sum(keeper.cost_all_s) / passed_s, len(keeper.cost_all_s), steps


def notes(node: WorkerNode, keeper: Keeper, repeat: int) -> tuple[float, float]:
    """Seconds to note the frames of a push of all rows, and to encode them; the shortest of several, interleaved."""
    outbox, residual = node.outbox, node.residual
    outbox.link_ready()
    policy = parse_policy("rog:4")
    filled = residual.vector.copy()
    noted, encoded = [], []
    for iteration in range(1, repeat + 2):
        residual.restore(filled, np.zeros_like(residual.stamps), residual.left.copy())
        outbox.begin(0.0, Request(iteration, policy.row_codec, policy.choose_push, 1e9))
        note_s, began = 0.0, time.perf_counter()
        while (message := outbox.next_frame(0.0)) is not None:
            outbox.acknowledged(0.0, message.number)
            before = time.perf_counter()
            note_sent(keeper, residual, message)
            note_s += time.perf_counter() - before
        encoded.append(time.perf_counter() - began - note_s)
        noted.append(note_s)
    return min(noted), min(encoded)


if __name__ == "__main__":
    main()
