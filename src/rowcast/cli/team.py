"""``rowcast team``: the certificates by which the members of a team know each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rowcast.errors import ConfigError, visible

__all__ = ["app"]

app = typer.Typer(
    name="team",
    help="Certificates of a team: make them, take them back, list them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

#: A robot's certificate is valid for so many days unless the user says otherwise.
DAYS = 365.0

Folder = Annotated[Path, typer.Option("--team", metavar="DIR", help="The team's folder.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The robot's name.", show_default=False)]
Days = Annotated[float, typer.Option("--days", help="For so long the certificate is valid.")]


@app.callback()
def _group() -> None:
    """Certificates of a team: make them, take them back, list them."""


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to make it.", show_default=False)],
    days: Days = 2 * DAYS,
) -> None:
    """Make a team: its certificate authority, and a certificate of its server."""
    from rowcast.drivers.sockets.credentials import AUTHORITY_KEY, TeamFolder

    TeamFolder(folder).make(_checked(days))
    shown = visible(str(folder))
    typer.echo(
        f"a team is in {shown}; who has {shown}/{AUTHORITY_KEY} can make robots of it\n"
        f"a server:  rowcast serve --team {shown}\n"
        f"a robot:   rowcast team add NAME --team {shown}"
    )


@app.command("add")
def add(
    name: Name,
    folder: Folder = Path("team"),
    days: Days = DAYS,
    replace: Annotated[bool, typer.Option("--replace", help="Revoke the one that it has.")] = False,
) -> None:
    """Make the file of a robot: its key and its certificate. Copy it there by a way that you trust."""
    from rowcast.drivers.sockets.credentials import TeamFolder
    from rowcast.session.proof import check_name

    check_name(name)
    path = TeamFolder(folder).add(name, _checked(days), replace=replace)
    typer.echo(
        f"{visible(str(path))} is the file of {visible(name)!r}: copy it there by a way that you trust, remove it "
        "here, and give it with --team"
    )


@app.command("revoke")
def revoke(name: Name, folder: Folder = Path("team")) -> None:
    """Take the certificates of a robot back: a server that runs sends it away within seconds."""
    from rowcast.drivers.sockets.credentials import TeamFolder

    count = TeamFolder(folder).revoke(name)
    many = "1 certificate" if count == 1 else f"{count} certificates"
    typer.echo(f"{visible(name)!r}: {many} revoked; a server with this folder sends it away within 5 s")


@app.command("server")
def server(folder: Folder = Path("team"), days: Days = 2 * DAYS) -> None:
    """Make a new certificate of the server; one that runs takes it at once."""
    from rowcast.drivers.sockets.credentials import TeamFolder

    holder = TeamFolder(folder).renew_server(_checked(days))
    typer.echo(f"the server's new certificate is valid until {holder.ends:%Y-%m-%d %H:%M} UTC")


@app.command("list")
def list_(folder: Folder = Path("team")) -> None:
    """List the certificates of a team: whose, until when, and what was revoked."""
    from rowcast.drivers.sockets.credentials import TeamFolder

    rows = [("name", "state", "valid from (UTC)", "until", "revoked at")]
    for each in TeamFolder(folder).members():
        holder = each.holder
        name = visible(holder.name) if holder.name else "(the server)"
        rows.append((name, each.state, f"{holder.begins:%Y-%m-%d}", f"{holder.ends:%Y-%m-%d %H:%M}", each.revoked))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _checked(days: float) -> float:
    """A time that a certificate may have.

    Raises:
        ConfigError: another one.
    """
    from rowcast.drivers.sockets.certificates import AUTHORITY_DAYS

    if not 0 < days <= AUTHORITY_DAYS:
        raise ConfigError(f"--days: expected above 0 and at most {AUTHORITY_DAYS} days, got {days:g}")
    return days
