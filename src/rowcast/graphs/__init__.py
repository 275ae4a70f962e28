"""Models as graphs of operators: their tensors, which rows an operator reads for which, and what each costs.

Nothing here knows PyTorch. A :class:`Graph` says what is computed from what, the row rules of its operators
(:class:`Window` and others) how far an operator gets with the first rows of its input, a :class:`Profile` how long
each operator takes on the robot and on the server.
"""

from __future__ import annotations

from rowcast.graphs.files import load_profile, save_profile
from rowcast.graphs.graph import Graph, Op
from rowcast.graphs.profile import Profile
from rowcast.graphs.rules import RULES, Barrier, Identity, Resize, RowRule, RunningSum, Transposed, Window

__all__ = [
    "RULES",
    "Barrier",
    "Graph",
    "Identity",
    "Op",
    "Profile",
    "Resize",
    "RowRule",
    "RunningSum",
    "Transposed",
    "Window",
    "load_profile",
    "save_profile",
]
