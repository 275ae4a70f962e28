"""``rowcast train``: a worker for a built-in task."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.cli.options import ConfigFile, Insecure, JournalFile, SecretFile, Set, limit_threads, secret_of
from rowcast.config import LinkSettings, WorkerSettings, load_tables

if TYPE_CHECKING:
    from rowcast.drivers.sockets import Team
    from rowcast.experiment import Progress

__all__ = ["train"]

#: Seconds between two lines about the progress.
REPORT_EVERY_S = 5.0


def train(
    connect: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of 'rowcast serve'.")] = "127.0.0.1:7117",
    name: Annotated[str, typer.Option(help="Stable name of this worker, unique in the team.")] = "robot-0",
    task: Annotated[str, typer.Option(help="cruda-digits, cruda-fashion-mnist or cruda-cifar10.")] = "cruda-digits",
    index: Annotated[int, typer.Option(min=0, help="Which part of the data is this worker's, from 0.")] = 0,
    parts: Annotated[int, typer.Option(min=1, help="Into how many parts the data is cut: one for each robot.")] = 1,
    data: Annotated[str | None, typer.Option(help="Folder of the data set.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of data, fog and model; the same for the whole team.")] = 0,
    state: Annotated[Path | None, typer.Option(help="Pre-trained model (.npz); without it, pre-train here.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Train for so long.")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Train so many steps.")] = None,
    eval_every: Annotated[int, typer.Option(min=0, help="Steps between two looks at the accuracy; 0 never.")] = 5,
    test_images: Annotated[int | None, typer.Option(min=1, help="Look at so many images only.")] = None,
    pace: Annotated[
        float, typer.Option(min=0, help="Seconds to which each step's computation is stretched: a slower machine.")
    ] = 0.0,
    shape: Annotated[
        str | None, typer.Option(help="Put a link under the connection: outdoor, constant:MBPS or a trace file.")
    ] = None,
    shape_best_bps: Annotated[
        float | None, typer.Option(min=0, help="Scale the trace so that its best rate is this (bit/s).")
    ] = None,
    shape_seed: Annotated[int, typer.Option(min=0, help="Which trace of a profile.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads to compute with.")] = 1,
    secret_file: SecretFile = None,
    insecure: Insecure = False,
    config: ConfigFile = None,
    set_: Set = None,
    journal: JournalFile = None,
    parameters: Annotated[
        str | None,
        typer.Option(metavar="team|mine", help="Whose parameters the team is to train where that is in question."),
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(help="Write what was computed, sent and received to this file (.npz) at the end.")
    ] = None,
    await_start: Annotated[
        bool,
        typer.Option(
            help="Load everything, print 'ready', begin with the first line of standard input, leave when it ends."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option(help="No progress lines.")] = False,
) -> None:
    """Train a built-in task as a worker of a team. Without --seconds and --steps: until Ctrl-C."""
    tables = load_tables({"worker": WorkerSettings, "link": LinkSettings}, config, overrides=set_ or [])
    secret = secret_of(secret_file)
    limit_threads(threads)
    from rowcast.drivers.sockets.tcp import split_address
    from rowcast.experiment import RobotSettings, ShapeSettings, run_robot

    host, port = split_address(connect)
    settings = RobotSettings(
        task=task,
        host=host,
        port=port,
        name=name,
        index=index,
        workers=parts,
        data=data,
        seed=seed,
        state=state,
        pace_s=pace,
        seconds=seconds,
        steps=steps,
        eval_every=eval_every,
        test_images=test_images,
        shape=ShapeSettings(shape, shape_best_bps, shape_seed) if shape is not None else None,
        journal=journal,
        audit=audit,
        secret=secret,
        insecure=insecure,
        parameters=parameters,
        worker_settings=tables["worker"],
        link_settings=tables["link"],
    )
    talk = _Talk(quiet)
    result = run_robot(
        settings, ready=_await_start if await_start else None, joined=talk.joined, progress=talk.progress
    )
    talk.says(f"{name}: finished after {result.iterations} steps, accuracy {result.accuracy:.1f} %")


class _Talk:
    """Tells the user how it goes, now and then."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._next = 0.0
        self._team: Team | None = None

    def says(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    def joined(self, team: Team) -> None:
        self._team = team
        self.says(f"{team.name}: joined the team at {team.address}")

    def progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._next or self._team is None:
            return
        self._next = now + REPORT_EVERY_S
        metrics = self._team.node.metrics
        accuracy = "-" if progress.accuracy is None else f"{progress.accuracy:.1f} %"
        self.says(
            f"{self._team.name}: step {progress.iteration}, loss {progress.loss:.3f}, accuracy {accuracy}, "
            f"rows sent {100 * metrics.get('share', 0):.0f} %, behind {metrics.get('staleness', 0):.0f}"
        )


def _await_start() -> None:
    """Say that all is loaded, wait for a line, and leave when whoever started us is gone."""
    print("ready", flush=True)
    if not sys.stdin.readline():
        raise KeyboardInterrupt
    threading.Thread(target=_leave_with_parent, name="rowcast-stdin", daemon=True).start()


def _leave_with_parent() -> None:
    while os.read(0, 4096):
        pass
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
