"""Settings of experiments: of one robot, of a demo, of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from rowcast.config import Checked, LinkSettings, WorkerSettings, from_table, setting
from rowcast.energy import PowerStates
from rowcast.errors import ConfigError
from rowcast.experiment.medium_settings import QUEUE_MS
from rowcast.experiment.trees import parse_tree
from rowcast.links import CHANNELS
from rowcast.streams import parse_batch, parse_buffer, parse_rehearsal
from rowcast.sync import parse_policy, policy_forms
from rowcast.training.relay import check_relayed

__all__ = [
    "DRIVERS",
    "VIRTUAL_LINKS",
    "Comparison",
    "DemoSettings",
    "RobotSettings",
    "ShapeSettings",
    "StreamSettings",
]

DRIVERS = ("virtual",)
#: More than so many is a seed that was taken for a number of them.
MOST_SEEDS = 1000
#: Of virtual time. Frames of 50 ms of link time instead of 10 ms: five times fewer events, and the deadline of a step
#: that takes seconds is still met to a hundredth.
VIRTUAL_LINKS = LinkSettings(frame_s=0.05, window_s=0.1)
TRANSPORTS = ("direct", "tcp")
_POWER = PowerStates()
#: Of a demo, where none are named: without relays, and with.
_DEMO_POLICIES = ("bsp", "rog:4", "rowcast")
_TREE_POLICIES = ("rowcast:8", "rowcast")
_SEEDS = 2**32 - 1


@dataclass(frozen=True)
class ShapeSettings(Checked):
    """A bandwidth trace under a robot's connection."""

    link: str = setting(
        MISSING,
        "Put a link under the connection: a profile's name (outdoor), constant:MBPS or a trace file.",
        flag="--shape",
    )
    best_bps: float | None = setting(
        None,
        "Scale the trace so that this is its best rate.",
        unit="bit/s",
        low=0.0,
        high=1e12,
        flag="--shape-best-bps",
    )
    seed: int = setting(
        0,
        "Which trace of a profile; each robot and direction has its own.",
        low=0,
        high=_SEEDS,
        flag="--shape-seed",
    )


@dataclass(frozen=True)
class StreamSettings(Checked):
    """Samples that arrive, in place of the task's own data."""

    sources: tuple[str, ...] = setting((), "Where they come from; on the command line --source, once for each.")
    batch: str = setting(
        "team:1024",
        "When how many make a batch: fixed:64, rate:1s, team:1024 (of the whole team) or speed:1024.",
        flag="--batch",
    )
    buffer: str | None = setting(
        None,
        "What waits: persist (everything) or truncate:1s (what came last); by default persist where a batch is fixed.",
        flag="--buffer",
    )
    rehearsal: str = setting(
        "off", "Old samples beside the new ones: off, reservoir:200 or importance:200.", flag="--rehearsal"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_batch(self.batch)
        parse_rehearsal(self.rehearsal.partition("@")[0])
        if self.buffer is not None:
            parse_buffer(self.buffer)


@dataclass(frozen=True)
class RobotSettings(Checked):
    """What one robot does; in a file, the table ``[robot]``."""

    server: str = setting(
        "127.0.0.1:7117",
        "Address of 'rowcast serve'; with a standby, of both by a comma.",
        flag="--connect",
        metavar="HOST:PORT",
    )
    name: str = setting("robot-0", "Stable name of this worker, unique in the team.", flag="--name")
    task: str = setting("cruda-digits", "Name of a task, or a class of one's own: my_file.py:MyTask.", flag="--task")
    index: int = setting(0, "Which part of the data is this worker's, from 0.", low=0, high=100_000, flag="--index")
    workers: int = setting(
        1, "Into how many parts the data is cut: one for each robot.", low=1, high=100_000, flag="--parts"
    )
    data: str | None = setting(None, "Folder of the data set.", flag="--data")
    seed: int = setting(0, "Of everything random; the same for the whole team.", low=0, high=_SEEDS, flag="--seed")
    state: Path | None = setting(None, "Starting model (.npz); without it, make it here.", flag="--state")
    seconds: float | None = setting(None, "Train for so long.", unit="s", low=0.0, high=1e9, flag="--seconds")
    steps: int | None = setting(None, "Train so many steps.", unit="steps", low=0, high=1_000_000_000, flag="--steps")
    eval_every: int = setting(
        5,
        "Steps between two looks at the task's metrics; 0 never.",
        unit="steps",
        low=0,
        high=1_000_000_000,
        flag="--eval-every",
    )
    eval_every_s: float | None = setting(
        None,
        "Time between two looks at the task's metrics, in place of --eval-every.",
        unit="s",
        low=0.1,
        high=86_400.0,
        flag="--eval-every-s",
    )
    test_items: int | None = setting(
        None,
        "Look at so many items of the test data only, where the task limits them.",
        unit="items",
        low=1,
        high=10_000_000,
        flag="--test-items",
    )
    pace_s: float = setting(
        0.0,
        "Time to which each step's computation is stretched: a slower machine.",
        unit="s",
        low=0.0,
        high=1e9,
        flag="--pace",
    )
    devices: str | None = setting(
        None,
        "What each gradient takes here, in place of --pace, in the words that 'rowcast compare' has for its devices.",
        flag="--devices",
    )
    threads: int = setting(1, "Processor threads to compute with.", low=1, high=4096, flag="--threads")
    meter: str | None = setting(
        None,
        "Prove this power meter ('auto', 'jetson', 'ina3221', 'jtop', 'rapl', 'nvml', or one of your own), read it "
        "while training, and report Watts and Joules to the team.",
        flag="--meter",
        metavar="KIND",
    )
    shape: ShapeSettings | None = setting(None, "A bandwidth trace under the connection.")
    stream: StreamSettings | None = setting(None, "Samples that arrive, in place of the task's own data.")
    secret_file: Path | None = setting(
        None, "File with the team's shared secret; beyond loopback this or a team is needed.", flag="--secret-file"
    )
    team: Path | None = setting(None, "This robot's file of 'rowcast team add', in place of a secret.", flag="--team")
    insecure: bool = setting(
        False, "Do without a secret or certificates beyond loopback, in the clear.", flag="--insecure"
    )
    journal: Path | None = setting(None, "Write what happens to the end of this file, as JSON lines.", flag="--journal")
    parameters: str | None = setting(
        None,
        "Whose parameters the team is to train where that is in question.",
        choices=("team", "mine"),
        flag="--parameters",
        metavar="team|mine",
    )
    state_dir: Path | None = setting(
        None,
        "Keep this robot's own state in this folder: when its process was killed it goes on with what it had.",
        flag="--state-dir",
    )
    save: Path | None = setting(
        None,
        "Write the model as it is at the end to this file (.safetensors), with the names of its classes.",
        flag="--save",
    )
    audit: Path | None = setting(
        None, "Write what was computed, sent and received to this file (.npz) at the end.", flag="--audit"
    )
    task_options: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "doc": "What differs from the task's own settings, by name; the same for the whole team.",
            "table": "task",
        },
    )
    worker_settings: WorkerSettings = from_table("worker", WorkerSettings, "Settings of the worker node.")
    link_settings: LinkSettings = from_table("link", LinkSettings, "How bytes are put on the link.")


@dataclass(frozen=True)
class DemoSettings(Checked):
    """Settings of a demo; in a file, the table ``[demo]``.

    Raises:
        ConfigError: a value out of its range, or an unknown policy.
    """

    policies: tuple[str, ...] = setting(
        _DEMO_POLICIES,
        f"Policies to compare, run one after the other: {policy_forms()}.",
        flag="--policies",
    )
    seconds: float = setting(40.0, "How long each policy trains.", unit="s", low=1.0, high=86_400.0, flag="--seconds")
    seed: int = setting(0, "Of data, model and links.", low=0, high=_SEEDS, flag="--seed")
    workers: int = setting(4, "Robots of the team.", unit="workers", low=1, high=100, flag="--workers")
    tree: str | None = setting(
        None,
        "Relays between the server and the robots, and robots below each, as 2x4; in place of --workers. Only policies "
        "that stream rows.",
        flag="--tree",
        metavar="RELAYSxROBOTS",
    )
    task: str = setting("cruda-digits", "Name of a task, or a class of one's own: my_file.py:MyTask.", flag="--task")
    data: str | None = setting(None, "Folder of the data set; 'cruda-digits' needs none.", flag="--data")
    pace_s: float = setting(
        0.15,
        "What one gradient takes on a robot. The computation here is stretched to it; raise it when the processors "
        "cannot keep up (the summary tells).",
        unit="s",
        low=0.01,
        high=60.0,
        flag="--pace",
    )
    trace: str = setting("outdoor", "All links: outdoor, constant:MBPS or a trace file.", flag="--trace")
    ratio: float = setting(
        0.67,
        "Seconds to send the whole encoded model at a trace's best rate, per second of computation (as published "
        "for ROG). Lower makes the network matter less.",
        low=0.001,
        high=1000.0,
    )
    eval_every: int = setting(
        2, "Steps between two looks at the task's metrics.", unit="steps", low=1, high=10_000, flag="--eval-every"
    )
    test_items: int = setting(
        250,
        "Items of the test data of such a look, where the task limits them; it has to fit into the pace beside the "
        "gradient, in all workers at once.",
        unit="items",
        low=1,
        high=10_000_000,
    )
    task_options: Mapping[str, Any] = field(
        default_factory=dict, metadata={"doc": "What differs from the task's own settings, by name.", "table": "task"}
    )
    link: LinkSettings = from_table("link", LinkSettings, "How bytes are put on the links.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.policies:
            raise ConfigError("policies: expected at least one, for example 'bsp,rog:4'")
        if len(set(self.policies)) < len(self.policies):
            raise ConfigError(f"policies: {','.join(self.policies)} names one twice")
        for policy in self.policies:
            parse_policy(policy)
        if self.tree is not None:
            relays, robots = parse_tree(self.tree)
            object.__setattr__(self, "workers", relays * robots)
            if self.policies == _DEMO_POLICIES:
                object.__setattr__(self, "policies", _TREE_POLICIES)
            for policy in self.policies:
                check_relayed(parse_policy(policy))

    @property
    def relays(self) -> int:
        """Between the server and the robots; 0: there are none."""
        return 0 if self.tree is None else parse_tree(self.tree)[0]


@dataclass(frozen=True)
class Comparison(Checked):
    """Settings of a comparison of policies; in a file, the table ``[compare]``.

    The values of ``policies``, ``links``, ``workers``, ``batch``, ``streams``, ``buffer``, ``inject``, ``topk``,
    ``devices`` and ``seeds`` are combined in all ways. The first of ``workers`` and of ``batch`` is the one that the
    main figures show.

    Raises:
        ConfigError: a value out of its range, an empty list, or a value that is in its list twice.
    """

    task: str = setting(
        "cruda",
        "Name of a task; a family of tasks, as cruda: then the data folder decides; or a class of one's own, as "
        "my_file.py:MyTask.",
        flag="--task",
    )
    data: str | None = setting(None, "Folder of the data set; 'cruda-digits' needs none.", flag="--data")
    task_options: tuple[str, ...] = setting(
        (), "What differs from the task's own settings, as 'lr=0.1'; also in a table [task], or with --set lr=0.1."
    )
    policies: tuple[str, ...] = setting(("bsp", "rog:4"), f"Policies to compare: {policy_forms()}.", flag="--policies")
    links: tuple[str, ...] = setting(
        ("outdoor",),
        "Profiles, 'constant:MBPS' or trace files, each for all robots; or a folder of trace files, one for each "
        "robot in the order of their names; or cities, the server's first: 'wide:boston/shanghai?mbit=20'.",
        flag="--links",
    )
    links_reuse: bool = setting(
        False,
        "Robots beyond the files of a folder of traces share them, each entering at another moment.",
        flag="--links-reuse",
    )
    ratio: float | None = setting(
        None,
        "Scale each link so that sending the whole encoded model at its best rate takes so many seconds per second of "
        "computation, as 'rowcast demo' does (0.67 there). None: rates as recorded, times the size of the model by "
        "that at the recording.",
        low=0.001,
        high=1000.0,
        flag="--ratio",
    )
    channel: str = setting(
        "independent",
        f"How transfers at the same time share the medium: {', '.join(map(repr, sorted(CHANNELS)))}.",
        choices=CHANNELS,
        flag="--channel",
    )
    workers: tuple[int, ...] = setting((4,), "Robots of the team.", unit="workers", low=1, high=1000, flag="--workers")
    batch: tuple[int | str, ...] = setting(
        (),
        "Items of one step of one robot; or a rule that says when how many samples make a batch: 'fixed:64', "
        "'rate:1s', 'team:1024', 'speed:1024'. None: the task's; with streams 'team:' with 64 for "
        "each robot.",
        low=1,
        high=65_536,
        flag="--batch",
        metavar="INTEGER|RULE,...",
    )
    streams: tuple[str, ...] = setting(
        (),
        "Rates at which samples come to the robots: 'S1', 'S2', \"S1'\", \"S2'\" of ScaDLES, drawn anew each 10 s as "
        "'S1~10', samples a second ('50'; '12/30/75' one for each robot), or a CSV file of rates; each for the whole "
        "team. None: there are always enough.",
        flag="--streams",
    )
    buffer: tuple[str, ...] = setting(
        (),
        "What of a stream waits until it is trained on: 'persist' (everything), 'truncate:1s' (the newest of a second) "
        "or 'truncate:500'. None: 'persist' with a fixed batch, otherwise 'truncate:1s'.",
        flag="--buffer",
    )
    inject: tuple[str, ...] = setting(
        (),
        "Data injection, as alpha/beta: that share of the robots gives that share of its batch to all others. It "
        "exposes raw samples. '0': none.",
        flag="--inject",
    )
    topk: tuple[str, ...] = setting(
        (),
        "Adaptive top-k of ScaDLES, as ratio/delta: of a gradient the share 'ratio' with the largest elements is used "
        "where that leaves out no more than the share 'delta' of its energy, and the rest later; '0.1/1': always. '0': "
        "none.",
        flag="--topk",
    )
    devices: tuple[str, ...] = setting(
        ("2.18",),
        "What one gradient takes: seconds ('2.18'), of so many samples ('0.128@64'), one for each robot "
        "('2.0/2.2/8.1'), drawn ('2.18~0.2'), or a CSV file of recorded seconds; each for the whole team. The default "
        "is that of the robots of the ROG paper.",
        flag="--devices",
    )
    encode_s: float = setting(
        0.0, "Work of each push at the worker: ranking and encoding rows.", unit="s", low=0.0, high=3600.0
    )
    decode_s: float = setting(
        0.0, "Work of each pull at the worker: decoding and applying rows.", unit="s", low=0.0, high=3600.0
    )
    server_push_s: float = setting(
        0.0, "Work of the server on each push, before the gate sees it.", unit="s", low=0.0, high=3600.0
    )
    server_pull_s: float = setting(
        0.0, "Work of the server on each pull, before its first row is sent.", unit="s", low=0.0, high=3600.0
    )
    hours: float = setting(
        1.0, "How long each run trains, in virtual time.", unit="h", low=0.0001, high=10_000.0, flag="--hours"
    )
    seeds: int | tuple[int, ...] = setting(
        5,
        "How many seeds (0, 1, ...), or a list of them (as an option, '7,' is seed 7 alone); of data, model and links.",
        low=0,
        high=_SEEDS,
        flag="--seeds",
    )
    eval_every_s: float = setting(
        60.0,
        "Virtual time between two looks at the task's metrics; they take none.",
        unit="s",
        low=0.1,
        high=86_400.0,
        flag="--eval-every-s",
    )
    eval_items: int = setting(
        500,
        "Items of the test data of such a look, the first so many, where the task limits them; the digits have fewer.",
        unit="items",
        low=1,
        high=100_000,
    )
    driver: str = setting(
        "virtual", f"What runs the team: {', '.join(map(repr, DRIVERS))}.", choices=DRIVERS, flag="--driver"
    )
    compute_w: float = setting(_POWER.compute_w, "Power of a robot that computes.", unit="W", low=0.0, high=10_000.0)
    communicate_w: float = setting(
        _POWER.communicate_w, "Power of a robot that sends or receives.", unit="W", low=0.0, high=10_000.0
    )
    stall_w: float = setting(_POWER.stall_w, "Power of a robot that waits.", unit="W", low=0.0, high=10_000.0)

    transport: str = setting(
        "direct",
        "How messages travel in virtual time: 'direct': one at a time in each direction, without heads; 'tcp': as "
        "through a socket, in packets with heads, of which a full queue drops some, one behind the other as they were "
        "handed over.",
        choices=TRANSPORTS,
        flag="--transport",
    )
    queue_ms: float = setting(
        QUEUE_MS,
        "With --transport tcp, length of the queue in front of a link, as time at its present rate; it holds five "
        "packets at any rate, and drops what is beyond.",
        unit="ms",
        low=1.0,
        high=60_000.0,
        flag="--queue-ms",
    )
    link: LinkSettings = from_table(
        "link",
        lambda: VIRTUAL_LINKS,
        "How server and robots put bytes on the links; with longer frames than on sockets.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("policies", "links", "workers", "devices"):
            if not getattr(self, name):
                raise ConfigError(f"{name}: expected at least one")
        for name in (
            "policies",
            "links",
            "workers",
            "batch",
            "streams",
            "buffer",
            "inject",
            "topk",
            "devices",
            "seeds",
        ):
            values = getattr(self, name)
            if isinstance(values, tuple) and len(set(values)) < len(values):
                raise ConfigError(f"{name}: {', '.join(map(str, values))} names one twice")
        if isinstance(self.seeds, int) and self.seeds > MOST_SEEDS:
            raise ConfigError(
                f"seeds: expected at most {MOST_SEEDS} of them, got {self.seeds}; is it a seed? [{self.seeds}]"
            )
        if not self.seed_list:
            raise ConfigError("seeds: expected at least one")
        if self.queue_ms != QUEUE_MS and self.transport != "tcp":
            raise ConfigError(
                f"--queue-ms: {self.queue_ms:g} goes with --transport tcp, the links of which have a queue; got "
                f"--transport {self.transport}"
            )
        _ = self.power

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds, one by one."""
        return self.seeds if isinstance(self.seeds, tuple) else tuple(range(self.seeds))

    @property
    def power(self) -> PowerStates:
        """What a robot draws in each state."""
        return PowerStates(self.compute_w, self.communicate_w, self.stall_w)
