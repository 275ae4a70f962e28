"""What the page says of policies against a reference, for each metric: a figure of all shares, and one over samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from rowcast.energy.reaching import HOLD, WINDOW
from rowcast.errors import ConfigError
from rowcast.metric import Metric
from rowcast.report.measures import words_of
from rowcast.report.parts import TableOrFigure
from rowcast.report.reference import Behind, Reading, ToLevel, at_equal_samples, behind_over, reference_of, to_level
from rowcast.report.reference_figure import can_draw, draw_against, draw_behind
from rowcast.report.reference_tables import across_policies, behind_table, reference_table
from rowcast.report.samples import sample_unit
from rowcast.report.targets import spacing
from rowcast.report.values import Conditions, Groups, Run

__all__ = ["Against", "against_parts", "without_reference"]


@dataclass(frozen=True)
class Against:
    """What is held against the reference.

    Attributes:
        groups: the runs under the conditions, of several policies.
        reference: one of them.
        conditions: of all.
    """

    groups: Groups
    reference: str
    conditions: Conditions

    @property
    def others(self) -> dict[str, Sequence[Run]]:
        return {policy: runs for policy, runs in self.groups.items() if policy != self.reference}


def without_reference(groups: Groups, wanted: str, conditions: Conditions) -> Iterator[str]:
    """Why there is nothing against the policy that was wanted, if there is nothing."""
    if reference_of(groups, wanted) is None:
        yield f"against {wanted}, {conditions}: {wanted} has no finished run"
    elif len(groups) < 2:
        yield f"against {wanted}, {conditions}: no other policy has a finished run"


def against_parts(
    against: Against, metric: Metric, which: str, suffix: str, notes: list[str]
) -> Iterator[TableOrFigure]:
    """The figures and tables of a metric.

    Args:
        against: what is held against the reference.
        metric: which.
        which: what the names of its files have behind the first word.
        suffix: what they end in.
        notes: take a sentence about each thing that is left out.
    """
    reference, groups = against.reference, against.groups
    words = words_of(metric)
    reading = Reading(metric, spacing(groups, metric))
    levels = {policy: to_level(groups[reference], runs, reading) for policy, runs in groups.items()}
    about = f"{words} against {reference}, {against.conditions}"
    behind = _behind(against, reading, about, notes)
    notes += [f"{about}: {reason}" for reason in _left_out(against, levels, behind)]
    samples = sample_unit(groups[reference][0])
    table = reference_table(reference, levels, behind, metric, samples)
    if not any(row[0] != reference and row[4] is not None for row in table.rows):
        return
    better = " Lower is better." if metric.better == "lower" else ""
    counted = "" if samples == "samples" else f", counted in {samples}, since each has the same batch"
    yield TableOrFigure(
        f"against{which}{suffix}",
        f"Against {reference}: time and energy to the {words} that it kept, and at equal samples",
        f"Level: of each seed the worst moving average ({WINDOW} looks) of the last {HOLD} looks of {reference}. Time "
        f"and energy of the team until it is kept for {HOLD} looks, and as a share of those of {reference} with the "
        "same seed. '>' marks a lower bound: a seed did not get there. Behind: by how much the moving average is worse "
        f"at equal samples of the team{counted} (below 0: better): at the end of the shorter run, and where the mean "
        "over the seeds is furthest behind once a tenth was used (its interval does not count that the place was "
        f"chosen). Mean and 95 % interval over the seeds that both have.{better}",
        table,
        across_policies(table),
        partial(draw_against, table, list(groups), reference, metric) if can_draw(table) else None,
    )
    curves = behind_table(behind, samples)
    if any(mean is not None for mean in curves.values("mean")):
        yield TableOrFigure(
            f"behind{which}{suffix}",
            f"{words[:1].upper()}{words[1:]} behind {reference} at equal samples",
            f"As above, against the samples of the team{counted}: events 'metric' named {metric.name}, and 'step'. "
            "Below 0 a policy is ahead. Band: 95 % interval.",
            curves,
            curves,
            partial(draw_behind, curves, list(groups), reference, metric, table),
        )


def _behind(against: Against, reading: Reading, about: str, notes: list[str]) -> dict[str, Behind | None]:
    """Of each policy but the reference; a policy that this version does not know is left out."""
    found: dict[str, Behind | None] = {}
    for policy, runs in against.others.items():
        try:
            found[policy] = behind_over(at_equal_samples(against.groups[against.reference], runs, reading))
        except ConfigError as error:
            notes.append(f"{about}: {policy} is not compared at equal samples: {error}")
    return found


def _left_out(against: Against, levels: dict[str, list[ToLevel]], behind: dict[str, Behind | None]) -> Iterator[str]:
    """Seeds that a comparison is not over, and why."""
    of_reference = {run.seed for run in against.groups[against.reference]}
    lost = sorted(of_reference - {each.seed for each in levels[against.reference]})
    if lost:
        yield f"{against.reference} kept no level with seed {_listed(lost)}: too few looks, or not a number at its end"
    if len(lost) == len(of_reference) and not any(behind.values()):
        return  # there is nothing at all
    for policy, runs in against.others.items():
        common = {run.seed for run in runs} & of_reference
        if not common:
            yield f"{policy} has no run with a seed of {against.reference}"
            continue
        short = sorted(common - {each.seed for each in levels[policy]} - set(lost))
        if short:
            yield f"{policy} has too few looks with seed {_listed(short)}"
        zero = [each.seed for each in levels[policy] if each.time_percent is None or each.energy_percent is None]
        if zero:
            yield f"{policy} has no share of a time or energy that is 0 with seed {_listed(zero)}"
        if policy in behind:
            yield from _apart(policy, common, behind[policy])


def _apart(policy: str, common: set[int], own: Behind | None) -> Iterator[str]:
    """Seeds that are not compared at equal samples."""
    few = sorted(common - set(own.seeds if own is not None else ()))
    if few:
        yield f"{policy} has too few looks at equal samples with seed {_listed(few)}"
    if own is not None:
        lost = [seed for seed, gaps in zip(own.seeds, own.by_seed, strict=True) if not np.isfinite(gaps).all()]
        if lost:
            yield f"{policy} has gaps at equal samples, where a value was not a number, with seed {_listed(lost)}"


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
