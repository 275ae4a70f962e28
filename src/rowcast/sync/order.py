"""Which rows travel, and in which order: the quota, what is overdue, and what follows while there is time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from rowcast.rows import Layout, Selection, select
from rowcast.rows.kernels import compiled_serial
from rowcast.rows.select import descending, value_per_byte
from rowcast.sync.artifact import select_groups
from rowcast.sync.sample import draw

if TYPE_CHECKING:
    from rowcast.sync.policy import Policy

__all__ = ["RowsToSend", "choose", "choose_drawn", "choose_refinement"]


class RowsToSend(NamedTuple):
    """What a policy sees when it chooses rows: one direction of one worker.

    Attributes:
        eligible: rows with something to send that did not travel in this iteration, ascending int64 [k].
        stamps: iteration at which each row was last sent, int32 [rows].
        abs_sums: sum |pending or owed| of each row, float32 [rows].
        row_bytes: encoded bytes of each row, int64 [rows].
        total_bytes, largest_bytes: of all rows together, and of the largest one.
        iteration: the iteration that is being pushed or pulled.
        travelled_bytes: encoded bytes of the rows that already travelled in this iteration (before a cut).
    """

    eligible: npt.NDArray[np.int64]
    stamps: npt.NDArray[np.int32]
    abs_sums: npt.NDArray[np.float32]
    row_bytes: npt.NDArray[np.int64]
    total_bytes: int
    largest_bytes: int
    iteration: int
    travelled_bytes: int


def choose(policy: Policy, layout: Layout, view: RowsToSend, *, overdue_before: int, share: float) -> Selection:
    """Order the rows of a push or a pull.

    Args:
        policy: the team's policy.
        layout: the model's rows.
        view: what there is to send.
        overdue_before: rows that were last sent before this iteration must travel.
        share: the quota, as a share of the model's bytes.
    """
    total = view.total_bytes
    if policy.mta == "artifact":
        return select_groups(
            view.eligible,
            view.stamps,
            view.abs_sums / layout.lengths,
            view.row_bytes,
            quota_bytes=share * total,
            quota_rows=share * layout.rows if policy.counts == "groups" else None,
        )
    quota = share * total + (view.largest_bytes if share < 1 else 0)
    return select(
        view.eligible,
        view.stamps,
        _importance(policy, layout, view),
        view.row_bytes,
        quota_bytes=min(quota, total) - view.travelled_bytes,
        overdue_before=overdue_before,
        units=_units(policy, layout),
    )


def choose_drawn(policy: Policy, layout: Layout, view: RowsToSend) -> Selection:
    """The rows of a push of which a share is drawn at random, ascending: all of them must travel."""
    units = _units(policy, layout)
    drawn = draw(view.iteration, layout.rows if units is None else len(units) - 1, policy.share)
    chosen = np.zeros(layout.rows, dtype=np.bool_)
    if units is None:
        chosen[drawn] = True
    else:
        for unit in drawn:
            chosen[units[unit] : units[unit + 1]] = True
    order = view.eligible[chosen[view.eligible]]
    return Selection(order, len(order))


def choose_refinement(policy: Policy, layout: Layout, view: RowsToSend) -> Selection:
    """Order what the code left of rows that were sent: by the value of a byte, none of it must travel."""
    ages = view.iteration - view.stamps
    values = value_per_byte(layout.lengths, view.abs_sums, view.row_bytes, ages, policy.slack or 1)
    return Selection(descending(view.eligible, values), 0)


def _importance(policy: Policy, layout: Layout, view: RowsToSend) -> npt.NDArray[np.float32] | None:
    """ROG Alg. 3: f1 * magnitude + f2 * staleness, float32 [rows]; ``None`` where rows stay oldest-first.

    The magnitude of a row is its mean |.|, in units of the mean over the rows that may travel: the largest
    row would flatten all others.
    """
    if policy.order != "importance" or not policy.speculative or len(view.eligible) == 0:
        return None
    importance = view.abs_sums / layout.float_lengths
    chosen = importance if len(view.eligible) == len(importance) else importance[view.eligible]
    typical = float(np.add.reduce(chosen) / np.float32(len(chosen)))
    scale = policy.f1 / typical if typical > 0 and math.isfinite(typical) else 0.0
    _weigh_with_age(importance, np.float32(scale), view.stamps, view.iteration, np.float32(policy.f2))
    return importance


@compiled_serial
def _weigh_with_age(
    magnitudes: npt.NDArray[np.float32],
    scale: np.float32,
    stamps: npt.NDArray[np.int32],
    iteration: int,
    factor: np.float32,
) -> None:
    """Make ``magnitudes`` of rows, in place, ``scale * magnitude + factor * age``."""
    for row in range(len(magnitudes)):
        age = np.float32(max(iteration - stamps[row], 0))
        magnitudes[row] = magnitudes[row] * scale + age * factor


def _units(policy: Policy, layout: Layout) -> npt.NDArray[np.int64] | None:
    if policy.granularity == "row":
        return None
    if policy.granularity == "tensor":
        return layout.tensor_rows
    return np.array([0, layout.rows], dtype=np.int64)
