"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rowcast.config import read_secret
from rowcast.errors import ConfigError

__all__ = [
    "ConfigFile",
    "Insecure",
    "JournalFile",
    "SecretFile",
    "Set",
    "limit_threads",
    "secret_of",
]

SecretFile = Annotated[
    Path | None, typer.Option("--secret-file", help="File with the team's shared secret; needed beyond loopback.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Do without a secret beyond loopback.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file; of [server], [worker], [link] and [task] a command reads its own."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be given several times.")
]
JournalFile = Annotated[
    Path | None, typer.Option("--journal", help="Write what happens to the end of this file, as JSON lines.")
]


def secret_of(path: Path | None) -> bytes | None:
    """The secret in a file, or none."""
    return read_secret(path) if path is not None else None


def limit_threads(threads: int) -> None:
    """Compute with so many threads, here: torch and the kernels over rows.

    Raises:
        ConfigError: not a positive number.
    """
    if threads < 1:
        raise ConfigError(f"threads: expected 1 or more, got {threads}")
    import torch

    from rowcast.rows import kernels

    torch.set_num_threads(threads)
    kernels.limit_threads(threads)
