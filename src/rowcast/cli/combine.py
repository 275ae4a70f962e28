"""``rowcast combine``: models that were trained apart, combined by their scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rowcast.cli.options import options_from
from rowcast.cli.streams import PlainConsole
from rowcast.combining.settings import CombineSettings
from rowcast.experiment.loading import loading

if TYPE_CHECKING:
    from rowcast.combining import Trial
    from rowcast.tasks import TaskOptions

__all__ = ["combine"]


def _task_options(settings: Mapping[str, Any]) -> type:
    """The options of the task that was named."""
    with loading():
        from rowcast.tasks import load_task

    return load_task(settings["combine"].task).options_type()


# What both classes have is meant for the command: it stands last.
@options_from(task=_task_options, combine=CombineSettings)
def combine(
    combine: CombineSettings,
    task: TaskOptions,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Files of two models or more (.safetensors, .npz, .pt), trained for the same classes; of one with "
            "other options of the task: 'FILE?option=value'.",
            show_default=False,
        ),
    ],
    json_: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here.")] = None,
) -> None:
    """Combine models that were trained apart: how often each way of doing so is right, and --out writes one.

    The methods are fitted to some of the task's labelled tests, and judged by the others.
    """
    from rowcast.combining import try_methods
    from rowcast.errors import ConfigError

    trial = try_methods(models, combine, task.given)
    _show(trial)
    if combine.out is not None:
        typer.echo(f"written: {combine.out}, {len(models)} models with {combine.method}")
    if json_ is not None:
        try:
            json_.write_text(json.dumps(asdict(trial), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{json_}: cannot be written: {error.strerror}") from error


def _show(trial: Trial) -> None:
    console = PlainConsole()
    table = Table()
    table.add_column("method or model")
    table.add_column("accuracy", justify="right")
    table.add_column("what it is")
    for rows in (trial.models, trial.methods):
        for each in rows:
            table.add_row(each.name, f"{100 * each.accuracy:.1f} %", each.meaning)
        table.add_section()
    console.print(table)
    console.print(
        f"fitted to {trial.validation} labelled items, judged by {trial.judging} others; no model may have been "
        "trained on either",
        soft_wrap=True,
    )
    for note in trial.notes:
        console.print(f"note: {note}", soft_wrap=True)
