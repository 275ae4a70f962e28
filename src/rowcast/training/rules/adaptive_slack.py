"""A slack that adapts to the stalls and to the progress of the training (:mod:`rowcast.sync.slack`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowcast.sync import Policy, SlackTuner

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["AdaptiveSlack"]


class AdaptiveSlack:
    """Watches a team, and replaces its policy when another slack suits it better.

    Args:
        team: the team.
        policy: its policy with the largest slack; one that is not ``auto`` keeps its slack.
    """

    def __init__(self, team: Team, policy: Policy) -> None:
        self._team = team
        self._policy = policy
        self._tuner = SlackTuner(policy.slack or 1) if policy.auto else None

    def begin(self) -> None:
        """The team begins: with the slack from which the search starts."""
        self._team.policy = self._policy if self._tuner is None else self._policy.at_slack(self._tuner.slack)

    def computed(self, size: float, owed: float) -> None:
        """A worker that counts has finished an iteration.

        Args:
            size: sum |.| of its contribution.
            owed: sum |.| of what it has not been sent.
        """
        if self._tuner is not None:
            self._tuner.computed(size, owed)

    def stalled(self, seconds: float) -> None:
        """A worker that counts has waited at the gate."""
        if self._tuner is not None:
            self._tuner.stalled(seconds)

    def look(self, now: float, lowest: int) -> None:
        """Another slack, when the stalls or the progress of the training ask for it.

        Args:
            now: time (s).
            lowest: up to which iteration everybody's contributions are here.
        """
        if self._tuner is None:
            return
        team = self._team
        change = self._tuner.look(now, lowest, len(team.gate.versions))
        if change is None:
            return
        team.policy = team.policy.at_slack(change.slack)
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
        team.notifier.wake_all(team.members.values())
