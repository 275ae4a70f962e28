"""The synchronisation rules: who may go on when, and which rows travel in between.

A rule is a file with its side of the server (:class:`~rowcast.training.rules.base.ServerRule`) and of the worker
(:class:`~rowcast.training.rules.base.WorkerRule`), and a line here. Its name is what a policy says in
:attr:`rowcast.sync.Policy.rule`.
"""

from __future__ import annotations

from rowcast.errors import ConfigError, near_match
from rowcast.training.rules.base import ServerRule, WorkerRule
from rowcast.training.rules.factored import FactoredRule
from rowcast.training.rules.factored_worker import FactoredWorker
from rowcast.training.rules.phased import PhasedRule, PhasedWorker
from rowcast.training.rules.slotted import SlottedRule, SlottedWorker
from rowcast.training.rules.streamed import StreamedRule
from rowcast.training.rules.streamed_worker import StreamedWorker
from rowcast.training.rules.threshold import ThresholdRule, ThresholdWorker

__all__ = ["ServerRule", "WorkerRule", "register", "server_rule", "worker_rule"]

_RULES: dict[str, tuple[type[ServerRule], type[WorkerRule]]] = {}


def register(name: str, server: type[ServerRule], worker: type[WorkerRule]) -> None:
    """Make a rule known.

    Args:
        name: what policies say.
        server, worker: its two sides.

    Raises:
        ConfigError: the name is taken.
    """
    if name in _RULES:
        raise ConfigError(f"rule {name!r}: this name is taken, by {_RULES[name][0].__name__}; choose another name")
    _RULES[name] = server, worker


def server_rule(name: str) -> type[ServerRule]:
    """The server's side of a rule.

    Raises:
        ConfigError: there is no such rule.
    """
    return _found(name)[0]


def worker_rule(name: str) -> type[WorkerRule]:
    """The worker's side of a rule.

    Raises:
        ConfigError: there is no such rule.
    """
    return _found(name)[1]


def _found(name: str) -> tuple[type[ServerRule], type[WorkerRule]]:
    if name not in _RULES:
        raise ConfigError(f"unknown rule {name!r}; {near_match(name, tuple(_RULES))}")
    return _RULES[name]


register("phased", PhasedRule, PhasedWorker)
register("slotted", SlottedRule, SlottedWorker)
register("factored", FactoredRule, FactoredWorker)
register("threshold", ThresholdRule, ThresholdWorker)
register("streamed", StreamedRule, StreamedWorker)
