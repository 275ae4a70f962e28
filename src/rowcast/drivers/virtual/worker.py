"""A worker's worker in a team in virtual time: an ordinary training loop, interleaved with the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from greenlet import getcurrent, greenlet

from rowcast.config import LinkSettings, WorkerSettings
from rowcast.drivers.node_view import NodeView
from rowcast.drivers.virtual.device import Device
from rowcast.drivers.virtual.simulation import Robot, Simulation
from rowcast.errors import LinkLost, LocalProtocolError
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.streams import BatchRule
from rowcast.training import WorkerNode, WorkerState
from rowcast.training.proposal.contribution import Update

__all__ = ["TimeOver", "VirtualWorker"]

Vector = npt.NDArray[np.float32]


class TimeOver(BaseException):
    """Raised in a training loop where it waits while the simulation ends; no error, whether or not it is caught."""


class VirtualWorker(NodeView):
    """What :class:`rowcast.Optimizer` needs from a team, in virtual time.

    The training loop is a plain function. It runs as a coroutine (greenlet) on the thread of the simulation: whenever
    it would wait, the others go on. Its arithmetic takes no virtual time; the device says how long it would have
    taken, and what it hands in is handed in then: :meth:`accumulate` (or :meth:`exchange`, if nothing is handed in)
    lets that time pass. What the loop does before, it does at the start of the iteration.

    Args:
        simulation: where it takes part.
        name: name of the worker.
        device: what its computing costs.
        link: bandwidth of its link, up and down.
        settings, link_settings: see :mod:`rowcast.config`.
        journal: where events are recorded.
        entropy: source of random bytes; a seeded one makes the run repeat.

    Example::

        worker = VirtualWorker(simulation, "robot-0", Device(2.0), (up, down), entropy=random.Random(0).randbytes)
        worker.train(lambda: training_loop(worker))
        simulation.run(3600)
    """

    def __init__(
        self,
        simulation: Simulation,
        name: str,
        device: Device,
        link: tuple[Trace, Trace],
        *,
        entropy: Callable[[int], bytes],
        settings: WorkerSettings | None = None,
        link_settings: LinkSettings | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.name = name
        self.journal = journal or Journal(name)
        self._simulation = simulation
        self._device, self._link = device, link
        self._entropy = entropy
        self._settings = settings
        self.vectors = "host" if settings is None else settings.vectors
        self._link_settings = link_settings
        self._node: WorkerNode | None = None
        self._robot: Robot
        self._loop: greenlet | None = None
        self._ready_at: float | None = None
        self._streams = False
        self._gradients = 0
        self._begun = -1

    def train(self, function: Callable[[], None]) -> None:
        """Run a training loop in this worker, from the next event of the simulation on.

        What it raises comes out of :meth:`Simulation.run`. A loop that is still under way when the simulation ends is
        left where it is; :meth:`stop` ends it.
        """
        if self._loop is not None:
            raise LocalProtocolError(f"{self.name}: a training loop runs in this worker already")
        self._loop = greenlet(function, parent=getcurrent())
        self._simulation.clock.at(self._simulation.clock.now, self._switch)

    def stop(self) -> None:
        """End a training loop that is under way: :class:`TimeOver` is raised where it waits.

        For whoever runs the simulation, when that has ended. What the loop raises meanwhile comes out of here.
        """
        if self._loop:  # begun, and not over
            self._loop.parent = getcurrent()
            with contextlib.suppress(TimeOver):
                self._loop.throw(TimeOver)

    # -- what the optimizer needs (rowcast.optim.TeamLike) ---------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual seconds since the team started."""
        return self._simulation.now

    def start(self, layout: Layout, parameters: npt.NDArray[np.float32]) -> None:
        """Join; returns when the whole team may start."""
        if self._node is not None:
            raise LocalProtocolError("team: started before; a team serves one optimizer")
        self._check_inside()
        self._node = WorkerNode(
            self.name,
            layout,
            parameters,
            settings=self._settings,
            link_settings=self._link_settings,
            journal=self.journal,
            entropy=self._entropy,
        )
        self._node.loop, self._node.holding.home = self.loop, self.home
        self._robot = self._simulation.add(self._node, self._device, *self._link, self._may_compute)
        self._wait()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """While entered, arriving rows wait and :attr:`replica` does not change."""
        self.node.hold()
        try:
            yield
        finally:
            self.node.release()

    def still(self) -> contextlib.nullcontext[None]:
        """While entered neither :attr:`replica` nor :attr:`anticipated` changes: virtual time stands still anyhow."""
        return contextlib.nullcontext()

    def accumulate(self, sources: Sequence[Vector], weight: float, origin: Vector | None = None) -> None:
        """Add ``weight * (origin - sources)`` to what is pending; see :meth:`WorkerNode.accumulate`."""
        self._compute()
        self.node.accumulate(sources, weight, origin)

    def exchange(self, update: Update | None = None, then: Callable[[], None] | None = None) -> None:
        """Finish the iteration: push, gate, pull.

        Args:
            update: accumulated before; as :meth:`accumulate` takes it.
            then: called as soon as the iteration is finished.

        Raises:
            NonFiniteGradient: the update holds NaN or Inf; nothing of it was added, and the iteration is finished.
        """
        self._compute()
        refused = self.node.offer(update)
        self._simulation.computed(self._robot)
        self._wait()
        if refused is not None:
            raise refused
        if then is not None:
            then()

    @property
    def delivered(self) -> int:
        """The newest iteration of which every row is acknowledged; counted as :attr:`finished`."""
        return self.node.arrived

    def supply(self, rule: BatchRule, rate: float | None) -> None:
        """Tell the server what this worker can train on, if that has changed."""
        self.node.supplier.supply(rule, rate)
        self._simulation.attend(self._robot)

    # -- what a stream needs (VirtualStream) -----------------------------------------------------------------------

    def feed(self) -> None:
        """A stream says when a gradient begins, and of how many samples: permission alone begins none."""
        self._streams = True

    def end_gradient(self) -> None:
        """Let the time of the gradient that was begun last pass, if it has not."""
        self._compute()

    def begin_gradient(self, samples: int) -> None:
        """A gradient of so many samples is computed from now on.

        The work of push and pull comes on top, once for each iteration.
        """
        node, device, clock = self.node, self._device, self._simulation.clock
        gradient_s = device.gradient_s(self._gradients, samples)
        self._gradients += 1
        work_s = 0.0
        if self._begun != node.iteration:
            self._begun = node.iteration
            work_s = device.encode_s + (device.decode_s if self._robot.rounds else 0.0)
        self._ready_at = clock.now + work_s + gradient_s

    def wait_until(self, time_s: float) -> None:
        """Let time pass until ``time_s`` seconds after the start of the team; what else happens then comes before."""
        self._check_inside()
        clock = self._simulation.clock
        clock.at(clock.now + (time_s - self.now), self._switch, priority=1)
        self._wait()

    def burden(self, up_bytes: int, down_bytes: int = 0) -> None:
        """So many bytes that are no messages go over this worker's link before the next message of each direction."""
        self._robot.up.burden += up_bytes
        self._robot.down.burden += down_bytes

    def report(self, **metrics: float) -> None:
        """Write figures of the training loop into the journal."""
        self.node.report(self._simulation.clock.now, {name: float(value) for name, value in metrics.items()})

    def note(self, what: str, detail: str) -> None:
        """Write what happened in the task into the journal."""
        self.node.note(self._simulation.clock.now, what, detail)

    def finish(self, wait: bool = True, timeout_s: float | None = None) -> None:
        """Deliver everything, receive everything, say goodbye.

        Raises:
            LinkLost: that took longer than ``timeout_s`` seconds.
        """
        if self._node is None or self.node.over:
            return
        self._check_inside()
        clock = self._simulation.clock
        self.node.finish(clock.now, wait=wait)
        self._simulation.attend(self._robot)
        if timeout_s is not None:
            clock.at(clock.now + timeout_s, self._switch_if_waiting)
        if not self._done:
            self._wait()
        if not self._done:
            self.leave()
            raise LinkLost(f"{self.name}: finishing took longer than {timeout_s:g} s; what was pending is dropped")

    def leave(self) -> None:
        """Go now; what is pending is dropped."""
        if self._node is not None and not self.node.over:
            self.node.leave(self._simulation.clock.now, "left")
            self._simulation.attend(self._robot)

    def abandon(self) -> None:
        """Nothing is to be done: a simulation that is dropped takes all of its workers along."""

    @property
    def _done(self) -> bool:
        return self.node.over

    # -- waiting ---------------------------------------------------------------------------------------------------

    def _compute(self) -> None:
        """Let the time of this iteration's gradient pass, once."""
        self._check_inside()
        if self._ready_at is None or self.node.state is not WorkerState.COMPUTING:
            return
        ready_at, self._ready_at = self._ready_at, None
        self._simulation.clock.at(ready_at, self._switch, priority=1)
        self._wait()

    def _may_compute(self) -> None:
        """The simulation lets this worker go on (or it is done)."""
        clock = self._simulation.clock
        if self.node.state is WorkerState.COMPUTING and not self._streams:
            self._ready_at = clock.now + self._simulation.gradient_s(self._robot)
        clock.at(clock.now, self._switch)

    def _wait(self) -> None:
        """Let the simulation go on until somebody switches back."""
        assert self._loop is not None and self._loop.parent is not None
        self._loop.parent.switch()

    def _check_inside(self) -> None:
        if self._loop is None or getcurrent() is not self._loop:
            raise LocalProtocolError(f"{self.name}: a virtual worker works inside train() only")

    def _switch(self) -> None:
        if self._loop is not None and not self._loop.dead:
            self._loop.parent = getcurrent()  # train() may have been called from another loop
            self._loop.switch()

    def _switch_if_waiting(self) -> None:
        if self.node.state is WorkerState.FINISHING:
            self._switch()
