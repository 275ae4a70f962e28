"""What a policy adapts while the team trains: the slack (:mod:`rowcast.sync.slack`) and the outer learning rate
(:mod:`rowcast.sync.outer_rate`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rowcast.sync import OuterRateTuner, Policy, SlackTuner

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["Adaptation"]


class Adaptation:
    """Watches a team, and replaces its policy when another one suits it better.

    Args:
        team: the team.
        policy: its policy with the slack and the outer learning rate to begin with; what is not ``auto`` or ``auto_lr``
            stays.
    """

    def __init__(self, team: Team, policy: Policy) -> None:
        self._team = team
        self._policy = policy
        self._slack = SlackTuner(policy.slack or 1, policy.most_slack) if policy.auto else None
        self._outer_lr = OuterRateTuner(policy.outer_lr) if policy.auto_lr else None
        self._momentum: dict[str, float] = {}

    def begin(self) -> None:
        """The team begins: with the slack from which the search starts."""
        self._team.policy = self._policy if self._slack is None else self._policy.at_slack(self._slack.slack)

    def computed(self, name: str, size: float, owed: float, momentum: float) -> None:
        """A worker that counts has finished an iteration.

        Args:
            name: of the worker.
            size: sum |.| of its contribution.
            owed: sum |.| of what it has not been sent.
            momentum: of its inner optimizer.
        """
        self._momentum[name] = momentum
        if self._slack is not None:
            self._slack.computed(size, owed)

    def waits(self, name: str, now: float) -> None:
        """A worker that counts begins to wait at the gate."""
        if self._slack is not None:
            self._slack.waits(name, now)

    def goes_on(self, name: str, now: float) -> None:
        """It does not wait any longer, or does not count."""
        if self._slack is not None:
            self._slack.goes_on(name, now)

    def look_at(self) -> float:
        """When to :meth:`look` although nobody has finished an iteration (s)."""
        return math.inf if self._slack is None else self._slack.look_at(len(self._team.gate.versions))

    def forget(self, name: str) -> None:
        """A worker has left for good."""
        self._momentum.pop(name, None)
        if self._slack is not None:
            self._slack.forget(name)

    def look(self, now: float, lowest: int) -> None:
        """Change the policy, when the stalls or the progress of the training ask for it.

        Args:
            now: time (s).
            lowest: up to which iteration everybody's contributions are here.
        """
        before = self._team.policy
        if self._slack is not None:
            self._look_at_slack(self._slack, now, lowest)
        if self._outer_lr is not None:
            self._look_at_outer_lr(self._outer_lr, now, lowest)
        if self._team.policy is not before:
            self._team.notifier.wake_all(self._team.members.values())

    def _look_at_slack(self, tuner: SlackTuner, now: float, lowest: int) -> None:
        team = self._team
        change = tuner.look(now, lowest, len(team.gate.versions))
        if change is None:
            return
        team.policy = self._policy.at_slack(change.slack).at_outer_lr(team.policy.outer_lr)
        team.journal.record(
            now,
            "slack",
            slack=change.slack,
            before=change.before,
            why=change.why,
            stall_share=round(change.stall_share, 6),
            divergence=round(change.divergence, 6),
            usual=round(change.usual, 6),
            progress=round(change.progress, 6),
        )

    def _look_at_outer_lr(self, tuner: OuterRateTuner, now: float, lowest: int) -> None:
        team = self._team
        layout, ledger = team.model.layout, team.model.ledger
        if layout is None or ledger is None or layout.is_timing_only:
            return
        of_parameters = ledger.parameters[: layout.offsets[layout.parameter_rows]]
        change = tuner.look(lowest, of_parameters, max(self._momentum.values(), default=0.0))
        if change is None:
            return
        team.policy = team.policy.at_outer_lr(change.outer_lr)
        team.journal.record(
            now,
            "outer_lr",
            outer_lr=round(change.outer_lr, 6),
            before=round(change.before, 6),
            alignment=round(change.alignment, 6),
        )
