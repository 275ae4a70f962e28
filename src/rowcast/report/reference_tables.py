"""The numbers of policies against a reference: to the level that it kept, and at equal samples, over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rowcast.energy import CensoredValue
from rowcast.metric import Metric
from rowcast.report.intervals import interval
from rowcast.report.measures import is_share, words_of
from rowcast.report.parts import with_interval
from rowcast.report.reference import Behind, ToLevel
from rowcast.report.table import BOUNDS, Table, Value, bounds, table_of
from rowcast.report.targets import bounded

__all__ = [
    "AT_END",
    "ENERGY",
    "ENERGY_SHARE",
    "FURTHEST",
    "TIME",
    "TIME_SHARE",
    "across_policies",
    "behind_table",
    "difference_unit",
    "reference_table",
]

#: Measures of each policy; of those at equal samples the unit of the metric stands behind.
TIME, ENERGY = "time to the level (s)", "energy to the level (kJ)"
TIME_SHARE, ENERGY_SHARE = "time to the level (% of the reference's)", "energy to the level (% of the reference's)"
AT_END, FURTHEST = "behind at equal samples, at the end", "furthest behind at equal samples"


def difference_unit(metric: Metric) -> str:
    """The unit of a difference of two values: points of percentages."""
    return "points" if is_share(metric) else metric.unit


def _named(measure: str, unit: str) -> str:
    return f"{measure} ({unit})" if unit else measure


def reference_table(
    reference: str,
    levels: Mapping[str, Sequence[ToLevel]],
    behind: Mapping[str, Behind | None],
    metric: Metric,
    samples: str,
) -> Table:
    """All figures of a metric against a reference.

    Args:
        reference: the policy.
        levels: of each policy, the reference among them, seed by seed.
        behind: of each policy but the reference; ``None`` where there is nothing in common.
        metric: of all.
        samples: what is counted, 'samples' or 'gradients'.

    Returns:
        The reference first, then the others in their order. Columns: policy, measure; '>' where the mean is a lower
        bound, because a seed did not get there; at how many samples of the team; the mean with its interval. A mean
        over what is not a number is empty, and ``seeds`` says how many are numbers.
    """
    rows: list[tuple[Value, ...]] = []
    for policy, own in sorted(levels.items(), key=lambda pair: pair[0] != reference):
        if policy == reference and own:
            name = _named(f"{words_of(metric)} kept at the end", metric.unit)
            rows.append((policy, name, "", None, *bounds(interval([each.level for each in own]))))
        rows += [(policy, measure, mark, None, *mean) for measure, mark, *mean in _to_it(own, policy == reference)]
        found = behind.get(policy)
        if found is not None:
            rows += [(policy, *row) for row in _behind(found, difference_unit(metric))]
    return table_of(("policy", "measure", "bound", f"at_{samples}", *BOUNDS), rows)


def _to_it(own: Sequence[ToLevel], is_reference: bool) -> Iterator[tuple[Value, ...]]:
    """Measure, bound, and mean with its interval."""
    thousandth = [CensoredValue(each.joules.value / 1e3, each.joules.reached) for each in own]
    amounts = {TIME: [each.seconds for each in own], ENERGY: thousandth}
    shares = {
        TIME_SHARE: [each.time_percent for each in own],
        ENERGY_SHARE: [each.energy_percent for each in own],
    }
    for (name, values), (share, percents) in zip(amounts.items(), shares.items(), strict=True):
        if values:
            yield name, *bounded(values)
        known = [each for each in percents if each is not None]
        if known and not is_reference:
            yield share, *bounded(known)


def _behind(found: Behind, unit: str) -> Iterator[tuple[Value, ...]]:
    yield _named(AT_END, unit), "", found.end_samples, *_mean_of(found.ends.tolist())
    place = found.furthest
    if place is None:
        known = int(np.isfinite(found.by_seed).all(axis=1).sum())
        yield _named(FURTHEST, unit), "", None, None, None, None, known
    else:
        yield _named(FURTHEST, unit), "", float(found.samples[place]), *_mean_of(found.by_seed[:, place].tolist())


def _mean_of(values: Sequence[float]) -> tuple[Value, ...]:
    known = int(np.isfinite(values).sum())
    return bounds(interval(values)) if known == len(values) else (None, None, None, known)


def behind_table(behind: Mapping[str, Behind | None], samples: str) -> Table:
    """By how much each policy is worse than the reference, against samples: the mean over seeds with its interval."""
    rows = (
        (policy, place, *_mean_of(own.by_seed[:, k].tolist()))
        for policy, own in behind.items()
        if own is not None
        for k, place in enumerate(own.samples.tolist())
    )
    return table_of(("policy", samples, *BOUNDS), rows)


def across_policies(table: Table) -> Table:
    """The table of :func:`reference_table` with a line for each policy, as one reads it."""
    measures = table.distinct("measure")

    def line(policy: str) -> list[Value]:
        own = table.where(policy=policy)
        found = [own.where(measure=measure).rows for measure in measures]
        written = [_written(*rows[0][2:]) if rows else "" for rows in found]
        return [policy, *written, max(int(count) for count in own.numbers("seeds"))]

    return table_of(("policy", *measures, "seeds"), (line(policy) for policy in table.distinct("policy")))


def _written(bound: Value, place: Value, *mean: Value) -> str:
    """A mean with its interval, whether it is a bound, and at how many samples."""
    number = with_interval(*mean)
    at = f"at {place:,.0f}" if number and isinstance(place, float) else ""
    return " ".join(filter(None, (str(bound), number, at)))
