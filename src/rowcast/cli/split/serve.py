"""``rowcast split serve``: a server that answers inferences of one model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from rowcast.cli.options import options_from
from rowcast.cli.split.models import ModelText
from rowcast.cli.streams import PlainConsole
from rowcast.config import AnswererSettings, LinkSettings
from rowcast.experiment.inference.settings import SplitServeSettings

if TYPE_CHECKING:
    from rowcast.split.serving import ServingStatus

__all__ = ["serve"]

#: Between two looks at the server (s).
TICK_S = 0.25


@options_from(serve=SplitServeSettings, answerer=AnswererSettings, link=LinkSettings)
def serve(
    serve: SplitServeSettings,
    answerer: AnswererSettings,
    link: LinkSettings,
    model: ModelText,
    quiet: Annotated[bool, typer.Option(help="No live line.")] = False,
) -> None:
    """Answer inferences of a model for robots that have built the same one. Ctrl-C ends it."""
    from rowcast.cli.split.live import LiveLine
    from rowcast.cli.split.models import captured
    from rowcast.split import Serving

    with LiveLine(PlainConsole(), quiet=quiet) as line:
        served = captured(model, serve.example, serve.threads, line)
        with Serving(
            served,
            f"{f'[{serve.host}]' if ':' in serve.host else serve.host}:{serve.port}",
            secret_file=serve.secret_file,
            team=serve.team,
            settings=answerer,
            link_settings=link,
            journal_file=None if serve.log is None else serve.log / "server.jsonl",
            insecure=serve.insecure,
        ) as serving:
            forward_ms = 1e3 * serving.forward_s
            line.says(f"listening on {serve.host}:{serving.port}, {forward_ms:.3g} ms for the whole model; Ctrl-C ends")
            ends = float("inf") if serve.seconds is None else time.monotonic() + serve.seconds
            while (left_s := ends - time.monotonic()) > 0:
                line.shows(_text(serving.status()))
                serving.wait(min(TICK_S, left_s))
            status = serving.status()
        line.says(f"{serve.seconds:g} s are over: {_text(status)}")


def _text(status: ServingStatus) -> str:
    """Robots, answers, batch sizes, those that were turned away, and those that wait."""
    names = ", ".join(status.robots[:4]) + (f" and {len(status.robots) - 4} more" if len(status.robots) > 4 else "")
    batch = f"{status.batch:.2f} together" if status.batch else "none computed yet"
    return (
        f"{len(status.robots)} robots{f' ({names})' if names else ''} | {status.answered} answers | {batch} | "
        f"{status.turned_away} told busy | {status.waiting} wait"
    )
