"""Time and energy to an accuracy; what was not reached is censored, not left out and not made up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.energy.account import WorkerEnergy, total_energy
from rowcast.errors import ConfigError

__all__ = ["HOLD", "WINDOW", "CensoredValue", "any_censored", "energy_to_accuracy", "smoothed", "time_to_accuracy"]

#: Evaluations that the moving average spans. One for all methods that are compared.
WINDOW = 5
#: Evaluations for which the smoothed accuracy must stay at the target.
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


def smoothed(accuracy: Sequence[float] | npt.NDArray[np.float64], window: int = WINDOW) -> npt.NDArray[np.float64]:
    """The moving average of each evaluation and the ``window - 1`` before it (fewer at the start), float64 [k].

    Only the past enters, so a value does not change when the run goes on.

    Raises:
        ConfigError: a window below 1, or an accuracy that is not a finite number.
    """
    values = np.asarray(accuracy, dtype=np.float64)
    if window < 1:
        raise ConfigError(f"smoothing: expected a window of 1 evaluation or more, got {window}")
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ConfigError("smoothing: expected a list of finite accuracies; leave out evaluations that gave NaN")
    begins = np.maximum(np.arange(len(values)) - window + 1, 0)
    return np.array([values[a : b + 1].mean() for b, a in enumerate(begins)], dtype=np.float64)


def time_to_accuracy(
    elapsed_s: Sequence[float] | npt.NDArray[np.float64],
    accuracy: Sequence[float] | npt.NDArray[np.float64],
    target: float,
    *,
    window: int = WINDOW,
    hold: int = HOLD,
) -> CensoredValue:
    """When a run reached an accuracy: the first evaluation from which on the smoothed one stays at ``target`` or above.

    It must stay there for ``hold`` evaluations. If it does not before the run ends, the value is censored: the last
    evaluation below the target is the bound, so ``>`` is true whatever would have followed.

    Args:
        elapsed_s: s since the start at each evaluation, not decreasing [k].
        accuracy: at each evaluation, in the unit of ``target`` [k].
        target: the accuracy asked for.
        window: evaluations that are averaged; see :func:`smoothed`. The same for all methods.
        hold: evaluations for which it must stay.

    Raises:
        ConfigError: fewer than ``hold`` evaluations, lists of different length, a target that is not a number, times
            that go back, or as :func:`smoothed`.
    """
    times, values = np.asarray(elapsed_s, dtype=np.float64), smoothed(accuracy, window)
    if times.shape != values.shape:
        raise ConfigError(f"time to accuracy: expected a time for each accuracy, got {len(times)} and {len(values)}")
    if hold < 1 or len(values) < hold:
        raise ConfigError(f"time to accuracy: expected {max(hold, 1)} evaluations or more, got {len(values)}")
    if not np.isfinite(target):
        raise ConfigError(f"time to accuracy: expected a target that is a number, got {target}")
    if not (np.isfinite(times).all() and (np.diff(times) >= 0).all()):
        raise ConfigError("time to accuracy: expected finite times that do not go back; is it one run?")
    above = values >= target
    source = f"journal; moving average of {window} evaluations, kept for {hold}"
    held = np.lib.stride_tricks.sliding_window_view(above, hold).all(axis=1)
    if held.any():
        return CensoredValue(float(times[int(held.argmax())]), True, "s", source)
    return CensoredValue(float(times[np.flatnonzero(~above)[-1]]), False, "s", source)


def energy_to_accuracy(
    elapsed_s: Sequence[float] | npt.NDArray[np.float64],
    accuracy: Sequence[float] | npt.NDArray[np.float64],
    target: float,
    workers: Sequence[WorkerEnergy],
    *,
    window: int = WINDOW,
    hold: int = HOLD,
) -> CensoredValue:
    """What a team spent until it reached an accuracy (J): the sum over its workers from the start to that time.

    E(a) = sum over workers of the integral of P from 0 to T(a), T(a) being :func:`time_to_accuracy`; censored where
    T(a) is. The server is not in it (as in ROG, MICRO 2022).

    Args:
        elapsed_s, accuracy, target, window, hold: as :func:`time_to_accuracy`. The zero of ``elapsed_s`` is the first
            of each worker's ``times_s``; give :func:`rowcast.energy.worker_energy` the same ``start_s``.
        workers: all workers of the team.

    Raises:
        ConfigError: no workers, or as :func:`time_to_accuracy`.
        MeterError: a meter was not read until then.
    """
    reached_at = time_to_accuracy(elapsed_s, accuracy, target, window=window, hold=hold)
    source = total_energy(worker.total for worker in workers).source
    joules = float(np.sum([worker.joules_after(max(reached_at.value, 0.0)) for worker in workers]))
    return CensoredValue(joules, reached_at.reached, "J", source)
