"""Execution row by row: equal to the whole model however rows arrive; what is kept, shared and refused."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captured_models import NAMES, small, variant
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.split import Captured, capture
from rowcast.split import rowplan as rowplan_module
from rowcast.split.rowplan import RowPlan
from rowcast.split.rowstream import RowStream

SAME: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}


def everything(captured: Captured) -> RowStream:
    return RowStream(captured, range(len(captured.graph)), captured.graph.outputs)


def axis_of(captured: Captured, op: int) -> int | None:
    kind = captured.tensors[op]
    assert kind is not None
    return kind.row_axis if captured.graph.ops[op].rows > 1 else None


def pieces(captured: Captured, op: int, tensor: Tensor, sizes: Iterator[int]) -> list[Tensor]:
    """A tensor cut into pieces of so many rows; the whole of it where it has no rows."""
    axis = axis_of(captured, op)
    if axis is None:
        return [tensor]
    cut, rows = [], tensor.shape[axis]
    while sum(cut) < rows:
        cut.append(min(next(sizes), rows - sum(cut)))
    return list(tensor.split(cut, axis))


class Collected:
    """What is taken of the wanted tensors of a stream."""

    def __init__(self, captured: Captured, stream: RowStream, wanted: Sequence[int]) -> None:
        self.captured, self.stream = captured, stream
        self.parts: dict[int, list[Tensor]] = {op: [] for op in wanted}
        self.seen: list[Tensor] = []

    def take(self) -> dict[int, Tensor]:
        """The new rows of each."""
        new = {op: rows for op in self.parts if (rows := self.stream.take(op)) is not None}
        for op, rows in new.items():
            self.parts[op].append(rows)
            self.seen.append(rows.clone())
        return new

    def whole(self) -> list[Tensor]:
        """All rows of each; nothing that was taken has changed since."""
        assert all(torch.equal(a, b) for a, b in zip(sorted_parts(self.parts), self.sorted_seen(), strict=True))
        return [
            parts[0] if len(parts) == 1 else torch.cat(parts, axis_of(self.captured, op))
            for op, parts in self.parts.items()
        ]

    def sorted_seen(self) -> list[Tensor]:
        return sorted(self.seen, key=_key)


def sorted_parts(parts: dict[int, list[Tensor]]) -> list[Tensor]:
    return sorted(itertools.chain(*parts.values()), key=_key)


def _key(tensor: Tensor) -> tuple[float, int]:
    return float(tensor.double().sum()), tensor.numel()


def streamed(captured: Captured, inputs: Sequence[Tensor], sizes: Iterator[int]) -> list[Tensor]:
    """The outputs, all inputs pushed in turns, a piece of each."""
    stream = everything(captured)
    before = [tensor.clone() for tensor in inputs]
    collected = Collected(captured, stream, captured.graph.outputs)
    queues = [(op, pieces(captured, op, x, sizes)) for op, x in zip(captured.graph.inputs, inputs, strict=True)]
    for turn in itertools.zip_longest(*(parts for _, parts in queues)):
        for (op, _), rows in zip(queues, turn, strict=True):
            if rows is not None:
                assert not stream.finished
                stream.push(op, rows)
                collected.take()
    assert stream.finished and stream.held() == {}
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True)), "what is pushed is not written to"
    return collected.whole()


def same(captured: Captured, made: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
    for rows, whole in zip(made, captured.whole(*inputs), strict=True):
        torch.testing.assert_close(rows, whole, **SAME)


def rows_of(captured: Captured) -> int:
    return max(captured.graph.ops[op].rows for op in captured.graph.inputs)


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_whole_model_however_rows_arrive(name: str) -> None:
    captured, example = small(name)
    inputs = variant(example, 1)
    rows = rows_of(captured)
    for count in (1, 2, 4, 8, 16, rows):
        same(captured, streamed(captured, inputs, itertools.repeat(-(-rows // count))), inputs)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        ragged = iter(lambda generator=generator: int(torch.randint(1, 9, (), generator=generator)), 0)
        same(captured, streamed(captured, inputs, ragged), inputs)


@pytest.mark.parametrize("name", ["resnet50", "unet-bilinear", "mobilenet-se", "vit"])
def test_a_batch_of_several_requests_is_each_of_them(name: str) -> None:
    captured, example = small(name)
    inputs = variant(example, 2, batch=3)
    made = streamed(captured, inputs, itertools.cycle([5, 3]))
    same(captured, made, inputs)
    for request in range(3):
        one = streamed(captured, [x[request : request + 1] for x in inputs], itertools.cycle([7]))
        for batched, single in zip(made, one, strict=True):
            torch.testing.assert_close(batched[request : request + 1], single, **SAME)


def sides(captured: Captured, upper: set[int]) -> dict[int, set[int]]:
    """Operators of two sides; a part of an operator with several results is where that operator is."""
    placed: dict[int, int] = {}
    for op, each in enumerate(captured.graph.ops):
        placed[op] = placed[each.inputs[0]] if each.joined else int(op in upper)
    inside = [op for op in placed if captured.graph.ops[op].inputs]
    return {side: {op for op in inside if placed[op] == side} for side in (0, 1)}


def exchange(captured: Captured, upper: set[int], inputs: Sequence[Tensor], sizes: Iterator[int]) -> list[Tensor]:
    """The outputs where two streams compute a part each and send each other what the other reads.

    The inputs are there on side 0, which wants the outputs; what crosses is cut anew into pieces.
    """
    graph = captured.graph
    ops = sides(captured, upper)
    read = {side: {source for op in inside for source in graph.ops[op].inputs} for side, inside in ops.items()}
    crossing = {side: sorted(ops[side] & (read[1 - side] | (set(graph.outputs) if side else set()))) for side in ops}
    wanted = {0: [*graph.outputs, *(op for op in crossing[0] if op not in graph.outputs)], 1: crossing[1]}
    streams = {side: RowStream(captured, ops[side], wanted[side]) for side in ops}
    collected = {side: Collected(captured, streams[side], wanted[side]) for side in ops}
    pending: list[tuple[int, int, Tensor]] = []

    def send(side: int, op: int, rows: Tensor) -> None:
        if op in streams[side].outside:
            pending.extend((side, op, piece) for piece in pieces(captured, op, rows, sizes))

    for op, x in zip(graph.inputs, inputs, strict=True):
        for rows in pieces(captured, op, x, sizes):
            send(0, op, rows)
            send(1, op, rows)
    while pending:
        side, op, rows = pending.pop(0)
        streams[side].push(op, rows)
        for made, new in collected[side].take().items():
            if side == 1 or made not in ops[1]:
                send(1 - side, made, new)
    assert all(stream.finished and stream.held() == {} for stream in streams.values())
    return collected[0].whole()[: len(graph.outputs)]


def travels(captured: Captured, upper: set[int]) -> bool:
    """Whether all that crosses can travel."""
    ops = sides(captured, upper)
    crosses = {
        source
        for side, inside in ops.items()
        for op in inside
        for source in captured.graph.ops[op].inputs
        if source in ops[1 - side]
    }
    return all(captured.tensors[op] is not None for op in crosses)


@pytest.mark.parametrize("name", NAMES)
def test_cut_in_two_with_rows_of_all_that_crosses(name: str) -> None:
    captured, example = small(name)
    inputs = variant(example, 3)
    count = len(captured.graph)
    places = [upper for k in range(1, 6) if travels(captured, upper := set(range(k * count // 6, count)))]
    assert len(places) >= 3
    for upper in places:
        same(captured, exchange(captured, upper, inputs, itertools.cycle([3, 8, 1, 5])), inputs)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.data())
def test_any_operators_on_either_side_and_tensors_that_come_back(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["densenet121", "unet-bilinear", "mobilenet-se", "detector"]))
    captured, example = small(name)
    inputs = variant(example, 4)
    changes = data.draw(st.sets(st.integers(1, len(captured.graph) - 1), max_size=5))
    upper = {op for op in range(len(captured.graph)) if sum(op >= change for change in changes) % 2}
    if travels(captured, upper):
        sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
        same(captured, exchange(captured, upper, inputs, itertools.cycle(sizes)), inputs)


class Chain(nn.Module):
    """Two convolutions and what lies between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu()).relu()
        return y


class Two(nn.Module):
    """A camera and a vector of numbers."""

    def forward(self, image: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = image.permute(0, 3, 1, 2).float() * state[:, :, None, None]
        return x, x.mean((2, 3))


@pytest.fixture(scope="module")
def chain() -> Captured:
    torch.manual_seed(0)
    return capture(Chain().eval(), torch.randn(1, 3, 24, 10))


@pytest.fixture(scope="module")
def two() -> Captured:
    return capture(Two().eval(), (torch.zeros(1, 6, 5, 3, dtype=torch.uint8), torch.randn(1, 3)))


def numbered(captured: Captured, word: str) -> list[int]:
    return [op for op, node in enumerate(captured.nodes) if word in node.name]


def test_only_rows_that_are_still_read_are_kept(chain: Captured) -> None:
    """Of the tensor that a convolution of 3 rows reads two, of that of one of 5 rows four; what was read is freed."""
    stream = everything(chain)
    image = torch.randn(1, 3, 24, 10)
    (first, second), (relu, _) = numbered(chain, "conv"), numbered(chain, "relu")
    assert first < relu < second
    for row in range(24):
        stream.push(0, image[:, :, row : row + 1])
        if 6 <= row < 23:
            assert stream.held() == {0: 2, relu: 4}
            assert (
                sum(value.untyped_storage().nbytes() for value in stream._values if value.layout is torch.strided) < 2e4
            )
    assert stream.finished and stream.held() == {}


def test_rows_are_there_as_early_as_they_can_be(chain: Captured) -> None:
    stream = everything(chain)
    out = chain.graph.outputs[0]
    made = []
    for _ in range(24):
        stream.push(0, torch.randn(1, 3, 1, 10))
        rows = stream.take(out)
        made.append(0 if rows is None else rows.shape[2])
        assert stream.rows(out) == sum(made)
    assert made == [0, 0, 0, *[1] * 20, 4]


def test_all_rows_at_once_are_the_code_of_the_whole_model(chain: Captured) -> None:
    stream, image = everything(chain), torch.randn(2, 3, 24, 10)
    stream.push(0, image)
    made = stream.take(chain.graph.outputs[0])
    assert made is not None and torch.equal(made, chain.whole(image)[0]) and stream.finished


def test_a_stream_serves_one_request_after_the_other(chain: Captured) -> None:
    stream, out = everything(chain), chain.graph.outputs[0]
    stream.push(0, torch.randn(1, 3, 9, 10))
    stream.reset()
    assert stream.take(out) is None and stream.rows(0) == 0 and stream.held() == {}
    for batch in (2, 1):
        image = torch.randn(batch, 3, 24, 10)
        collected = Collected(chain, stream, [out])
        for rows in image.split(7, 2):
            stream.push(0, rows)
            collected.take()
        same(chain, collected.whole(), [image])
        stream.reset()


def test_steps_are_planned_once_for_a_pattern_and_a_bounded_number_is_kept(
    chain: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = RowPlan(chain, range(len(chain.graph)), chain.graph.outputs)
    monkeypatch.setattr(RowPlan, "of", staticmethod(lambda *_: plan))
    planned = []
    original = rowplan_module.plan_step
    monkeypatch.setattr(rowplan_module, "plan_step", lambda *args: planned.append(args) or original(*args))

    def request(sizes: Sequence[int], batch: int = 1) -> int:
        before = len(planned)
        stream, image = everything(chain), torch.randn(batch, 3, 24, 10)
        collected = Collected(chain, stream, chain.graph.outputs)
        for rows in image.split(sizes, 2):
            stream.push(0, rows)
            collected.take()
        same(chain, collected.whole(), [image])
        return len(planned) - before

    assert request([6, 6, 6, 6]) == 4
    assert request([6, 6, 6, 6]) == 0
    assert request([6, 6, 12]) == 1
    assert request([6, 6, 6, 6], batch=2) == 4
    monkeypatch.setattr(rowplan_module, "KEPT_STEPS", 3)
    assert request([1] * 24) == 24
    assert len(plan._steps) == 3
    assert request([6, 6, 6, 6]) == 4


def test_plans_are_shared_by_streams_and_go_with_the_model() -> None:
    net = nn.Conv2d(1, 1, 3).eval()
    captured = capture(net, torch.randn(1, 1, 9, 5))
    first, second = everything(captured), everything(captured)
    assert first._plan is second._plan is not RowStream(captured, [1], [0, 1])._plan
    gone = weakref.ref(captured)
    del captured, first, second
    gc.collect()
    assert gone() is None


def test_parameters_are_those_of_the_live_model_at_the_time_of_a_request() -> None:
    torch.manual_seed(0)
    net = Chain().eval()
    image = torch.randn(1, 3, 24, 10)
    captured = capture(net, image)
    changes = [
        lambda: None,
        lambda: net.second.weight.data.mul_(2),
        lambda: net.first.load_state_dict({"weight": torch.randn(8, 3, 3, 3), "bias": torch.randn(8)}),
        lambda: setattr(net.second, "weight", nn.Parameter(torch.randn(4, 8, 5, 5))),
    ]
    answers = []
    for change in changes:
        with torch.no_grad():
            change()
            expected = net(image)
        (made,) = streamed(captured, [image], itertools.repeat(5))
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
        answers.append(made)
    assert all(not torch.allclose(a, b) for a, b in itertools.pairwise(answers))


def test_several_tensors_at_once(two: Captured) -> None:
    image, state = torch.randint(0, 255, (1, 6, 5, 3), dtype=torch.uint8), torch.randn(1, 3)
    stream = everything(two)
    collected = Collected(two, stream, two.graph.outputs)
    assert stream.outside == two.graph.inputs == (0, 1)
    stream.push(0, image[:, :2])
    assert collected.take() == {}
    stream.push_all({1: state, 0: image[:, 2:4]})
    (new,) = collected.take().values()
    assert new.shape == (1, 3, 4, 5)
    stream.push_all({0: image[:, 4:4]})
    assert collected.take() == {} and not stream.finished
    stream.push_all({0: image[:, 4:]})
    collected.take()
    same(two, collected.whole(), [image, state])


def test_what_is_wanted_may_be_what_is_pushed(two: Captured) -> None:
    stream = RowStream(two, [], [0])
    image = torch.randint(0, 255, (1, 6, 5, 3), dtype=torch.uint8)
    stream.push(0, image[:, :4])
    taken = stream.take(0)
    assert taken is not None and torch.equal(taken, image[:, :4]) and not stream.finished


def test_what_is_refused(two: Captured) -> None:
    stream = everything(two)
    image = torch.zeros(1, 6, 5, 3, dtype=torch.uint8)
    with pytest.raises(
        LocalProtocolError, match=r"rows of operator 2 \(.*permute\): it is not read here; expected rows"
    ):
        stream.push(2, image)
    with pytest.raises(LocalProtocolError, match="rows of operator 99, which there is not: it is not read here"):
        stream.push(99, image)
    with pytest.raises(
        LocalProtocolError, match=r"rows of operator 0 .*: it is not wanted here; expected one of operator"
    ):
        stream.take(0)
    with pytest.raises(LocalProtocolError, match="it is neither read nor made here"):
        RowStream(two, [2], [2]).rows(1)
    with pytest.raises(ConfigError, match=r"expected a tensor of torch\.uint8, got torch\.float32"):
        stream.push(0, image.float())
    with pytest.raises(ConfigError, match=r"expected a tensor of torch\.uint8, got ndarray"):
        stream.push(0, image.numpy())  # type: ignore[arg-type]
    for shape in ((1, 6, 5, 4), (1, 6, 6, 3), (6, 5, 3), (0, 6, 5, 3)):
        with pytest.raises(ConfigError, match=r"rows of 0 \(.*\): expected shape \[batch, rows, 5, 3\], got \["):
            stream.push(0, torch.zeros(shape, dtype=torch.uint8))
    stream.push(0, image[:, :4])
    with pytest.raises(LocalProtocolError, match="expected at most 2 more, since 4 of 6 rows are there, got 3"):
        stream.push_all({1: torch.randn(1, 3), 0: image[:, :3]})
    assert stream.rows(1) == 0
    with pytest.raises(ConfigError, match="expected a batch of 1 as with the rows before, got 2"):
        stream.push(1, torch.randn(2, 3))
    with pytest.raises(ConfigError, match=r"expected shape \[batch, 3\], got \[1, 4\]"):
        stream.push(1, torch.randn(1, 4))
    stream.push_all({0: image[:, 4:], 1: torch.randn(1, 3)})
    with pytest.raises(LocalProtocolError, match=r"expected at most 0 more.*call reset before the rows of another"):
        stream.push(1, torch.randn(1, 3))


def test_a_tuple_of_tensors_is_neither_pushed_nor_taken() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b = x.chunk(2, 1)
            return a * b

    captured = capture(Halves().eval(), torch.randn(1, 4, 6, 5))
    (split,) = numbered(captured, "split")
    for ops, wanted in ((range(len(captured.graph)), [split]), (range(split + 1, len(captured.graph)), [split + 1])):
        with pytest.raises(ConfigError, match=r"it has several results; name the operators behind it"):
            RowStream(captured, ops, wanted)
    image = torch.randn(1, 4, 6, 5)
    same(captured, streamed(captured, [image], itertools.repeat(4)), [image])
