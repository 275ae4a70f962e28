"""How a synthesised trace differs from the trace that it should be like."""

from __future__ import annotations

import numpy as np

from rowcast.links.stats import FloatArray, on_grid
from rowcast.links.trace import Trace

__all__ = ["MEAN", "MEMORY", "QUANTILES", "SHARES", "differences"]

#: What an hour like a record of some minutes keeps, nearly always; ``docs/links.md`` says for which records.
MEAN = 0.10  #: the mean, as a share of that of the source
QUANTILES = 0.18  #: mean distance of the quantiles, in means of the source
SHARES = 0.05  #: share of the time with little, and with no bandwidth
CHANGES_20, CHANGES_40 = 1.7, 2.0  #: time between changes of 20 % and of 40 %, as a factor
MEMORY = 2.5  #: autocorrelation time, as a factor
#: Fewer changes of 40 % in the source than this say nothing.
_FEW = 10


def differences(source: Trace, made: Trace) -> list[str]:
    """What of ``made`` is further from ``source`` than the tolerances above, in words; both have an end."""
    wanted = source.stats()
    found = made.stats(wanted.low_bps)
    longest_s = min(source.duration_s, made.duration_s)
    outside = []

    def factor(what: str, mine: float, theirs: float, most: float) -> None:
        mine, theirs = min(mine, longest_s), min(theirs, longest_s)
        if not 1 / most <= mine / theirs <= most:
            outside.append(f"{what} {mine:.3g} s, in the source {theirs:.3g} s (within a factor of {most:g})")

    def share(what: str, mine: float, theirs: float) -> None:
        if abs(mine - theirs) > SHARES:
            outside.append(f"{what} {mine:.1%} of the time, in the source {theirs:.1%} (within {SHARES:.0%})")

    if abs(found.mean_bps - wanted.mean_bps) > MEAN * wanted.mean_bps:
        outside.append(
            f"mean {found.mean_bps / 1e6:.3g} Mbit/s, in the source {wanted.mean_bps / 1e6:.3g} (within {MEAN:.0%})"
        )
    apart = float(np.abs(_quantiles(source) - _quantiles(made)).mean())
    if apart > QUANTILES * wanted.mean_bps:
        outside.append(f"quantiles {apart / wanted.mean_bps:.2g} of the mean apart (within {QUANTILES:g})")
    share(f"below {wanted.low_bps / 1e6:.3g} Mbit/s", found.share_low, wanted.share_low)
    share("nothing at all", found.share_zero, wanted.share_zero)
    factor("change of 20 % every", found.change_20_s, wanted.change_20_s, CHANGES_20)
    if source.duration_s / wanted.change_40_s >= _FEW:
        factor("change of 40 % every", found.change_40_s, wanted.change_40_s, CHANGES_40)
    factor("memory", found.autocorrelation_s, wanted.autocorrelation_s, MEMORY)
    return outside


def _quantiles(trace: Trace) -> FloatArray:
    lengths_s = np.diff(np.append(trace.times_s, trace.duration_s))
    quantiles: FloatArray = np.quantile(on_grid(lengths_s, trace.rates_bps)[0], (np.arange(400) + 0.5) / 400)
    return quantiles
