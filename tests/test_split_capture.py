"""Capturing PyTorch models: what the captured model answers, what it shares with the live one, what is refused."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captured_models import answer_of, assert_equal_answers, small
from rowcast.errors import ConfigError
from rowcast.graphs import Profile
from rowcast.planning import LATENCY, CostModel, LinkCosts, pipeline
from rowcast.split import Captured, CaptureError, capture
from rowcast.split.capture import UNSENDABLE_BYTES
from rowcast.split.inputs import check_finite


class WithLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


def module_of(function: Callable[..., Any]) -> nn.Module:
    """A module whose ``forward`` is this function; it has a linear layer."""
    code = function.__code__.replace(co_name="forward")
    forward = types.FunctionType(code, function.__globals__, "forward", None, function.__closure__)
    net: nn.Module = type("Net", (WithLinear,), {"forward": forward})().eval()
    return net


X = torch.arange(4.0).view(1, 4) - 1.0

# -- types ---------------------------------------------------------------------------------------------------


def test_a_camera_image_is_the_cheapest_tensor_to_send() -> None:
    captured, (image,) = small("camera")
    kind = captured.tensors[0]
    assert kind is not None
    assert (kind.dtype.name, kind.shape, kind.row_axis, kind.channel_axis) == ("uint8", tuple(image.shape), 1, 3)
    normalised = captured.tensors[captured.graph.consumers[0][0]]
    assert normalised is not None and normalised.shape == (1, 3, *image.shape[1:3])


# -- what it shares with the live model ----------------------------------------------------------------------


def trained() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    return net.eval(), torch.randn(1, 3, 8, 8)


def step(net: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(x).pow(2).sum().backward()
    optimizer.step()
    net.eval()


def replaced_data(net: nn.Module, x: Tensor) -> None:
    for parameter in net.parameters():
        parameter.data = parameter.data + 0.1


def new_tensors(net: nn.Module, x: Tensor) -> None:
    net.load_state_dict({name: value + 0.1 for name, value in net.state_dict().items()}, assign=True)


def buffers_in_training(net: nn.Module, x: Tensor) -> None:
    net.train()
    net(torch.cat([x, 3 * x]))
    net.eval()


@pytest.mark.parametrize("change", [step, replaced_data, new_tensors, buffers_in_training])
def test_what_training_changes_is_seen(change: Callable[[nn.Module, Tensor], None]) -> None:
    net, x = trained()
    captured = capture(net, x)
    before, digest = captured(x), captured.parameters_digest()
    change(net, x)
    assert not torch.allclose(captured(x), before)
    assert_equal_answers(captured(x), answer_of(captured, (x,)))
    assert captured.parameters_digest() != digest


def test_parameters_are_not_copied() -> None:
    net, x = trained()
    captured = capture(net, x)
    own = {tensor.data_ptr() for tensor in net.state_dict().values() if tensor.dim()}
    assert {tensor.data_ptr() for tensor in captured.module.state_dict().values() if tensor.dim()} == own
    assert {id(p) for p in captured.module.parameters()} == {id(p) for p in net.parameters()}


def test_a_value_made_of_a_parameter_follows_it() -> None:
    net = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)).eval()
    captured = capture(net, X)
    with torch.no_grad():
        net.parametrizations.weight.original0.mul_(2.0)
    assert_equal_answers(captured(X), answer_of(captured, (X,)))


def test_constants_are_computed_once() -> None:
    captured = capture(module_of(lambda net, x: x + torch.arange(4).flip(0).float() * 2.0), X)
    assert [op.name for op in captured.graph.ops] == ["x", "add"]
    assert [node.op for node in captured.module.graph.nodes].count("call_function") == 1


def test_an_answer_can_be_changed_and_shares_no_memory_with_the_input() -> None:
    captured = capture(module_of(lambda net, x: x.clone()), X)
    answer = captured(X)
    answer += 1.0
    assert torch.equal(answer, X + 1.0)


# -- structures, batches -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Found:
    boxes: Tensor
    rest: list[Any]


torch.export.register_dataclass(Found)


def test_answers_have_the_structure_that_forward_gives() -> None:
    net = module_of(
        lambda net, x, y: Found(
            net.linear(x), [y, {"sum": x + y, "none": None, "size": x.shape[0], "w": net.linear.bias}]
        )
    )
    captured = capture(net, (X, X + 1))
    for batch in (1, 3):
        inputs = (X.repeat(batch, 1), X.repeat(batch, 1) * 2)
        answer = captured(*inputs)
        assert isinstance(answer, Found)
        assert_equal_answers(answer, answer_of(captured, inputs))
        assert answer.rest[1]["size"] == batch
    assert captured.graph.inputs == (0, 1)


def test_an_argument_can_be_a_structure_of_tensors() -> None:
    captured = capture(module_of(lambda net, given: given["a"] - given["b"]), ({"a": X, "b": 2 * X},))
    assert [each.name for each in captured.inputs] == ["given['a']", "given['b']"]
    assert torch.equal(captured({"b": X, "a": 3 * X}), 2 * X)
    with pytest.raises(ConfigError, match="expected the structure of the example"):
        captured({"a": X})


def cut_by_values(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    positive = x[x > 0]
    return net.linear(x) + positive.shape[0], positive.sum()


def in_half(net: nn.Module, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net.linear(x)


def both_branches(net: nn.Module, x: Tensor) -> Tensor:
    chosen: Tensor = torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))
    return chosen


def hooked(net: nn.Module, x: Tensor) -> Tensor:
    handle = net.linear.register_forward_hook(lambda module, inputs, made: made * 2)
    made: Tensor = net.linear(x)
    handle.remove()
    return made


@pytest.mark.parametrize("function", [cut_by_values, in_half, both_branches, hooked], ids=lambda each: each.__name__)
def test_two_parts_of_an_unusual_model_answer_as_it_does(function: Callable[..., Any]) -> None:
    captured = capture(module_of(function), X)
    outputs = captured.graph.outputs
    for x in (X, -X):
        for cut in range(1, len(captured.graph)):
            later = captured.part(range(cut, len(captured.graph)), outputs)
            earlier = captured.part(range(cut), later.reads)
            made = later(*earlier(*(x for _ in earlier.reads)))
            assert_equal_answers(captured.answer(made), answer_of(captured, (x,)))


def test_elements_that_have_no_codec_stay_where_they_are() -> None:
    captured = capture(module_of(in_half), X)
    kind = {op.name: captured.tensors[index] for index, op in enumerate(captured.graph.ops)}
    assert kind["x"] is not None
    assert kind["linear"] is None
    assert captured.graph.ops[-1].bytes == UNSENDABLE_BYTES


MIXING: dict[str, Callable[..., Any]] = {
    "mean of the batch": lambda net, x: x - x.mean(0, keepdim=True),
    "first of the batch": lambda net, x: x[:1] + x,
    "next of the batch": lambda net, x: x + x.roll(1, 0),
    "size as a number": lambda net, x: x * len(x),
    "size one is special": lambda net, x: x.squeeze() * 2,
    "branch on the batch": lambda net, x: x * 2 if x.shape[0] == 1 else x * 3,
    "no batch in the answer": lambda net, x: x.sum(),
}


@pytest.mark.parametrize("what", sorted(MIXING))
def test_a_model_that_treats_a_batch_otherwise_is_captured_for_one_input(what: str) -> None:
    captured = capture(module_of(MIXING[what]), X)
    assert not captured.batched
    assert_equal_answers(captured(X), answer_of(captured, (X,)))
    with pytest.raises(ConfigError, match="captured for one size of the batch"):
        captured(X.repeat(2, 1))


def test_an_example_of_another_batch_is_captured_for_that_batch() -> None:
    captured = capture(module_of(lambda net, x: net.linear(x)), X.repeat(3, 1))
    assert not captured.batched
    assert captured.graph.ops[0].bytes == 3 * 4 * 4


def test_tensors_whose_batch_is_not_in_one_piece_have_no_batch_axis() -> None:
    net = module_of(
        lambda net, x: (x.view(-1, 2, 2).transpose(0, 1).reshape(-1, 2) * 2).view(2, -1, 2).transpose(0, 1) + 0
    )
    captured = capture(net, X)
    assert captured.batched
    doubled = next(op for op, each in enumerate(captured.graph.ops) if each.name == "mul")
    assert captured.batch_axes[doubled] is None
    assert captured.batch_axes[captured.graph.outputs[0]] == 0


def test_operators_with_several_results_are_not_cut_apart() -> None:
    captured = capture(module_of(lambda net, x: torch.cat([half * 2 for half in x.split(2, 1)], 1)), X)
    split = [op for op, kind in enumerate(captured.tensors) if kind is None]
    assert split
    for op in split:
        assert captured.graph.consumers[op]
        assert all(captured.graph.ops[reader].joined for reader in captured.graph.consumers[op])


def test_what_cannot_travel_is_in_no_plan() -> None:
    """Sizes that depend on values, and numbers: whatever it costs, such a tensor stays where it is made."""
    captured = capture(module_of(lambda net, x: net.linear(x * x.sum()) + x[x > 0].sum()), X)
    stuck = {op for op, kind in enumerate(captured.tensors) if kind is None}
    assert len(stuck) >= 3
    seconds = np.ones(len(captured.graph))
    plan = pipeline(CostModel(captured.graph, Profile(seconds, 0.01 * seconds), LinkCosts(1e3, 1e3)), LATENCY)
    assert not stuck & {*plan.up, *plan.down}


# -- the same on every machine -------------------------------------------------------------------------------

DIGEST = """
import torch
from rowcast.split import capture
from rowcast.testing.zoo import SMALL
captured = capture(*SMALL["unusual"]())
print(captured.digest.hex(), captured.graph.digest.hex(), captured.parameters_digest().hex())
"""


@pytest.mark.system
def test_digests_are_the_same_in_another_process() -> None:
    captured, _ = small("unusual")
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = (captured.digest, captured.graph.digest, captured.parameters_digest())
    assert done.stdout.split() == [digest.hex() for digest in expected]


def test_the_first_difference_of_two_sides_is_named() -> None:
    def described(width: int, value: float, kernel: int = 3) -> tuple[Captured, list[str]]:
        net = nn.Sequential(nn.Conv2d(1, width, kernel, padding=1), nn.ReLU()).eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(value)
        captured = capture(net, torch.zeros(1, 1, 6, 6))
        return captured, captured.description()

    (mine, lines), (same, again), (other, values), (wide, sizes) = (
        described(2, 1.0),
        described(2, 1.0),
        described(2, 2.0),
        described(3, 1.0),
    )
    assert lines == again and mine.digest == same.digest and mine.parameters_digest() == same.parameters_digest()
    assert mine.digest == other.digest and mine.parameters_digest() != other.parameters_digest()
    differing = [a for a, b in zip(lines, values, strict=True) if a != b]
    assert [line.split(":")[0] for line in differing] == ["parameter 0.weight", "parameter 0.bias"]
    assert mine.digest != wide.digest
    assert next(a for a, b in zip(lines, sizes, strict=True) if a != b).startswith("operator 1 (0:conv2d): aten.conv2d")
    assert len(lines) == len(set(lines))


# -- what is refused -----------------------------------------------------------------------------------------


def branch(net: nn.Module, x: Tensor) -> Tensor:
    if x.sum() > 0:  # branch
        return x
    return -x


def looped(net: nn.Module, x: Tensor) -> Tensor:
    for _ in range(int(x.argmax())):  # looped
        x = x + 1
    return x


def asserted(net: nn.Module, x: Tensor) -> Tensor:
    assert bool((x > -9).all())  # asserted
    return x


def numpied(net: nn.Module, x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy() + 1)  # numpied


def counted(net: nn.Module, x: Tensor) -> Tensor:
    net.seen += 1  # counted
    return x + net.seen


def remembered(net: nn.Module, x: Tensor) -> Tensor:
    before = getattr(net, "before", torch.zeros(1))
    net.before = x
    return x + before


def overwritten(net: nn.Module, x: Tensor) -> Tensor:
    return x.add_(1)  # overwritten


def drawn(net: nn.Module, x: Tensor) -> Tensor:
    return x + torch.rand(4)  # drawn


def strided(net: nn.Module, x: Tensor) -> Tensor:
    return x.as_strided((1, 2), (4, 2))  # strided


def dropped(net: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.dropout(x)  # dropped


def misspelled(net: nn.Module, x: Tensor) -> Tensor:
    return x.summ()  # type: ignore[operator,no-any-return]  # misspelled


def constant(net: nn.Module, x: Tensor) -> Tensor:
    return torch.ones(3)


REFUSED: dict[Callable[..., Any], tuple[str, str]] = {
    branch: ("asks for the value of a tensor", "torch.where"),
    looped: ("asks for the value of a tensor", "keep it a tensor"),
    asserted: ("asks for the value of a tensor", "take the assertion out"),
    numpied: ("leaves torch for numpy", "use functions of torch"),
    counted: ("changes the buffer 'seen'", "give it back as an input"),
    remembered: ("keeps a state in 'before'", "give it back as an input"),
    overwritten: ("overwrites its input", "x.clone()"),
    drawn: ("draws random numbers", "make them an input"),
    dropped: ("draws random numbers", "training=self.training"),
    strided: ("depends on how a tensor lies in memory", "use unfold"),
    misspelled: ("forward fails on the example", "give what forward takes"),
    constant: ("does not depend on its inputs", "is forward complete"),
}


def line_of(function: Callable[..., Any]) -> str:
    """``file, line N``, where the function has a comment with its name; empty where it has none."""
    code = function.__code__
    with open(code.co_filename, encoding="utf-8") as file:  # noqa: PTH123
        found = [at for at, line in enumerate(file, start=1) if line.rstrip().endswith(f"# {function.__name__}")]
    return f"{code.co_filename}, line {found[0]}" if found else ""


@pytest.mark.parametrize("function", REFUSED, ids=lambda function: function.__name__)
def test_a_model_that_is_no_graph_is_refused_with_its_line_and_nothing_is_printed(
    function: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    net = module_of(function)
    net.register_buffer("seen", torch.zeros(1))
    with pytest.raises(CaptureError) as caught:
        capture(net, X.clone())
    message = str(caught.value)
    for part in (*REFUSED[function], line_of(function)):
        assert part in message
    assert "call_function" not in message and "\n" not in message and len(message) < 500
    assert capfd.readouterr() == ("", "")


def test_what_others_log_meanwhile_is_not_swallowed(caplog: pytest.LogCaptureFixture) -> None:
    """Only what torch logs in the capturing thread is silenced."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")

    def noisy(net: nn.Module, x: Tensor) -> Tensor:
        thread = threading.Thread(target=log.warning, args=("from elsewhere",))
        thread.start()
        thread.join()
        logging.getLogger("mine").warning("from forward")
        return branch(net, x)

    with pytest.raises(CaptureError, match="asks for the value of a tensor"):
        capture(module_of(noisy), X)
    assert set(caplog.messages) == {"from elsewhere", "from forward"}


def test_a_model_in_training_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Dropout()))
    with pytest.raises(CaptureError, match=r"it is in training mode; call net\.eval\(\)"):
        capture(net, X)
    net.eval()[1][0].train()
    with pytest.raises(CaptureError, match=r"its module '1\.0' is in training mode"):
        capture(net, X)


WRONG_EXAMPLES: dict[str, tuple[Any, str]] = {
    "text": ("image.png", "expected tensors, got str for 'input'"),
    "number": ((X, 3.0), "expected tensors, got float for 'input 1'"),
    "nothing": ((), "expected at least one tensor, got none"),
    "wrong size": (torch.zeros(1, 7), "forward fails on the example: RuntimeError: mat1 and mat2"),
    "too many": ((X, X), "forward fails on the example: TypeError"),
}


@pytest.mark.parametrize("what", sorted(WRONG_EXAMPLES))
def test_a_wrong_example_is_refused(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    example, message = WRONG_EXAMPLES[what]
    with pytest.raises(CaptureError) as caught:
        capture(nn.Linear(4, 4).eval(), example)
    assert message in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_no_module_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"expected a torch\.nn\.Module, got function"):
        capture(branch, X)  # type: ignore[arg-type]


def test_a_row_axis_that_an_input_does_not_have_is_refused() -> None:
    net = nn.ReLU().eval()
    for axis in (0, 3, [1, 1], ["high"]):
        with pytest.raises(ConfigError, match="row_axis"):
            capture(net, torch.zeros(1, 3, 5), row_axis=axis)  # type: ignore[arg-type]
    kind = capture(net, torch.zeros(1, 3, 5), row_axis=2).tensors[0]
    assert kind is not None and (kind.row_axis, kind.rows) == (2, 5)


WRONG_INPUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "size": (lambda x: x[..., :-1], r"expected shape \[batch, 40, 48, 3\], got \[1, 40, 48, 2\]; resize it"),
    "element type": (lambda x: x.float(), r"expected torch.uint8, got torch.float32"),
    "no batch axis": (lambda x: x[0], r"the axis of the batch is missing: give input.unsqueeze\(0\)"),
    "empty batch": (lambda x: x[:0], r"a batch has at least one input"),
    "array": (lambda x: x.numpy(), r"expected a torch.Tensor, got ndarray; torch.from_numpy"),
    "other device": (lambda x: x.to("meta"), r"expected a tensor on cpu, got one on meta"),
}


@pytest.mark.parametrize("what", sorted(WRONG_INPUTS))
def test_a_wrong_input_is_refused_by_its_name(what: str) -> None:
    captured, (image,) = small("camera")
    change, message = WRONG_INPUTS[what]
    with pytest.raises(ConfigError, match=message) as caught:
        captured(change(image))
    assert "input 'image'" in str(caught.value)


def test_inputs_of_another_number_or_of_unlike_batches_are_refused() -> None:
    captured = capture(module_of(lambda net, x, y: x + y), (X, X))
    with pytest.raises(ConfigError, match=r"expected 2 .*got 1"):
        captured(X)
    with pytest.raises(ConfigError, match=r"expected one size of the batch, got \[1, 2\]"):
        captured(X, X.repeat(2, 1))


def test_an_input_that_is_not_a_number_is_named_where_that_is_asked_for() -> None:
    captured, (signal,) = small("recurrent")
    check_finite(captured.inputs, (signal,))
    for bad in (float("nan"), float("inf")):
        damaged = signal.clone()
        damaged[0, 3, 2] = bad
        with pytest.raises(ConfigError, match="input 'signal': expected numbers, got NaN or Inf in 1 of 50 elements"):
            check_finite(captured.inputs, (damaged,))
    camera, (image,) = small("camera")
    check_finite(camera.inputs, (image,))


def test_models_are_captured_on_several_threads_at_a_time() -> None:
    """torch.export changes what all threads see."""
    net, image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval(), torch.rand(1, 3, 8, 8)
    together = threading.Barrier(3)

    def captured() -> Captured:
        together.wait(30)
        return capture(net, image)

    with ThreadPoolExecutor(3) as pool:
        models = [future.result(60) for future in [pool.submit(captured) for _ in range(3)]]
    assert len({model.digest for model in models}) == 1
