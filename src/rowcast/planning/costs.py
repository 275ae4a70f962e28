"""What a plan costs: one model of time and energy for all planners.

Robot, link and server work one after the other (a serial plan), so that with the sets R and S of operators on the two
sides, and the tensors U and D that cross up and down, each once however many operators read it::

    latency = sum(robot_s[R]) + sum(server_s[S]) + sum(elapsed_up_s[U]) + sum(elapsed_down_s[D])
    energy  = stall_w * latency + (compute_w - stall_w) * robot + (communicate_w - stall_w) * (up + down)

What elapses while a tensor travels is the time of the link, where it travels as it is, and where it travels coded what
:mod:`rowcast.planning.coding` says. ``robot`` is all that the robot computes, coding included.

Energy is that of the robot; the server's is excluded. The second line holds for plans that overlap as well: the board
draws ``stall_w`` all the time, and each kind of work what it takes on top. Sources: Neurosurgeon (Kang et
al., ASPLOS 2017); DADS (Hu et al., INFOCOM 2019), corrected: backward crossings are priced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rowcast.config import Checked, setting
from rowcast.energy import PowerStates
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.graphs import Graph, Profile
from rowcast.planning.coding import PIECES, RAW, Coding, Sizes, TensorCosts, Way, Worth, cheapest, given
from rowcast.planning.plan import LATENCY, Objective, Plan

__all__ = ["Codings", "CostModel", "LinkCosts", "ServerMask"]

Floats = npt.NDArray[np.float64]
#: Of one plan, or float64 [plans].
Seconds = TypeVar("Seconds", float, Floats)
#: bool [ops]: which operators are computed on the server.
ServerMask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LinkCosts(Checked):
    """What it takes to send tensors, in each direction.

    Raises:
        ConfigError: a value out of range.
    """

    up_bps: float = setting(
        dataclasses.MISSING, "Rate of the link from robot to server.", unit="bit/s", low=1.0, high=1e12
    )
    down_bps: float = setting(
        dataclasses.MISSING, "Rate of the link from server to robot.", unit="bit/s", low=1.0, high=1e12
    )
    message_s: float = setting(
        0.0025,
        "What each tensor costs whatever its size: half of a round trip, and the work of sending it.",
        unit="s",
        low=0.0,
        high=60.0,
    )
    goodput: float = setting(
        0.944, "Share of the rate that carries bytes of tensors: headers and gaps take the rest.", low=0.01, high=1.0
    )
    frame_s: float = setting(
        12e-6, "What each further frame of a tensor costs that is sent in slabs of rows.", unit="s", low=0.0, high=1.0
    )

    @staticmethod
    def symmetric(rate_bps: float, round_trip_s: float = 0.005, goodput: float = 0.944) -> LinkCosts:
        """Both directions alike; each message costs half of a round trip."""
        return LinkCosts(rate_bps, rate_bps, round_trip_s / 2, goodput)

    def at_rate(self, up_bps: float) -> LinkCosts:
        """The same link at another rate up; the rate down changes in proportion."""
        return dataclasses.replace(self, up_bps=float(up_bps), down_bps=self.down_bps * up_bps / self.up_bps)

    def up_s_per_byte(self) -> float:
        """Seconds that a byte takes up."""
        return 8.0 / (self.up_bps * self.goodput)

    def down_s_per_byte(self) -> float:
        """Seconds that a byte takes down."""
        return 8.0 / (self.down_bps * self.goodput)


@dataclass(frozen=True, eq=False)
class Codings:
    """How tensors travel in each direction."""

    up: Coding
    down: Coding


@dataclass(frozen=True, eq=False)
class CostModel:
    """A graph, its times, a link and the robot's power: what all planners calculate with.

    Inputs are on the robot, and the answer is wanted there.

    Attributes:
        tensors: ways of coding tensors that may be used; a tensor that none makes cheaper travels as it is.

    Raises:
        ConfigError: the profile is that of another graph.
    """

    graph: Graph
    profile: Profile
    link: LinkCosts
    power: PowerStates = field(default_factory=PowerStates)
    tensors: tuple[TensorCosts, ...] = ()

    def __post_init__(self) -> None:
        self.profile.check(self.graph)
        for costs in self.tensors:
            wrong = [index for index in sorted(costs.ops or ()) if not 0 <= index < len(self.graph)]
            if wrong:
                raise ConfigError(
                    f"codec {costs.codec}: ops: expected operators in 0 .. {len(self.graph) - 1}, got {wrong[0]}"
                )

    def at_rate(self, up_bps: float) -> CostModel:
        """The same at another rate of the link up; down in proportion."""
        return dataclasses.replace(self, link=self.link.at_rate(up_bps))

    @cached_property
    def bytes(self) -> Floats:
        """float64 [ops]: sizes of the tensors."""
        return np.array([op.bytes for op in self.graph.ops], dtype=np.float64)

    @cached_property
    def pieces(self) -> Floats:
        """float64 [ops]: groups of rows in which each tensor is coded."""
        return np.array([max(1, min(PIECES, op.rows)) for op in self.graph.ops], dtype=np.float64)

    def codings(self, objective: Objective) -> Codings:
        """How each tensor travels in a serial plan that is best for an objective."""
        known = self._codings
        if objective not in known:
            known[objective] = self._cheapest(self.worth(objective))
        return known[objective]

    def worth(self, objective: Objective) -> Worth:
        """What seconds elapsed, of coding on the robot and of the link are worth to an objective."""

        def worth(elapsed_s: Floats, robot_s: Floats, link_s: Floats) -> Floats:
            return objective.value(elapsed_s, self.joules(elapsed_s, robot_s, link_s))

        return worth

    @cached_property
    def least_link(self) -> Codings:
        """How each tensor travels where the link is busy for the shortest time."""
        return self._cheapest(lambda elapsed_s, robot_s, link_s: link_s)

    @cached_property
    def _codings(self) -> dict[Objective, Codings]:
        return {}

    def _cheapest(self, worth: Worth) -> Codings:
        sizes = Sizes(self.bytes, self.pieces)
        up, down = (cheapest(sizes, way, self.tensors, worth) for way in self._ways)
        return Codings(up, down)

    def codings_of(self, plan: Plan) -> Codings:
        """How each tensor travels in a plan; what does not travel in it counts as not coded."""
        sizes = Sizes(self.bytes, self.pieces)
        found = []
        for way, tensors, names in zip(
            self._ways, (plan.up, plan.down), (plan.up_codecs, plan.down_codecs), strict=True
        ):
            chosen = np.zeros(len(self.graph), dtype=np.intp)
            for index, name in zip(tensors, names or (RAW,) * len(tensors), strict=True):
                chosen[index] = self._place_of(name, index)
            found.append(given(sizes, way, self.tensors, chosen))
        return Codings(*found)

    def _place_of(self, codec: str, index: int) -> int:
        """The first of the ways of coding with this name that may be used for a tensor, from 1; 0: as it is."""
        for place, costs in enumerate(self.tensors, 1):
            if costs.codec == codec and (costs.ops is None or index in costs.ops):
                return place
        if codec != RAW:
            raise LocalProtocolError(f"plan: operator {self.graph.label(index)}: no costs of the codec {codec!r}")
        return 0

    @property
    def _ways(self) -> tuple[Way, Way]:
        link = self.link
        return (
            Way(True, link.up_s_per_byte(), link.message_s, link.frame_s),
            Way(False, link.down_s_per_byte(), link.message_s, link.frame_s),
        )

    @cached_property
    def edges(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """intp [edges] twice: the operator that makes a tensor, and one that reads it."""
        pairs = [(source, reader) for reader, reads in enumerate(self.graph.reads) for source in reads]
        made, read = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        return made, read

    def mask(self, on_server: Iterable[int]) -> ServerMask:
        """bool [ops] with the named operators on the server.

        Raises:
            LocalProtocolError: an operator that there is not, an input of the model, or an operator without the one
                that it is joined to.
        """
        mask = np.zeros(len(self.graph), dtype=bool)
        for index in on_server:
            if not 0 <= index < len(self.graph):
                raise LocalProtocolError(f"plan: expected operators in 0 .. {len(self.graph) - 1}, got {index}")
            mask[index] = True
        wrong = [index for index in self.graph.inputs if mask[index]]
        if wrong:
            raise LocalProtocolError(f"plan: operator {self.graph.label(wrong[0])} is an input, which is on the robot")
        for index, op in enumerate(self.graph.ops):
            if op.joined and mask[index] != mask[op.inputs[0]]:
                raise LocalProtocolError(
                    f"plan: operator {self.graph.label(index)} is computed where {op.inputs[0]} is; move both"
                )
        return mask

    def crossings(self, mask: ServerMask) -> tuple[ServerMask, ServerMask]:
        """bool [ops] twice: the tensors that travel up, and those that travel down."""
        made, read = self.edges
        up, down = np.zeros_like(mask), np.zeros_like(mask)
        up[made[~mask[made] & mask[read]]] = True
        down[made[mask[made] & ~mask[read]]] = True
        outputs = list(self.graph.outputs)
        down[outputs] |= mask[outputs]
        return up, down

    def joules(self, latency_s: Seconds, robot_s: Seconds, link_s: Seconds) -> Seconds:
        """What the robot spends in ``latency_s``, of which it computes and sends for so long (J)."""
        power = self.power
        above = (power.compute_w - power.stall_w) * robot_s + (power.communicate_w - power.stall_w) * link_s
        return power.stall_w * latency_s + above

    def plan(self, method: str, on_server: ServerMask, codings: Codings | None = None) -> Plan:
        """The serial plan with these operators (bool [ops]) on the server, priced.

        Args:
            codings: how tensors travel; those that are best for latency if not given.
        """
        ways = codings or self.codings(LATENCY)
        up, down = self.crossings(on_server)
        coding_s = float(ways.up.robot_s[up].sum() + ways.down.robot_s[down].sum())
        robot_s = float(self.profile.robot_s[~on_server].sum())
        server_s = float(self.profile.server_s[on_server].sum())
        latency_s = robot_s + server_s + float(ways.up.elapsed_s[up].sum() + ways.down.elapsed_s[down].sum())
        robot_s += coding_s
        server_s += float(ways.up.server_s[up].sum() + ways.down.server_s[down].sum())
        up_s, down_s = float(ways.up.link_s[up].sum()), float(ways.down.link_s[down].sum())
        codecs = [self.codecs_of(way, crosses) for way, crosses in ((ways.up, up), (ways.down, down))]
        return Plan(
            method,
            frozenset(np.flatnonzero(on_server).tolist()),
            tuple(np.flatnonzero(up).tolist()),
            tuple(np.flatnonzero(down).tolist()),
            latency_s=latency_s,
            interval_s=max(robot_s, server_s, up_s + down_s),
            energy_j=self.joules(latency_s, robot_s, up_s + down_s),
            robot_s=robot_s,
            server_s=server_s,
            up_s=up_s,
            down_s=down_s,
            up_bytes=self.travelling_bytes(ways.up, up),
            down_bytes=self.travelling_bytes(ways.down, down),
            exact=self.exact(ways.up, up) and self.exact(ways.down, down),
            up_codecs=codecs[0],
            down_codecs=codecs[1],
            coding_s=coding_s,
        )

    def travelling_bytes(self, way: Coding, crosses: ServerMask) -> int:
        """Bytes of the tensors that cross (bool [ops]), as they travel."""
        return round(float((self.bytes * way.ratio)[crosses].sum()))

    def codecs_of(self, way: Coding, crosses: ServerMask) -> tuple[str, ...]:
        """The codec of each tensor that crosses (bool [ops]); empty where all travel as they are."""
        chosen = way.chosen[crosses].tolist()
        return tuple(self.tensors[n - 1].codec if n else RAW for n in chosen) if any(chosen) else ()

    def exact(self, way: Coding, crosses: ServerMask) -> bool:
        """Whether all tensors that cross (bool [ops]) arrive as they were."""
        return all(self.tensors[n - 1].exact for n in set(way.chosen[crosses].tolist()) if n)
