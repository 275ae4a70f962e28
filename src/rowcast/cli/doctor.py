"""``rowcast doctor``: what stands in the way of a worker, and what to do about it."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.cli.exits import ExitCode
from rowcast.cli.options import options_from
from rowcast.config import Checked, setting
from rowcast.errors import visible

if TYPE_CHECKING:
    from rowcast.drivers.sockets.endpoint import Endpoint
    from rowcast.experiment.doctor import Check

__all__ = ["DoctorSettings", "doctor"]

#: Characters of what was found at most: some of it the other end has said.
MOST_SHOWN = 1000


@dataclass(frozen=True)
class DoctorSettings(Checked):
    """How the server is reached, and what is to be trained; in a file, the table ``[doctor]``.

    Raises:
        ConfigError: a value out of its range.
    """

    secret_file: Path | None = setting(None, "File with the team's shared secret.", flag="--secret-file")
    team: Path | None = setting(None, "This robot's file of 'rowcast team add'.", flag="--team")
    insecure: bool = setting(False, "Go beyond loopback without either, in the clear.", flag="--insecure")
    name: str | None = setting(
        None, "Name of this worker; none: that of the certificate, or of the machine.", flag="--name"
    )
    task: str | None = setting(None, "Task whose model is to fit; see rowcast train --task.", flag="--task")
    parameters: int = setting(
        10_000_000, "Parameters of the model, without --task.", low=1, high=1 << 40, flag="--parameters"
    )


@options_from(doctor=DoctorSettings)
def doctor(
    doctor: DoctorSettings,
    server: Annotated[
        str | None, typer.Argument(metavar="[HOST:PORT]", help="The server; without it only this machine is looked at.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of lines.")] = False,
) -> int:
    """Look at this machine and at the way to a server: each thing ok, warn or fail, with what to do.

    Exits with 1 if anything failed.
    """
    from rowcast.experiment import doctor as found

    parameters = _parameters(doctor)
    checks = found.local_checks(parameters)
    if not as_json:
        for check in checks:
            _show(check)
    if server is not None:
        for check in found.remote_checks(*_way(doctor, server), parameters):
            checks.append(check)
            if not as_json:
                _show(check)
    if as_json:
        typer.echo(json.dumps(found.as_json(checks, server), indent=1))
    return ExitCode.INTERNAL if any(check.status == "fail" for check in checks) else ExitCode.FINE


def _parameters(settings: DoctorSettings) -> int:
    """How many parameters the model has."""
    if settings.task is None:
        return settings.parameters
    from rowcast.tasks import build_task

    model = build_task(settings.task).model()
    return sum(value.numel() for value in model.parameters())


def _way(settings: DoctorSettings, server: str) -> tuple[Endpoint, str]:
    """The server, and the name under which it is asked."""
    from rowcast.drivers.sockets.certificates import ROBOT
    from rowcast.drivers.sockets.credentials import read_credential
    from rowcast.drivers.sockets.endpoint import Endpoint, Security
    from rowcast.drivers.sockets.tcp import split_address
    from rowcast.session.proof import check_name

    host, port = split_address(server)
    security = Security.of(settings.secret_file, settings.team, settings.insecure)
    name = settings.name or f"doctor-{socket.gethostname()}"
    if security.team is not None and settings.name is None:
        name = read_credential(security.team, ROBOT).holder.name
    check_name(name)
    return Endpoint(host, port, security), name


def _show(check: Check) -> None:
    typer.echo(f"{check.status:4}  {check.name}: {visible(check.found, MOST_SHOWN)}")
    if check.remedy and check.status != "ok":
        typer.echo(f"      -> {check.remedy}")
