"""Whose parameters the team begins with: who has trained goes first, and training is overwritten only on request.

The server holds no parameters until a worker brings them. A server that was restarted has forgotten those of its former
life, and the workers that hold them come back one by one, as their pauses between two attempts end. Therefore:

1. For a while after the server has begun to listen, workers that have not trained wait for those that have. Of those
   that have, the one with the most iterations brings the parameters.
2. Until the team has begun, parameters that were trained take the place of parameters that were not.
3. A worker that asks for it (``parameters="mine"``) brings its own, whatever the others have, as long as no other
   worker trains with the team's; two that ask for it are an error.
4. A worker whose training the team's parameters would overwrite is refused, unless it asks for them
   (``parameters="team"``): it goes on looking, and its training and what it has pending are kept.

Each training has a name, 16 bytes: parameters of the same training may always take the place of each other.
"""

from __future__ import annotations

import enum
import hashlib
import math
from dataclasses import dataclass

from rowcast.errors import ParametersConflict
from rowcast.wire import Hello

__all__ = ["ASKS", "PROBES", "WISHES", "Provenance", "Seeding", "Verdict"]

#: What a worker may wish for: nothing in particular, the team's parameters in any case, or its own.
WISHES = ("", "team", "mine")
#: What a hello wishes that wants inferences computed.
ASKS = "infer"
#: What a hello wishes that is of nobody who trains: to measure the link.
PROBES = "probe"


class Verdict(enum.Enum):
    """What becomes of a worker that the server does not know."""

    WAIT = "wait"  #: for workers that may have trained
    SEED = "seed"  #: it brings the team's parameters
    JOIN = "join"  #: it takes the team's


@dataclass(frozen=True)
class Provenance:
    """Parameters that were brought, or are being brought.

    Attributes:
        worker: who brought them.
        training: 16 bytes that name the training that they belong to.
        trained: whether they had been trained before they came.
        wished: they were brought because their worker asked for it.
        iteration: iterations of training behind them when they came; the team goes on counting from there.
    """

    worker: str
    training: bytes
    trained: bool
    wished: bool
    iteration: int


class Seeding:
    """Decides who brings the parameters.

    Args:
        life: 16 bytes that name this life of the server.
        gather_s: how long workers that have not trained wait for those that have (s).

    Attributes:
        provenance: where the parameters of the team come from; ``None`` before anybody was chosen to bring them.
        gathers_until: until when workers that have trained may be on their way (s).
    """

    def __init__(self, life: bytes, gather_s: float) -> None:
        self.provenance: Provenance | None = None
        self.gathers_until = -math.inf
        self._life = life
        self._gather_s = gather_s
        self._complete = False
        self._elsewhere = False

    def listen(self, now: float) -> None:
        """The server has begun to listen: workers of a former life may be on their way."""
        self.gathers_until = now + self._gather_s

    def complete(self) -> None:
        """Everybody who may be on the way has come."""
        self._complete = True

    def decided(self, provenance: Provenance) -> None:
        """The server above has given the parameters, or let those here be; no worker brings others any more."""
        self.provenance, self._elsewhere = provenance, True

    @property
    def resumed(self) -> bool:
        """The team's parameters come from a former life of the server: its team was complete once."""
        return self.provenance is not None and self.provenance.trained and not self.provenance.wished

    def judge(self, now: float, hello: Hello, *, begun: bool, others: bool) -> Verdict:
        """What becomes of a worker that the server does not know.

        Args:
            now: time (s).
            hello: how it introduced itself.
            begun: the team has begun to train.
            others: other workers take part in it.

        Raises:
            ParametersConflict: its training would be overwritten, or it would overwrite that of others.
        """
        team, mine, trained = self.provenance, hello.wish == "mine", bool(hello.training)
        if team is None:
            waits = now < self.gathers_until and not self._complete and not mine
            return Verdict.WAIT if waits else Verdict.SEED
        if mine:
            if self._elsewhere:
                raise ParametersConflict(
                    f"expected to take the team's parameters, which {team.worker} brought and the server above the "
                    f"relay holds; {hello.name} wants its own: join with parameters='team'"
                )
            if begun and others:
                raise ParametersConflict(
                    f"expected to take the team's parameters, which {team.worker} brought and others train now; "
                    f"{hello.name} wants its own: stop the others first, or join with parameters='team'"
                )
            if not begun and team.wished:
                raise ParametersConflict(
                    f"expected one worker that wants its own parameters, got {team.worker} and {hello.name}; "
                    "join with parameters='team' on one of them"
                )
            return Verdict.SEED
        if trained and hello.training != team.training:
            if not begun and not team.wished and not team.trained:
                return Verdict.SEED
            if hello.wish != "team":
                raise ParametersConflict(
                    f"the team's parameters come from {team.worker} and would overwrite {hello.trained} iterations of "
                    f"training of {hello.name}; start {hello.name} anew with parameters='team' to give those up, or "
                    "stop the others and restart the server to go on with them"
                )
        return Verdict.JOIN

    def chosen(self, hello: Hello) -> Provenance:
        """This worker brings the parameters."""
        fresh = hashlib.blake2b(self._life + hello.session, digest_size=16).digest()
        self.provenance = Provenance(
            hello.name, hello.training or fresh, bool(hello.training), hello.wish == "mine", hello.trained
        )
        return self.provenance

    def forget(self) -> None:
        """The parameters are gone, perhaps with the link of who was bringing them: it may be on its way again."""
        self.provenance = None
        self._complete = False

    @staticmethod
    def rank(hello: Hello) -> tuple[bool, bool, int]:
        """Who is chosen first: who asks for it, then who has trained most."""
        return hello.wish == "mine", bool(hello.training), hello.trained
