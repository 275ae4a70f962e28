"""The command line: parses, starts, renders; no algorithm lives here."""

from rowcast.cli.app import main
from rowcast.cli.exits import ExitCode

__all__ = ["ExitCode", "main"]
