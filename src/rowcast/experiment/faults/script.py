"""A fault script: a team, what happens to it and when, and what its journals must say afterwards; a TOML file.

Times are those of full length; a player may take them shorter, all by the same factor (:meth:`FaultScript.scaled`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import msgspec

from rowcast.config import ServerSettings, WorkerSettings

__all__ = [
    "SERVER",
    "Certificate",
    "Clock",
    "Cut",
    "DiskFull",
    "FaultScript",
    "Happening",
    "Hostile",
    "Kill",
    "Named",
    "PowerLoss",
    "Rate",
    "Stop",
    "TeamTable",
]

#: How the server is called in a script; robots are ``robot-0``, ``robot-1``, ..
SERVER = "server"
#: Where a script can be played.
PLAYERS = ("sockets", "virtual")
#: Fields that are times, and are scaled.
_TIMES = ("at_s", "for_s", "restart_after_s")
#: A process that is started again may take so long to be there, whatever the scale (s).
STARTING_S = 6.0
#: So much longer than all events last a robot looks for its server (s).
GONE_S = 120.0

Phase = Literal["computing", "pushing", "waiting", "pulling"]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a script: no other keys than its fields."""


class TeamTable(_Table, frozen=True, kw_only=True):
    """The team that it happens to.

    Attributes:
        workers: how many robots.
        policy: as text; sums must be exact, so its codec is ``raw`` and nothing adapts.
        pace_s: seconds of a computation, for all robots or one after the other.
        rate_mbps: rate of each link, each direction (Mbit/s).
        steps: each robot that is left makes at least so many iterations after the last event has ended.
        durability: of the server: ``none`` or ``log``.
        keeps: robots keep their state in a folder.
        security: ``none`` (loopback) or ``certificates``.
        server, worker: other settings of the nodes, by name.
    """

    workers: int = 3
    policy: str = "rog:4?codec=raw"
    pace_s: float | tuple[float, ...] = 0.3
    rate_mbps: float = 4.0
    steps: int = 3
    durability: Literal["none", "log"] = "none"
    keeps: bool = False
    security: Literal["none", "certificates"] = "none"
    server: dict[str, Any] = {}
    worker: dict[str, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the robots."""
        return tuple(f"robot-{index}" for index in range(self.workers))

    def pace_of(self, index: int) -> float:
        """Seconds of a computation of a robot."""
        return self.pace_s[index] if isinstance(self.pace_s, tuple) else self.pace_s


class Happening(_Table, frozen=True, kw_only=True, tag_field="do"):
    """One event: when, and to whom.

    Attributes:
        to: ``server``, ``robot-0``, ..
        at_s: so many seconds after everybody has joined; or
        phase, of, iteration: as soon as robot ``of`` is in this phase of a step, having finished so many iterations.
    """

    to: tuple[str, ...] = ()
    at_s: float | None = None
    phase: Phase | None = None
    of: str | None = None
    iteration: int = 0

    #: To whom it can happen, robots or the server; and to whom in virtual time.
    TO: ClassVar[tuple[str, ...]] = ("robot", SERVER)
    VIRTUAL: ClassVar[tuple[str, ...]] = ("robot", SERVER)

    @property
    def lasts_s(self) -> float:
        """From its beginning to its end (s)."""
        return 0.0

    @property
    def said(self) -> str:
        """For people."""
        return f"{self.name} {', '.join(self.to)} {self.when}"

    @property
    def when(self) -> str:
        """For people."""
        return f"at {self.at_s:.3g} s" if self.at_s is not None else f"when {self.of} is {self.phase}"

    @property
    def name(self) -> str:
        """What a script calls it."""
        return str(self.__struct_config__.tag)


class Kill(Happening, frozen=True, kw_only=True, tag="kill"):
    """SIGKILL; with ``restart_after_s`` started again so much later."""

    restart_after_s: float | None = None

    @property
    def lasts_s(self) -> float:
        return self.restart_after_s or 0.0

    @property
    def said(self) -> str:
        again = "for good" if self.restart_after_s is None else f"and start again {self.restart_after_s:.3g} s later"
        return f"{super().said}, {again}"


class PowerLoss(Kill, frozen=True, kw_only=True, tag="power-loss"):
    """SIGKILL, and of the files only what was synchronised is there for sure."""

    VIRTUAL: ClassVar[tuple[str, ...]] = (SERVER,)


class _Lasting(Happening, frozen=True, kw_only=True):
    """What ends by itself after ``for_s``."""

    for_s: float = msgspec.field()

    @property
    def lasts_s(self) -> float:
        return self.for_s

    @property
    def said(self) -> str:
        return f"{super().said}, for {self.for_s:.3g} s" if self.for_s else super().said


class Stop(_Lasting, frozen=True, kw_only=True, tag="stop"):
    """SIGSTOP, and SIGCONT."""


class Cut(_Lasting, frozen=True, kw_only=True, tag="cut"):
    """Nothing passes on the link of a robot, and nobody is told: no FIN, no RST.

    Attributes:
        direction: ``up`` (from the robot), ``down``, or ``both``.
        mid_frame: it begins in the middle of the next frame of rows.
    """

    direction: Literal["up", "down", "both"] = "both"
    mid_frame: bool = False
    TO: ClassVar[tuple[str, ...]] = ("robot",)


class Rate(_Lasting, frozen=True, kw_only=True, tag="rate"):
    """The link of a robot has this rate (Mbit/s); 0: it stands, and carries nothing."""

    rate_mbps: float = 0.0
    TO: ClassVar[tuple[str, ...]] = ("robot",)


class DiskFull(_Lasting, frozen=True, kw_only=True, tag="disk-full"):
    """No byte more can be written where the state is kept."""

    VIRTUAL: ClassVar[tuple[str, ...]] = (SERVER,)


class Certificate(_Lasting, frozen=True, kw_only=True, tag="certificate"):
    """The certificate of a robot is no longer what it was, and its link is made anew.

    Attributes:
        state: ``expired``; ``revoked``, for good; or ``foreign``: that of another team.
    """

    state: Literal["expired", "revoked", "foreign"] = msgspec.field()
    for_s: float = 0.0
    TO: ClassVar[tuple[str, ...]] = ("robot",)
    VIRTUAL: ClassVar[tuple[str, ...]] = ()


class Hostile(_Lasting, frozen=True, kw_only=True, tag="hostile"):
    """Somebody connects to the server who means no good.

    Attributes:
        kind: ``silent``; ``slow``: a byte a second; ``digest``: valid frames, of a model with another digest; ``rows``:
            a member that names rows beyond the model; ``length``: a frame that announces more than any may have;
            ``crowd``: many connections that say nothing.
        count: so many of it at once.
    """

    kind: Literal["silent", "slow", "digest", "rows", "length", "crowd"] = msgspec.field()
    count: int = 1
    to: tuple[str, ...] = (SERVER,)
    TO: ClassVar[tuple[str, ...]] = (SERVER,)

    @property
    def said(self) -> str:
        return f"{self.count} hostile peer{'s' * (self.count > 1)} ({self.kind}) {self.when}, for {self.for_s:.3g} s"


class Clock(Happening, frozen=True, kw_only=True, tag="clock"):
    """The wall clock jumps by so many seconds."""

    jump_s: float = msgspec.field()
    VIRTUAL: ClassVar[tuple[str, ...]] = ()


class Named(_Table, frozen=True, kw_only=True):
    """A record that a journal must have: the cause is named.

    Attributes:
        node: whose journal.
        event: its event.
        says: what stands in one of its fields.
        on: where; empty: wherever the script is played.
    """

    node: str
    event: str
    says: str = ""
    on: tuple[Literal["sockets", "virtual"], ...] = ()

    @property
    def said(self) -> str:
        """For people."""
        return f"{self.node}: {self.event}" + (f" with {self.says!r}" if self.says else "")


EventTable = Kill | PowerLoss | Stop | Cut | Rate | DiskFull | Certificate | Hostile | Clock


class FaultScript(_Table, frozen=True, kw_only=True):
    """One script.

    Attributes:
        about: what happens, for people.
        name: of the file, without its ending.
        team: whom it happens to.
        event: what happens.
        journal: what journals must say afterwards.
        gone: robots that end with an error, and its class; all others must finish.
        on: where it can be played; ``because``: why not elsewhere.
        scale: by how much its times were multiplied.
    """

    about: str
    event: tuple[EventTable, ...]
    team: TeamTable = TeamTable()
    journal: tuple[Named, ...] = ()
    gone: dict[str, str] = {}
    on: tuple[Literal["sockets", "virtual"], ...] = ("sockets", "virtual")
    because: str = ""
    name: str = ""
    scale: float = 1.0

    @property
    def length_s(self) -> float:
        """When the last event has ended, at least (s)."""
        return max((event.at_s or 0.0) + event.lasts_s for event in self.event)

    def strikes(self, name: str) -> Iterator[EventTable]:
        """The events that happen to one node."""
        return (event for event in self.event if name in event.to)

    def scaled(self, scale: float) -> FaultScript:
        """The same with all times multiplied: events, computations, links, and the limits of the nodes."""

        def of(event: EventTable) -> EventTable:
            new = {name: getattr(event, name, None) for name in _TIMES}
            new = {name: value * scale for name, value in new.items() if value is not None}
            if isinstance(event, Rate):
                new["rate_mbps"] = event.rate_mbps / scale
            return msgspec.structs.replace(event, **new)

        pace = self.team.pace_s
        pace = tuple(each * scale for each in pace) if isinstance(pace, tuple) else pace * scale
        team = msgspec.structs.replace(self.team, pace_s=pace, rate_mbps=self.team.rate_mbps / scale)
        events = tuple(map(of, self.event))
        return msgspec.structs.replace(self, event=events, team=team, scale=self.scale * scale)

    def lasting(self, seconds: float) -> FaultScript:
        """The same so that the last event has ended after so many seconds, or as it is where it is shorter."""
        return self if self.length_s <= seconds else self.scaled(seconds / self.length_s)

    # -- settings of the nodes -----------------------------------------------------------------------------------

    @property
    def server_settings(self) -> ServerSettings:
        """Those of the script, else the defaults, scaled."""
        limits = self._limits(ServerSettings, "silence_limit_s", "absence_limit_s", "heartbeat_s", "handshake_limit_s")
        return ServerSettings(**{**limits, "expected_workers": self.team.workers, "gather_s": 0.0, **self.team.server})

    @property
    def worker_settings(self) -> WorkerSettings:
        """Those of the script, else the defaults, scaled; a picture behind each step."""
        names = ("silence_limit_s", "heartbeat_s", "reconnect_first_s", "reconnect_cap_s")
        limits = self._limits(WorkerSettings, *names)
        # Whatever becomes of who plays it, no robot is left looking for its server.
        gone_s = self.length_s + GONE_S
        own = {"join_limit_s": 60.0, "state_limit_s": 0.0, "reconnect_limit_s": gone_s, "finish_limit_s": gone_s}
        return WorkerSettings(**{**limits, **own, **self.team.worker})

    def _limits(self, kind: type[Any], *names: str) -> dict[str, float]:
        if self.scale == 1.0:
            return {}
        default = kind()
        lowest = {field: kind.__dataclass_fields__[field].metadata["low"] for field in names}
        return {name: max(getattr(default, name) * self.scale, lowest[name]) for name in names}
