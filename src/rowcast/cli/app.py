"""The ``rowcast`` command: its parts, and what becomes of an error."""

from __future__ import annotations

import atexit
import errno
import gc
import logging
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from rowcast.cli import (
    combine,
    compare,
    demo,
    doctor,
    emulate,
    export,
    relay,
    report,
    serve,
    split,
    stream,
    team,
    trace,
    train,
    validate,
    warmup,
    watch,
)
from rowcast.cli.exits import MEANINGS, ExitCode, exit_code
from rowcast.cli.options import PanelCommand, TaskCommand
from rowcast.cli.streams import steady_output
from rowcast.errors import RowcastError, visible
from rowcast.version import __version__

__all__ = ["app", "main"]

#: Characters of a line on standard error at most.
LONGEST = 4000

#: What ``rowcast-server`` leaves out.
_OPTIONAL = ("numba", "torch")

app = typer.Typer(
    name="rowcast",
    help="Train and run PyTorch models on robots whose wireless links fade, row by row.",
    epilog="Exit codes: " + "; ".join(f"{code:d} {meaning}" for code, meaning in MEANINGS.items()) + ".",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Help is shown as it is written: rich would take words in brackets for its own.
    rich_markup_mode=None,
)
app.command("serve", cls=PanelCommand)(serve.serve)
app.command("relay", cls=PanelCommand)(relay.relay)
app.command("train", cls=TaskCommand)(train.train)
app.command("demo", cls=TaskCommand)(demo.demo)
app.add_typer(trace.app)
app.add_typer(split.app)
app.add_typer(stream.app)
app.add_typer(team.app)
app.command("compare", cls=TaskCommand)(compare.compare)
app.command("emulate", cls=TaskCommand)(emulate.emulate)
app.command("combine", cls=TaskCommand)(combine.combine)
app.command("watch", cls=PanelCommand)(watch.watch)
app.command("export", cls=PanelCommand)(export.export)
app.command("report", cls=PanelCommand)(report.report)
app.command("validate", cls=PanelCommand)(validate.validate)
app.command("warmup", cls=PanelCommand)(warmup.warmup)
app.command("doctor", cls=PanelCommand)(doctor.doctor)


@app.command("version")
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train PyTorch models on robots whose wireless links fade, row by row."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit with its code; see ``rowcast --help`` for the codes."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    # The flag may stand anywhere; the parser wants it in front.
    words = ["--debug"] * debug + [word for word in words if word != "--debug"]
    _show_log()
    # At its end Python looks for what could be freed: half a second for the objects of PyTorch, which end anyhow.
    atexit.register(gc.freeze)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with steady_output() as output:
        code = _run(words, debug)
        output.flush()
        if output.failure is not None and output.failure.errno != errno.EPIPE:  # who has read enough may go
            _complain(f"standard output: not all could be written: {output.failure.strerror}")
            code = code or ExitCode.INTERNAL
    sys.exit(int(code))


def _run(words: list[str], debug: bool) -> int:
    """Run the command; returns the exit code."""
    try:
        result = app(words, prog_name="rowcast", standalone_mode=False)
        code = result if isinstance(result, int) else ExitCode.FINE
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    except Exception as error:
        code = _explain(error, debug)
    if code == ExitCode.INTERRUPTED:  # some versions of typer give the code back instead of raising
        _complain("interrupted")
    return code


def _explain(error: Exception, debug: bool) -> int:
    """One line for what went wrong; returns the exit code."""
    if debug:
        _show_traceback(error)
    usage = getattr(error, "format_message", None)  # click's own errors, wherever typer has click from
    if usage is not None:
        _complain(f"{usage()}; see rowcast --help")
        return ExitCode.USAGE
    if isinstance(error, ModuleNotFoundError) and error.name in _OPTIONAL:
        name = error.name
        _complain(f"{name}: expected it to be installed for this command, got none; pip install {name}")
        return ExitCode.USAGE
    if isinstance(error, RowcastError):
        _complain(str(error))
    else:
        _complain(
            f"internal error: {type(error).__name__}: {error}; run it again with --debug and report what it shows"
        )
    return exit_code(error)


def _complain(text: str) -> None:
    print(f"rowcast: {visible(' '.join(text.split()), LONGEST)}", file=sys.stderr, flush=True)


def _show_traceback(error: BaseException | None) -> None:
    """Where an error came from. Its text may be that of a peer or a file: only the line breaks are obeyed."""
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    print("\n".join(visible(line, LONGEST) for line in lines), file=sys.stderr, flush=True)


class _OneLine(logging.Handler):
    """Writes each message as a line to whatever standard error is at that moment (a live table redirects it)."""

    def emit(self, record: logging.LogRecord) -> None:
        _complain(record.getMessage())
        if record.exc_info and record.exc_info[0] is not None:
            _show_traceback(record.exc_info[1])


def _show_log() -> None:
    log = logging.getLogger("rowcast")
    log.handlers = [_OneLine()]
    log.setLevel(logging.INFO)
    log.propagate = False
    warnings.showwarning = lambda message, *_, **__: _complain(f"warning: {message}")
