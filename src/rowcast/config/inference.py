"""Settings of the nodes that run one model together: the robot that asks, and the server that answers."""

from __future__ import annotations

import dataclasses

from rowcast.config.fields import Checked, setting
from rowcast.config.nodes import StrangerSettings, stuck_limit

__all__ = ["AnswererSettings", "AskerSettings"]


@dataclasses.dataclass(frozen=True)
class AskerSettings(Checked):
    """How a robot asks for inferences."""

    deadline_s: float | None = setting(
        None,
        "An answer is wanted so long after the input, at the latest. With a fallback the robot then has its own; "
        "without one an answer that is not there by then is given up. None: an answer is of use whenever it comes.",
        unit="s",
        low=0.001,
        high=3600.0,
    )
    fallback: str = setting(
        "model",
        "What the robot does where the server's answer does not come in time: 'model' runs the whole model itself, as "
        "late as the deadline allows; 'none' gives no answer.",
        choices=("model", "none"),
    )
    in_flight: int = setting(
        1,
        "So many inputs may be on their way to the server at once. More than one raises the rate of answers where the "
        "link is slower than the server, and the age of each.",
        unit="requests",
        low=1,
        high=16,
    )
    newest_only: bool = setting(
        True,
        "Of the inputs that wait for their turn only the newest is kept. False: each is computed, in order; their age "
        "grows without bound where they come faster than they are answered.",
    )
    reconnect_first_s: float = setting(
        0.1, "Wait before the first reconnection; doubles each time, with jitter.", unit="s", low=0.01, high=60.0
    )
    reconnect_cap_s: float = setting(
        2.0, "Longest wait between two attempts to reconnect.", unit="s", low=0.05, high=600.0
    )
    connect_limit_s: float = setting(
        30.0,
        "Without a fallback: give up when the server was not there for so long. With one the robot goes on by itself.",
        unit="s",
        low=0.1,
        high=1e7,
    )
    silence_limit_s: float = setting(
        5.0, "A link on which no byte arrives for this long is taken for lost.", unit="s", low=0.5, high=3600.0
    )
    heartbeat_s: float = setting(
        1.0, "How often a robot tells that it lives, if it says nothing else.", unit="s", low=0.05, high=3600.0
    )
    patience_s: float = setting(3.0, "A wait longer than this says for what.", unit="s", low=0.1, high=3600.0)
    refusals_limit: int = setting(
        8,
        "When one end refuses what the other says, the link is made anew. After so many times in a row, with no answer "
        "in between, the robot gives up: one end has a fault.",
        unit="times",
        low=0,
        high=1_000_000,
    )


@dataclasses.dataclass(frozen=True)
class AnswererSettings(StrangerSettings):
    """How a server answers requests for inferences."""

    requests_per_robot: int = setting(
        4, "So many requests of one robot may be under way at once.", unit="requests", low=1, high=256
    )
    queue_limit: int = setting(
        64,
        "A request is told to come back later while so many others wait to be computed, or when it would be computed "
        "after its deadline.",
        unit="requests",
        low=1,
        high=100_000,
    )
    batch_limit: int = setting(
        8,
        "So many requests whose rows are all there are computed together at most. 1 computes each by itself.",
        unit="requests",
        low=1,
        high=64,
    )
    batch_wait_s: float = setting(
        0.002,
        "While the server has nothing else to compute, a request waits so long for those of other robots, if there "
        "are any, to be computed with them.",
        unit="s",
        low=0.0,
        high=1.0,
    )
    silence_limit_s: float = setting(
        10.0, "A link on which no byte arrives for this long is taken for lost.", unit="s", low=0.5, high=3600.0
    )
    stuck_limit_s: float = stuck_limit()
    heartbeat_s: float = setting(
        1.0, "A heartbeat is sent when nothing else was for this long.", unit="s", low=0.05, high=3600.0
    )
    handshake_limit_s: float = setting(
        10.0, "A connection that has not introduced itself after this long is closed.", unit="s", low=0.5, high=600.0
    )
