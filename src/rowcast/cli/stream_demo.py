"""``rowcast stream demo``: rules of batches compared on this machine, with samples that come at unequal rates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from rowcast.cli.demo import run_live
from rowcast.cli.options import options_from
from rowcast.errors import ConfigError
from rowcast.experiment.loading import loading
from rowcast.experiment.stream_settings import StreamDemoSettings

if TYPE_CHECKING:
    from rowcast.experiment.stream_demo import StreamRun

__all__ = ["demo", "finish"]

PICTURE = "streams.png"


@options_from(demo=StreamDemoSettings)
def demo(
    demo: StreamDemoSettings,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for samples, journals, summary and picture.")] = Path(
        "demo-stream-out"
    ),
) -> None:
    """Train on samples that come to each robot at a rate of its own, with each rule of batches, and compare.

    Each robot plays a file with samples of the task; no broker is needed. By hand, that is 'rowcast serve', and for
    each robot 'rowcast train --source FILE?rate=12&loop=1'.
    """
    with loading():
        from rowcast.experiment.stream_demo import run_stream_demo
    run_live(demo, out, run_stream_demo, finish)


def finish(settings: StreamDemoSettings, runs: Sequence[StreamRun], out: Path, console: Console) -> None:
    """Print the table, write the picture, and add the figures of the table to ``summary.json``; all from the journals.

    Raises:
        ConfigError: a run has no step to tell of, or a file cannot be written.
    """
    from rowcast.experiment.folder import write_whole
    from rowcast.experiment.stream_demo import SUMMARY
    from rowcast.report import curve_table, read_experiment
    from rowcast.report.stream_figure import draw_streams
    from rowcast.report.stream_tables import queue_table, stream_groups, summarise_stream
    from rowcast.report.style import WHY_NO_FIGURES, can_draw
    from rowcast.report.terminal import stream_terminal_table

    experiment = read_experiment(out)
    summaries = [summarise_stream(run) for run in experiment.runs]
    (group,), primary = stream_groups(experiment), experiment.metrics[0]
    curves = curve_table(group.groups, primary, "time")
    drawn = [] if curves.rows else [f"{primary.name}: not measured by all robots; no picture"]
    if not can_draw():
        drawn = [WHY_NO_FIGURES]
    elif curves.rows:
        draw_streams(queue_table(group), curves, primary, out / PICTURE)
    console.print(stream_terminal_table(summaries, experiment.metrics, len(settings.rates)))
    for line in [*_sentences(settings, runs, out), *drawn]:
        console.print(Text(line), soft_wrap=True)
    path = out / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        for run, told in zip(summary["runs"], summaries, strict=True):
            run["figures"] = told.to_json()
        write_whole(path, summary)
    except OSError as error:
        raise ConfigError(f"summary {path}: cannot be written: {error.strerror}") from error


def _sentences(settings: StreamDemoSettings, runs: Sequence[StreamRun], out: Path) -> Iterator[str]:
    """What the table does not say."""
    for run in runs:
        verdict = "all replicas agree" if run.audit.clean else "THE AUDIT FAILED"
        yield (
            f"{run.feeding.batch}: {run.audit.frames_sent} row frames sent, {run.audit.lost} lost, "
            f"{run.audit.doubled} doubled; {verdict} (to {run.audit.replica_error:.1e})"
        )
    source = f"{out / 'streams' / 'robot-0.mcap'}?rate={settings.rates[0]:g}&loop=1"
    yield (
        f"by hand: rowcast serve --policy {settings.policy} --workers {len(settings.rates)}; on each robot, as the "
        f"first: rowcast train --task {settings.task} --parts {len(settings.rates)} --index 0 --name robot-0 "
        f"--source '{source}' --batch {runs[-1].feeding.batch}"
    )
