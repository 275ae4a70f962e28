"""The model of one worker in a team: what the team puts into it, and what the team is given of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rowcast.delivery.placed import Held, OutOfRoom
from rowcast.errors import NonFiniteGradient
from rowcast.optim.buffers import Buffers
from rowcast.optim.device import home_for
from rowcast.optim.device.view import DeviceView
from rowcast.optim.projection import Projection
from rowcast.optim.shared import shared_parameters
from rowcast.optim.team import TeamLike, Update
from rowcast.optim.tensors import read_into
from rowcast.optim.view import View

__all__ = ["SharedModel"]

Vector = npt.NDArray[np.float32]
T = TypeVar("T")


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
        self._there: DeviceView | None = None  # in its place, where vectors lie on the device of the model
        self._filled = False  # what arrived was written in give()

    def join(self) -> None:
        """Join the team with what the model holds; blocks."""
        self.project()
        vector = np.empty(self.layout.elements, dtype=np.float32)
        read_into(vector, self.layout, [*self.shared.tensors, *self.buffers.tensors()])
        team: Any = self._team
        if getattr(team, "vectors", "host") == "device" and team.home is None:
            team.home = home_for(self.shared.tensors)
        self._team.start(self.layout, vector)
        if getattr(team, "placed", None) is not None:
            try:
                self._there = DeviceView(team.home, self.shared, self.layout, self._projection)
            except OutOfRoom as error:
                self._leave_home(error)

    def _leave_home(self, error: OutOfRoom) -> None:
        """The device has no memory for a view: vectors go to host memory, while nothing moves."""
        team: Any = self._team
        team.leave_home(str(error))

    def _where(self, there: Callable[[DeviceView, Held], T], here: Callable[[View], T], *, still: bool = False) -> T:
        """Do something to the view, wherever it is.

        Args:
            there: on the device of the model.
            here: in host memory; also after the device had no memory for it.
            still: whether the team is still already.
        """
        held = getattr(self._team, "placed", None)
        if held is not None and self._there is not None:
            try:
                return there(self._there, held)
            except OutOfRoom as error:
                with contextlib.nullcontext() if still else self._team.still():
                    self._leave_home(error)
        if self._there is not None:
            self._view, self._there = self._there.on_host(), None
        return here(self._view)

    def finite(self) -> bool:
        """Whether all gradients were just found finite, on the device; False: nobody has looked."""
        return self._there is not None and self._there.finite()

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
        update = self._where(
            lambda view, _: self._proposed_there(view, weight), lambda view: self._proposed_here(view, weight)
        )
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

    def _proposed_here(self, view: View, weight: float) -> Update:
        origin = view.origin()
        buffers = self.buffers.proposal(origin, weight, leads=self._leads)
        return view.proposal(buffers), weight, origin

    def _proposed_there(self, view: DeviceView, weight: float) -> Update:
        proposal = view.proposal(lambda origin: self.buffers.proposal(origin, weight, leads=self._leads))
        return proposal, weight, None

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
        self._project_view()

    def _project_view(self) -> None:
        if self._projection:
            self._where(lambda view, _: view.project(), lambda view: view.project())

    def _fill(self, *, ahead: bool, everything: bool) -> None:
        def buffers(replica: Vector, beyond: tuple[Vector, Vector] | None) -> None:
            if ahead:
                self.buffers.fill(replica, beyond, leads=self._leads, everything=everything, whole=self.own)

        def there(view: DeviceView, held: Held) -> None:
            times = self._times() if ahead else None
            view.fill(held, times)
            buffers(view.tail(held.replica), None if times is None else (view.tail(held.pending), times))

        def here(view: View) -> None:
            beyond = self._team.anticipated if ahead else None
            view.fill(self._base(beyond), beyond)
            buffers(self._team.replica, beyond)

        self._where(there, here, still=True)

    def refresh(self) -> None:
        """Write into the parameters what arrived since :meth:`take`, if anything did: a closure computes from there."""
        if self._where(lambda view, held: view.holds(held, self._times()), self._holds):
            return
        with self._team.still():
            self._where(lambda view, held: view.fill(held, self._times()), self._fill_here, still=True)
        self._project_view()

    def _holds(self, view: View) -> bool:
        beyond = self._team.anticipated
        return view.holds(self._base(beyond), beyond)

    def _fill_here(self, view: View) -> None:
        beyond = self._team.anticipated
        view.fill(self._base(beyond), beyond)

    def _times(self) -> Vector | None:
        """How often each row of what is pending is subtracted, where vectors lie on the device."""
        team: Any = self._team
        times: Vector | None = team.times_ahead
        return times

    def _base(self, beyond: tuple[Vector, Vector] | None) -> Vector:
        """From what ``beyond`` is subtracted: the replica, with what is on its way where something is anticipated."""
        replica = self._team.replica
        return replica if beyond is None else getattr(self._team, "expected", replica)

    @contextlib.contextmanager
    def team_buffers(self) -> Iterator[None]:
        """While entered, the model's buffers hold the team's values."""
        with self._team.still():
            replica = self._where(lambda view, held: view.tail(held.replica), lambda _: self._team.replica, still=True)
            self.buffers.show(replica)
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
        if self._team.local_steps != 1:
            return []
        return self._where(lambda view, _: view.written(), lambda view: view.written())
