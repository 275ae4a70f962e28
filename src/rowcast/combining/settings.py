"""What ``rowcast combine`` is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rowcast.combining.methods import METHODS
from rowcast.config import Checked, setting

__all__ = ["CombineSettings"]


@dataclass(frozen=True)
class CombineSettings(Checked):
    """How models are combined; in a file, the table ``[combine]``.

    Raises:
        ConfigError: a value out of its range.
    """

    task: str = setting("cruda-digits", "Name of a task, or a class of one's own: my_file.py:MyTask.", flag="--task")
    data: str | None = setting(None, "Folder of the data set.", flag="--data")
    seed: int = setting(
        0, "Of the task, and of which tests are the validation items.", low=0, high=2**32 - 1, flag="--seed"
    )
    validation: int = setting(
        200,
        "Labelled tests of the task that the methods are fitted to; they are judged by the others.",
        unit="items",
        low=1,
        high=10_000_000,
        flag="--validation",
    )
    neighbours: int = setting(
        30,
        "Validation items nearest to an item that say which models are good there.",
        unit="items",
        low=1,
        high=10_000_000,
        flag="--neighbours",
    )
    margin: float = setting(
        0.1,
        "How much less accurate there than the best a model may be, to have a say in DES-LA.",
        low=0.0,
        high=1.0,
        flag="--margin",
    )
    by_scores: bool = setting(
        False, "Measure how near items are in the models' scores, not in the inputs themselves.", flag="--by-scores"
    )
    method: str = setting(
        "stacking", "The method that is written.", choices=tuple(METHODS), flag="--method", metavar="METHOD"
    )
    out: Path | None = setting(
        None, "Write models and fitted method to this file (.safetensors) as one model.", flag="--out"
    )
