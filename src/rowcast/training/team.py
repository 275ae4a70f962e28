"""What all parts of a server have in common: the team that it serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rowcast.config import LinkSettings, ServerSettings
from rowcast.journal import Journal
from rowcast.session.notifier import Notifier
from rowcast.session.voter import Tenure
from rowcast.sync import Policy

if TYPE_CHECKING:
    from rowcast.training.above import Above
    from rowcast.training.drain import Departures
    from rowcast.training.gate import Gate
    from rowcast.training.member import Member
    from rowcast.training.model import Model
    from rowcast.training.rules.base import ServerRule

__all__ = ["Team"]


@dataclass(eq=False)
class Team:
    """A team, and the parts of the server that look after it. It alone holds the policy.

    Attributes:
        policy: the policy in force; another object when its slack adapts.
        settings, links: see :mod:`rowcast.config`.
        journal: where events are recorded.
        members: every worker that was not told goodbye, by name.
        finished: names of the workers that have finished.
        positions: how far the data of a worker was read that is in the parameters, by its name; see
            :class:`rowcast.wire.Welcome`.
        tenure: which server leads it, where that keeps a log.
        served_elsewhere: the highest term above that one in which a worker says that it was served; 0: none.
        notifier: where workers are told something, and woken to whom something may be sent.
        gate: whom the gate counts.
        model: the parameters and what members are owed.
        rule: who may go on, and when rows travel.
        departures: how members go.
        above: the way to the server above this one; ``None``: there is none.
    """

    policy: Policy
    settings: ServerSettings
    links: LinkSettings
    journal: Journal
    members: dict[str, Member] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    positions: dict[str, bytes] = field(default_factory=dict)
    tenure: Tenure = field(default_factory=Tenure)
    served_elsewhere: int = 0
    notifier: Notifier = field(default_factory=Notifier)
    gate: Gate = field(init=False)
    model: Model = field(init=False)
    rule: ServerRule = field(init=False)
    departures: Departures = field(init=False)
    above: Above | None = None

    def policy_in_force(self) -> Policy:
        """The policy as it is when it is asked for."""
        return self.policy
