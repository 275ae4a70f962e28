"""The team's batch, shared out among the workers whose samples come as streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rowcast.errors import RemoteProtocolError
from rowcast.streams import share
from rowcast.streams.sharing import DEAD_BAND
from rowcast.training.member import Member
from rowcast.wire import Message, Share, Supply

if TYPE_CHECKING:
    from rowcast.training.team import Team

__all__ = ["Sharing"]

#: Where so many workers share a batch, everybody is told of every change; beyond, not of small ones.
SMALL_TEAM = 16

#: What a worker may say of itself: samples a second, and samples of a team's batch.
MOST_RATE, MOST_SAMPLES = 1e9, 10**9


class Sharing:
    """Tells each worker its share, in proportion to what each can train on, by the largest remainder.

    The shares of those among whom updates are shared, who is in an outage included, sum up to the batch. They are
    looked at again when workers have said that what they can train on has changed, and when workers come or go: once
    for all that was heard since the server looked for what there is to say. Who has said so is told its share, and in a
    small team so is everybody; in a large one others hear when theirs has changed by more than the dead band.

    What a worker cannot take at once goes to the others. At a relay those below share what is the relay's, of which the
    server above is told what they can train on together.

    Args:
        team: the team.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self._shares = False  # somebody has a stream
        self._askers: set[Member] = set()
        self._epoch = -1
        self._again = False

    def on_supply(self, now: float, member: Member, message: Message) -> None:
        """A worker says what it can train on.

        Raises:
            RemoteProtocolError: that is no rate, or no batch.
        """
        supply = cast(Supply, message)
        if not 0 <= supply.rate <= MOST_RATE or max(supply.total, supply.most) > MOST_SAMPLES:
            raise RemoteProtocolError(
                f"expected 0 .. {MOST_RATE:g} samples/s and a batch of at most {MOST_SAMPLES}, got {supply.rate:g} and "
                f"{supply.total}"
            )
        member.supply = supply
        self._shares = True
        self._askers.add(member)

    def refresh(self) -> None:
        """Share out again if somebody has come, gone or said something since the last time."""
        if self._askers or (self._shares and (self._again or self._epoch != self._team.gate.epoch)):
            self._share_out()

    def renew(self) -> None:
        """Share out again: the server above has told what there is to share."""
        self._again = True

    def _share_out(self) -> None:
        self._epoch, self._again = self._team.gate.epoch, False
        askers, self._askers = self._askers, set()
        members = [self._team.members[name] for name in self._team.rule.sharing()]
        sharing = [(member, member.supply) for member in members if member.supply is not None and member.supply.total]
        rates = [supply.rate for _, supply in sharing]
        team_rate = sum(rates)
        most = [supply.most or MOST_SAMPLES for _, supply in sharing]
        whole = {total: total for total in {supply.total for _, supply in sharing}}
        if (above := self._team.above) is not None and sharing:
            limited = all(supply.most for _, supply in sharing)
            told = above.share_of(Supply(team_rate, max(whole), sum(most) if limited else 0))
            if told is None:
                return  # it is shared out when that is told
            whole, team_rate = dict.fromkeys(whole, told.samples), told.rate
        shares = {total: share(samples, rates, most=most) for total, samples in whole.items()}
        band = 0.0 if len(sharing) <= SMALL_TEAM else DEAD_BAND
        for place, (member, supply) in enumerate(sharing):
            self._tell(member, shares[supply.total][place], team_rate, 0.0 if member in askers else band)

    def _tell(self, member: Member, samples: int, team_rate: float, band: float) -> None:
        """Tell a member its share, unless on this connection it knows one that differs by this share of it at most."""
        link, told = member.told_share
        if member.link is None or (link is member.link and abs(samples - told) <= band * told):
            return
        member.told_share = member.link, samples
        self._team.notifier.say(member.link, Share(samples, team_rate))
