"""What a training loop sees of its worker node, whatever drives it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.delivery.placed import Home, Placed
from rowcast.delivery.residual import Stored
from rowcast.errors import LocalProtocolError
from rowcast.sync import Policy
from rowcast.training import WorkerNode
from rowcast.training.memory import Loop

__all__ = ["NodeView"]


class NodeView:
    """The part of :class:`rowcast.optim.TeamLike` that is read from the node.

    Attributes:
        loop: what the training loop holds beside the worker; whoever holds it says so before :meth:`start`.
        vectors: what :attr:`rowcast.config.WorkerSettings.vectors` asks for.
        home: where the vectors of the worker are to lie; set before :meth:`start`. ``None``: in host memory.
    """

    _node: WorkerNode | None = None
    loop = Loop()
    vectors: str = "host"
    home: Home | None = None

    @property
    def node(self) -> WorkerNode:
        """The worker node.

        Raises:
            LocalProtocolError: :meth:`start` was not called.
        """
        if self._node is None:
            raise LocalProtocolError("team: not started; rowcast.Optimizer starts it, or call start()")
        return self._node

    @property
    def replica(self) -> npt.NDArray[np.float32]:
        """This worker's parameters, flat float32 [elements]."""
        return self.node.replica

    @property
    def expected(self) -> npt.NDArray[np.float32]:
        """The replica, with own contributions that are on their way; see :attr:`WorkerNode.expected`."""
        return self.node.expected

    def expected_in(self, room: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The same, perhaps written into ``room``; see :meth:`WorkerNode.expected_in`."""
        return self.node.expected_in(room)

    @property
    def placed(self) -> Placed | None:
        """The vectors of this worker where they do not lie in host memory; ``None``: they do."""
        return self.node.placed

    def leave_home(self, cause: str) -> None:
        """The vectors go to host memory, for good; call it in ``still()``. ``cause``: why, for people."""
        self.node.holding.leave(cause)

    @property
    def lean(self) -> bool:
        """The training loop is to count its steps from the replica, and to keep no copy of it."""
        return self.node.lean

    @property
    def moved(self) -> bool:
        """Rows have moved the replica since the last exchange was over."""
        return self.node.moved

    @property
    def anticipated(self) -> tuple[Stored, npt.NDArray[np.float32]] | None:
        """How far beyond :attr:`replica` the next gradient is computed; see :attr:`WorkerNode.anticipated`."""
        return self.node.anticipated

    @property
    def members(self) -> int:
        """Workers that the gate counts."""
        return self.node.members

    @property
    def contributed(self) -> float:
        """Sum |.| of what the last iteration with a contribution has added."""
        return self.node.contribution.size

    @property
    def shortened(self) -> bool:
        """The last update was larger than the policy lets it count."""
        return self.node.contribution.share < 1

    @property
    def inner_momentum(self) -> float:
        """Decay of the average of gradients that the inner optimizer steps by; whoever sets it tells the server."""
        return self.node.inner_momentum

    @inner_momentum.setter
    def inner_momentum(self, momentum: float) -> None:
        self.node.inner_momentum = momentum

    @property
    def inner_lr(self) -> float:
        """Learning rate of the inner optimizer; whoever sets it lets updates be compared from one rate to the next."""
        return self.node.contribution.inner_lr

    @inner_lr.setter
    def inner_lr(self, rate: float) -> None:
        self.node.contribution.inner_lr = rate

    @property
    def leads(self) -> bool:
        """Whether what this worker makes of the buffers is the team's, where their rule is "first"."""
        return self.node.leads

    @property
    def iteration(self) -> int:
        """Iterations finished."""
        return self.node.iteration

    @property
    def policy(self) -> Policy | None:
        """The team's policy, with the slack that is in force; ``None`` before the server has told it."""
        return self.node.policy

    @property
    def share(self) -> int | None:
        """This worker's share of the team's batch (samples); ``None`` before the server has told it."""
        return self.node.supplier.share

    @property
    def team_rate(self) -> float:
        """Samples a second that all who share the team's batch can train on; 0 before the server has told it."""
        return self.node.supplier.team_rate

    @property
    def finished(self) -> int:
        """Iterations that the training loop has finished, counted from 1."""
        return self.node.delivered.finished

    @property
    def resumed_positions(self) -> bytes:
        """How far the data was read that was in the team's parameters at joining; empty: not known."""
        return self.node.resumed_positions

    def read_to(self, positions: bytes) -> None:
        """The data of the iteration that is finished next reaches up to there; see :meth:`WorkerNode.read_to`."""
        self.node.read_to(positions)

    @property
    def local_steps(self) -> int:
        """Optimizer steps for each iteration, from the server's policy; 1 before the server has told it."""
        return self.node.local_steps
