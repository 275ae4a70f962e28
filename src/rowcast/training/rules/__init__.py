"""The synchronisation rules: who may go on when, and which rows travel in between.

A rule is a file with its side of the server (:class:`~rowcast.training.rules.base.ServerRule`), and a line here. Its
name is what a policy says in :attr:`rowcast.sync.Policy.rule`.
"""

from __future__ import annotations

from rowcast.errors import ConfigError, near_match
from rowcast.training.rules.base import ServerRule
from rowcast.training.rules.phased import PhasedRule
from rowcast.training.rules.slotted import SlottedRule
from rowcast.training.rules.streamed import StreamedRule

__all__ = ["ServerRule", "register", "server_rule"]

_RULES: dict[str, type[ServerRule]] = {}


def register(name: str, server: type[ServerRule]) -> None:
    """Make a rule known.

    Args:
        name: what policies say.
        server: its side of the server.

    Raises:
        ConfigError: the name is taken.
    """
    if name in _RULES:
        raise ConfigError(f"rule {name!r}: this name is taken, by {_RULES[name].__name__}; choose another name")
    _RULES[name] = server


def server_rule(name: str) -> type[ServerRule]:
    """The server's side of a rule.

    Raises:
        ConfigError: there is no such rule.
    """
    if name not in _RULES:
        raise ConfigError(f"unknown rule {name!r}; {near_match(name, tuple(_RULES))}")
    return _RULES[name]


register("phased", PhasedRule)
register("slotted", SlottedRule)
register("streamed", StreamedRule)
