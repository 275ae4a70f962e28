"""What the optimizer needs from a team; numpy only, no driver is named here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rowcast.delivery.residual import Stored
from rowcast.rows import Layout
from rowcast.streams import BatchRule
from rowcast.training.proposal.contribution import Update

__all__ = ["NoStopwatch", "Stopwatch", "StreamTeam", "TeamLike", "Update"]

Vector = npt.NDArray[np.float32]


class Stopwatch(Protocol):
    """Measures what the training thread works for Rowcast. The optimizer tells it; there is no clock here."""

    def ours(self) -> AbstractContextManager[None]:
        """What is done while this is entered is Rowcast's work."""

    def not_ours(self) -> AbstractContextManager[None]:
        """The same, except for what is done while this is entered."""


class NoStopwatch:
    """Stands for one at a team that has none."""

    def ours(self) -> AbstractContextManager[None]:
        return nullcontext()

    def not_ours(self) -> AbstractContextManager[None]:
        return nullcontext()


class TeamLike(Protocol):
    """A worker's place in a team, as the optimizer sees it.

    The socket driver's ``Team`` is one; a test may bring its own of thirty lines. All vectors are flat
    float32 in layout order. A step meets the team once, in ``exchange``, where it may go on at once, and otherwise
    twice: in ``exchange`` (or ``accumulate``), and in ``still``, which may be entered at any time, also after an error
    or after ``finish``.

    A team may also have

    - ``policy``, a :class:`rowcast.sync.Policy` or ``None``: the optimizer warns where its inner one does not suit it;
    - ``expected``, the replica less what this worker has sent and not been sent back: where something is anticipated,
      the next gradient is computed from there;
    - ``expected_in``, which returns the same and may write it into the vector that it is given: it is not kept then;
    - ``loop``, a :class:`rowcast.training.memory.Loop`, which the optimizer sets before ``start``; ``lean``, whether to
      count steps from ``replica`` and keep no copy of it, and ``moved``, whether rows have moved it meanwhile;
    - ``vectors``, which is "host" or "device" as :attr:`rowcast.config.WorkerSettings.vectors`, and ``home``, a
      :class:`rowcast.delivery.placed.Home` or ``None``, which the optimizer sets before ``start`` where it is "device";
      then also ``placed``, the worker's vectors there (:class:`rowcast.delivery.placed.Placed`) or ``None``, and
      ``leave_home(cause)``, called in ``still``, which takes them to host memory;
    - ``contributed``, sum |.| of what this worker's last iteration contributed, and ``shortened``, whether that was
      less than what it computed: the optimizer warns where they are as they are when training diverges;
    - ``keep``, called once behind ``start`` with a function that gives what belongs to this worker's state beside the
      parameters, a :class:`rowcast.training.kept.Extras`; it returns what was kept of another life, or ``None``; and
      ``restored``, the iteration from which it goes on, or ``None``;
    - ``own_time``, a :class:`Stopwatch` of what the training thread works for Rowcast;
    - ``inner_momentum`` and ``inner_lr``, which the optimizer sets before each step: what the inner momentum carries on
      is no progress, and an update that is large because the rate is is not suspicious.
    """

    @property
    def replica(self) -> npt.NDArray[np.float32]:
        """This worker's parameters, float32 [layout.elements]: the only source of truth for them."""

    @property
    def anticipated(self) -> tuple[Stored, npt.NDArray[np.float32]] | None:
        """What is to be subtracted from ``replica``, or ``expected``, for the parameters of the next gradient.

        What this worker has computed and not sent, float32 [layout.elements], and how often each row of it, float32
        [layout.rows]; ``None`` where the team's policy has gradients computed from the replica.
        """

    @property
    def members(self) -> int:
        """How many workers are active now."""

    @property
    def leads(self) -> bool:
        """Whether what this worker makes of the buffers is the team's; asked for where their rule is "first" only."""

    @property
    def iteration(self) -> int:
        """How many iterations this worker has finished."""

    @property
    def local_steps(self) -> int:
        """Optimizer steps for each iteration: 1, or more where the team's policy has local steps; known once joined."""

    def start(self, layout: Layout, parameters: npt.NDArray[np.float32]) -> None:
        """Join the team; block until joined.

        Args:
            layout: the rows of the model; must agree with that of the team.
            parameters: float32 [layout.elements], taken over as the replica (not copied). On return the
                replica holds the team's values.
        """

    def still(self) -> AbstractContextManager[object]:
        """While the returned context is entered nothing changes, neither ``replica`` nor ``anticipated``: be quick."""

    def accumulate(self, sources: Sequence[Vector], weight: float, origin: Vector | None = None) -> None:
        """Add ``weight * (origin - sources)`` to what is pending; finish no iteration, send nothing.

        Args:
            sources: the proposed parameters: per tensor of the layout, in order, one flat C-contiguous
                float32 array. Collect a list, but no other sequence: it may make its items on demand.
            weight: averaging weight, 1 / K in a team of K.
            origin: from where the sources were made, float32 [layout.elements]; ``None``: from ``replica`` as it is.

        Raises:
            NonFiniteGradient: a source holds NaN or Inf; nothing was added. The message names the tensor.
        """

    def exchange(self, update: Update | None = None, then: Callable[[], None] | None = None) -> None:
        """Finish the iteration: push, gate, pull. Blocks; afterwards ``replica`` holds what arrived.

        Args:
            update: accumulated before.
            then: called on this thread as soon as the iteration is finished, as if in ``still``; not called where the
                update was refused, or the wait ended with an error.

        Raises:
            NonFiniteGradient: the update was refused, as by ``accumulate``; the iteration is finished without it.
        """

    def report(self, **metrics: float) -> None:
        """Write figures of the training loop (loss, accuracy) into the journal."""

    def note(self, what: str, detail: str) -> None:
        """Write into the journal that something happened in the task.

        Args:
            what: the same text for all events of a kind; a word or two.
            detail: what differs from one to the next.
        """

    def finish(self, wait: bool = True, timeout_s: float | None = None) -> None:
        """Say that this worker has done its last iteration, and deliver what is pending.

        Args:
            wait: also wait until all replicas agree.
            timeout_s: longest wait in seconds; None waits without limit.
        """

    def leave(self) -> None:
        """Go now; what is pending is dropped, and nobody waits for this worker any more."""

    def abandon(self) -> None:
        """The same for an optimizer that was dropped without ``close()``.

        The garbage collector calls this, on any thread in the middle of anything: it must not wait.
        """


class StreamTeam(TeamLike, Protocol):
    """A worker's place in a team where its data is a stream: what :class:`rowcast.StreamLoader` needs beside."""

    @property
    def finished(self) -> int:
        """Iterations that the training loop has finished; counted from 1, whatever numbers the team gives them."""

    @property
    def delivered(self) -> int:
        """The newest of them of which every row is acknowledged, and with it all before."""

    @property
    def share(self) -> int | None:
        """This worker's share of the team's batch (samples); ``None`` before the server has told it."""

    @property
    def team_rate(self) -> float:
        """Samples a second that all who share the team's batch can train on; 0 before the server has told it."""

    @property
    def resumed_positions(self) -> bytes:
        """How far this worker's data was read that was in the team's parameters when it joined, where pushes are whole;
        empty: nobody knows."""

    def read_to(self, positions: bytes) -> None:
        """The data of the iteration that is finished next reaches up to there.

        Raises:
            ConfigError: it takes more bytes than a message has room for.
        """

    def fed(self, samples: int, starve_s: float, queued: int, dropped: int, age_s: float) -> None:
        """A batch of a stream is there for the step that is under way.

        Args:
            samples: of the batch.
            starve_s: seconds in which the training loop waited for them.
            queued: the most samples that waited at one time since the batch before.
            dropped: samples that were not trained on since then.
            age_s: mean seconds from the arrival of a sample until now.
        """

    def supply(self, rule: BatchRule, rate: float | None) -> None:
        """Tell the server what this worker can train on, if that has changed.

        Args:
            rule: of its batches.
            rate: that its stream allows (samples/s), see :meth:`rowcast.streams.Feed.supply`; ``None``: not known yet.
        """
