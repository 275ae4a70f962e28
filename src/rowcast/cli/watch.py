"""``rowcast watch``: a team on a page, from its journals."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rowcast.cli.options import options_from
from rowcast.config import Checked, setting

__all__ = ["WatchSettings", "watch"]


@dataclass(frozen=True)
class WatchSettings(Checked):
    """Where the page of ``rowcast watch`` is, and what of the journals it shows; in a file, the table ``[watch]``.

    Raises:
        ConfigError: a value out of its range.
    """

    page: str = setting(
        "8080",
        "Where: a port of loopback, or HOST:PORT; 0 lets the system choose the port. Beyond loopback the page wants a "
        "token, which is printed.",
        flag="--page",
        metavar="[HOST:]PORT",
    )
    page_token_file: Path | None = setting(
        None, "File with the token of the page, in place of one that is made at each start.", flag="--page-token-file"
    )
    metrics: bool = setting(
        False,
        "Tell Prometheus of the team as well, at /metrics on the port of the page; beyond loopback with its token.",
        flag="--metrics",
    )
    session: int = setting(
        -1,
        "Session of each journal to begin with: 0 is the first, -1 the last.",
        low=-1_000_000,
        high=1_000_000,
        flag="--session",
    )
    seconds: float | None = setting(None, "Stop after so long.", unit="s", low=0.0, high=1e9, flag="--seconds")


@options_from(watch=WatchSettings)
def watch(
    path: Annotated[Path, typer.Argument(help="A journal, or a folder with journals (*.jsonl).", metavar="DIR|FILE")],
    watch: WatchSettings,
) -> None:
    """Show a team on a page, from its journals: a run that goes on, or one that is over. Ctrl-C ends it."""
    from rowcast.page import PageAddress, Totals, Watch, page_server

    source = Watch(path, watch.session, Totals() if watch.metrics else None)
    with page_server(source, PageAddress.of(watch.page, watch.page_token_file)) as url:
        source.start()
        try:
            typer.echo(f"page: {url}")
            threading.Event().wait(watch.seconds)
        finally:
            source.close()
