"""The PyTorch face of a team: an optimizer whose parameters move only by what the team agrees on."""

from rowcast.optim.optimizer import Optimizer
from rowcast.optim.team import TeamLike

__all__ = ["Optimizer", "TeamLike"]
