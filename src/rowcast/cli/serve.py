"""``rowcast serve``: the server of a team."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rowcast.cli.options import options_from
from rowcast.config import Checked, LinkSettings, ServerSettings, StateSettings, setting
from rowcast.errors import ConfigError
from rowcast.sync import parse_policy, policy_forms

__all__ = ["ServeSettings", "check_log", "serve"]


@dataclass(frozen=True)
class ServeSettings(Checked):
    """Where a server listens, its policy and its end; in a file, the table ``[serve]``.

    Raises:
        ConfigError: a value out of its range, or an unknown policy.
    """

    policy: str = setting(
        "rog:4",
        f"{policy_forms()}; S is the slack in iterations, H the local steps of a round.",
        flag="--policy",
    )
    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 for all.", flag="--host")
    port: int = setting(7117, "Port to listen on; 0 lets the system choose.", low=0, high=65535, flag="--port")
    secret_file: Path | None = setting(
        None, "File with the team's shared secret; beyond loopback this or a team is needed.", flag="--secret-file"
    )
    team: Path | None = setting(None, "Folder of 'rowcast team init', in place of a secret.", flag="--team")
    insecure: bool = setting(
        False, "Do without a secret or certificates beyond loopback, in the clear.", flag="--insecure"
    )
    state: str | None = setting(
        None,
        "Folder that holds what survives the end of the server; without --durability all of it. Or a log in NATS "
        "JetStream, nats://HOST:PORT/NAME, from which the server may be started on any machine.",
        flag="--state",
        metavar="DIR|URL",
    )
    standby_of: str | None = setting(
        None,
        "Follow the server there, and lead in its place when it is gone. Needs a --state of its own; other options as "
        "there.",
        flag="--standby-of",
        metavar="HOST:PORT",
    )
    take_over: bool = setting(
        False,
        "Lead with what --state holds, whatever another server does. Only where that is lost for good: if it still "
        "lives, two servers lead, and what one of them is sent is lost.",
        flag="--take-over",
    )
    journal: Path | None = setting(None, "Write what happens to the end of this file, as JSON lines.", flag="--journal")
    page: str | None = setting(
        None,
        "Show the team on a page there: a port of loopback, or HOST:PORT; 0 lets the system choose the port. Beyond "
        "loopback the page wants a token, which is printed.",
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
    watch_every_s: float = setting(
        0.0,
        "Write so often into the journal where each robot is (event 'told'), and every second time how old its rows "
        "are ('rows'). 0: never, or each second while there is a page.",
        unit="s",
        low=0.0,
        high=3600.0,
        flag="--watch-every-s",
    )
    seconds: float | None = setting(None, "Stop after so long.", unit="s", low=0.0, high=1e9, flag="--seconds")
    once: bool = setting(False, "Exit when everybody has finished or is gone.", flag="--once")
    audit: Path | None = setting(
        None,
        "Write the parameters and what was applied of each worker's rows to this file (.npz) at the end.",
        flag="--audit",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_policy(self.policy)
        if self.page is None and self.page_token_file is not None:
            raise ConfigError("--page-token-file: expected a page as well, got none; give --page PORT")
        if self.page is None and self.metrics:
            raise ConfigError("--metrics: expected a page as well, got none; give --page PORT: metrics are at /metrics")
        if self.state is None and (self.standby_of is not None or self.take_over):
            what = "--standby-of" if self.standby_of is not None else "--take-over"
            raise ConfigError(f"{what}: expected a folder for the state as well, got none; give --state DIR")
        if self.standby_of is not None and self.take_over:
            raise ConfigError("expected --standby-of or --take-over, got both; leave one of them out")
        if self.state is not None and "://" in self.state:
            address = check_log("--state", self.state, insecure=self.insecure)
            if self.standby_of is not None:
                raise ConfigError(
                    f"--standby-of: expected a folder as --state, got {address}; a log in JetStream needs no standby: "
                    "start this server with the same --state, and without --standby-of, once the other one is gone"
                )


def check_log(flag: str, log: str, *, insecure: bool) -> str:
    """Refuse the address of a log in JetStream that is none, or to which the model would travel in the clear.

    Returns:
        The address, for people.

    Raises:
        ConfigError: it is such a one.
    """
    from rowcast.drivers.state.address import JetStreamAddress  # only who has such a log waits for what it loads

    address = JetStreamAddress.of(log)
    if not (address.tls or address.is_local or insecure):
        raise ConfigError(
            f"{flag} {address}: the model would travel in the clear; give tls://, or --insecure if the network is "
            "yours alone"
        )
    return str(address)


@options_from(serve=ServeSettings, server=ServerSettings, link=LinkSettings, state=StateSettings)
def serve(
    serve: ServeSettings,
    server: ServerSettings,
    link: LinkSettings,
    state: StateSettings,
    quiet: Annotated[bool, typer.Option(help="No table.")] = False,
) -> None:
    """Hold a team's model and let its workers in. Ctrl-C ends it; workers wait for its return."""
    from rowcast.cli.serving import run_server

    if run_server(serve, server, link, state, quiet=quiet) == "interrupted":
        raise KeyboardInterrupt
