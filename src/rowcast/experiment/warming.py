"""Compiled kernels before the clock runs: what is slow the first time is slow before an experiment begins."""

from __future__ import annotations

import numpy as np

from rowcast.rows import Layout
from rowcast.testing import ScriptedWorker, VirtualTeam

__all__ = ["compile_kernels"]

_LAYOUT = Layout.from_shapes([("block", (60, 50)), ("bias", (60,))])


def compile_kernels(policy: str) -> None:
    """Let a small team train with a policy in virtual time: the kernels of its nodes are compiled and kept.

    Processes that are started later find them where numba keeps them, in a folder of the package or of the user.

    Raises:
        ConfigError: no such policy.
    """
    scripts = [
        ScriptedWorker(f"robot-{index}", lambda step, replica: np.full_like(replica, 1e-3), 3, rate_bps=1e5)
        for index in range(2)
    ]
    VirtualTeam(_LAYOUT, policy, scripts).run()
