"""Settings of ``rowcast emulate``: a comparison of policies on real sockets, over links that this machine makes."""

from __future__ import annotations

from dataclasses import dataclass

from rowcast.config import Checked, LinkSettings, from_table, setting
from rowcast.errors import ConfigError
from rowcast.experiment.medium_settings import MediumSettings
from rowcast.experiment.settings import Comparison
from rowcast.links import CHANNELS
from rowcast.sync import policy_forms

__all__ = ["EmulationSettings"]


@dataclass(frozen=True)
class EmulationSettings(Checked):
    """What is compared; in a file, the table ``[emulate]``.

    All runs are one after the other: they have the processors for themselves.

    Raises:
        ConfigError: a value out of its range, an empty list, or a value that is in its list twice.
    """

    policies: tuple[str, ...] = setting(
        ("bsp", "rog:4", "rowcast"), f"Policies to compare: {policy_forms()}.", flag="--policies"
    )
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
    links_repeat: bool = setting(
        False,
        "Recorded traces that are shorter than a run start again, as in 'rowcast compare'.",
        flag="--links-repeat",
    )
    channel: str = setting(
        "independent",
        f"How packets at the same time share the medium: {', '.join(map(repr, sorted(CHANNELS)))}.",
        choices=CHANNELS,
        flag="--channel",
    )
    workers: int = setting(4, "Robots of the team.", unit="workers", low=1, high=64, flag="--workers")
    minutes: float = setting(5.0, "How long each run trains.", unit="min", low=0.05, high=10_000.0, flag="--minutes")
    task: str = setting(
        "cruda-digits",
        "Name of a task; a family of tasks, as cruda: then the data folder decides; or a class of one's own, as "
        "my_file.py:MyTask.",
        flag="--task",
    )
    data: str | None = setting(None, "Folder of the data set; 'cruda-digits' needs none.", flag="--data")
    task_options: tuple[str, ...] = setting(
        (), "What differs from the task's own settings, as 'lr=0.1'; also in a table [task], or with --set lr=0.1."
    )
    batch: int | None = setting(
        None, "Items of one step of one robot; the task's where none are given.", low=1, high=65_536, flag="--batch"
    )
    devices: str = setting(
        "2.18",
        "What one gradient takes on a robot, in the words of 'rowcast compare --devices': its computation here is "
        "stretched to it. Raise it when the processors cannot keep up (the summary tells).",
        flag="--devices",
    )
    seeds: int | tuple[int, ...] = setting(
        1,
        "How many seeds (0, 1, ...), or a list of them; of data, model and links.",
        low=0,
        high=2**32 - 1,
        flag="--seeds",
    )
    eval_every_s: float = setting(
        15.0,
        "Time between two looks at the task's metrics; a look is a part of its step.",
        unit="s",
        low=0.1,
        high=86_400.0,
        flag="--eval-every-s",
    )
    eval_items: int = setting(
        250,
        "Items of the test data of such a look, the first so many, where the task limits them.",
        unit="items",
        low=1,
        high=100_000,
    )
    medium: MediumSettings = from_table("medium", MediumSettings, "What carries the packets, and how well.")
    link: LinkSettings = from_table("link", LinkSettings, "How server and robots put bytes on the links.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.medium.shaper == "kernel" and self.channel != "independent":
            raise ConfigError(
                f"channel: expected 'independent' with --shaper kernel, which knows no shared medium, got "
                f"{self.channel!r}; take --shaper user"
            )
        _ = self.comparison

    @property
    def comparison(self) -> Comparison:
        """The same in virtual time."""
        return Comparison(
            task=self.task,
            data=self.data,
            task_options=self.task_options,
            policies=self.policies,
            links=self.links,
            links_reuse=self.links_reuse,
            ratio=self.ratio,
            channel=self.channel,
            workers=(self.workers,),
            batch=() if self.batch is None else (self.batch,),
            devices=(self.devices,),
            hours=self.minutes / 60.0,
            seeds=self.seeds,
            eval_every_s=self.eval_every_s,
            eval_items=self.eval_items,
        )
