"""The gate of the server: whom it counts, who may go on, and for how long rows beyond the quota may travel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.sync import ArtifactTime, MinimumTracker, MtaTime, VersionTable
from rowcast.training.member import Member, MemberState
from rowcast.wire import PushEnd

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["Gate"]

#: Who waits for a whole team is told so many names.
MOST_NAMED = 5


class Gate:
    """Counts members, and lets those go on whom the policy allows to.

    Args:
        team: the team; its members are read, never changed.

    Attributes:
        versions: the version table of the workers that count.
        epoch: counts changes of membership.
        expected: the gate is shut until this many workers were counted once.
        opened: the team was complete once.
        waiting: members held at the gate, by name; some may have gone on meanwhile.
        leaves: workers that count, those below relays included.

    No answer costs more with a larger team, as long as nobody comes or goes: whoever asks again although nothing has
    changed is told so at once.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self.versions = VersionTable(0)
        self.epoch = 0
        self.opened = False
        self.expected = team.settings.expected_workers
        self.push_time = MtaTime()
        self.pull_time = MtaTime()
        self._artifact = ArtifactTime(team.policy.race) if team.policy.mta == "artifact" else None
        self.waiting: dict[str, Member] = {}
        self.leaves = 0
        self._members = team.members
        self._quotas = MinimumTracker()
        self._newest = 0
        self._passed_at: int | None = None
        self._cancelled_at: int | None = None

    def counted(self) -> list[Member]:
        """The members that count."""
        return [member for member in self._members.values() if member.gated]

    def newest(self) -> int:
        """Iteration of the fastest member that counts."""
        return self._newest

    def admit(self, member: Member, *, least: int = 0) -> None:
        """Count ``member``, from the iteration of the slowest on (algorithms.md 1.10).

        All rows of an iteration may be here before its end is: the gate has let others pass for these rows, so
        the newcomer starts no earlier. Nor further ahead of the oldest row than the slack: the slowest may be about
        to wait for its own rows, and the newcomer starts without asking.

        Args:
            member: the newcomer.
            least: where nobody counts it starts no earlier.
        """
        oldest = self.versions.oldest()
        if oldest is not None and oldest == self._newest and member.name not in self.versions:
            member.iteration = oldest  # nobody is ahead, as while a whole team is counted at its start
        else:
            self._count_from_slowest(member, least, oldest)
        member.begun_iteration = member.iteration
        self._count(member)
        self.quota_arrived(member, member.iteration)
        self._newest = max(self._newest, member.iteration)
        self.versions.admit(member.name, member.iteration)
        if self._artifact is not None:
            self._artifact.admit(member.name)
        self.epoch += 1

    def _count_from_slowest(self, member: Member, least: int, oldest: int | None) -> None:
        others = [
            max(other.iteration, self.versions.oldest_of(other.name)) for other in self.counted() if other is not member
        ]
        member.iteration = min(others, default=max(member.iteration, least))
        if self._team.policy.slack is not None and oldest is not None and others:
            member.iteration = min(member.iteration, oldest + self._team.policy.slack)

    def readmit(self, member: Member, iteration: int, versions: npt.NDArray[np.int32]) -> None:
        """Count ``member`` again, with the iteration and the versions that it has."""
        member.iteration = iteration
        self._count(member)
        self._newest = max(self._newest, iteration)
        self.versions.admit(member.name, int(versions.min()), versions)
        self.epoch += 1

    def reset(self) -> None:
        """Nobody is a member any longer (each was removed), and the team begins anew."""
        self.opened = False
        self.leaves = 0
        self.versions = VersionTable(0)

    def _count(self, member: Member) -> None:
        if not member.gated:
            self.leaves += member.leaves
        member.gated = True

    def branches(self, member: Member, leaves: int) -> None:
        """``member`` is a relay, with so many workers below it."""
        if member.gated:
            self.leaves += leaves - member.leaves
        member.leaves = leaves
        self.epoch += 1

    def finished(self, member: Member, iteration: int) -> None:
        """A member has finished ``iteration``, in the gate's count."""
        member.iteration = iteration
        if member.gated:
            self._newest = max(self._newest, iteration)

    def remove(self, member: Member) -> None:
        """Count ``member`` no longer: nobody waits for it."""
        if member.gated:
            self.leaves -= member.leaves
        member.gated = False
        self.versions.remove(member.name)
        self.push_time.remove(member.name)
        self.pull_time.remove(member.name)
        if self._artifact is not None:
            self._artifact.remove(member.name)
        self.waiting.pop(member.name, None)
        self._quotas.remove(member.name)
        self._newest = max((other.iteration for other in self.counted()), default=0)
        self._passed_at = self._cancelled_at = None
        self.epoch += 1

    def quota_arrived(self, member: Member, iteration: int) -> None:
        """The quota of ``iteration`` of a member is here."""
        member.quota_iteration = iteration
        if member.gated:
            self._quotas.set(member.name, iteration)

    def pushed(self, now: float, member: Member, message: PushEnd) -> None:
        """A push has ended; the member waits from now on."""
        member.iteration = message.iteration
        if self._team.policy.sampled:  # rows that were not drawn were not due
            self.versions.advance(member.name, slice(None), message.iteration)
        self.quota_arrived(member, max(member.quota_iteration, message.iteration))
        self.push_time.report(member.name, message.iteration, message.quota_s, message.compute_s)
        if self._artifact is not None:
            self._artifact.pushed(member.name, now - member.pushing_since)
        self._newest = max(self._newest, member.iteration)
        member.state = MemberState.WAITING
        member.waiting_since = now
        self.waiting[member.name] = member

    def pulled(self, now: float, member: Member, started: float, quota_s: float) -> None:
        """A pull that began at ``started`` has ended; its quota took ``quota_s`` seconds."""
        self.pull_time.report(member.name, member.iteration, quota_s, self.push_time.compute_s(member.name))
        if self._artifact is not None:
            self._artifact.pulled(member.name, now - started)

    def limits_s(self, member: Member) -> tuple[float, float]:
        """For how long rows beyond the quota may travel in the next push and in the next pull of a member (s)."""
        if self._artifact is not None:
            limit_s = self._artifact.grant(member.name)
            return limit_s, limit_s
        newest = max(self._newest, member.iteration)
        return self.push_time.value_s(newest), self.pull_time.value_s(newest) if self._team.policy.speculative else 0.0

    def may_pass(self, newcomer: Member | None = None) -> list[Member]:
        """Members that may go on, the one that has waited longest first; they do not wait any longer.

        Args:
            newcomer: has begun to wait since the last call.
        """
        oldest = self.versions.oldest()
        if oldest is None or oldest != self._passed_at:
            held = list(self.waiting.values())
        else:  # who was held then is held still
            held = [newcomer] if newcomer is not None else []
        self._passed_at = oldest
        passing = [
            member
            for member in held
            if member.state is MemberState.WAITING
            and member.link is not None
            and self._team.policy.may_start(member.iteration, oldest)
        ]
        for member in passing:
            del self.waiting[member.name]
        return sorted(passing, key=lambda member: (member.waiting_since, member.name))

    def superfluous(self) -> list[Member]:
        """Members that send beyond their quota although every quota of their iteration is here (2.2).

        What they still send only delays the next iteration. Each is named once for an iteration.
        """
        lowest = self._quotas.lowest()
        if lowest is None or lowest == self._cancelled_at:
            return []
        self._cancelled_at = lowest
        found = []
        for member in self.counted():
            sending = member.state is MemberState.COMPUTING and member.iteration < member.quota_iteration <= lowest
            if sending and member.cancelled_iteration < member.quota_iteration:
                member.cancelled_iteration = member.quota_iteration
                found.append(member)
        return found

    def reason(self, now: float, member: Member, absence_limit_s: float) -> str:
        """For whom a member waits, and why, in words; empty where nobody is behind."""
        if not self.opened:
            ready = sum(other.state is MemberState.READY for other in self._members.values())
            return f"the team: {ready} of {self.expected} workers have joined"
        reasons = []
        behind = self.versions.behind(member.iteration - (self._team.policy.slack or 0))
        for name in behind[:MOST_NAMED]:
            other = self._members[name]
            if other.link is None:
                left_s = max(other.lost_at + absence_limit_s - now, 0.0)
                why = f"link lost {now - other.lost_at:.0f} s ago, given up in {left_s:.0f} s"
            else:
                why = f"{other.state.value} at iteration {other.iteration + 1}"
            reasons.append(f"{name} ({why})")
        if len(behind) > MOST_NAMED:
            reasons.append(f"and {len(behind) - MOST_NAMED} more")
        return ", ".join(reasons)
