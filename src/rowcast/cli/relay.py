"""``rowcast relay``: between robots and the server above them."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated

import typer

from rowcast.cli.options import options_from
from rowcast.cli.serve import check_log
from rowcast.config import Checked, LinkSettings, ServerSettings, StateSettings, WorkerSettings, setting
from rowcast.sync import parse_policy, policy_forms

__all__ = ["RelaySettings", "relay"]


@dataclass(frozen=True)
class RelaySettings(Checked):
    """Between which two a relay stands, its policy and its end; in a file, the table ``[relay]``.

    Raises:
        ConfigError: a value out of its range, or an unknown policy.
    """

    connect: str = setting(
        MISSING,
        "The server above, or another relay; host:port, with those of its standby by commas.",
        flag="--connect",
        metavar="HOST:PORT",
    )
    listen: str = setting(
        "127.0.0.1:7118",
        "Where workers, and other relays, connect to; port 0 lets the system choose.",
        flag="--listen",
        metavar="HOST:PORT",
    )
    name: str = setting("relay", "Unique among those that connect to the server above.", flag="--name")
    policy: str = setting(
        "rowcast", f"That of the server above, where rows are streamed: {policy_forms()}.", flag="--policy"
    )
    log: str | None = setting(
        None,
        "Folder that holds what survives the end of the relay, or a log in NATS JetStream, nats://HOST:PORT/NAME, from "
        "which it may be started on any machine. Without it a relay that dies loses what it has acknowledged below and "
        "not delivered above.",
        flag="--log",
        metavar="DIR|URL",
    )
    secret_file: Path | None = setting(
        None, "File with the team's shared secret; beyond loopback this or a team is needed.", flag="--secret-file"
    )
    team: Path | None = setting(
        None, "Towards those below: folder of 'rowcast team init', in place of a secret.", flag="--team"
    )
    robot: Path | None = setting(
        None, "With --team, towards the server above: file of 'rowcast team add' for this relay.", flag="--robot"
    )
    insecure: bool = setting(
        False, "Do without a secret or certificates beyond loopback, in the clear.", flag="--insecure"
    )
    journal: Path | None = setting(None, "Write what happens to the end of this file, as JSON lines.", flag="--journal")
    seconds: float | None = setting(None, "Stop after so long.", unit="s", low=0.0, high=1e9, flag="--seconds")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_policy(self.policy)
        if self.log is not None and "://" in self.log:
            check_log("--log", self.log, insecure=self.insecure)


@options_from(relay=RelaySettings, server=ServerSettings, worker=WorkerSettings, link=LinkSettings, state=StateSettings)
def relay(
    relay: RelaySettings,
    server: ServerSettings,
    worker: WorkerSettings,
    link: LinkSettings,
    state: StateSettings,
    quiet: Annotated[bool, typer.Option(help="No table.")] = False,
) -> None:
    """Sum up the rows of the robots below for the server above. Ends when all below have finished, or by Ctrl-C."""
    from rowcast.cli.relaying import run_relay

    if run_relay(relay, server, worker, link, state, quiet=quiet) == "interrupted":
        raise KeyboardInterrupt
