"""What a comparison of policies is made of: the cells that follow from its settings.

A cell is one run: one policy, one seed, one kind of link, one size of team, one batch, one device, and where samples
come as streams one kind of these, of their buffers and of what robots give each other of them, and one top-k of
gradients. The settings list the values of each; the plan is their product, in an order that gives all policies one seed
before any policy gets its second, so that an early look at the results compares all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError
from rowcast.experiment.cell import OPTION_JOIN, Cell, batch_option, batch_size
from rowcast.experiment.devices import parse_devices
from rowcast.experiment.feeding import Feeding, plan_feeding
from rowcast.experiment.settings import VIRTUAL_LINKS, Comparison
from rowcast.links import PROFILES, load_team, named_trace, parse_wide_area
from rowcast.streams import parse_topk
from rowcast.sync import parse_policy
from rowcast.tasks import Task, find_task
from rowcast.tasks.options import read_options, written_options

__all__ = ["plan_cells"]


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
    if len(set(links)) < len(links):
        raise ConfigError(f"links: {','.join(settings.links)} names the same links twice; leave one of them away")
    devices = _devices_for(settings.devices, settings.workers)
    task = find_task(settings.task, settings.data)
    options = read_options(task.kind.options_type(), settings.task_options)
    topks = _topk_for(settings.topk, settings.policies)
    batches = {workers: plan_feeding(settings, workers) for workers in settings.workers}
    for batch in dict.fromkeys(batch for own in batches.values() for batch, _ in own):
        task.kind.check(batch_option(task.kind, options, batch), data_dir=settings.data, workers=max(settings.workers))
    _check_feeding(task.kind, options, batches, devices)
    axes = (
        (seed, link, device, workers, *batch, topk, policy)
        for seed, link, device, workers in itertools.product(settings.seed_list, links, devices, settings.workers)
        for batch, topk, policy in itertools.product(batches[workers], topks, settings.policies)
    )
    return [
        Cell(
            policy=policy,
            seed=seed,
            task=task.name,
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
            eval_items=settings.eval_items,
            task_options=OPTION_JOIN.join(written_options(options)),
            links_reuse=settings.links_reuse,
            ratio=settings.ratio,
            driver=settings.driver,
            task_code=task.code,
            feeding=feeding,
            topk=topk,
            link=None if settings.link == VIRTUAL_LINKS else settings.link,
            transport=settings.transport,
            queue_ms=settings.queue_ms,
        )
        for seed, link, device, workers, batch, feeding, topk, policy in axes
    ]


def _check_feeding(
    kind: type[Task],
    options: Mapping[str, Any],
    batches: Mapping[int, Sequence[tuple[int | None, Feeding | None]]],
    devices: Sequence[str],
) -> None:
    """Whether a task can be trained on such batches, by such devices.

    Raises:
        ConfigError: it cannot.
    """
    each = [one for own in batches.values() for one in own]
    if any(feeding is not None for _, feeding in each) and kind.samples is Task.samples:
        raise ConfigError(
            f"batch: task {kind.__name__} gives whole batches and no single samples, of which a rule makes batches; "
            "define samples(index, workers), or leave streams and rules away"
        )
    for device in devices:
        for batch, feeding in each:
            if feeding is None and parse_devices(device).by_samples:
                batch_size(kind, batch_option(kind, options, batch), device)


def _located(link: str, workers: int, *, reuse: bool) -> str:
    """A link that exists; the path of a file is made whole, so that it means the same from every folder."""
    if (wide := parse_wide_area(link)) is not None:
        return str(wide)
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


def _topk_for(texts: Sequence[str], policies: Sequence[str]) -> list[str]:
    """The values of top-k as cells have them, each once; '' for none.

    Raises:
        ConfigError: two are the same, or a policy sends no gradients of which that could be said.
    """
    found: dict[str, str] = {}
    for text in texts or ("0",):
        rule = parse_topk(text)
        short = "" if rule is None else str(rule)
        if short in found:
            raise ConfigError(f"topk: {found[short]} and {text} are the same")
        found[short] = text
        for policy in policies if short else ():
            parsed = parse_policy(policy)
            if parsed.local_steps > 1 or parsed.sampled:
                steps = "many" if parsed.sampled else parsed.local_steps
                raise ConfigError(
                    f"topk {text}: thins each gradient that is sent, and {policy} sends the sum of {steps} steps; "
                    "compare this policy without top-k"
                )
    return list(found)
