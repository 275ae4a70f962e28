"""What a training loop sees of its worker node, whatever drives it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.errors import LocalProtocolError
from rowcast.sync import Policy
from rowcast.training import WorkerNode

__all__ = ["NodeView"]


class NodeView:
    """The part of :class:`rowcast.optim.TeamLike` that is read from the node."""

    _node: WorkerNode | None = None

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
    def anticipated(self) -> tuple[npt.NDArray[np.float32], float] | None:
        """How far beyond :attr:`replica` the next gradient is computed; see :attr:`WorkerNode.anticipated`."""
        return self.node.anticipated

    @property
    def members(self) -> int:
        """Workers that the gate counts."""
        return self.node.members

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
    def local_steps(self) -> int:
        """Optimizer steps for each iteration, from the server's policy; 1 before the server has told it."""
        return self.node.local_steps
