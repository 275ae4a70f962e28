"""What a comparison of policies is made of: the cells that follow from its settings.

A cell is one run: one policy, one seed, one kind of link, one size of team, one batch, one device. The settings
list the values of each; the plan is their product, in an order that gives all policies one seed before any policy
gets its second, so that an early look at the results compares all of them.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError, DataError, near_match
from rowcast.experiment.devices import parse_devices
from rowcast.experiment.settings import Comparison
from rowcast.links import PROFILES, load_team, named_trace
from rowcast.sync import parse_policy
from rowcast.tasks import TASKS, load_dataset
from rowcast.tasks.cruda import task_settings
from rowcast.tasks.settings import task_options, written_options

__all__ = ["Cell", "plan_cells"]

#: Between the options of a task in one text.
OPTION_JOIN = "; "


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        policy, links, channel: as the user wrote them; a trace file or folder with its whole path.
        seed: of everything random.
        task: name of a built-in task; ``data``: its folder, with the whole path.
        workers: robots of the team.
        devices: what one gradient takes, in the shortest words of :mod:`rowcast.experiment.devices`; a recording with
            its whole path.
        encode_s, decode_s, server_push_s, server_pull_s: work of each push and pull at the worker and the server (s).
        hours: virtual time to train; ``eval_every_s``: between two looks at the accuracy, each at ``eval_images``.
        batch: images of one step of one robot; ``None``: the task's.
        task_options: what differs from the task's own settings, each as ``key=value``, in one order.
        links_reuse: robots beyond the files of a folder of traces share them.
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
    eval_images: int
    task_options: str = ""
    links_reuse: bool = False

    @property
    def task_overrides(self) -> dict[str, Any]:
        """What differs from the task's own settings, by name."""
        overrides = task_options(filter(None, self.task_options.split(OPTION_JOIN)))
        if self.batch is not None:
            overrides["batch"] = self.batch
        if self.data is not None:
            overrides["test_images"] = self.eval_images
        return overrides

    @property
    def seconds(self) -> float:
        """Virtual time to train (s)."""
        return self.hours * 3600.0

    @property
    def name(self) -> str:
        """Name of the cell's folder: made of what differs between the cells of one comparison, always the same."""
        batch = "task" if self.batch is None else self.batch
        return f"{_slug(self.policy)}_{_slug(self.links)}_w{self.workers}_b{batch}_c{_slug(self.devices)}_s{self.seed}"


def plan_cells(settings: Comparison) -> list[Cell]:
    """Check what the settings name, and list the cells.

    Raises:
        ConfigError: an unknown task, policy or link (with the nearest that is known); devices that no team has, or
            not one of so many workers.
        TraceError: a trace file that cannot be read.
        DataError: the data folder lacks files (which are listed), or they are not in the expected format; a recording
            of devices that cannot be read.
    """
    for policy in settings.policies:
        parse_policy(policy)
    links = [_located(text, max(settings.workers), reuse=settings.links_reuse) for text in settings.links]
    devices = _devices_for(settings.devices, settings.workers)
    options = task_options(settings.task_options)
    task = _find_task(settings.task, settings.data)
    _check_task(task, settings, options)
    axes = itertools.product(
        settings.seed_list, links, devices, settings.workers, settings.batch or (None,), settings.policies
    )
    return [
        Cell(
            policy=policy,
            seed=seed,
            task=task,
            data=None if settings.data is None else str(Path(settings.data).resolve()),
            links=link,
            channel=settings.channel,
            workers=workers,
            hours=settings.hours,
            devices=device,
            encode_s=settings.encode_s,
            decode_s=settings.decode_s,
            server_push_s=settings.server_push_s,
            server_pull_s=settings.server_pull_s,
            batch=batch,
            eval_every_s=settings.eval_every_s,
            eval_images=settings.eval_images,
            task_options=OPTION_JOIN.join(written_options(options)),
            links_reuse=settings.links_reuse,
        )
        for seed, link, device, workers, batch, policy in axes
    ]


#: The first labels of Fashion-MNIST.
_FASHION_LABELS = (9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9)


def _located(link: str, workers: int, *, reuse: bool) -> str:
    """A link that exists; the path of a file is made whole, so that it means the same from every folder."""
    if link in PROFILES or link.startswith("constant:"):
        named_trace(link)
        return link
    if Path(link).is_dir():
        recorded = len(load_team(link))
        if recorded < workers and not reuse:
            raise ConfigError(
                f"links {link}: expected a trace file for each of {workers} robots, found {recorded}; --links-reuse "
                f"(links_reuse = true) lets robots share them, or take --workers {recorded}"
            )
    else:
        named_trace(link)
    return str(Path(link).resolve())


def _devices_for(texts: Sequence[str], teams: Sequence[int]) -> list[str]:
    """The profiles as cells have them: each once, and each for every size of team."""
    found: dict[str, str] = {}
    for text in texts:
        profile = parse_devices(text)
        for workers in teams:
            profile.check_team(workers)
        if profile.text in found:
            raise ConfigError(f"devices: {found[profile.text]} and {text} are the same")
        found[profile.text] = text
    return list(found)


def _find_task(name: str, data: str | None) -> str:
    """The task of this name whose data is there; a family's name (``cruda``) stands for all tasks ``cruda-...``."""
    if name in TASKS:
        _look_at(name, data)
        return name
    members = [task for task in TASKS if task.startswith(f"{name}-")]
    if not members:
        families = {task.partition("-")[0] for task in TASKS}
        raise ConfigError(f"unknown task {name!r}; {near_match(name, [*TASKS, *families])}")
    without_folder = [task for task in members if _complaint(task, None) is None]
    if data is None and without_folder:
        return without_folder[0]
    complaints = []
    for task in members:
        if data is not None and (task in without_folder or not _is_what_it_says(task, data)):
            continue
        complaint = _complaint(task, data)
        if complaint is None:
            return task
        complaints.append(complaint)
    raise DataError(f"task {name!r}: none of its data sets is there: {'; '.join(complaints)}")


def _is_what_it_says(task: str, data: str) -> bool:
    """Files in the format and under the names of Fashion-MNIST may hold something else: MNIST, for one."""
    if task != "cruda-fashion-mnist" or _complaint(task, data) is not None:
        return True
    labels = load_dataset("fashion-mnist", data, train_images=len(_FASHION_LABELS), test_images=1).train_labels
    return tuple(labels.tolist()) == _FASHION_LABELS


def _complaint(task: str, data: str | None) -> str | None:
    """What is wrong with the data of a task, or ``None``."""
    try:
        _look_at(task, data)
    except DataError as error:
        return str(error)
    return None


def _check_task(task: str, settings: Comparison, options: Mapping[str, Any]) -> None:
    """What a run of the task would only find out after its start.

    Raises:
        ConfigError: an option that is out of range, or more images needed than there are.
    """
    for batch in settings.batch or (None,):
        own, _ = task_settings(task, settings.data, **{**options, **({} if batch is None else {"batch": batch})})
        dataset = load_dataset(own.dataset, settings.data, train_images=1, test_images=1, image_size=own.image_size)
        images = min(own.train_images or dataset.trainable, dataset.trainable)
        if own.batch * max(settings.workers) > images:
            raise ConfigError(
                f"task {task}: {images} images for training are too few for {max(settings.workers)} robots with a "
                f"batch of {own.batch}; take fewer --workers or a smaller --batch"
            )


def _look_at(task: str, data: str | None) -> None:
    """Read one image of each part: whatever is wrong with the files shows now and not after hours."""
    load_dataset(TASKS[task].dataset, data, train_images=1, test_images=1)


def _slug(text: str) -> str:
    """A text as part of a file's name; where that loses something, a short digest keeps it apart from others."""
    if re.fullmatch(r"[A-Za-z0-9.]+(:[A-Za-z0-9.]+)?", text):
        return text.replace(":", "-")
    name = Path(text).name if Path(text).is_absolute() else text
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    return f"{plain[:40]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
