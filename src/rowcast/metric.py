"""Metrics: what a job's success is measured by, with a unit and a direction.

A metric is written down once, by the task (:class:`rowcast.tasks.Task`). Journals hold its values under its name, and
``done.json`` and ``compare.json`` hold what :func:`metrics_to_json` makes of it, so that a report needs no task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowcast.errors import ConfigError

__all__ = ["BETTER", "RESERVED", "Metric", "check_metrics", "metrics_from_json", "metrics_to_json"]

#: Which of two values is the better one.
BETTER = ("higher", "lower")

#: Names that the journal of a training loop uses itself: the loss of the batch of a step.
RESERVED = ("loss",)

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Metric:
    """One figure by which a model is judged.

    Attributes:
        name: as in the journal's ``metric`` records: small letters, digits and ``_``, as in 'trajectory_error'.
        unit: of its values, as in 'm' or '%'; '' for a bare number.
        better: 'higher' or 'lower'.

    Raises:
        ConfigError: a name that no journal takes, or an unknown direction.
    """

    name: str
    unit: str = ""
    better: str = "higher"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"metric {self.name!r}: expected a name of small letters, digits and '_' that begins with a letter, "
                "40 at most, as in 'test_error'"
            )
        if not isinstance(self.unit, str) or len(self.unit) > 40 or not self.unit.isprintable():
            raise ConfigError(f"metric {self.name}: unit: expected a short text, as in 'm', got {self.unit!r}")
        if self.better not in BETTER:
            raise ConfigError(f"metric {self.name}: better: expected 'higher' or 'lower', got {self.better!r}")

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1: of values times this the highest is the best."""
        return 1 if self.better == "higher" else -1

    @property
    def label(self) -> str:
        """Name and unit, for an axis or a column: 'trajectory error (m)'."""
        words = self.name.replace("_", " ")
        return f"{words} ({self.unit})" if self.unit else words

    def is_better(self, value: float, than: float) -> bool:
        """Whether ``value`` is strictly better than the other."""
        return self.sign * value > self.sign * than

    def reaches(self, value: float, target: float) -> bool:
        """Whether ``value`` is as good as ``target`` or better."""
        return self.sign * value >= self.sign * target

    def best(self, values: Iterable[float]) -> float:
        """The best of these values.

        Raises:
            ValueError: there is none.
        """
        return max(values, key=lambda value: self.sign * value)

    def written(self, value: float | None) -> str:
        """A value for people: four significant digits (one decimal for '%') and the unit; '-' for none."""
        if value is None:
            return "-"
        number = f"{value:.1f}" if self.unit == "%" else f"{value:.4g}"
        return f"{number} {self.unit}" if self.unit else number


def check_metrics(metrics: Sequence[Metric], where: str) -> tuple[Metric, ...]:
    """The metrics of a task, the primary one first.

    Args:
        where: of what they are, for the message.

    Raises:
        ConfigError: none, something else than metrics, two of one name, or a name that journals use themselves.
    """
    if not isinstance(metrics, tuple | list) or not metrics or not all(isinstance(each, Metric) for each in metrics):
        raise ConfigError(
            f"{where}: metrics: expected one or more of rowcast.tasks.Metric, the primary one first, as in "
            f"metrics = (Metric('error', 'm', 'lower'),), got {metrics!r}"
        )
    names = [each.name for each in metrics]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: metrics: two are named {name!r}")
        if name in RESERVED:
            raise ConfigError(
                f"{where}: metrics: {name!r} is the loss of the batch of each step in every journal; take another "
                f"name, as in 'test_{name}'"
            )
    return tuple(metrics)


def metrics_to_json(metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """``[{"name", "unit", "better", "primary"}, ...]``; the first metric is the primary one."""
    return [
        {"name": each.name, "unit": each.unit, "better": each.better, "primary": place == 0}
        for place, each in enumerate(metrics)
    ]


def metrics_from_json(entries: Any, where: str) -> tuple[Metric, ...]:
    """What :func:`metrics_to_json` wrote, the primary one first.

    Raises:
        ConfigError: something else; ``where`` is in the message.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ConfigError(f"{where}: expected a list of metrics, each with name, unit, better and primary")
    ordered = sorted(entries, key=lambda entry: entry.get("primary") is not True)
    return check_metrics(
        [Metric(entry.get("name", ""), entry.get("unit", ""), entry.get("better", "")) for entry in ordered], where
    )
