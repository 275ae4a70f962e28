"""Time and energy until a metric reaches a level; what was not reached is censored, not left out and not made up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.energy.account import WorkerEnergy, total_energy
from rowcast.errors import ConfigError

__all__ = ["HOLD", "WINDOW", "CensoredValue", "any_censored", "energy_to_metric", "smoothed", "time_to_metric"]

#: Evaluations that the moving average spans. One for all methods that are compared.
WINDOW = 5
#: Evaluations for which the smoothed metric must stay at the target.
HOLD = 3


@dataclass(frozen=True)
class CensoredValue:
    """A value that was observed, or of which only a lower bound is known because the run ended first.

    It prints, and formats, as ``123`` or as ``>123``.
    """

    value: float  #: the value, or the bound
    reached: bool  #: the value was observed
    unit: str = ""  #: 's' or 'J'
    source: str = ""  #: where it comes from

    def __format__(self, spec: str) -> str:
        return f"{'' if self.reached else '>'}{self.value:{spec or '.6g'}}"

    def __str__(self) -> str:
        return format(self, "")


def any_censored(values: Iterable[CensoredValue]) -> bool:
    """Whether a mean over these values would be a bound only (for example over seeds)."""
    return any(not value.reached for value in values)


def smoothed(values: Sequence[float] | npt.NDArray[np.float64], window: int = WINDOW) -> npt.NDArray[np.float64]:
    """The moving average of each evaluation and the ``window - 1`` before it (fewer at the start), float64 [k].

    Only the past enters, so a value does not change when the run goes on. Where an evaluation gave NaN, so does every
    average that spans it.

    Raises:
        ConfigError: a window below 1, or not a list of numbers.
    """
    values = np.asarray(values, dtype=np.float64)
    if window < 1:
        raise ConfigError(f"smoothing: expected a window of 1 evaluation or more, got {window}")
    if values.ndim != 1:
        raise ConfigError(f"smoothing: expected a list of numbers, got an array of shape {values.shape}")
    begins = np.maximum(np.arange(len(values)) - window + 1, 0)
    return np.array([values[a : b + 1].mean() for b, a in enumerate(begins)], dtype=np.float64)


def time_to_metric(
    elapsed_s: Sequence[float] | npt.NDArray[np.float64],
    values: Sequence[float] | npt.NDArray[np.float64],
    target: float,
    *,
    better: str = "higher",
    window: int = WINDOW,
    hold: int = HOLD,
) -> CensoredValue:
    """When a run reached a level: the first evaluation from which on the smoothed metric stays at ``target`` or better.

    It must stay there for ``hold`` evaluations. If it does not before the run ends, the value is censored: the last
    evaluation worse than the target is the bound, so ``>`` is true whatever would have followed. An evaluation that
    gave NaN counts as worse.

    Args:
        elapsed_s: s since the start at each evaluation, not decreasing [k].
        values: the metric at each evaluation, in the unit of ``target`` [k].
        target: the level asked for.
        better: which way is better.
        window: evaluations that are averaged; see :func:`smoothed`. The same for all methods.
        hold: evaluations for which it must stay.

    Raises:
        ConfigError: fewer than ``hold`` evaluations, lists of different length, a target that is not a number, times
            that go back, an unknown direction, or as :func:`smoothed`.
    """
    times, averages = np.asarray(elapsed_s, dtype=np.float64), smoothed(values, window)
    if better not in ("higher", "lower"):
        raise ConfigError(f"time to a metric: expected better = 'higher' or 'lower', got {better!r}")
    if times.shape != averages.shape:
        raise ConfigError(f"time to a metric: expected a time for each value, got {len(times)} and {len(averages)}")
    if hold < 1 or len(averages) < hold:
        raise ConfigError(f"time to a metric: expected {max(hold, 1)} evaluations or more, got {len(averages)}")
    if not np.isfinite(target):
        raise ConfigError(f"time to a metric: expected a target that is a number, got {target}")
    if not (np.isfinite(times).all() and (np.diff(times) >= 0).all()):
        raise ConfigError("time to a metric: expected finite times that do not go back; is it one run?")
    good = averages >= target if better == "higher" else averages <= target
    source = f"journal; moving average of {window} evaluations, kept for {hold}"
    held = np.lib.stride_tricks.sliding_window_view(good, hold).all(axis=1)
    if held.any():
        return CensoredValue(float(times[int(held.argmax())]), True, "s", source)
    return CensoredValue(float(times[np.flatnonzero(~good)[-1]]), False, "s", source)


def energy_to_metric(
    elapsed_s: Sequence[float] | npt.NDArray[np.float64],
    values: Sequence[float] | npt.NDArray[np.float64],
    target: float,
    workers: Sequence[WorkerEnergy],
    *,
    better: str = "higher",
    window: int = WINDOW,
    hold: int = HOLD,
) -> CensoredValue:
    """What a team spent until its metric reached a level (J): the sum over its workers from the start to that time.

    E(a) = sum over workers of the integral of P from 0 to T(a), T(a) being :func:`time_to_metric`; censored where
    T(a) is. The server is not in it (as in ROG, MICRO 2022).

    Args:
        elapsed_s, values, target, better, window, hold: as :func:`time_to_metric`. The zero of ``elapsed_s`` is the
            first of each worker's ``times_s``; give :func:`rowcast.energy.worker_energy` the same ``start_s``.
        workers: all workers of the team.

    Raises:
        ConfigError: no workers, or as :func:`time_to_metric`.
        MeterError: a meter was not read until then.
    """
    reached_at = time_to_metric(elapsed_s, values, target, better=better, window=window, hold=hold)
    source = total_energy(worker.total for worker in workers).source
    joules = float(np.sum([worker.joules_after(max(reached_at.value, 0.0)) for worker in workers]))
    return CensoredValue(joules, reached_at.reached, "J", source)
