"""``rowcast split ask``: a robot's camera loop."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rowcast.cli.options import options_from
from rowcast.cli.split.models import Address, ModelText
from rowcast.cli.streams import PlainConsole
from rowcast.config import AskerSettings, LinkSettings
from rowcast.experiment.inference.settings import CameraSettings

if TYPE_CHECKING:
    from rowcast.split import Captured

__all__ = ["ask", "inputs_of"]


@options_from(camera=CameraSettings, asker=AskerSettings, link=LinkSettings)
def ask(
    camera: CameraSettings,
    asker: AskerSettings,
    link: LinkSettings,
    address: Address,
    model: ModelText,
    log: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the journal, NAME.jsonl.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option(help="No live line.")] = False,
) -> None:
    """Ask for inferences as a robot with a camera does: an input every so often, the newest first."""
    from rowcast.cli.split.live import LiveLine
    from rowcast.cli.split.models import captured

    with LiveLine(PlainConsole(), quiet=quiet) as line:
        known = captured(model, camera.example, camera.threads, line)
        with tempfile.TemporaryDirectory(prefix="rowcast-") as folder:
            journal = (Path(folder) if log is None else log) / f"{camera.name}.jsonl"
            begun_s = _film(address, known, camera, asker, link, journal, line)
            _summarise(camera, journal, begun_s)
        if log is not None:
            line.says(f"the journal is {journal}")


def _film(
    address: str,
    model: Captured,
    camera: CameraSettings,
    asker: AskerSettings,
    link: LinkSettings,
    journal: Path,
    line: Any,
) -> float:
    """Run the loop; returns when it began (s)."""
    from rowcast.cli.split.live import camera_line
    from rowcast.experiment.inference.camera import run_camera
    from rowcast.split import Remote, RemoteOptions

    inputs = inputs_of(camera, model)
    options = RemoteOptions(
        profile=camera.profile,
        slower=camera.slower,
        codecs=camera.codecs,
        settings=replace(asker, deadline_s=camera.deadline_s or asker.deadline_s),
        link_settings=link,
        journal_file=journal,
        insecure=camera.insecure,
    )
    with Remote(
        address,
        model,
        name=camera.name,
        secret_file=camera.secret_file,
        team=camera.team,
        objective=camera.objective,
        fallback=None if camera.fallback == "none" else camera.fallback,
        options=options,
    ) as remote:
        line.says(
            f"the robot takes {1e3 * remote.profile.local_s:.3g} ms for the whole model, "
            f"{1e3 * remote.profile.sustained_s:.3g} ms at the 99th percentile"
        )
        begun_s = time.monotonic()
        tally = run_camera(
            remote,
            inputs,
            rate_hz=camera.rate_hz,
            seconds=camera.seconds,
            deadline_s=options.settings.deadline_s,
            look=lambda tally, left_s: line.shows(camera_line(tally, left_s, remote.rate_bps)),
        )
    if tally.error is not None:
        line.says(f"the last input without an answer: {tally.error}")
    return begun_s


def _summarise(camera: CameraSettings, journal: Path, begun_s: float) -> None:
    """Print the table."""
    from rowcast.energy import PowerStates
    from rowcast.report.inferences import methods_notes, methods_table, read_inferences
    from rowcast.report.plans import table_lines

    run = read_inferences(journal, camera.name, begun_s, camera.seconds, camera.deadline_s)
    typer.echo("\n".join([*table_lines(methods_table([run])), *methods_notes(PowerStates())]))


def inputs_of(camera: CameraSettings, model: Captured) -> list[tuple[Any, ...]]:
    """The inputs that the settings name."""
    from rowcast.experiment.inference.models import inputs_in, random_inputs

    if camera.images == "random":
        return random_inputs(model, camera.inputs)
    return inputs_in(Path(camera.images), model, camera.inputs)
