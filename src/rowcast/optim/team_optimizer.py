"""What an optimizer shows of the team that it steps with."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from rowcast.optim.keeping import Keepable, Keeping
from rowcast.optim.team import StreamTeam, TeamLike
from rowcast.optim.weights import StepWeights
from rowcast.optim.wrapper import LiveWrapper
from rowcast.streams import BatchRule, parse_batch

__all__ = ["TeamOptimizer"]


class TeamOptimizer(LiveWrapper):
    """An optimizer with a place in a team.

    Args:
        inner: the optimizer to wrap.
        team: the place.
        weights: what its steps count.
    """

    def __init__(self, inner: torch.optim.Optimizer, team: TeamLike, weights: StepWeights) -> None:
        super().__init__(inner)
        self._team = team
        self._weights = weights
        self._keeping: Keeping | None = None

    @property
    def team(self) -> TeamLike:
        """The worker's place in the team."""
        return self._team

    @property
    def restored(self) -> int | None:
        """The iteration from which this robot goes on after its process was killed; ``None``: it began anew.

        See ``state_dir`` of :func:`rowcast.join`.
        """
        return getattr(self._team, "restored", None)

    def keep(self, name: str, thing: Keepable) -> None:
        """Keep the state of something else with that of this optimizer, where the team has a ``state_dir``.

        Where this robot goes on after its process was killed, the state that was kept is loaded here. Anything with
        ``state_dict()`` and ``load_state_dict()`` will do, of tensors, numbers and texts: a learning-rate scheduler, a
        ``GradScaler``, an object of your own that knows the state of a random generator.

        Args:
            name: under which it is kept; the same in each life.
            thing: whose state it is.

        Raises:
            ConfigError: the name is taken, the thing has no state, or what was kept does not fit.
        """
        if self._keeping is not None:
            self._keeping.add(name, thing)

    def _keep(self, model: nn.Module) -> None:
        """Behind joining: what belongs to the state of this robot is kept from now on, or was kept and is loaded."""
        keep = getattr(self._team, "keep", None)
        if keep is None:
            return
        self._keeping = Keeping(self._inner, model)
        kept = keep(self._keeping.extras)
        if kept is not None:
            self._keeping.restore(kept)

    @property
    def batch(self) -> BatchRule | None:
        """Where batches differ: how many samples there are, and for how many of the whole team the learning rate is
        meant, a :class:`rowcast.streams.BatchRule` or its text. ``None``: every batch counts the same."""
        return self._weights.rule

    @batch.setter
    def batch(self, rule: BatchRule | str | None) -> None:
        self._weights.rule = parse_batch(rule) if isinstance(rule, str) else rule

    @property
    def finished(self) -> int:
        """How many iterations this optimizer has finished; without local steps, how often it has stepped."""
        return cast(StreamTeam, self._team).finished

    @property
    def delivered(self) -> int:
        """The newest of its iterations, counted as :attr:`finished`, that is wholly acknowledged by the server."""
        return cast(StreamTeam, self._team).delivered

    def report(self, **metrics: float) -> None:
        """Write figures of the training loop (loss, accuracy) into the team's journal."""
        self._team.report(**metrics)

    def note(self, what: str, detail: str = "") -> None:
        """Write into the team's journal that something happened in the task.

        Args:
            what: the same text for all events of a kind, in a word or two: reports count them.
            detail: what differs from one to the next.
        """
        self._team.note(what, detail)
