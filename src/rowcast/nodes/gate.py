"""The gate of the server: whom it counts, who may go on, and for how long rows beyond the quota may travel."""

from __future__ import annotations

from collections.abc import Mapping

from rowcast.nodes.member import Member, Stage
from rowcast.sync import MtaTime, Policy, VersionTable
from rowcast.wire import PushEnd

__all__ = ["Gate"]


class Gate:
    """Counts members, and lets those go on whom the policy allows to.

    Args:
        policy: the team's policy.
        members: the server's members, by name; read, never changed.
        expected: the gate is shut until this many workers were counted once.

    Attributes:
        versions: the version table of the workers that count.
        epoch: counts changes of membership.
        opened: the team was complete once.
    """

    def __init__(self, policy: Policy, members: Mapping[str, Member], expected: int) -> None:
        self.policy = policy
        self.versions = VersionTable(0)
        self.epoch = 0
        self.opened = False
        self.expected = expected
        self.push_time = MtaTime()
        self.pull_time = MtaTime()
        self._members = members

    def counted(self) -> list[Member]:
        """The members that count."""
        return [member for member in self._members.values() if member.gated]

    def newest(self) -> int:
        """Iteration of the fastest member that counts."""
        return max((member.iteration for member in self.counted()), default=0)

    def admit(self, member: Member) -> None:
        """Count ``member``, from the iteration of the slowest on (algorithms.md 1.10).

        All rows of an iteration may be here before its end is: the gate has let others pass for these rows, so
        the newcomer starts no earlier.
        """
        others = [
            max(other.iteration, self.versions.oldest_of(other.name)) for other in self.counted() if other is not member
        ]
        member.iteration = min(others, default=member.iteration)
        member.quota_iteration = member.begun_iteration = member.iteration
        member.gated = True
        self.versions.admit(member.name, member.iteration)
        self.epoch += 1

    def remove(self, member: Member) -> None:
        """Count ``member`` no longer: nobody waits for it."""
        member.gated = False
        self.versions.remove(member.name)
        self.push_time.remove(member.name)
        self.pull_time.remove(member.name)
        self.epoch += 1

    def pushed(self, member: Member, message: PushEnd) -> None:
        """A push has ended; the member waits from now on."""
        member.iteration = message.iteration
        member.quota_iteration = max(member.quota_iteration, message.iteration)
        self.push_time.report(member.name, message.iteration, message.quota_s, message.compute_s)

    def may_pass(self) -> list[Member]:
        """Waiting members that may go on, the one that has waited longest first."""
        oldest = self.versions.oldest()
        waiting = [
            member
            for member in self._members.values()
            if member.stage is Stage.WAITING
            and member.port is not None
            and self.policy.may_start(member.iteration, oldest)
        ]
        return sorted(waiting, key=lambda member: (member.waiting_since, member.name))

    def superfluous(self) -> list[Member]:
        """Members that send beyond their quota although every quota of their iteration is here (2.2).

        What they still send only delays the next iteration. Each is named once for an iteration.
        """
        counted = self.counted()
        lowest = min((member.quota_iteration for member in counted), default=0)
        found = []
        for member in counted:
            sending = member.stage is Stage.COMPUTING and member.iteration < member.quota_iteration <= lowest
            if sending and member.cancelled_iteration < member.quota_iteration:
                member.cancelled_iteration = member.quota_iteration
                found.append(member)
        return found

    def reason(self, now: float, member: Member, absence_limit_s: float) -> str:
        """For whom a member waits, and why, in words."""
        if not self.opened:
            ready = sum(other.stage is Stage.READY for other in self._members.values())
            return f"the team: {ready} of {self.expected} workers have joined"
        reasons = []
        for name in self.versions.behind(member.iteration - (self.policy.slack or 0)):
            other = self._members[name]
            if other.port is None:
                left_s = max(other.lost_at + absence_limit_s - now, 0.0)
                why = f"link lost {now - other.lost_at:.0f} s ago, given up in {left_s:.0f} s"
            else:
                why = f"{other.stage.value} at iteration {other.iteration + 1}"
            reasons.append(f"{name} ({why})")
        return ", ".join(reasons) or "its turn"
