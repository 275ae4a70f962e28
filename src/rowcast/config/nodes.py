"""Settings of the nodes and of the links between them."""

from __future__ import annotations

import dataclasses
from typing import Any

from rowcast.config.fields import Checked, setting
from rowcast.errors import ConfigError

__all__ = ["LinkSettings", "ServerSettings", "StateSettings", "StrangerSettings", "WorkerSettings", "stuck_limit"]


def stuck_limit() -> Any:
    """``stuck_limit_s``: servers and workers watch their links alike."""
    return setting(
        20.0,
        "A link is cut and made anew when rows were sent and nothing was acknowledged for this long, or when a frame "
        "has begun and is not finished, although the link lives. Four times what the measured rate and round trip "
        "lead one to expect is allowed in any case, and so is a slow transfer that makes progress; it doubles with "
        "each such cut until something is delivered. Keep it above silence_limit_s.",
        unit="s",
        low=0.5,
        high=86_400.0,
    )


@dataclasses.dataclass(frozen=True)
class LinkSettings(Checked):
    """How bytes are put on a link; the same on both ends."""

    frame_s: float = setting(
        0.01,
        "Link time that one row frame takes at the measured rate. Smaller cuts deadlines finer and costs headers.",
        unit="s",
        low=0.001,
        high=10.0,
    )
    frame_min_bytes: int = setting(
        512,
        "Smallest target size of a row frame. Smaller lets acknowledgements through sooner on a slow link and costs "
        "headers there.",
        unit="byte",
        low=64,
        high=1 << 20,
    )
    frame_max_bytes: int = setting(1 << 20, "Largest target size of a row frame.", unit="byte", low=1024, high=4 << 20)
    window_s: float = setting(
        0.02,
        "Unacknowledged row bytes allowed, as link time beyond the round trip. Larger hides jitter; smaller "
        "leaves less behind when the link collapses.",
        unit="s",
        low=0.002,
        high=5.0,
    )
    window_min_bytes: int = setting(
        1024, "The window never shrinks below this, nor below two frames.", unit="byte", low=256, high=1 << 20
    )
    initial_rate_bps: float = setting(
        1e6, "Delivery rate assumed before the first acknowledgement.", unit="bit/s", low=1e3, high=1e11
    )
    congestion_control: str | None = setting(
        None,
        "TCP congestion control to ask the system for ('cubic', 'bbr', 'reno'); none keeps the system's. It can "
        "change results two-fold, so pin it when you compare.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frame_min_bytes > self.frame_max_bytes:
            raise ConfigError(
                f"frame_min_bytes: expected at most frame_max_bytes, {self.frame_max_bytes}, got {self.frame_min_bytes}"
            )


@dataclasses.dataclass(frozen=True)
class StrangerSettings(Checked):
    """What those may cost a node who connect to it and have not introduced themselves."""

    strangers_limit: int = setting(
        512,
        "Connections at once that have not introduced themselves; further ones are closed at once. Each costs about "
        "20 kB, 40 kB with TLS (measured once), and a file descriptor. Keep it well below the limit of descriptors "
        "(ulimit -n).",
        unit="connections",
        low=1,
        high=100_000,
    )
    strangers_per_address: int = setting(
        256,
        "The same for one address (of IPv6, one network of 64 bits). Raise it when more robots than that share an "
        "address and start at the same moment; those that are turned away try again.",
        unit="connections",
        low=1,
        high=100_000,
    )
    failures_per_minute: int = setting(
        300,
        "Failed attempts of one address in a minute, such as a wrong secret, garbage or no hello; after that its "
        "connections are closed at once until it has failed less. Who is let in costs nothing. Lower it where "
        "strangers reach the port, raise it when many robots behind one address have poor links.",
        unit="connections",
        low=1,
        high=1_000_000,
    )
    joins_per_minute: int = setting(
        600,
        "So often in a minute one name is let in, over all of its connections; after that it is told to come later. "
        "A robot with a poor link comes back far less often.",
        unit="times",
        low=1,
        high=1_000_000,
    )


@dataclasses.dataclass(frozen=True)
class ServerSettings(StrangerSettings):
    """Settings of the server node."""

    expected_workers: int = setting(
        1,
        "The gate opens for the first time when this many workers have joined.",
        unit="workers",
        low=1,
        high=10_000,
        flag="--workers",
    )
    absence_limit_s: float = setting(
        10.0,
        "A worker whose link has been down for this long leaves the gate, so that nobody waits for it. "
        "Lower it when robots stop often, raise it when every sample of every robot counts.",
        unit="s",
        low=0.1,
        high=86_400.0,
    )
    absent_workers: int = setting(
        8,
        "So many workers are kept that have been away for longer than absence_limit_s, with what they are owed: a copy "
        "of the model each. Beyond that the one that has been away longest is forgotten; when it returns it receives "
        "the parameters anew, and what it had pending still counts. Raise it when memory is plenty and links are slow.",
        unit="workers",
        low=0,
        high=10_000,
    )
    silence_limit_s: float = setting(
        10.0,
        "A link on which no byte arrives for this long is taken for lost. A slow transfer that makes progress "
        "is not silent.",
        unit="s",
        low=0.5,
        high=3600.0,
    )
    stuck_limit_s: float = stuck_limit()
    heartbeat_s: float = setting(
        1.0, "A heartbeat is sent when nothing else was for this long.", unit="s", low=0.05, high=3600.0
    )
    patience_s: float = setting(
        3.0, "A worker held at the gate for longer than this is told for whom.", unit="s", low=0.1, high=3600.0
    )
    gather_s: float = setting(
        6.0,
        "After the server has begun to listen, a worker that has not trained waits so long for workers that have: "
        "their parameters go first. Longer than reconnect_cap_s of the workers, so that all of them have tried again "
        "by then; 0 where no team can have trained before.",
        unit="s",
        low=0.0,
        high=3600.0,
    )
    fresh_after_s: float | None = setting(
        None,
        "When no worker has been connected for this long, the model is forgotten, and the next worker brings its own "
        "parameters. None keeps the model as long as the server runs.",
        unit="s",
        low=1.0,
        high=1e7,
        flag="--fresh-after",
    )
    handshake_limit_s: float = setting(
        10.0, "A connection that has not introduced itself after this long is closed.", unit="s", low=0.5, high=600.0
    )
    model_limit_bytes: int = setting(
        4 << 30,
        "The largest model that a first worker may bring: 4 bytes for each parameter and 64 for each row. The server "
        "holds that once, and about once more for each worker (not with pulls=common). The default, 4 GiB, is a "
        "thousand million parameters; lower it to what the machine has where anybody may join.",
        unit="byte",
        low=1 << 10,
        high=1 << 40,
    )
    guard: str = setting(
        "off",
        "What becomes of updates that are out of line with those of the other members. clip: those that are far too "
        "large are scaled down. quarantine: besides, a member that stays too large, or whose sign is flipped, is put "
        "aside until it is in line again, and its last iterations are taken back; for that it takes a team of three. "
        "strict: besides, one that points against all others, as with wrong labels; only where all see the same kinds "
        "of data, since one that alone sees some does so, too. Needs two models of memory for each worker.",
        choices=("off", "clip", "quarantine", "strict"),
        flag="--guard",
    )


@dataclasses.dataclass(frozen=True)
class StateSettings(Checked):
    """What a server keeps of its team on a disk."""

    durability: str = setting(
        "none",
        "What survives the end of the server. none: nothing, the workers bring the parameters again. snapshot: the "
        "team as it was at the last snapshot; what came since is lost, and all workers receive the parameters. log: "
        "everything that any worker was told; they resume where they were.",
        choices=("none", "snapshot", "log"),
        flag="--durability",
    )
    commit_s: float = setting(
        0.02,
        "With a log: what has arrived is written and synchronised at most so often, and nothing that follows from it "
        "is sent before. Larger spares the disk, smaller the workers' time.",
        unit="s",
        low=0.0,
        high=10.0,
    )
    replay_s: float = setting(
        1.5,
        "With a log: a snapshot is taken when the server has worked for so long (processor time) since the last one. "
        "So long it works after a restart before workers come in. Larger writes less: a snapshot holds the model once, "
        "and once more for each worker.",
        unit="s",
        low=0.05,
        high=3600.0,
    )
    lease_s: float = setting(
        3.0,
        "With a standby: when one of the two servers hears nothing of the other for this long, it asks the workers "
        "whether it may go on alone. Nothing is told to them meanwhile. Larger rides out a worse link between the two. "
        "The same on both. With a log in JetStream: who takes it over waits for this long, to see whether its owner "
        "lives.",
        unit="s",
        low=0.2,
        high=3600.0,
    )
    log_away_s: float = setting(
        300.0,
        "With a log in JetStream: when nothing could be stored there for this long, the server says so and ends. Until "
        "then it takes in what arrives, and tells nobody anything.",
        unit="s",
        low=1.0,
        high=86_400.0,
    )
    snapshot_s: float = setting(30.0, "Without a log: how often a snapshot is taken.", unit="s", low=0.1, high=86_400.0)


@dataclasses.dataclass(frozen=True)
class WorkerSettings(Checked):
    """Settings of a worker node."""

    join_limit_s: float = setting(
        30.0,
        "Give up when the server has not answered for this long at the start, or whoever did has not proved that it "
        "knows the secret. An attempt that is under way is finished first: up to silence_limit_s more.",
        unit="s",
        low=0.1,
        high=86_400.0,
    )
    reconnect_limit_s: float = setting(
        3600.0,
        "Give up when a lost server has not come back for this long, while there is training to do.",
        unit="s",
        low=0.1,
        high=1e7,
    )
    finish_limit_s: float = setting(
        300.0,
        "A worker that has finished gives up when a lost server has not come back for this long; what it has not "
        "delivered is lost then. Raise it for robots that drive back into reach when their work is done.",
        unit="s",
        low=0.1,
        high=1e7,
    )
    reconnect_first_s: float = setting(
        0.2, "Wait before the first reconnection; doubles each time, with jitter.", unit="s", low=0.01, high=60.0
    )
    reconnect_cap_s: float = setting(
        5.0, "Longest wait between two attempts to reconnect.", unit="s", low=0.05, high=600.0
    )
    silence_limit_s: float = setting(
        10.0, "A link on which no byte arrives for this long is taken for lost.", unit="s", low=0.5, high=3600.0
    )
    stuck_limit_s: float = stuck_limit()
    heartbeat_s: float = setting(
        1.0, "How often a worker tells that it lives and how it is doing.", unit="s", low=0.05, high=3600.0
    )
    patience_s: float = setting(3.0, "A wait longer than this says for whom.", unit="s", low=0.1, high=3600.0)
    state_limit_s: float = setting(
        60.0,
        "With a state_dir: longest time between two pictures of the worker's state, however long one takes. Where they "
        "take less than 2 % of the time there is one behind each step. What was computed since the last one is lost in "
        "a crash, as far as it was not delivered: lower it where steps are long and the disk is fast.",
        unit="s",
        low=0.0,
        high=86_400.0,
    )
    memory_mb: float | None = setting(
        None,
        "Most that Rowcast may take for what it holds of the model, beside Python, PyTorch, the model itself, its "
        "gradients and its inner optimizer. A line at joining says what it takes. Where that would be more, the worker "
        "does with one vector less, then with half precision for what it has not delivered; where that does not "
        "suffice either, it ends, and its message has the sums. None: no limit.",
        unit="MB",
        low=0.001,
        high=1e9,
        flag="--memory-mb",
    )
    vectors: str = setting(
        "host",
        "Where updates, what is pending and encoded rows are computed. host: in host memory, whatever device the model "
        "is on. device: on the GPU that all parameters are on, with the codes onebit and raw; not run on a GPU yet, "
        "tested on the processor only. Not together with memory_mb, which bounds host memory.",
        choices=("host", "device"),
        flag="--vectors",
    )
    refusals_limit: int = setting(
        8,
        "When a server refuses what this worker says, or says itself what has no place here, the link is made anew, "
        "after a pause that doubles. After so many times in a row, with nothing delivered in between, the worker gives "
        "up: one end has a fault. Damaged bytes do not count; 0 gives up at once, to find such a fault.",
        unit="times",
        low=0,
        high=1_000_000,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vectors == "device" and self.memory_mb is not None:
            raise ConfigError(
                "memory_mb: expected none with vectors = 'device', got "
                f"{self.memory_mb:g}: it bounds host memory; leave out one of the two"
            )
