"""``rowcast split``: one inference on two machines."""

from __future__ import annotations

import typer

from rowcast.cli.options import PanelCommand
from rowcast.cli.split import ask, bench, demo, plan, profile, serve

__all__ = ["app"]

app = typer.Typer(
    name="split",
    help="Split inference: a model on a robot and a server, over a link that comes and goes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def _split() -> None:
    """Split inference: a model on a robot and a server, over a link that comes and goes."""


app.command("serve", cls=PanelCommand)(serve.serve)
app.command("ask", cls=PanelCommand)(ask.ask)
app.command("profile", cls=PanelCommand)(profile.profile)
app.command("plan")(plan.plan)
app.command("bench", cls=PanelCommand)(bench.bench)
app.command("demo", cls=PanelCommand)(demo.demo)
