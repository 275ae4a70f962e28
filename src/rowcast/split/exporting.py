"""A PyTorch model through ``torch.export``, quietly, and its failures in the words of the user's own code."""

from __future__ import annotations

import contextlib
import linecache
import logging
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from rowcast.errors import CaptureError

__all__ = ["NotFollowed", "Place", "export", "failure_of_its_own", "place_of_node"]

TORCH = str(Path(torch.__file__).parent)
OURS = str(Path(__file__).parent)
#: Folders of code that is not the user's own.
FOREIGN = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


@dataclass(frozen=True)
class Place:
    """A line of the user's code."""

    file: str
    line: int

    @property
    def code(self) -> str:
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.code}" if self.code else f"{self.file}, line {self.line}"


class Whole(torch.nn.Module):
    """The model with its inputs in one tuple; what goes wrong within its ``forward`` comes out as :class:`Failed`."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net
        self.training = False

    def forward(self, *inputs: Any) -> Any:
        try:
            return self.net(*inputs)
        except Exception as error:
            raise Failed from error


class NotFollowed(CaptureError):
    """torch.export does not understand the model: for the size of its batch, its example, or whatever else."""


class Failed(Exception):
    """``forward`` raised an error while it was exported. It carries no graph, which ``torch.export`` would print."""

    @property
    def partial_fx_graph(self) -> str:
        raise AttributeError

    @partial_fx_graph.setter
    def partial_fx_graph(self, graph: str) -> None:
        """Torch puts the graph of what went well into the error."""


def export(net: torch.nn.Module, inputs: tuple[Any, ...], *, batched: bool) -> torch.export.ExportedProgram:
    """The model as a functional program.

    Args:
        net: a module in evaluation.
        inputs: what ``forward`` is called with; where ``batched``, of a batch of 2.
        batched: the first size of all inputs is one variable.

    Returns:
        The program; its names of parameters begin with ``net.``.

    Raises:
        CaptureError: it leaves torch, or asks for the value of a tensor.
        NotFollowed: torch cannot export it; where ``batched`` it may do so for one size of the batch.
    """
    shapes = None
    if batched:
        batch = torch.export.Dim("batch")
        shapes = (tuple(pytree.tree_map(lambda _: {0: batch}, each) for each in inputs),)
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(Whole(net), inputs, dynamic_shapes=shapes, strict=False)
            functional: torch.export.ExportedProgram = program.run_decompositions({})
            return functional
    except Failed as failed:
        raise _explained(failed.__cause__ or failed) from failed.__cause__
    except Exception as error:  # whatever torch.export raises on a model that it does not understand
        raise _explained(error) from error


def failure_of_its_own(error: BaseException) -> CaptureError:
    """What to say where the model itself cannot answer the example."""
    place = _place_of(error.__traceback__)
    return CaptureError(
        f"capture: forward fails on the example{f' at {place}' if place else ''}: {type(error).__name__}: {error}; "
        "give what forward takes: a tensor, or a tuple of its arguments, of the right sizes and types"
    )


def place_of_node(node: torch.fx.Node) -> Place | None:
    """The user's line that a node comes from."""
    frames = []
    for line in (node.meta.get("stack_trace") or "").splitlines():
        words = line.strip().split('"')
        if len(words) == 3 and words[0] == "File " and words[2].startswith(", line "):
            frames.append(Place(words[1], int(words[2].split()[2].rstrip(","))))
    return _own(frames)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What torch logs and warns about in this thread is in the error too, or does not concern the user."""
    thread = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.name.split(".")[0] != "torch"

    handlers = {handler for logger in _loggers_of_torch() for handler in logger.handlers}
    for handler in handlers:
        handler.addFilter(others)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(others)


def _loggers_of_torch() -> Iterator[logging.Logger]:
    """Those whose handlers see what torch logs."""
    yield logging.root
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.split(".")[0] == "torch" and isinstance(logger, logging.Logger):
            yield logger


def _explained(error: BaseException) -> CaptureError:
    """What went wrong, where, and what to do."""
    place = _place_of(error.__traceback__)
    where = f" at {place}" if place else ""
    text = str(error)
    if isinstance(error, GuardOnDataDependentSymNode):
        return CaptureError(f"capture: forward asks for the value of a tensor{where}; {_instead(place)}")
    if "numpy" in text:
        return CaptureError(
            f"capture: forward leaves torch for numpy{where}; use functions of torch: both sides compute a graph of "
            "them"
        )
    kind = type(error).__name__
    first = next((line for line in text.splitlines() if line.strip()), "").replace("FakeTensor", "Tensor")
    return NotFollowed(
        f"capture: torch.export cannot follow forward{where}: {kind}: {first.rstrip('.')}; does the model answer "
        "this example by itself? If so, write that line with functions of torch on tensors"
    )


def _instead(place: Place | None) -> str:
    code = place.code if place else ""
    if code.startswith("assert"):
        return "take the assertion out of forward: a graph has no branches"
    if code.startswith(("if", "elif", "while")) or " if " in code:
        return "use torch.where(condition, a, b) instead of a branch: a graph has none"
    return (
        "keep it a tensor: a graph is the same for all values (masks, torch.where, or a size that is fixed, as in "
        "topk(k))"
    )


def _place_of(trace: TracebackType | None) -> Place | None:
    return _own([Place(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(trace)])


def _own(frames: list[Place]) -> Place | None:
    """The innermost frame of the user's own code; where there is none, of anybody's but torch's and ours."""
    not_torch = [frame for frame in frames if not _within(frame.file, TORCH, OURS)]
    own = [frame for frame in not_torch if not _within(frame.file, *FOREIGN)]
    return next(reversed(own or not_torch), None)


def _within(file: str, *folders: str) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)
