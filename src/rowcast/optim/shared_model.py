"""The model of one worker in a team: what the team puts into it, and what the team is given of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rowcast.delivery.placed import Placed
from rowcast.errors import NonFiniteGradient
from rowcast.optim.buffers import Buffers
from rowcast.optim.device import home_for
from rowcast.optim.device.view import DeviceView, OutOfRoom
from rowcast.optim.projection import Projection
from rowcast.optim.shared import shared_parameters
from rowcast.optim.team import TeamLike
from rowcast.optim.tensors import read_into
from rowcast.optim.view import View
from rowcast.training.memory import Loop

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
        view = View(self.shared, self.layout, self._projection)
        self._view: View | DeviceView = view
        self._loop = Loop(view.copies, view.spares)
        self._filled = False  # what arrived was written in give()

    def join(self) -> None:
        """Join the team with what the model holds; blocks."""
        self.project()
        vector = np.empty(self.layout.elements, dtype=np.float32)
        read_into(vector, self.layout, [*self.shared.tensors, *self.buffers.tensors()])
        team: Any = self._team
        if hasattr(team, "loop"):
            team.loop = self._loop
        if getattr(team, "vectors", "host") == "device" and team.home is None:
            team.home = home_for(self.shared.tensors)
        self._team.start(self.layout, vector)
        if self._placed is not None:
            try:
                self._view = DeviceView(team.home, self.shared, self.layout, self._projection)
            except OutOfRoom as error:
                self._leave(str(error), still=False)

    # -- where vectors lie -----------------------------------------------------------------------------------------

    @property
    def _placed(self) -> Placed | None:
        """The worker's vectors where they lie on the device of the model; ``None``: in host memory."""
        return getattr(self._team, "placed", None)

    def _do(self, work: Callable[[Any], T], *, still: bool = False) -> T:
        """Do something with the view; where its device has no memory for that, with one in host memory.

        Args:
            work: takes the view.
            still: nothing changes at the moment.
        """
        if self._placed is not None and self._team.home.full:  # type: ignore[attr-defined]
            self._leave("", still)
        self._follow()
        try:
            return work(self._view)
        except OutOfRoom as error:
            self._leave(str(error), still)
        self._follow()
        return work(self._view)

    def _leave(self, cause: str, still: bool) -> None:
        """The worker takes its vectors to host memory."""
        team: Any = self._team
        with contextlib.nullcontext() if still else team.still():
            team.leave_home(cause)

    def _follow(self) -> None:
        """The view is where the vectors are."""
        if isinstance(self._view, DeviceView) and self._placed is None:
            self._view = self._view.on_host()

    def finite(self) -> bool:
        """Whether all gradients were just found finite, on the device; False: nobody has looked."""
        return isinstance(self._view, DeviceView) and self._view.finite()

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
        now = self._do(self._buffers_now)
        bases, values = self.buffers.proposal(now, weight, leads=self._leads)
        sources, origin = self._do(lambda view: view.proposal(bases, values))
        update = sources, weight, origin
        told = self._filled = False

        def given() -> None:
            """The team has taken it, and nothing changes for the moment."""
            nonlocal told
            told = True
            self.buffers.proposed(now)
            self._fill(now, ahead=True, everything=False)
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
                self.buffers.proposed(now)

    def _buffers_now(self, view: Any) -> list[Vector]:
        """What the buffers hold that travel."""
        now: list[Vector] = view.read(self.buffers.tensors())
        return now

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
                self._fill(self._do(self._buffers_now, still=True), ahead=ahead, everything=everything)
        self._filled = False
        self._do(lambda view: view.project())

    def _fill(self, now: list[Vector], *, ahead: bool, everything: bool) -> None:
        def work(view: Any) -> None:
            beyond = self._fill_view(view, ahead=ahead)
            if ahead:
                if beyond is not None:
                    beyond = view.tail(beyond[0]), beyond[1]
                replica = view.tail(self._base(None))
                self.buffers.fill(now, replica, beyond, leads=self._leads, everything=everything, whole=self.own)

        self._do(work, still=True)

    def _fill_view(self, view: Any, *, ahead: bool) -> tuple[Any, Vector] | None:
        """Write what arrived into the parameters; what was beyond it."""
        beyond = self._team.anticipated if ahead else None
        view.fill(self._base_in_image(beyond), beyond, lean=getattr(self._team, "lean", False))
        return beyond

    def refresh(self) -> None:
        """Write into the parameters what arrived since :meth:`take`, if anything did: a closure computes from there."""
        if isinstance(self._view, View):
            beyond: Any = self._team.anticipated
            if self._view.holds(self._base(beyond), beyond):
                return
        with self._team.still():
            self._do(lambda view: self._fill_view(view, ahead=True), still=True)
        self._do(lambda view: view.project())

    def _base(self, beyond: tuple[Any, Vector] | None) -> Any:
        """From what ``beyond`` is subtracted: the replica, with what is on its way where something is anticipated."""
        placed = self._placed
        if placed is not None:
            return placed.replica if beyond is None else placed.expected
        replica = self._team.replica
        return replica if beyond is None else getattr(self._team, "expected", replica)

    def _base_in_image(self, beyond: tuple[Any, Vector] | None) -> Any:
        """The same; where the team does not keep it, it is made in the image, which is about to be written anyway."""
        view = self._view
        if beyond is None or isinstance(view, DeviceView) or view.borrowed or not hasattr(self._team, "expected_in"):
            return self._base(beyond)
        return self._team.expected_in(view.image)

    @contextlib.contextmanager
    def team_buffers(self) -> Iterator[None]:
        """While entered, the model's buffers hold the team's values."""
        with self._team.still():
            self._do(lambda view: self.buffers.show(view.tail(self._base(None))), still=True)
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
        return self._do(lambda view: view.written()) if self._team.local_steps == 1 else []
