"""What the parts of the server have in common, and what can be seen of it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rowcast.config import LinkSettings, Secret, ServerSettings
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.session.recurring import Recurring
from rowcast.sync import Policy, VersionTable
from rowcast.training.admission import Admission
from rowcast.training.drain import Departures
from rowcast.training.explain import status
from rowcast.training.gate import Gate
from rowcast.training.incoming import Incoming
from rowcast.training.leader import Leader
from rowcast.training.ledger import Ledger
from rowcast.training.member import MemberStatus
from rowcast.training.model import Model
from rowcast.training.rules import server_rule
from rowcast.training.rules.base import ServerRule
from rowcast.training.sharing import Sharing
from rowcast.training.team import Team
from rowcast.training.watch import Watch
from rowcast.wire import Vote

__all__ = ["ServerCore"]


class ServerCore:
    """The parts of a server, put together; see :class:`rowcast.training.ServerNode` for the arguments.

    Attributes:
        team: the team, and the parts that look after it.
        members: every worker that was not told goodbye, by name.
        gate: whom the gate counts.
        frames_applied: row frames applied, by worker name, sessions added up.
        finished: names of the workers that have finished.
        secret: what workers must prove that they know, or ``None``.
        votes: answers of workers to ballots, and their sessions, that the driver has not taken yet.
        notices: sentences for the user, oldest first; the driver shows and removes them.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        settings: ServerSettings | None = None,
        link_settings: LinkSettings | None = None,
        secret: bytes | None = None,
        journal: Journal | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.settings = settings or ServerSettings()
        self.journal = journal or Journal("server")
        self.secret = None if secret is None else Secret(secret)
        self.team = team = Team(policy, self.settings, link_settings or LinkSettings(), self.journal)
        self.members, self.finished = team.members, team.finished
        self.gate = team.gate = Gate(team)
        team.model = Model(team)
        self._rule = team.rule = self._make_rule(policy, team)
        team.departures = Departures(team)
        self._recurring = Recurring(self.journal)
        self.notices = self._recurring.notices
        self._admission = Admission(team, self.secret, entropy, self._recurring)
        self._watch = Watch(team, self._admission, self._recurring)
        self._leader = Leader(self.members, team.notifier)
        self._sharing = Sharing(team)
        self._incoming = Incoming(team, self._admission, self._recurring, self._sharing)
        self.votes: deque[tuple[bytes, Vote]] = deque()
        self.frames_applied = self._incoming.frames_applied

    def _make_rule(self, policy: Policy, team: Team) -> ServerRule:
        """The server's side of the rule of its policy."""
        return server_rule(policy.rule)(team)

    # -- what it holds -----------------------------------------------------------------------------------------

    @property
    def has_secret(self) -> bool:
        """Workers must prove that they know a secret."""
        return self.secret is not None

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self.team.policy

    @property
    def rule(self) -> ServerRule:
        """Who may go on, and when rows travel."""
        return self._rule

    @property
    def layout(self) -> Layout | None:
        """The model's rows; ``None`` before the first worker came."""
        return self.team.model.layout

    @property
    def ledger(self) -> Ledger | None:
        """The parameters and what is owed; ``None`` before the first worker sent the parameters."""
        return self.team.model.ledger

    @property
    def surplus(self) -> npt.NDArray[np.float64] | None:
        """What row weights and guard have added to each row beyond what was sent, float64 [rows]; ``None``: nothing."""
        parts = [part.surplus for part in (self.team.model.row_weights, self.team.model.guard) if part is not None]
        return parts[0] + parts[1] if len(parts) == 2 else next(iter(parts), None)

    @property
    def parameters(self) -> npt.NDArray[np.float32] | None:
        """Flat float32, the team's model; ``None`` before the first worker sent it."""
        return None if self.ledger is None else self.ledger.parameters

    @property
    def versions(self) -> VersionTable:
        """The version table of the workers that the gate counts."""
        return self.gate.versions

    @property
    def epoch(self) -> int:
        """Counts changes of membership."""
        return self.gate.epoch

    def received_from(self, name: str, life: bytes) -> int | None:
        """Number of the last frame applied of a worker's session, forgotten or not; ``None``: not known.

        Args:
            name: the worker.
            life: the life of the server that it knows.
        """
        return self._admission.received_from(name, life)

    def status(self, now: float) -> list[MemberStatus]:
        """A line for each worker, for a progress display."""
        return status(now, self.team)
