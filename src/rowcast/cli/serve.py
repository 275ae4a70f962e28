"""``rowcast serve``: the server of a team."""

from __future__ import annotations

from typing import Annotated

import typer

from rowcast.cli.options import ConfigFile, Insecure, JournalFile, SecretFile, Set, secret_of
from rowcast.config import LinkSettings, ServerSettings, load_tables
from rowcast.sync import policy_forms

__all__ = ["serve"]


def serve(
    policy: Annotated[
        str, typer.Option(help=f"{policy_forms()}; S is the slack in iterations, H the local steps of a round.")
    ] = "rog:4",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 lets the system choose.")] = 7117,
    workers: Annotated[
        int | None, typer.Option(help="Nobody starts before so many have joined (setting expected_workers).")
    ] = None,
    secret_file: SecretFile = None,
    insecure: Insecure = False,
    config: ConfigFile = None,
    set_: Set = None,
    journal: JournalFile = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop after so many seconds.")] = None,
    once: Annotated[bool, typer.Option(help="Exit when everybody has finished or is gone.")] = False,
    fresh_after: Annotated[
        float | None,
        typer.Option(help="Forget the model when nobody has been there for so many seconds (setting fresh_after_s)."),
    ] = None,
    quiet: Annotated[bool, typer.Option(help="No table.")] = False,
) -> None:
    """Hold a team's model and let its workers in. Ctrl-C ends it; workers wait for its return."""
    overrides = [*(set_ or []), *([f"expected_workers={workers}"] if workers is not None else [])]
    overrides += [f"fresh_after_s={fresh_after}"] if fresh_after is not None else []
    tables = load_tables({"server": ServerSettings, "link": LinkSettings}, config, overrides=overrides)
    from rowcast.cli.serving import run_server

    cause = run_server(
        policy,
        host,
        port,
        settings=tables["server"],
        link_settings=tables["link"],
        secret=secret_of(secret_file),
        insecure=insecure,
        journal_file=journal,
        seconds=seconds,
        once=once,
        quiet=quiet,
    )
    if cause == "interrupted":
        raise KeyboardInterrupt
