"""A list of calls over numbered values: what one push of rows computes, once it is known what that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rowcast.split.rowops import Slot

__all__ = ["Call", "Program"]

Run = Callable[[list[Any]], Any]
aten = torch.ops.aten

#: Operators that give a tensor of their own, never a view of what they read.
OWN = frozenset(
    [
        "convolve",
        "conv1d",
        "conv2d",
        "conv3d",
        "convolution",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "batch_norm",
        "linear",
        "layer_norm",
        "cat",
        "max_pool2d",
        "avg_pool2d",
        "add",
        "sub",
        "mul",
        "div",
        "relu",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
        "silu",
        "tanh",
        "leaky_relu",
        "elu",
        "upsample_nearest2d",
        "upsample_bilinear2d",
    ]
)
#: Operators that can write their result over their first operand.
IN_PLACE = frozenset(
    [
        "relu",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
        "silu",
        "tanh",
        "leaky_relu",
        "elu",
        "add",
        "sub",
        "mul",
        "div",
        "clamp",
    ]
)


@dataclass
class Call:
    """``result = function(*args, **kwargs)``.

    Attributes:
        args: values, slots, and lists of them.
        result: index of the value that it sets.
        like: index of the value whose type and shape the result has, and that it may overwrite where nobody else reads
            it; ``None``: neither.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: int
    like: int | None = None

    @property
    def uses(self) -> list[int]:
        return [*_slots(self.args), *_slots(self.kwargs.values())]


def _slots(values: Iterable[Any]) -> Iterable[int]:
    for value in values:
        if isinstance(value, Slot):
            yield value.index
        elif isinstance(value, list | tuple):
            yield from _slots(value)


class Program:
    """Calls in order; a value is freed behind its last use.

    Args:
        size: number of values.
        given: how many of them, from the first on, are there at the start.
        fetched: values that are looked up at the start of each run: index, dictionary and key. A parameter is what
            the live model holds then.
        calls: what is computed.
        results: indices of the values that it gives.
    """

    def __init__(
        self,
        size: int,
        given: int,
        fetched: Sequence[tuple[int, Any, str]],
        calls: Sequence[Call],
        results: Sequence[int],
    ) -> None:
        self._given = given
        self._blank: list[Any] = [None] * (size - given)
        self._fetched = tuple(fetched)
        self._results = tuple(results)
        self.calls = overwriting(calls, results)
        kept = {*results, *(index for index, _, _ in fetched)}
        self._steps = [
            (_bound(call), call.result, gone)
            for call, gone in zip(self.calls, _last_uses(self.calls, kept), strict=True)
        ]

    def __call__(self, values: list[Any]) -> list[Any]:
        """The results.

        Args:
            values: the first ``given`` ones; the list is used up.
        """
        values += self._blank
        for index, held, name in self._fetched:
            values[index] = held[name]
        for run, result, gone in self._steps:
            values[result] = run(values)
            for index in gone:
                values[index] = None
        return [values[index] for index in self._results]


def overwriting(calls: Sequence[Call], results: Sequence[int]) -> list[Call]:
    """The same calls, writing over an operand that an operator made and nobody else reads."""
    uses = Counter(index for call in calls for index in call.uses)
    uses.update(results)
    owned = set()
    changed = []
    for call in calls:
        name = getattr(call.function, "_opname", None) or getattr(call.function, "__name__", "")
        if name in OWN:
            owned.add(call.result)
        if name in IN_PLACE and call.like in owned and uses[call.like] == 1:
            overload = getattr(getattr(aten, f"{name}_"), call.function._overloadname)  # type: ignore[attr-defined]
            call = Call(overload, call.args, call.kwargs, call.result)
        changed.append(call)
    return changed


def _last_uses(calls: Sequence[Call], kept: set[int]) -> list[tuple[int, ...]]:
    """For each call the values that nobody needs behind it."""
    seen = set(kept)
    gone = []
    for call in reversed(calls):
        last = {*call.uses, call.result} - seen
        seen |= last
        gone.append(tuple(sorted(last)))
    return gone[::-1]


def _bound(call: Call) -> Run:
    """A function of all values."""
    function, kwargs = call.function, call.kwargs
    if _has_slots(kwargs.values()) or any(isinstance(arg, list | tuple) and _has_slots(arg) for arg in call.args):
        return lambda values: function(
            *_filled(call.args, values), **{name: _filled(value, values) for name, value in kwargs.items()}
        )
    places = [(place, arg.index) for place, arg in enumerate(call.args) if isinstance(arg, Slot)]
    rest = list(call.args[1:])
    if len(places) == 1 and places[0][0] == 0:
        (_, first), rest_args = places[0], tuple(rest)
        if kwargs:
            return lambda values: function(values[first], *rest_args, **kwargs)
        return lambda values: function(values[first], *rest_args)
    template = list(call.args)

    def run(values: list[Any]) -> Any:
        args = template.copy()
        for place, index in places:
            args[place] = values[index]
        return function(*args, **kwargs)

    return run


def _filled(value: Any, values: list[Any]) -> Any:
    if isinstance(value, Slot):
        return values[value.index]
    if isinstance(value, list | tuple):
        return [_filled(each, values) for each in value]
    return value


def _has_slots(values: Iterable[Any]) -> bool:
    return next(iter(_slots(values)), None) is not None
