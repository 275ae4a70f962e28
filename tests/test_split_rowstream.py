"""A stream of rows: what it keeps and shares, when rows come, what it refuses."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from row_streams import SAME, Collected, everything, same, streamed
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.split import Captured, RowStream, capture
from rowcast.split import rowplan as rowplan_module
from rowcast.split.rowplan import RowPlan


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
        stream.push(0, image[:, :, row : row + 1].clone())
        if 6 <= row < 23:
            assert stream.held() == {0: 2, relu: 4}
            tensors = [value for value in stream._values if isinstance(value, Tensor)]
            assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) == 4 * 10 * (3 * 2 + 8 * 4)
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


def test_a_large_weight_with_few_pixels_waits_for_rows_that_are_worth_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows come fewer at a time, and none is held back once all of its input is there."""
    monkeypatch.setattr(rowplan_module, "LARGE_WEIGHT", 600)
    torch.manual_seed(0)
    net = Chain().eval()
    captured = capture(net, torch.randn(1, 3, 24, 10))
    for batch, expected in ((1, [0] * 9 + [7] + [0] * 6 + [7] + [0] * 6 + [10]), (7, [0] * 3 + [1] * 20 + [4])):
        stream, image = everything(captured), torch.randn(batch, 3, 24, 10)
        collected = Collected(captured, stream, captured.graph.outputs)
        made = []
        for row in image.split(1, 2):
            stream.push(0, row)
            made.append(sum(rows.shape[2] for rows in collected.take().values()))
        assert made == expected
        same(captured, collected.whole(), [image])


@pytest.mark.parametrize("last", [False, True])
def test_slabs_have_the_memory_format_of_the_whole_image(last: bool) -> None:
    """And so what follows is computed by the same kernels."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, 24, 10)
    order = torch.channels_last if last else torch.contiguous_format
    captured = capture(Chain().eval(), image.to(memory_format=order))
    image = torch.randn(1, 3, 24, 10).to(memory_format=order)
    (whole,) = captured.whole(image)
    for size in (1, 5, 12):
        (made,) = streamed(captured, [image], itertools.repeat(size))
        assert made.is_contiguous(memory_format=order) and whole.is_contiguous(memory_format=order)
        torch.testing.assert_close(made, whole, **SAME)


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
