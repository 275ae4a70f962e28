"""Rowcast: PyTorch training for robot teams whose wireless links fade, stall and come back.

A tensor travels row by row, the row that matters most first, for as long as the link allows::

    import rowcast

    team = rowcast.join("10.0.0.1:7117", name="robot-1", secret_file="team.secret")
    optimizer = rowcast.Optimizer(torch.optim.SGD(model.parameters(), lr=0.01), model, team)
    ...
    optimizer.step()      # as before
    ...
    optimizer.close()     # everything delivered, everybody agrees
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rowcast.config import LinkSettings, WorkerSettings
from rowcast.errors import RowcastError
from rowcast.version import __version__

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rowcast.drivers.sockets import Team
    from rowcast.drivers.sockets.endpoint import SecurityWords
    from rowcast.loader import StreamLoader
    from rowcast.optim import Optimizer

__all__ = ["LinkSettings", "Optimizer", "RowcastError", "StreamLoader", "Team", "WorkerSettings", "__version__", "join"]


def join(
    address: str,
    *,
    name: str,
    settings: WorkerSettings | None = None,
    link_settings: LinkSettings | None = None,
    journal_file: str | Path | None = None,
    parameters: str | None = None,
    state_dir: str | Path | None = None,
    **security: Unpack[SecurityWords],
) -> Team:
    """A place in the team whose server is at ``address``; give it to :class:`Optimizer`, which connects.

    Args:
        address: ``host:port`` of ``rowcast serve``; with a standby, of both by a comma.
        name: stable name of this robot, unique in the team.
        settings, link_settings: see ``docs/settings.md``.
        journal_file: where to write what happens, as JSON lines; what the file holds already is kept.
        parameters: whose parameters the team trains. ``None``: those of the first worker, and workers that come later
            take them; training is not overwritten (a worker that trained with a former life of the server does not
            take those of one that has not). ``"team"``: this worker takes the team's in any case, its own training is
            given up. ``"mine"``: the team takes this worker's, for example those of a checkpoint; an error where
            others train already, or want theirs too. A line in the log says whose parameters are used, and from which
            iteration on.
        state_dir: a folder for this robot's own state: when its process was killed, or its machine was off, it goes on
            with what it had (docs/recovery.md). One folder for each robot. It is emptied when the work is done.
        security: how both ends know each other; beyond loopback one of these is needed, and all but the last of them
            are inside TLS. ``secret_file``: file with the team's shared secret. ``team``: this robot's file of
            ``rowcast team add``. ``insecure``: true to do without either, in the clear.

    Raises:
        ConfigError: a bad address, an unreadable file, a wish that is not known, no secret where one is needed, or a
            journal that another process writes. A ``state_dir`` that cannot be used is noticed by :class:`Optimizer`.
    """
    from rowcast.drivers.sockets import Endpoint, Security, Team
    from rowcast.journal import Journal, forget
    from rowcast.session import record_start

    settings, link_settings = settings or WorkerSettings(), link_settings or LinkSettings()
    journal = Journal(name, forget)
    secured = Security.of(**security)
    place = Team(
        Endpoint.of(address, secured),
        name=name,
        settings=settings,
        link_settings=link_settings,
        journal=journal,
        parameters=parameters,
        state_dir=state_dir,
    )
    if journal_file is not None:
        journal.keep_in(journal_file)
        record_start(journal, time.monotonic(), "worker", None, settings, link_settings)
    return place


def __getattr__(name: str) -> object:
    # torch is imported when it is needed, not by a server that has no model.
    if name == "Optimizer":
        from rowcast.optim import Optimizer

        return Optimizer
    if name == "StreamLoader":
        from rowcast.loader import StreamLoader

        return StreamLoader
    if name == "split":
        from importlib import import_module

        return import_module("rowcast.split")
    if name == "Team":
        from rowcast.drivers.sockets import Team

        return Team
    raise AttributeError(f"module 'rowcast' has no attribute {name!r}")
