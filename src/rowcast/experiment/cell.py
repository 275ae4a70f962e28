"""A cell of a comparison: one run, with all that it is made of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rowcast.config import LinkSettings
from rowcast.errors import ConfigError
from rowcast.experiment.feeding import Feeding
from rowcast.experiment.medium_settings import QUEUE_MS, MediumSettings
from rowcast.tasks import Task, find_task, load_task
from rowcast.tasks.options import read_options

__all__ = ["LATER", "OPTION_JOIN", "Cell", "batch_option", "batch_size"]

#: Between the options of a task in one text.
OPTION_JOIN = "; "
#: Fields that runs of older versions have not, and what says nothing in them; a run without streams has no ``feeding``.
LATER: Mapping[str, Any] = {
    "feeding": None,
    "topk": "",
    "ratio": None,
    "medium": None,
    "link": None,
    "transport": "direct",
    "queue_ms": QUEUE_MS,
}


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        policy, links, channel: as the user wrote them; a trace file or folder with its whole path.
        seed: of everything random.
        task: as :func:`rowcast.tasks.find_task` takes it, a user's file with its whole path; ``data``: the folder of
            its data, with the whole path.
        workers: robots of the team.
        devices: what one gradient takes, in the shortest words of :mod:`rowcast.experiment.devices`; a recording with
            its whole path.
        encode_s, decode_s, server_push_s, server_pull_s: work of each push and pull at the worker and the server (s).
        hours: time to train, virtual or real as the driver has it; ``eval_every_s``: between two looks at the metrics,
            each at ``eval_items`` of the test data at most, where the task limits them.
        batch: items of one step of one robot; ``None``: the task's.
        task_options: what differs from the task's own settings, each as ``key=value``, in one order.
        links_reuse: robots beyond the files of a folder of traces share them.
        driver: name of the runner; see :data:`rowcast.experiment.runners.RUNNERS`.
        task_code: digest of the user's file that the task is of; '' for a task of a package.
        feeding: where batches are from that a rule makes; ``None``: they are the task's.
        topk: what is used of each gradient, as :func:`rowcast.streams.parse_topk` takes it; '' for all.
        ratio: seconds to send the encoded model at a link's best rate, per second of computation: to that links are
            scaled; ``None``: to the size of the model.
        medium: of a run in namespaces: what carries the packets.
        link: how bytes are put on the links; ``None``: as the driver has it.
        transport, queue_ms: in virtual time, see :class:`~rowcast.experiment.settings.Comparison`.
    """

    policy: str
    seed: int
    task: str
    data: str | None
    links: str
    channel: str
    workers: int
    hours: float
    devices: str
    encode_s: float
    decode_s: float
    server_push_s: float
    server_pull_s: float
    batch: int | None
    eval_every_s: float
    eval_items: int
    task_options: str = ""
    links_reuse: bool = False
    driver: str = "virtual"
    task_code: str = ""
    feeding: Feeding | None = None
    topk: str = ""
    ratio: float | None = None
    medium: MediumSettings | None = None
    link: LinkSettings | None = None
    transport: str = "direct"
    queue_ms: float = QUEUE_MS

    def written(self) -> dict[str, Any]:
        """As files have it: without the fields of :data:`LATER` that say nothing, as before there were any."""
        return {name: value for name, value in asdict(self).items() if name not in LATER or value != LATER[name]}

    def given_options(self) -> dict[str, Any]:
        """What differs from the task's own settings, by name, and the batch, as a user may give them."""
        kind = load_task(self.task)
        texts = filter(None, self.task_options.split(OPTION_JOIN))
        return batch_option(kind, read_options(kind.options_type(), texts), self.batch)

    def options(self) -> dict[str, Any]:
        """What differs from the task's own settings, by name: its options, the batch, the limit of an evaluation."""
        return load_task(self.task).limit_tests(self.given_options(), self.eval_items)

    def build_task(self) -> Task:
        """The task of this run, without a starting model.

        Raises:
            ConfigError: the task is not there, its options do not fit, or the user's file is not the one that the run
                was planned with.
            DataError: its data cannot be read.
        """
        found = find_task(self.task)
        if found.code != self.task_code:
            raise ConfigError(
                f"task {self.task}: the file was changed since the comparison was planned; start the command again, in "
                "another folder if runs are finished in this one"
            )
        return found.kind.build(self.options(), data_dir=self.data, seed=self.seed)

    @property
    def seconds(self) -> float:
        """Time to train (s), virtual or real."""
        return self.hours * 3600.0

    @property
    def name(self) -> str:
        """Name of the cell's folder: made of what differs between the cells of one comparison, always the same."""
        fed = self.feeding
        if fed is None:
            parts = {"b": "task" if self.batch is None else str(self.batch), "c": _slug(self.devices)}
        else:
            parts = {"b": _slug(fed.batch), "c": _slug(self.devices)}
            parts |= {
                key: _slug(text) for key, text in zip("rqi", (fed.rates, fed.buffer, fed.inject), strict=True) if text
            }
        if self.topk:
            parts["k"] = _slug(self.topk)
        middle = "_".join(key + text for key, text in parts.items())
        return f"{_slug(self.policy)}_{_slug(self.links)}_w{self.workers}_{middle}_s{self.seed}"


def batch_option(kind: type[Task], options: Mapping[str, Any], batch: int | None) -> dict[str, Any]:
    """``options``, with this batch where one is given.

    Raises:
        ConfigError: one is given, and the task has no such option.
    """
    if batch is None:
        return dict(options)
    if "batch" not in {field.name for field in fields(kind.options_type())}:
        raise ConfigError(
            f"batch: task {kind.__name__} has no option of this name; add 'batch: int' to its Settings, or leave batch "
            "away"
        )
    return {**options, "batch": batch}


def batch_size(kind: type[Task], options: Mapping[str, Any], device: str) -> int:
    """Items of one step, of which the time of a gradient depends.

    Raises:
        ConfigError: the task's batches have no size that is known.
    """
    usual = {field.name: field.default for field in fields(kind.Settings)}
    size = options.get("batch", usual.get("batch"))
    if not isinstance(size, int):
        raise ConfigError(
            f"devices {device}: the time depends on the samples of a batch, and task {kind.__name__} has no option "
            "'batch' that says how many they are; take --batch fixed:64, or seconds of a whole gradient"
        )
    return size


def _slug(text: str) -> str:
    """A text as part of a file's name; where that loses something, a short digest keeps it apart from others."""
    if re.fullmatch(r"[A-Za-z0-9.]+(:[A-Za-z0-9.]+)?", text):
        return text.replace(":", "-")
    name = Path(text).name if Path(text).is_absolute() else text
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    return f"{plain[:40]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
