"""What the training loop asks of a worker: add what was computed, finish the iteration, finish the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rowcast.delivery.placed import Placed
from rowcast.delivery.residual import Stored
from rowcast.errors import ConfigError, LocalProtocolError, NonFiniteGradient
from rowcast.session.figures import LONGEST_NAME, MOST_REPORTED, keep
from rowcast.session.texts import shorten
from rowcast.training.core import WorkerCore
from rowcast.training.kept.notes import Finished, Finishing
from rowcast.training.patience import waits_for
from rowcast.training.proposal.contribution import Update
from rowcast.training.proposal.relayed_writes import RelayedWrites
from rowcast.training.steps import Fed, Thinned
from rowcast.training.worker_state import WorkerState
from rowcast.wire import Leave
from rowcast.wire.fields import MAX_PLACES

__all__ = ["WorkerLoop", "shared_part"]


#: Noise over signal, in power, that a single gradient is taken to have.
NOISE = 2.0


def shared_part(momentum: float) -> float:
    """How much of a worker's fresh contribution the others are expected to have as well, 0 .. 1.

    The signal's share of the power of an exponential average of gradients: the average has as much signal as each of
    them, and (1 - momentum) / (1 + momentum) of the noise. With the same signal at all workers and noise of their own
    it is the best linear prediction of another one's contribution.

    Args:
        momentum: decay of the average, 0 .. 1.
    """
    return (1 + momentum) / (1 + momentum + NOISE * (1 - momentum))


class WorkerLoop(WorkerCore):
    """The training loop's side of a worker; see :class:`rowcast.training.WorkerNode` for the arguments."""

    def hold(self) -> None:
        """Arriving rows wait until :meth:`release`, so that the replica does not move."""
        self._replica.hold()

    def release(self) -> None:
        """Apply the rows that arrived since :meth:`hold`."""
        self._replica.release()

    @property
    def anticipated(self) -> tuple[Stored, npt.NDArray[np.float32]] | None:
        """How far beyond :attr:`expected` the next gradient is computed: a vector, and how often to subtract its rows.

        What is pending, as it is held, and float32 [rows]: once, and of what is fresh as
        much more as the others may be expected to have (:func:`shared_part` for each of their shares; algorithms.md
        8.3). Where rows are drawn at random each counts as often as leads to the parameters that are this worker's own.
        ``None`` where the policy has gradients computed from the replica, and when the work is done.
        """
        policy = self.policy
        if policy is None or policy.anticipate == "off" or self.state is WorkerState.DONE:
            return None
        rows, times = self.layout.rows, 1.0 / self.contribution.weight
        if policy.anticipate == "own" or policy.sampled:
            return self.residual.stored, np.full(rows, times if policy.sampled else 1.0, dtype=np.float32)
        others = np.float32(max(times - 1.0, 0.0) * shared_part(self.inner_momentum))
        each = np.float32(1.0) + others * self.residual.fresh()
        own_writes = self._replica.own_writes
        if not isinstance(own_writes, RelayedWrites):
            return self.residual.stored, each
        # Below a relay the others' part of what was sent is on its way for as long as the own one, which is expected
        # once already.
        return self.pending + own_writes.away() * np.repeat(others / each, self.layout.lengths), each

    @property
    def expected(self) -> npt.NDArray[np.float32]:
        """The replica, with this worker's own contributions that are on their way where the policy reads them."""
        own_writes = self._replica.own_writes
        return self.replica if own_writes is None else own_writes.expected

    @property
    def placed(self) -> Placed | None:
        """The vectors of this worker where they do not lie in host memory; ``None``: they do."""
        return self.holding.placed

    def expected_in(self, room: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """:attr:`expected`; where it is not kept, written into ``room``, float32 [elements], which is returned."""
        own_writes = self._replica.own_writes
        return self.replica if own_writes is None else own_writes.expected_in(room)

    def waits_for(self, now: float) -> str | None:
        """What a long wait of the training loop is for, for people; ``None``: the server says it."""
        return waits_for(self, now)

    @property
    def server_life(self) -> bytes:
        """The life of the server that let this worker in last; empty before one did."""
        return self.client.server

    @property
    def local_steps(self) -> int:
        """Optimizer steps for each iteration, from the server's policy; 1 before the server has told it."""
        return 1 if self.policy is None else self.policy.local_steps

    def accumulate(
        self,
        sources: Sequence[npt.NDArray[np.float32]],
        weight: float,
        origin: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Add ``weight * (origin - sources)`` to pending; no iteration is finished by it.

        ``origin`` is from where the sources were made; ``None``: from the replica as it is. Where that is the replica
        itself (:attr:`lean`), and it has moved since the exchange before, nobody knows any more where they were made:
        this worker has joined anew meanwhile. Then nothing is added, and a notice says so.

        The policy's outer learning rate and momentum come in here. See
        :meth:`rowcast.training.proposal.replica.Replica.propose` for shapes and errors.
        """
        self.holding.settle()
        if self.moved and self.placed is None and origin is self.replica:
            self.notices.append(
                f"{self.name}: the team's parameters came anew while a step was computed; to save memory nothing was "
                "kept of those that it began from, and it makes no contribution"
            )
            return
        self.contribution.add(self.policy, sources, weight, origin)

    def offer(self, update: Update | None) -> NonFiniteGradient | None:
        """:meth:`accumulate` an update, if there is one; why it was refused, or ``None``."""
        try:
            if update is not None:
                self.accumulate(*update)
        except NonFiniteGradient as error:
            return error
        return None

    def accumulate_rows(self, amounts: npt.NDArray[np.float32]) -> None:
        """Add an amount to each row of a timing-only layout: an update of which only the sizes matter.

        Args:
            amounts: importance of what was computed, float32 [rows], >= 0; a row with 0 has nothing to send.

        Raises:
            LocalProtocolError: the layout has content.
        """
        self.contribution.add_rows(amounts, 1 / self.members)

    def fed(
        self,
        samples: int,
        starve_s: float,
        queued: int,
        dropped: int,
        age_s: float,
        exposed: int = 0,
        exposed_bytes: int = 0,
    ) -> None:
        """A stream gave a batch to the step that is under way; of several batches of one step it is the sum.

        Args:
            samples: that it is computed on, those of others included.
            starve_s: seconds in which the training loop waited for them; they are not of its computation.
            queued: the most samples that waited at one time since the batch before.
            dropped: samples that nobody was trained on since then.
            age_s: mean seconds from the arrival of a sample until its batch began.
            exposed: samples that were given to others, each as often as somebody got it.
            exposed_bytes: bytes of those.
        """
        fed = self.step.fed = self.step.fed or Fed()
        fed.samples += samples
        fed.starve_s += starve_s
        fed.queued = max(fed.queued, queued)
        fed.dropped += dropped
        fed.waited_s += age_s * samples
        fed.exposed += exposed
        fed.exposed_bytes += exposed_bytes

    def thinned(self, floats: int, elements: int, *, compressed: bool) -> None:
        """Top-k took from a gradient of the step that is under way; of several gradients of one step it is the sum.

        Args:
            floats: numbers of it that would be sent, an index counted as one; 0 where it could not be used.
            elements: of the gradient.
            compressed: whether only its largest elements are; of several gradients all must be.
        """
        thinned = self.step.thinned = self.step.thinned or Thinned()
        thinned.floats += floats
        thinned.gradient_floats += elements
        thinned.compressed = thinned.compressed and compressed

    @property
    def arrived(self) -> int:
        """The newest of its iterations, counted from 1 as the loop finished them, that the server holds as a whole.

        One whose exchange is under way is not: where pushes count whole, rows that are acknowledged count at the end of
        their push.
        """
        return min(self.delivered.newest(), self.delivered.finished - (1 if self.exchanging else 0))

    def read_to(self, positions: bytes) -> None:
        """The data of the iteration that is finished next reaches up to there; one that is under way has its own.

        Raises:
            ConfigError: it takes more bytes than a message has room for.
        """
        if len(positions) > MAX_PLACES:
            raise ConfigError(
                f"source: expected positions of its partitions in at most {MAX_PLACES} bytes, got {len(positions)}: "
                "read fewer partitions, or give them shorter names"
            )
        self.next_positions = positions

    def exchange(self, now: float) -> None:
        """Finish the iteration: push, then wait at the gate, then pull. :attr:`state` is COMPUTING when done.

        Where the policy gives slots, both push and pull wait for one.

        An iteration in which nothing was accumulated counts as well: nobody waits for it.

        Raises:
            LocalProtocolError: an exchange is under way, or the worker has not joined.
        """
        if self.state is not WorkerState.COMPUTING:
            raise LocalProtocolError(f"exchange: expected a worker that computes, it is {self.state.value}")
        self.iteration += 1
        self.delivered.finish(self.iteration)
        self.positions = self.next_positions
        self.step.proposed = now
        if self.step.fed is not None:
            self.supplier.worked(self.step.fed.samples, self.step.compute_s)
        self.step.skipped = not self.contribution.end(self.policy)
        if self.notebook is not None:
            size = 0.0 if self.step.skipped else self.contribution.size
            self.notebook.note(Finished(self.iteration, size, self.positions))
            if self.joined and not self.holds:
                self.notebook.turn(now, self)
        self.rule.exchange(now)

    def finish(self, now: float, *, wait: bool = True) -> None:
        """Deliver everything, receive everything, say goodbye. :attr:`state` is DONE when done.

        Where the policy lets what is pending decay, the rest of it is dropped instead of delivered.

        Args:
            now: time (s).
            wait: stay until the others have finished too, so that all end with the same parameters.
        """
        if self.state is not WorkerState.COMPUTING:
            raise LocalProtocolError(f"finish: expected a worker between two steps, it is {self.state.value}")
        self.contribution.drop(self.policy)
        if self.notebook is not None:
            self.notebook.note(Finishing())
        self.state = WorkerState.FINISHING
        self.search.again_from(now)  # it looks for the server anew, however long that was gone before
        self._finish_wait = wait
        self._drain(now)

    def leave(self, now: float, cause: str) -> None:
        """Go at once; what is pending is not delivered.

        Where the state is kept no goodbye is said: the server keeps this worker's place, as after a crash.
        """
        if self.link is not None:
            if self.notebook is None:
                self.link.say(Leave(shorten(cause)))
            self.link.closing = True
        self.state = WorkerState.DONE
        self.journal.record(now, "end", cause=cause)

    def report(self, now: float, metrics: Mapping[str, float]) -> None:
        """Tell the journal and the server's display a few numbers, by their names."""
        left_out = keep(self.metrics, metrics, MOST_REPORTED)
        if left_out and not self._metrics_left_out:
            self._metrics_left_out = True
            what = f"figures under further names: {left_out[0][:LONGEST_NAME]!r} ..."
            why = f"expected at most {MOST_REPORTED} names of {LONGEST_NAME} characters; the journal has all of them"
            self.journal.record(now, "dropped", peer=self.name, what=what, why=why)
            self.notices.append(f"{self.name}: the server's display is not told {what}: {why}")
        for name, value in metrics.items():
            self.journal.record(now, "metric", iteration=self.iteration, name=name, value=value)

    def note(self, now: float, what: str, detail: str) -> None:
        """Tell the journal what happened in the task; texts that are too long are cut."""
        what = shorten(what, LONGEST_NAME)
        self.journal.record(now, "task", iteration=self.iteration, what=what, detail=shorten(detail))
