"""Settings of ``rowcast emulate``: a comparison of policies on real sockets, over links that this machine makes."""

from __future__ import annotations

from dataclasses import dataclass

from rowcast.config import Checked, LinkSettings, from_table, same_as, setting
from rowcast.errors import ConfigError
from rowcast.experiment.medium_settings import MediumSettings
from rowcast.experiment.settings import Comparison

__all__ = ["EmulationSettings"]


@dataclass(frozen=True)
class EmulationSettings(Checked):
    """What is compared; in a file, the table ``[emulate]``.

    All runs are one after the other: they have the processors for themselves.

    Raises:
        ConfigError: a value out of its range, an empty list, or a value that is in its list twice.
    """

    policies: tuple[str, ...] = same_as(Comparison, "policies", default=("bsp", "rog:4", "rowcast"))
    links: tuple[str, ...] = same_as(Comparison, "links")
    links_reuse: bool = same_as(Comparison, "links_reuse")
    ratio: float | None = same_as(Comparison, "ratio")
    links_repeat: bool = setting(
        False,
        "Recorded traces that are shorter than a run start again, as in 'rowcast compare'.",
        flag="--links-repeat",
    )
    channel: str = same_as(Comparison, "channel")
    workers: int = setting(4, "Robots of the team.", unit="workers", low=1, high=64, flag="--workers")
    minutes: float = setting(5.0, "How long each run trains.", unit="min", low=0.05, high=10_000.0, flag="--minutes")
    task: str = same_as(Comparison, "task", default="cruda-digits")
    data: str | None = same_as(Comparison, "data")
    task_options: tuple[str, ...] = same_as(Comparison, "task_options")
    batch: int | None = setting(
        None, "Items of one step of one robot; the task's where none are given.", low=1, high=65_536, flag="--batch"
    )
    devices: str = setting(
        "2.18",
        "What one gradient takes on a robot, in the words of 'rowcast compare --devices': its computation here is "
        "stretched to it. Raise it when the processors cannot keep up (the summary tells).",
        flag="--devices",
    )
    seeds: int | tuple[int, ...] = same_as(Comparison, "seeds", default=1)
    eval_every_s: float = same_as(
        Comparison,
        "eval_every_s",
        default=15.0,
        doc="Time between two looks at the task's metrics; a look is a part of its step.",
    )
    eval_items: int = same_as(Comparison, "eval_items", default=250)
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
            link=self.link,
            transport="tcp",
            queue_ms=self.medium.queue_ms,
        )
