"""``rowcast warmup``: kernels compiled before the clock runs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.cli.options import options_from
from rowcast.config import Checked, setting
from rowcast.errors import ConfigError

if TYPE_CHECKING:
    from rowcast.warming import Kernel, Warmed

__all__ = ["WarmupSettings", "warmup"]


@dataclass(frozen=True)
class WarmupSettings(Checked):
    """For what ``rowcast warmup`` compiles; in a file, the table ``[warmup]``.

    Raises:
        ConfigError: a value of the wrong type.
    """

    policies: tuple[str, ...] = setting(
        (),
        "Only what is trained with these. None: one of each family, what recovery and guards need, and inferences.",
        flag="--policies",
    )
    task: str | None = setting(
        None, "Also what this task computes with: its name, or my_file.py:MyTask.", flag="--task"
    )


@options_from(warmup=WarmupSettings)
def warmup(
    warmup: WarmupSettings,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only the last line.")] = False,
) -> None:
    """Compile the kernels that server and worker need, and say which, how long each took, and where they are kept.

    Do this once on each machine and after each change of Rowcast or numba, before robots drive off: the next process
    finds them. What is there already is not compiled again. Without numba there is nothing to compile.

    Exits with 2 where there is no folder to keep them in.
    """
    from rowcast import warming

    if not warming.HAS_NUMBA:
        typer.echo("nothing to compile: numba is not here, or ROWCAST_NUMBA=0 says to do without; the loops are numpy")
        return
    began = time.perf_counter()
    with warming.watched(time.perf_counter, None if quiet else _show) as warmed:
        for text in warmup.policies or warming.usual_policies():
            warming.warm_up(text, half=True)
        if not warmup.policies:
            warming.warm_rest()
        if warmup.task is not None:
            _warm_task(warmup.task)
    _conclude(warmed, time.perf_counter() - began)


def _warm_task(name: str) -> None:
    """What the worker of a task calls; its model is not trained for that."""
    from rowcast.experiment.loading import loading

    with loading():
        from rowcast.tasks import build_task
    build_task(name).worker(0, 1).warm_up()


def _show(kernel: Kernel) -> None:
    if not kernel.found:
        typer.echo(f"{kernel.seconds:7.2f} s  {kernel.name}")


def _conclude(warmed: Warmed, took_s: float) -> None:
    """The last line.

    Raises:
        ConfigError: what was compiled is lost.
    """
    from rowcast.warming import place_of_kernels

    place = place_of_kernels()
    lost = len(warmed.lost)
    if place.folder is None or lost:
        which = f"{lost} of {len(warmed.kernels)} kernels" if lost else "all kernels"
        raise ConfigError(
            f"warmup: expected a folder in which compiled kernels can be kept, got none ({place.why_not}), so that "
            f"each start compiles {which} again; set NUMBA_CACHE_DIR to a folder that can be written"
        )
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given and not place.folder.resolve().is_relative_to(Path(given).resolve()):
        typer.echo(f"NUMBA_CACHE_DIR: {given} cannot be written, numba has taken another folder; let it be writable")
    found = len(warmed.kernels) - len(warmed.compiled)
    typer.echo(
        f"compiled {len(warmed.compiled)} kernels, found {found}, in {took_s:.1f} s; they are kept in {place.folder}"
    )
