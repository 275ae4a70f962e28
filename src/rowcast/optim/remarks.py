"""What the optimizer warns of, each once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from rowcast.optim.growth import Growth
from rowcast.optim.inner import rate_of, unsuited
from rowcast.optim.team import TeamLike

__all__ = ["Remarks"]


class Remarks:
    """Warnings, with the line of the training loop that they are about.

    ``stacklevel`` is that of :func:`warnings.warn`, counted from the method here.
    """

    def __init__(self) -> None:
        self._code = False
        self._handwriting = False
        self._skip = False
        self._growth: Growth | None = Growth()

    def buffers(self, moving: Sequence[str], stacklevel: int) -> None:
        """Buffers that stay here move."""
        if not moving:
            return
        warnings.warn(
            f"{len(moving)} buffers move in training and stay with this worker, so replicas differ in them: "
            f"{', '.join(map(repr, moving))}; pass buffers='average' or 'first' to rowcast.Optimizer at every "
            "worker (a buffer that is not persistent never travels), or keep them still",
            UserWarning,
            stacklevel=stacklevel,
        )

    def handwriting(self, names: Sequence[str], stacklevel: int) -> None:
        """Parameters were written by something else than a step."""
        if not names or self._handwriting:
            return
        self._handwriting = True
        more = f" and {len(names) - 1} others" if len(names) > 1 else ""
        warnings.warn(
            f"parameter {names[0]!r}{more}: written by something else than step() since the last one (by hand, or by "
            "the model as it ran); that is undone now and whenever it is done, because parameters move only by what "
            "the team sends, so that they are the same everywhere. To keep them in bounds pass project=... to the "
            "Optimizer; load or set values before it is made; put what you write for an evaluation back afterwards",
            UserWarning,
            stacklevel=stacklevel,
        )

    def code(self, inner: torch.optim.Optimizer, team: TeamLike, stacklevel: int) -> None:
        """The inner optimizer does not go with the team's policy; looked at once."""
        if self._code:
            return
        self._code = True
        warning = unsuited(inner, getattr(team, "policy", None))
        if warning is not None:
            warnings.warn(warning, UserWarning, stacklevel=stacklevel)

    def growth(self, inner: torch.optim.Optimizer, team: TeamLike, stacklevel: int) -> None:
        """The updates grow as they do when training diverges."""
        size = getattr(team, "contributed", None)
        rate = rate_of(inner)
        shortened = getattr(team, "shortened", False)
        growth = self._growth
        if growth is None or size is None or rate <= 0 or not growth.add(size / rate, shortened=shortened):
            return
        self._growth = None
        sign = f"the last {Growth.RUNNING} are {growth.factor:.0f} times the median of those before"
        if growth.shortened >= Growth.SHORTENED:
            sign = f"{growth.shortened} of the last {Growth.MEMORY} had to be shortened"
        warnings.warn(
            f"the updates of this worker have grown: {sign}, at a learning rate of {rate:g}; training is about to "
            "diverge. Lower the rate (half of it to begin with), let it rise from a small one (warm-up), or clip the "
            "gradients (torch.nn.utils.clip_grad_norm_) before step(); said once",
            UserWarning,
            stacklevel=stacklevel,
        )

    def skip(self, problem: Exception, stacklevel: int) -> None:
        """A step was skipped."""
        if self._skip:
            return
        self._skip = True
        warnings.warn(f"{problem} (said once; Optimizer.skipped_steps counts)", UserWarning, stacklevel=stacklevel)
