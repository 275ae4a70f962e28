"""Python code of operators: each node is rendered once, and a function of any of them is put together from that."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rowcast.errors import ConfigError
from rowcast.split.lowering import PREFIX, Lowered, attribute

__all__ = ["ANY_ORDER", "Code", "Step"]

#: Calls that want the memory order in which the model was captured, and their kind that takes any: a tensor that came
#: over a link, or from a camera, lies otherwise in memory than that of the example.
ANY_ORDER: dict[Any, Any] = {
    torch.ops.aten.view.default: torch.reshape,
    torch.ops.aten._unsafe_view.default: torch.reshape,
}


@dataclass(frozen=True)
class Step:
    """One node as a statement.

    Attributes:
        place: position in the order of the model.
        name: variable that it sets.
        text: the expression.
        uses: the variables in it.
        batch: whether it asks for the size of the batch.
    """

    place: int
    name: str
    text: str
    uses: tuple[str, ...]
    batch: bool = False


@dataclass
class Code:
    """All nodes of a model as statements, and the objects that they name.

    Parameters and buffers are fetched from the live modules at each run: ``p3['weight']`` is what the third of them
    holds then.
    """

    lowered: Lowered
    net: torch.nn.Module
    objects: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    _names: dict[Any, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._nodes = tuple(self.lowered.ops)
        for node, index in self.lowered.ops.items():
            self._names[node] = f"t{index}"
        for index, node in enumerate(self.lowered.helpers):
            self._names[node] = f"h{index}"
        ordered = [node for node in self.lowered.module.graph.nodes if node in self._names]
        for place, node in enumerate(ordered):
            if node.op != "placeholder":
                step = self._step(place, node)
                self.steps[step.name] = step

    def expression(self, value: Any) -> tuple[str, tuple[str, ...]]:
        """An argument as Python, and the variables in it."""
        uses: dict[str, None] = {}
        return self._render(value, uses), tuple(uses)

    def function(
        self,
        steps: Iterable[str],
        given: Sequence[str],
        results: Sequence[str],
        kept: Sequence[str],
        *,
        marked: bool = False,
    ) -> types.FunctionType:
        """A function of tensors.

        Args:
            steps: names of the variables to be set; helpers come along.
            given: names of its arguments.
            results: expressions that it gives.
            kept: names of the variables in them.
            marked: its first argument is a function without arguments, which it calls behind each operator.
        """
        chosen = self._with_helpers(steps, kept)
        last = {name: place for place, step in enumerate(chosen) for name in (step.name, *step.uses)}
        lines = [f"def run({', '.join(['mark', *given] if marked else given)}):"]
        if any(step.batch for step in chosen):
            lines.append(f" batch = {self._batch(given)}")
        for place, step in enumerate(chosen):
            lines.append(f" {step.name} = {step.text}")
            gone = [name for name in dict.fromkeys((*step.uses, step.name)) if last[name] == place]
            gone = [name for name in gone if name not in kept]
            if gone:
                lines.append(f" del {', '.join(gone)}")
            if marked and step.name[0] == "t":
                lines.append(" mark()")
        lines.append(f" return ({''.join(f'{text}, ' for text in results)})")
        space: dict[str, Any] = {}
        exec(compile("\n".join(lines), "<part of a captured model>", "exec"), self.objects, space)
        function: types.FunctionType = space["run"]
        return function

    def _with_helpers(self, steps: Iterable[str], kept: Iterable[str]) -> list[Step]:
        chosen = {name: self.steps[name] for name in steps}
        todo = [*kept, *(name for step in chosen.values() for name in step.uses)]
        while todo:
            name = todo.pop()
            if name[0] == "h" and name not in chosen:
                chosen[name] = self.steps[name]
                todo.extend(chosen[name].uses)
        return sorted(chosen.values(), key=lambda step: step.place)

    def _batch(self, given: Sequence[str]) -> str:
        """The size of the batch, from a tensor that is there."""
        for name in given:
            shape = self.lowered.shapes.get(self._nodes[int(name[1:])])
            if shape is not None and shape.batch_axis is not None:
                return f"{name}.shape[{shape.batch_axis}] // {shape.sizes[shape.batch_axis]}"
        raise ConfigError("part: expected a tensor with the axis of the batch to be given, got none that has it")

    def _step(self, place: int, node: torch.fx.Node) -> Step:
        name = self._names[node]
        if node in self.lowered.batch_code:
            return Step(place, name, self.lowered.batch_code[node], (), batch=True)
        uses: dict[str, None] = {}
        arguments = [self._render(value, uses) for value in node.args]
        arguments += [f"{key}={self._render(value, uses)}" for key, value in node.kwargs.items()]
        text = f"{self._object('f', ANY_ORDER.get(node.target, node.target))}({', '.join(arguments)})"
        return Step(place, name, text, tuple(uses))

    def _render(self, value: Any, uses: dict[str, None]) -> str:
        if isinstance(value, torch.fx.Node):
            if value.op == "get_attr":
                return self._fetched(str(value.target))
            uses[self._names[value]] = None
            return self._names[value]
        if isinstance(value, tuple | list):
            items = [self._render(each, uses) for each in value]
            return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
        if isinstance(value, slice):
            return f"slice({', '.join(self._render(each, uses) for each in (value.start, value.stop, value.step))})"
        if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            return repr(value)
        return self._object("o", value)

    def _fetched(self, name: str) -> str:
        if name not in self.lowered.live:
            return self._object("c", attribute(self.lowered.module, name))
        owner, _, own = name.removeprefix(PREFIX).rpartition(".")
        module = self.net.get_submodule(owner)
        held = module._parameters if own in module._parameters else module._buffers
        return f"{self._object('p', held)}[{own!r}]"

    def _object(self, kind: str, value: Any) -> str:
        """The name under which the code finds an object."""
        key = (kind, id(value))
        if key not in self._names:
            self._names[key] = f"{kind}{len(self.objects)}"
            self.objects[self._names[key]] = value
        return self._names[key]
