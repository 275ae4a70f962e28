"""``rowcast demo --fault``: a fault script, with its team on the screen."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from rowcast.cli.display import DemoDisplay, TeamDisplay
from rowcast.cli.exits import ExitCode
from rowcast.cli.streams import PlainConsole
from rowcast.experiment.faults import load_script, play_sockets

__all__ = ["play_fault"]


def play_fault(path: Path, out: Path) -> ExitCode:
    """Play a script on real sockets, and say what held.

    Args:
        path: the script.
        out: a folder in it takes what the team writes.

    Returns:
        Fine where everything held.

    Raises:
        ConfigError: the script or the folder cannot be used.
        WorkerFailed: the team did not come to its beginning.
    """
    script = load_script(path)
    console = PlainConsole()
    console.print(Text(f"{script.name}: {script.about}"), soft_wrap=True)
    with TeamDisplay(console) as display:
        report = play_sockets(script, out / script.name, DemoDisplay(display))
    for verdict in report.verdicts:
        console.print(Text(f"{'held' if verdict.held else 'NOT '}  {verdict.what}: {verdict.found}"), soft_wrap=True)
    if report.not_played:
        console.print(Text(report.not_played), soft_wrap=True)
    else:
        end = "everything held" if report.held else f"{len(report.broken)} of {len(report.verdicts)} did not hold"
        console.print(Text(f"{end}; everything is in {out / script.name}"), soft_wrap=True)
    return ExitCode.FINE if report.held else ExitCode.INTERNAL
