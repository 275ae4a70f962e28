"""The argument ``MODEL.py:build`` of several commands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.experiment.loading import loading

if TYPE_CHECKING:
    from rowcast.cli.split.live import LiveLine
    from rowcast.split import Captured

__all__ = ["Address", "ModelText", "captured"]

ModelText = Annotated[
    str,
    typer.Argument(
        metavar="MODEL.py:build",
        help="A function that returns the module in evaluation, or the module and what its forward is called with; "
        "also my_package.my_module:build.",
        show_default=False,
    ),
]
Address = Annotated[
    str, typer.Argument(metavar="HOST:PORT", help="Where 'rowcast split serve' listens.", show_default=False)
]


def captured(text: str, example: str | None, threads: int, line: LiveLine) -> Captured:
    """The captured model that a text stands for; this process computes with so many threads."""
    with loading():
        import torch

        from rowcast.experiment.inference.models import find_model
        from rowcast.split import capture
    torch.set_num_threads(threads)
    begun = time.monotonic()
    found = find_model(text, example)
    model = capture(found.net, found.example)
    sizes = [each.numel() * each.element_size() for each in model.flat_inputs(*found.example)]
    line.says(
        f"{text}: {len(model.graph)} operators, {sum(sizes) / 1e3:.4g} kB in, captured in "
        f"{time.monotonic() - begun:.1f} s"
    )
    return model
