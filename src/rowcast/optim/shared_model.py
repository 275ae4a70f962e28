"""The model of one worker in a team: what the team puts into it, and what the team is given of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rowcast.errors import NonFiniteGradient
from rowcast.optim.buffers import Buffers
from rowcast.optim.projection import Projection
from rowcast.optim.shared import shared_parameters
from rowcast.optim.team import TeamLike
from rowcast.optim.tensors import read_into
from rowcast.optim.view import View
from rowcast.rows.half_rows import HalfRows
from rowcast.training.memory import Loop

__all__ = ["SharedModel"]

Vector = npt.NDArray[np.float32]


class SharedModel:
    """The parameters and buffers of a model that travel, between the model and the team.

    In a step of one iteration the model is written once: in :meth:`give`, as soon as the team lets this worker go on,
    or, where nothing could be given, in :meth:`take`.

    Args:
        model, optimizer: whose parameters travel.
        team: not yet joined.
        buffers, project: as :class:`rowcast.Optimizer` takes them.

    Attributes:
        shared: the parameters that travel.
        buffers: the buffers of the model.
        layout: the rows of both.

    Raises:
        ConfigError: an argument cannot be used.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        team: TeamLike,
        *,
        buffers: str | None,
        project: Callable[[nn.Module], object] | None,
    ) -> None:
        self._projection = Projection(model, project)
        self.shared = shared_parameters(model, optimizer)
        self.buffers = Buffers(model, buffers)
        self.layout = self.buffers.join(self.shared)
        self._team = team
        self._view = View(self.shared, self.layout, self._projection)
        self._filled = False  # what arrived was written in give()

    def join(self) -> None:
        """Join the team with what the model holds; blocks."""
        self.project()
        vector = np.empty(self.layout.elements, dtype=np.float32)
        read_into(vector, self.layout, [*self.shared.tensors, *self.buffers.tensors()])
        if hasattr(self._team, "loop"):
            self._team.loop = Loop(self._view.copies, self._view.spares)
        self._team.start(self.layout, vector)

    def project(self) -> None:
        """Make the parameters obey."""
        self._projection.apply()

    # -- what the team is given ------------------------------------------------------------------------------------

    def give(self, weight: float | None, *, finish: bool) -> None:
        """Give the team what was made of the model since :meth:`take`.

        Args:
            weight: averaging weight; ``None``: 1 / members.
            finish: the iteration, too: blocks until the team lets this worker go on.

        Raises:
            NonFiniteGradient: parameters hold NaN or Inf. Nothing was given; the iteration is finished all the same.
        """
        weight = weight if weight is not None else 1.0 / max(1, self._team.members)
        origin = self._view.origin()
        buffers = self.buffers.proposal(origin, weight, leads=self._leads, kept=self._view.borrowed)
        update = self._view.proposal(buffers), weight, origin
        told = self._filled = False

        def given() -> None:
            """The team has taken it, and nothing changes for the moment."""
            nonlocal told
            told = True
            self.buffers.proposed()
            self._fill(ahead=True, everything=False)
            self._filled = True

        try:
            if finish:
                self._team.exchange(update, given)
            else:
                self._team.accumulate(*update)
        except NonFiniteGradient:
            told = True  # that there is nothing to tell
            raise
        finally:
            if not told:  # also where a Ctrl-C has ended the wait for the others
                self.buffers.proposed()

    # -- what the model is given -----------------------------------------------------------------------------------

    def take(self, *, ahead: bool = True, everything: bool = False) -> None:
        """Write what arrived into the model, for the next gradient, if :meth:`give` has not done so.

        Args:
            ahead: the parameters as far from the replica as the policy has it, and the buffers as far as something
                arrived for them; otherwise the replica itself, and the buffers as they are.
            everything: the buffers whether or not anything arrived for them.
        """
        if not self._filled or not ahead or everything:
            with self._team.still():
                self._fill(ahead=ahead, everything=everything)
        self._filled = False
        self._view.project()

    def _fill(self, *, ahead: bool, everything: bool) -> None:
        beyond = self._team.anticipated if ahead else None
        self._view.fill(self._base_in_image(beyond), beyond, lean=getattr(self._team, "lean", False))
        if ahead:
            self.buffers.fill(self._team.replica, beyond, leads=self._leads, everything=everything, whole=self.own)

    def refresh(self) -> None:
        """Write into the parameters what arrived since :meth:`take`, if anything did: a closure computes from there."""
        beyond = self._team.anticipated
        if self._view.holds(self._base(beyond), beyond):
            return
        with self._team.still():
            self._view.fill(self._base_in_image(beyond), beyond, lean=getattr(self._team, "lean", False))
        self._view.project()

    def _base(self, beyond: tuple[Vector | HalfRows, Vector] | None) -> Vector:
        """From what ``beyond`` is subtracted: the replica, with what is on its way where something is anticipated."""
        replica = self._team.replica
        return replica if beyond is None else getattr(self._team, "expected", replica)

    def _base_in_image(self, beyond: tuple[Vector | HalfRows, Vector] | None) -> Vector:
        """The same; where the team does not keep it, it is made in the image, which is about to be written anyway."""
        if beyond is None or self._view.borrowed or not hasattr(self._team, "expected_in"):
            return self._base(beyond)
        expected: Vector = self._team.expected_in(self._view.image)
        return expected

    @contextlib.contextmanager
    def team_buffers(self) -> Iterator[None]:
        """While entered, the model's buffers hold the team's values."""
        with self._team.still():
            self.buffers.show(self._team.replica)
        try:
            yield
        finally:
            self.buffers.restore()

    @property
    def own(self) -> bool:
        """The model is this worker's own: the team's is no more than what of it has been averaged."""
        policy = getattr(self._team, "policy", None)
        return policy is not None and policy.sampled

    @property
    def _leads(self) -> bool:
        return self.layout.buffer_rule == "first" and self._team.leads

    def handwritten(self) -> list[str]:
        """Names of parameters that somebody else has written since :meth:`take`: that does not travel.

        In a round of local steps the parameters are this worker's own, and what is written into them travels.
        """
        if self._view.borrowed and getattr(self._team, "moved", False):
            return []  # it is the replica that was written
        return self._view.written() if self._team.local_steps == 1 else []
