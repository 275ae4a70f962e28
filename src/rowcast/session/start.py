"""The first record of a journal: what a node is at its start."""

from __future__ import annotations

from rowcast.journal import Journal
from rowcast.version import __version__

__all__ = ["record_start"]


def record_start(journal: Journal, now: float, role: str, policy: str | None, *settings: object) -> None:
    """Record what a node is at its start.

    Args:
        journal: that of the node.
        now: time (s).
        role: ``worker`` or ``server``.
        policy: text of the policy; ``None`` where it is learnt at joining.
        settings: objects whose attributes are its settings, such as :class:`~rowcast.config.LinkSettings`.
    """
    values = {name: value for one in settings for name, value in vars(one).items()}
    journal.record(now, "start", role=role, version=__version__, policy=policy, settings=values)
