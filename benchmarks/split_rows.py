"""Exact execution row by row: equality with the whole model, its overhead in processor time, and what it gains.

The models are those of ``rowcast.testing.zoo``, the processor runs one thread. Overheads are ratios of processor times
measured in turns within this run. The gain is that of a virtual clock: the rows of the input arrive evenly within the
time that the whole model computes, each slab takes what it took here, and the answer is there behind the last one;
serial is the transfer and then the whole model.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from common import Figure, arguments, finish
from rowcast.planning import CostModel, LinkCosts, offload, streamed
from rowcast.split import Captured, RowStream, capture
from rowcast.split.profiling import measure
from rowcast.testing.zoo import FULL, SMALL, Model, camera, resnet

#: Slabs of the equality check; single rows come on top.
SLABS = (1, 2, 4, 8, 16)
#: Model -> slabs of which the overhead is asked, and that overhead.
OVERHEAD = {"vgg19": (4, 1.15), "unet-bilinear": (4, 1.45)}
#: Overhead of one slab, which is the code of the whole model: asked of every model.
ONE_SLAB = 1.05
#: Model -> latency of streaming, of serial.
GAIN = {"vgg19": 0.75, "resnet50 480x640": 0.80}
#: Models of which several slabs are measured, and the numbers of slabs.
MEASURED = ("vgg19", "resnet50", "resnet50 480x640", "densenet121", "mobilenet-se", "unet-bilinear")
#: Models that are measured behind a camera too: what follows uint8 [batch, row, column, colour] has its channels last.
BEHIND_A_CAMERA = ("vgg19", "resnet50", "densenet121", "mobilenet-se", "unet-bilinear")
COUNTS = (2, 4, 8)
#: Models of which the planner's choice is measured, at these times of transfer over time of computing. A choice that
#: loses is wrong; so much is noise.
CHOSEN = ("vgg19", "resnet50", "densenet121", "mobilenet-se", "unet-bilinear")
RATIOS = (0.25, 1.0, 4.0)
NEVER_WORSE = 1.02
#: Relative and absolute tolerance.
TOLERANCE = 1e-5
CUTS = 5


@dataclass
class Subject:
    """A captured model and inputs to it."""

    name: str
    build: Callable[[], Model]

    @cached_property
    def model(self) -> tuple[Captured, tuple[torch.Tensor, ...]]:
        net, example = self.build()
        return capture(net, example), example

    @property
    def captured(self) -> Captured:
        return self.model[0]

    @property
    def example(self) -> tuple[torch.Tensor, ...]:
        return self.model[1]

    @cached_property
    def rows(self) -> int:
        """Of the highest input."""
        return max(self.captured.graph.ops[op].rows for op in self.captured.graph.inputs)

    def pieces(self, op: int, tensor: torch.Tensor, sizes: Iterator[int]) -> Sequence[torch.Tensor]:
        """The rows of a tensor, so many at a time."""
        kind = self.captured.tensors[op]
        rows = self.captured.graph.ops[op].rows
        if kind is None or rows == 1:
            return [tensor]
        cut: list[int] = []
        while sum(cut) < rows:
            cut.append(min(next(sizes), rows - sum(cut)))
        return tensor.split(cut, kind.row_axis)

    def joined(self, op: int, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        kind = self.captured.tensors[op]
        return parts[0] if len(parts) == 1 or kind is None else torch.cat(list(parts), kind.row_axis)


@dataclass
class Relay:
    """Streams in a row: what one of them gives is pushed to all behind it."""

    subject: Subject
    streams: list[RowStream]
    taken: dict[int, list[torch.Tensor]] = field(default_factory=dict)

    def run(self, inputs: Sequence[torch.Tensor], sizes: Iterator[int]) -> list[torch.Tensor]:
        """The outputs of the model."""
        graph = self.subject.captured.graph
        queues = [self.subject.pieces(op, x, sizes) for op, x in zip(graph.inputs, inputs, strict=True)]
        for turn in itertools.zip_longest(*queues):
            for op, rows in zip(graph.inputs, turn, strict=True):
                if rows is not None:
                    self._push(0, op, rows)
        assert all(stream.finished for stream in self.streams)
        return [self.subject.joined(op, self.taken[op]) for op in graph.outputs]

    def _push(self, first: int, op: int, rows: torch.Tensor) -> None:
        for place, stream in enumerate(self.streams[first:], first):
            if op not in stream.outside:
                continue
            stream.push(op, rows)
            for made in stream.wanted:
                new = stream.take(made)
                if new is not None:
                    self.taken.setdefault(made, []).append(new)
                    self._push(place + 1, made, new)


def whole(subject: Subject) -> Relay:
    graph = subject.captured.graph
    return Relay(subject, [RowStream(subject.captured, range(len(graph)), graph.outputs)])


def cut(subject: Subject, place: int) -> Relay | None:
    """Two parts, with rows of every tensor that crosses; ``None`` where one of them cannot travel."""
    captured, graph = subject.captured, subject.captured.graph
    crossing = [op for op in range(place) if any(reader >= place for reader in graph.consumers[op])]
    wanted = [op for op in dict.fromkeys((*crossing, *graph.outputs)) if op < place and op not in graph.inputs]
    if any(captured.tensors[op] is None or graph.ops[op].joined for op in wanted):
        return None
    late = [op for op in graph.outputs if op >= place]
    return Relay(
        subject,
        [RowStream(captured, range(place), wanted), RowStream(captured, range(place, len(graph)), late)],
    )


def excess(made: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """The largest error, in units of what ``allclose`` allows."""
    return max(
        float(((a.double() - b.double()).abs() / (TOLERANCE + TOLERANCE * b.double().abs())).max())
        for a, b in zip(made, expected, strict=True)
    )


def equality(subject: Subject) -> list[float]:
    """The excess of slabs and ragged pieces, of cuts, and of a batch."""
    captured, inputs = subject.captured, subject.example
    expected = captured.whole(*inputs)
    every = [itertools.repeat(-(-subject.rows // count)) for count in (*SLABS, subject.rows)]
    every += [ragged(seed, subject.rows) for seed in range(3)]
    slabs = max(excess(whole(subject).run(inputs, sizes), expected) for sizes in every)
    count = len(captured.graph)
    places = [max(1, count * k // (CUTS + 1)) for k in range(1, CUTS + 1)]
    relays = [next(filter(None, (cut(subject, place) for place in range(first, count)))) for first in places]
    cuts = max(excess(relay.run(inputs, ragged(9, subject.rows)), expected) for relay in relays)
    if not captured.batched:
        return [slabs, cuts, 0.0]
    three = [torch.cat([x, x.flip(-1), x]) for x in inputs]
    batch = whole(subject).run(three, itertools.repeat(-(-subject.rows // 4)))
    return [slabs, cuts, excess([rows[:1] for rows in batch], expected)]


def ragged(seed: int, rows: int) -> Iterator[int]:
    """Numbers of rows of different size, about 8 in all."""
    generator = torch.Generator().manual_seed(seed)
    return iter(lambda: 1 + int(torch.randint(0, max(1, rows // 4), (), generator=generator)), 0)


def slab_times(subject: Subject, count: int) -> list[float]:
    """Processor time of each slab of the inputs (s)."""
    graph = subject.captured.graph
    stream = RowStream(subject.captured, range(len(graph)), graph.outputs)
    queues = [
        subject.pieces(op, x, itertools.repeat(-(-subject.captured.graph.ops[op].rows // count)))
        for op, x in zip(graph.inputs, subject.example, strict=True)
    ]
    times = []
    for turn in itertools.zip_longest(*queues):
        rows = {op: each for op, each in zip(graph.inputs, turn, strict=True) if each is not None}
        start = time.process_time()
        stream.push_all(rows)
        for op in graph.outputs:
            stream.take(op)
        times.append(time.process_time() - start)
    assert stream.finished
    return times


def in_turns(
    subject: Subject, counts: Sequence[int], seconds: float, least: int = 5
) -> tuple[list[float], dict[int, list[list[float]]]]:
    """Processor times of the whole model, and of the slabs for each number of them, measured in turns."""
    captured, inputs = subject.captured, subject.example
    wholes: list[float] = []
    slabs: dict[int, list[list[float]]] = {count: [] for count in counts}
    for count in counts:
        slab_times(subject, count)
    captured.whole(*inputs)
    until = time.perf_counter() + seconds
    while len(wholes) < least or (time.perf_counter() < until and len(wholes) < 200):
        start = time.process_time()
        captured.whole(*inputs)
        wholes.append(time.process_time() - start)
        for count in counts:
            slabs[count].append(slab_times(subject, count))
    return wholes, slabs


def overhead(wholes: Sequence[float], slabs: Sequence[Sequence[float]]) -> float:
    """Processor time of all slabs, of that of the whole model beside it: the median."""
    return statistics.median(sum(each) / alone for each, alone in zip(slabs, wholes, strict=True))


def latency(wholes: Sequence[float], slabs: Sequence[Sequence[float]], ratio: float = 1.0) -> float:
    """Latency of streaming, of serial, where the transfer takes ``ratio`` times as long as the whole model."""
    compute = statistics.median(wholes)
    clock = 0.0
    for place, times in enumerate(zip(*slabs, strict=True), 1):
        clock = max(clock, ratio * compute * place / len(slabs[0])) + statistics.median(times)
    return clock / ((1 + ratio) * compute)


def figures_of_speed(subject: Subject, seconds: float, *, tiny: bool) -> list[Figure]:
    name = subject.name
    plain = name.removesuffix(", camera")
    counts = COUNTS if plain in MEASURED else ()
    wholes, slabs = in_turns(subject, [1, *counts], seconds)
    took = f"whole {1e3 * statistics.median(wholes):.1f} ms, {len(wholes)} turns"
    ratios = {count: overhead(wholes, slabs[count]) for count in slabs}
    figures = [Figure(f"{name}: one slab", ratios[1], "of whole", None if tiny else ONE_SLAB, note=took)]
    asked, bound = OVERHEAD.get(plain, (0, None))
    for count in counts:
        last = statistics.median(times[-1] for times in slabs[count]) / statistics.median(wholes)
        limit = bound if count == asked and not tiny else None
        figures.append(Figure(f"{name}: {count} slabs", ratios[count], "of whole", limit, note=f"last {last:.2f}"))
    if counts:
        found = {count: latency(wholes, slabs[count]) for count in counts}
        best = min(found, key=found.__getitem__)
        note = f"{best} slabs; " + ", ".join(f"{count}: {value:.2f}" for count, value in found.items())
        limit = None if tiny else GAIN.get(plain)
        figures.append(Figure(f"{name}: latency, transfer = compute", found[best], "of serial", limit, note=note))
    return figures


def figures_of_choice(subject: Subject, seconds: float, *, tiny: bool) -> list[Figure]:
    """What the planner's choice of slabs comes to, measured, where the server computes everything.

    The clock of the link is virtual; times are measured anew for the number of slabs that was chosen.
    """
    captured = subject.captured
    graph = captured.graph
    here = measure(captured, seconds=0.1 if tiny else 2.0)
    profile = here.faster(robot=0.01)
    compute, size = here.local_s, sum(graph.ops[op].bytes for op in graph.inputs)
    figures = []
    for ratio in (1.0,) if tiny else RATIOS:
        costs = CostModel(graph, profile, LinkCosts(8 * size / (ratio * compute), 1e12, 0.0, 1.0))
        plan, serial = streamed(costs), offload(costs)
        found, predicted = 1.0, plan.latency_s / serial.latency_s
        if plan.slabs > 1:
            wholes, slabs = in_turns(subject, [plan.slabs], seconds)
            found = latency(wholes, slabs[plan.slabs], ratio)
        note = f"{plan.slabs} slabs, predicted {predicted:.2f}"
        name = f"{subject.name}: chosen, transfer = {ratio:g} x compute"
        figures.append(Figure(name, found, "of serial", None if tiny else NEVER_WORSE, note=note))
    return figures


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="*", metavar="NAME", help=f"only these: {', '.join(FULL)}, ...")
    parser.add_argument("--only", choices=("equality", "speed", "choice"), help="a part of it")
    parser.add_argument("--seconds", type=float, default=4.0, help="of measurements for each model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    zoo = {name: SMALL[name] for name in ("unet-bilinear", "camera")} if options.tiny else dict(FULL)
    if not options.tiny:
        zoo["resnet50 480x640"] = lambda: resnet(size=(480, 640))
        zoo.update({f"{name}, camera": lambda name=name: camera(FULL[name]()) for name in BEHIND_A_CAMERA})
    figures = []
    worst: list[list[float]] = []
    for name in options.models or zoo:
        subject = Subject(name, zoo[name])
        if options.only in (None, "equality") and name in FULL:
            found = equality(subject)
            worst.append(found)
            note = ", ".join(
                f"{what} {value:.3f}" for what, value in zip(("slabs", "cuts", "batch"), found, strict=True)
            )
            figures.append(Figure(f"{name}: largest error", max(found), "of 1e-5", 1.0, note=note))
        seconds = 0.0 if options.tiny else options.seconds
        if options.only in (None, "speed"):
            figures += figures_of_speed(subject, seconds, tiny=options.tiny)
        if options.only in (None, "choice") and name in CHOSEN:
            figures += figures_of_choice(subject, seconds, tiny=options.tiny)
    finish("Split inference: row by row", figures, options)


if __name__ == "__main__":
    main()
