"""The outer optimizer of DiLoCo, at the origin: momentum over what a worker contributes.

DiLoCo (Douillard et al., arXiv 2311.08105, Alg. 1) averages the pseudo-gradients of all workers and gives the average
D to SGD with Nesterov momentum: ``U = momentum * U + D``, ``parameters -= lr * (D + momentum * U)``. That step is
linear. So each worker takes it on its own share d of D and keeps its own share u of U; the contributions
``lr * (d + momentum * u)`` then add up to the outer step, and go through the same codec, the same frames and the same
books as any other contribution: the replicas agree with a lossy codec as well (algorithms.md 1.5, 5.3).

The sum is that of DiLoCo exactly while the same workers take part. A worker that leaves takes its share of the momentum
along: the team's momentum is smaller by that share and builds up again within about ``1 / (1 - momentum)`` iterations.
A worker that comes begins with none. What it needs is one more vector of the model's size at each worker.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rowcast.rows import Layout
from rowcast.rows.compiling import without_numba
from rowcast.rows.kernels import PARALLEL_ELEMENTS, compiled, in_parts
from rowcast.rows.lanes import size_of
from rowcast.sync import Policy
from rowcast.training import plain

__all__ = ["Outer"]


class Outer:
    """One worker's share of the outer momentum.

    Args:
        layout: the model's rows.
        lr: outer learning rate, > 0.
        momentum: outer momentum, 0 .. below 1.

    Attributes:
        velocity: the share u, flat float32 [elements], in parameter units; zero at the beginning.
    """

    def __init__(self, layout: Layout, lr: float, momentum: float) -> None:
        self.lr = lr
        self.momentum = momentum
        self.velocity = layout.zeros()
        self._keep, self._of_step, self._of_velocity = momentum, lr, lr * momentum

    def follow(self, policy: Policy) -> None:
        """Take the policy's learning rate and momentum from now on; the velocity stays."""
        self.lr, self.momentum = policy.outer_lr, policy.outer_momentum

    def begin(self, *, first: bool) -> None:
        """A contribution follows.

        Args:
            first: it is the first one of its iteration, which ages the momentum. Further ones of the same iteration
                (gradient accumulation) only add their part: the sum is that of one contribution of all of them.
        """
        if first:
            self._keep, self._of_step, self._of_velocity = self.momentum, self.lr, self.lr * self.momentum
        else:
            self._keep, self._of_step, self._of_velocity = 1.0, self.lr * (1 + self.momentum), 0.0

    def accumulate(
        self,
        pending: npt.NDArray[np.float32],
        replica: npt.NDArray[np.float32],
        source: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float32],
        start: int,
        offsets: npt.NDArray[np.int64],
        abs_sums: npt.NDArray[np.float32],
        computed: npt.NDArray[np.float64],
    ) -> float:
        """Add the outer step of ``weights * (replica - source)`` to ``pending`` for the rows of one tensor.

        Arguments and result are those of :func:`rowcast.rows.kernels.accumulate`; ``computed`` gains what was added
        to ``pending``, the outer learning rate and the momentum included.
        """
        vectors = pending, self.velocity, replica
        factors = np.float32(self._keep), np.float32(self._of_step), np.float32(self._of_velocity)
        if source.size < PARALLEL_ELEMENTS:
            return float(_outer_step(vectors, source, start, offsets, weights, factors, abs_sums, computed))
        moved = in_parts(
            lambda part, edges: _outer_step(
                vectors, source, start, offsets[edges], weights[part], factors, abs_sums[part], computed[part]
            ),
            len(weights),
            source.size,
        )
        return float(sum(moved))


@compiled
@without_numba(plain.outer_step)
def _outer_step(
    vectors: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]],
    source: npt.NDArray[np.float32],
    start: int,
    offsets: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32],
    factors: tuple[np.float32, np.float32, np.float32],
    abs_sums: npt.NDArray[np.float32],
    computed: npt.NDArray[np.float64],
) -> float:
    pending, velocity, replica = vectors
    keep, of_step, of_velocity = factors
    moved = 0.0
    for i in range(len(offsets) - 1):
        weight = weights[i]
        row = pending[offsets[i] : offsets[i + 1]]
        speed = velocity[offsets[i] : offsets[i + 1]]
        now = replica[offsets[i] : offsets[i + 1]]
        proposed = source[offsets[i] - start : offsets[i + 1] - start]
        for j in range(len(row)):
            speed[j] = keep * speed[j] + weight * (now[j] - proposed[j])
        total = np.float32(0.0)
        for j in range(len(row)):
            total += of_step * weight * (now[j] - proposed[j]) + of_velocity * speed[j]
        distance = np.float32(0.0)
        for j in range(len(row)):
            distance += abs(of_step * weight * (now[j] - proposed[j]) + of_velocity * speed[j])
        for j in range(len(row)):
            row[j] += of_step * weight * (now[j] - proposed[j]) + of_velocity * speed[j]
        abs_sums[i] = size_of(row)
        computed[i] += np.float64(total)
        moved += np.float64(distance)
    return moved
