"""How long a worker looks for a server that is gone, and what it says meanwhile and then."""

from __future__ import annotations

import numpy as np

from rowcast.config import WorkerSettings
from rowcast.rows.kernels import row_abs_sums
from rowcast.training import Phase, WorkerNode

__all__ = ["limit_of", "undelivered", "why_given_up"]


def limit_of(node: WorkerNode, settings: WorkerSettings) -> float:
    """Seconds without a server after which this worker gives up, whatever it is doing now."""
    if node.phase is Phase.JOINING:
        return settings.join_limit_s
    return settings.finish_limit_s if node.phase is Phase.FINISHING else settings.reconnect_limit_s


def why_given_up(node: WorkerNode, address: str, cause: str, settings: WorkerSettings) -> str:
    """The sentence for a worker whose limit is over."""
    limit_s = limit_of(node, settings)
    if node.phase is Phase.FINISHING:
        return (
            f"{node.name}: had finished, and expected the server at {address} back within {limit_s:g} s, got: {cause}; "
            f"{_left(node)} is lost to the team; raise finish_limit_s where the server or the link comes back later"
        )
    return (
        f"{node.name}: expected a Rowcast server at {address} within {limit_s:g} s, got: {cause}; "
        "start one with 'rowcast serve', or check the address"
    )


def undelivered(node: WorkerNode, address: str, cause: str, settings: WorkerSettings) -> str:
    """What a worker that has finished waits for without a server."""
    return (
        f"finished, and waiting for the server at {address} ({cause}) for at most {settings.finish_limit_s:g} s; "
        f"without it {_left(node)} is lost to the team"
    )


def _left(node: WorkerNode) -> str:
    sums = np.empty(node.layout.rows, dtype=np.float32)
    row_abs_sums(node.pending, node.layout.offsets, sums)
    rows = int(np.count_nonzero(sums))
    if not rows:
        return "nothing that was computed here, but what the others compute from now on,"
    return f"what was computed and not delivered ({rows} of {node.layout.rows} rows)"
