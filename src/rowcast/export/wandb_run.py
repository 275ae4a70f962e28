"""A run as a run of Weights & Biases, kept on this machine: nothing is sent; ``wandb sync`` does that, if one wants."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rowcast.errors import ConfigError, visible
from rowcast.export.moments import Moment
from rowcast.libraries import needing
from rowcast.version import __version__

__all__ = ["write_wandb"]

#: Without these the library may ask, or tell, somebody outside.
_ALONE = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """While entered, the library is told by the environment that it is offline."""
    before = {name: os.environ.get(name) for name in _ALONE}
    os.environ.update(_ALONE)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def write_wandb(moments: Iterable[Moment], folder: Path) -> None:
    """Write the folder of an offline run; its steps are those of the journal's time ``time_s``.

    Raises:
        ConfigError: the library is not installed.
        OSError: a file cannot be written.
    """
    folder.mkdir()
    with _alone():
        with needing("an export to wandb-offline", "wandb"):
            import wandb
        settings = wandb.Settings(
            mode="offline",
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        try:
            with wandb.init(
                project="rowcast",
                dir=str(folder),
                mode="offline",
                reinit="create_new",
                config={"rowcast": __version__},
                settings=settings,
            ) as run:
                run.define_metric("time_s")
                run.define_metric("*", step_metric="time_s")
                for moment in moments:
                    _log(run, moment)
        except wandb.Error as error:
            raise ConfigError(f"--to wandb-offline: wandb refuses: {visible(str(error))}") from error


def _log(run: Any, moment: Moment) -> None:
    """What a moment tells."""
    told: dict[str, float | str] = {}
    for value in moment.values:
        told[f"{moment.who}/{value.series}"] = value.text if value.number is None else value.number
    if (line := moment.line) is not None:
        told["events"] = f"{line.who} {line.text}"
    if told:
        run.log({"time_s": moment.t, **told})
    if moment.record["event"] == "start" and moment.record.get("policy"):
        run.config.update({"policy": str(moment.record["policy"])}, allow_val_change=True)
