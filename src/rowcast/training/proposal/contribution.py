"""What a worker adds to the team's model, iteration by iteration: outer learning rate, momentum and decay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rowcast.delivery.residual import Residual
from rowcast.errors import LocalProtocolError
from rowcast.sync import Policy
from rowcast.training.proposal.outer import Outer
from rowcast.training.proposal.replica import Replica
from rowcast.training.proposal.trust import Trust

__all__ = ["Contribution", "Update"]

#: What is contributed at once: sources, averaging weight and origin, as :meth:`Contribution.add` takes them.
Update = tuple[Sequence[npt.NDArray[np.float32]], float, npt.NDArray[np.float32] | None]


class Contribution:
    """Adds what a worker computed to what it has pending.

    An iteration has one part, several (gradient accumulation), or none: then it makes no contribution.

    Args:
        replica: the parameters from which it is computed.
        residual: what is pending.

    Attributes:
        residual: see above; another one where it is held in another form from now on.
        weight: averaging weight of the last part.
        size: sum |.| of what the last iteration with a contribution has added.
        outer: the outer momentum; ``None`` before a policy asked for it.
        inner_lr: learning rate of the inner optimizer; 0: nobody has told it.
        share: how much of the last part counted, above 0 and at most 1, with a bound on its size.
    """

    def __init__(self, replica: Replica, residual: Residual) -> None:
        self.weight = 1.0
        self.size = 0.0
        self.outer: Outer | None = None
        self._replica = replica
        self.residual = residual
        self._begun = False
        self._decayed = False
        self._trust = Trust()
        self.inner_lr = 0.0
        self.share = 1.0

    def add(
        self,
        policy: Policy | None,
        sources: Sequence[npt.NDArray[np.float32]],
        weight: float,
        origin: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Add ``weight * (origin - sources)``, and what the policy makes of it.

        Where what is pending decays, it does so before the first part of an iteration is added.

        Args:
            policy: the team's policy; ``None`` before the server has told it.
            sources: as :meth:`Replica.propose` takes them.
            weight: averaging weight.
            origin: as :meth:`Replica.propose` takes it.

        Raises:
            NonFiniteGradient, LocalProtocolError: as :meth:`Replica.propose`; nothing was added.
        """
        self._decay(policy)
        replica, residual = self._replica, self.residual
        if policy is not None and policy.sampled and weight != self.weight:
            # Pending is the averaging weight times what makes this worker's parameters its own (algorithms.md 5.10).
            replica.rescale(residual, weight / self.weight)
            self.weight = weight
        weights = np.full(replica.layout.rows, weight, dtype=np.float32)
        if policy is not None and policy.outer_momentum > 0:
            if self.outer is None:
                self.outer = Outer(replica.layout, policy.outer_lr, policy.outer_momentum)
            self.outer.follow(policy)
            self.outer.begin(first=not self._begun)
            outer: Outer | None = self.outer
        else:
            # Buffers are values, and no steps.
            weights[: replica.layout.parameter_rows] *= np.float32(1.0 if policy is None else policy.outer_lr)
            outer = None
        moved = replica.propose(sources, weights, residual, outer, origin)
        if policy is not None and policy.trust > 0:
            unit = weight * policy.outer_lr * (self.inner_lr or 1.0)
            self.share = self._trust.share(moved / unit, policy.trust)
            if self.share < 1:  # what is beyond is taken back
                weights *= np.float32(self.share - 1.0)
                weights[replica.layout.parameter_rows :] = 0.0
                replica.propose(sources, weights, residual, origin=origin)
                moved *= self.share
        self._book(moved, weight)

    def add_rows(self, amounts: npt.NDArray[np.float32], weight: float) -> None:
        """Add an amount to each row of a timing-only layout.

        Args:
            amounts: float32 [rows], >= 0.
            weight: averaging weight; it is in the amounts already.

        Raises:
            LocalProtocolError: the layout has content.
        """
        if not self._replica.layout.is_timing_only:
            raise LocalProtocolError("accumulate_rows: expected a timing-only layout; call accumulate with the updates")
        self.residual.vector += amounts
        self.residual.measured = False
        self._book(float(amounts.sum()), weight)

    @property
    def trusted(self) -> tuple[float, ...]:
        """Sizes of the last updates, as they counted."""
        return self._trust.sizes

    def restore(
        self,
        size: float,
        weight: float,
        inner_lr: float,
        trusted: tuple[float, ...],
        velocity: npt.NDArray[np.float32] | None,
    ) -> None:
        """Go on where another life was, between two iterations; see the attributes."""
        self.size, self.weight, self.inner_lr = size, weight, inner_lr
        self._trust.restore(trusted)
        if velocity is not None:
            self.outer = Outer(self._replica.layout, 1.0, 0.0)  # it follows the policy
            self.outer.velocity[:] = velocity

    def drop(self, policy: Policy | None) -> None:
        """The work is done: where what is pending decays, what is left of the parameters is dropped (5.8)."""
        if policy is not None and policy.feedback < 1:
            self._keep(0.0)

    def _decay(self, policy: Policy | None) -> None:
        """Keep the policy's share of what is pending of the parameters; once an iteration (algorithms.md 5.8)."""
        if policy is not None and policy.feedback < 1 and not self._decayed:
            self._decayed = True
            self._keep(policy.feedback)

    def _keep(self, share: float) -> None:
        """Keep a share of what is pending of the parameters; the rest is booked as a contribution that takes it back.

        Buffers are values and lose nothing. In a timing-only layout there is nothing that could decay.
        """
        replica = self._replica
        rows = replica.layout.parameter_rows
        if not replica.layout.is_timing_only:
            self.residual.scale(rows, share, replica.computed[:rows])

    def _book(self, size: float, weight: float) -> None:
        self.size = size + (self.size if self._begun else 0.0)
        self.weight = weight
        self._begun = True

    def end(self, policy: Policy | None) -> bool:
        """An iteration is finished: the next part is the first one of the next.

        Without a contribution what is pending decays all the same, as it does at the others.

        Returns:
            Whether there was a contribution.
        """
        contributed = self._begun
        self._decay(policy)
        if self.outer is not None and not contributed:
            # The outer momentum goes on without a contribution, as it does at the others.
            parameters = self._replica.parameters
            same = [parameters[spec.start : spec.stop] for spec in self._replica.layout.tensors]
            self.add(policy, same, self.weight)
        self._begun = self._decayed = False
        return contributed
