"""How long a worker looks for a server that is gone, and what it says meanwhile and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowcast.errors import AuthenticationFailed, RemoteProtocolError, RowcastError, ServerUnavailable
from rowcast.training.worker_state import WorkerState

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore

__all__ = ["limit_of", "out_of_time", "waits_for"]


def limit_of(node: WorkerCore) -> float:
    """Seconds without a server after which this worker gives up, whatever it is doing now."""
    settings = node.settings
    if node.state is WorkerState.JOINING:
        return settings.join_limit_s
    return settings.finish_limit_s if node.state is WorkerState.FINISHING else settings.reconnect_limit_s


def out_of_time(node: WorkerCore) -> RowcastError:
    """Why this worker is not connected, when it has tried for as long as its settings say."""
    search, limit_s = node.search, limit_of(node)
    if node.turned_away:
        return RemoteProtocolError(f"the server at {search.address} refused this worker: {node.turned_away}")
    if node.unproven and node.unproven == search.cause:
        return AuthenticationFailed(
            f"{node.name}: {node.unproven}; this worker tried again for {limit_s:g} s. Give both the same "
            f"{'--secret-file' if node.client.secret is not None else 'team (--team)'}, and check the address"
        )
    if node.state is WorkerState.FINISHING:
        return ServerUnavailable(
            f"{node.name}: had finished, and expected the server at {search.address} back within {limit_s:g} s, got: "
            f"{search.cause}; {_left(node)} is lost to the team; raise finish_limit_s where the server or the link "
            "comes back later"
        )
    return ServerUnavailable(
        f"{node.name}: expected a Rowcast server at {search.address} within {limit_s:g} s, got: {search.cause}; "
        "start one with 'rowcast serve', or check the address"
    )


def waits_for(node: WorkerCore, now: float) -> str | None:
    """What a long wait is for, for people; ``None``: who is held at the gate is told by the server."""
    search, state = node.search, node.state
    if state is WorkerState.FINISHING and not node.connected:
        return (
            f"finished, and waiting for the server at {search.address} ({search.cause}) for at most "
            f"{node.settings.finish_limit_s:g} s; without it {_left(node)} is lost to the team"
        )
    if node.awaited:
        return f"waiting for {node.awaited}"
    if not node.connected or node.welcomed_at is None:
        return f"waiting for the server at {search.address}: {search.cause}"
    if state is WorkerState.ASKING:
        return f"waiting for {node.rule.asks_for}"
    if state in (WorkerState.PUSHING, WorkerState.PULLING):
        return f"still {state.value}; the link gives about {node.outbox.meter.rate_bps(now) / 1e6:.3g} Mbit/s"
    return "finished, and waiting for the others to finish too" if state is WorkerState.FINISHING else None


def _left(node: WorkerCore) -> str:
    rows = node.residual.count()
    if not rows:
        return "nothing that was computed here, but what the others compute from now on,"
    return f"what was computed and not delivered ({rows} of {node.layout.rows} rows)"
