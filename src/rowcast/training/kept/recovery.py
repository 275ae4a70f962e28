"""How a worker goes on from what was kept: at once in what it holds, and once it is welcomed in what is pending."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rowcast.errors import LinkLost
from rowcast.training.kept.replay import Replay
from rowcast.training.rules import worker_rule
from rowcast.training.steps import Step
from rowcast.training.worker_state import WorkerState
from rowcast.wire import Welcome

if TYPE_CHECKING:
    from rowcast.training.core import WorkerCore

__all__ = ["Recovery"]


class Recovery:
    """A worker between its start and the first welcome.

    Args:
        node: a new worker that has not been connected yet; it is given what was kept.
        replay: what was kept; taken over.
        age_s: seconds since the picture was taken.
    """

    def __init__(self, node: WorkerCore, replay: Replay, age_s: float) -> None:
        self._node = node
        self._replay = replay
        self._age_s = age_s
        picture = replay.picture
        progress = picture.progress
        node.load_replica(replay.replica)
        node.computed[:] = picture.computed
        node.iteration = replay.iteration
        node.positions = node.next_positions = node.resumed_positions = progress.positions
        node.inbox.received = replay.received
        node.delivered.restore(progress.finished, replay.iteration)
        node.contribution.restore(
            progress.size, progress.weight, progress.inner_lr, progress.trust, picture.vectors.get("velocity")
        )
        node.client.restore(replay)
        resumes = replay.joined and not replay.finishing and worker_rule(node.rule_of(progress.policy)).resumes
        node.client.anew = not resumes
        self._put()

    def pending_if(self, received: int | None) -> npt.NDArray[np.float64]:
        """What is pending if the server has applied so many frames, or is not known to have; float64 [elements]."""
        return self._replay.pending_if(received).astype(np.float64)

    def welcomed(self, now: float, welcome: Welcome) -> None:
        """The server tells what it has applied: from here on the worker goes on like any other.

        Raises:
            LinkLost: it knows less than it had acknowledged; the worker comes back, and joins anew.
        """
        node, replay = self._node, self._replay
        received, resumes = welcome.received, welcome.how == "resume"
        if received < replay.acknowledged:
            if resumes:
                node.client.anew = True
                raise LinkLost(
                    f"the server had acknowledged {replay.acknowledged} frames and knows of {received}: joining anew"
                )
            received = replay.acknowledged
        replay.settle(received)
        self._put()
        node.recovery = None
        self._find_data(welcome)
        if resumes:
            node.state = WorkerState.WAITING  # the exchange of the newest iteration is under way, or is made once more
            node.step = Step(started=now - replay.picture.progress.interval_s, proposed=now)
            node.read_own_writes()
        self._tell(now, resumes)

    def _put(self) -> None:
        node, replay = self._node, self._replay
        node.residual.restore(replay.pending, replay.stamps, replay.left)
        node.outbox.sent_frames = replay.sent

    def _find_data(self, welcome: Welcome) -> None:
        """Where the data goes on: behind the picture, or further where what came after it is wholly in the parameters.

        A server that remembers it names the last iteration whose push was whole.
        """
        node = self._node
        if welcome.positions in self._replay.positions and welcome.positions:
            node.positions = node.next_positions = node.resumed_positions = welcome.positions

    def _tell(self, now: float, resumes: bool) -> None:
        node, lost = self._node, self._replay.lost
        rows = int(lost.rows.sum())
        node.journal.record(
            now,
            "recovered",
            iteration=node.iteration,
            how="resumed" if resumes else "joined",
            age_s=round(self._age_s, 3),
            lost_iterations=lost.iterations,
            lost_rows=rows,
            lost=round(lost.size, 9),
            cause=lost.cause,
        )
        text = f"{node.name}: goes on where its process was killed, at iteration {node.iteration}"
        if lost.iterations:
            text += f"; of the last {lost.iterations} iterations, what had not been delivered is lost"
        if lost.cause:
            text += f"; what was pending is lost: {lost.cause}"
        node.notices.append(text)
