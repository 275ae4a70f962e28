"""All drivers under the one conformance suite."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading

import pytest
from greenlet import greenlet

from live import IMPATIENT, LIMIT_S
from rowcast.drivers.node_view import NodeView
from rowcast.drivers.sockets import Endpoint, Server, Team
from rowcast.drivers.virtual import Device, Simulation, VirtualWorker
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.testing import ScriptedWorker, VirtualTeam, check_driver
from rowcast.training import WorkerState


def over_sockets(node, links, loops):
    """Each worker in a thread, the server on a loop of its own, on loopback."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(LIMIT_S)

    server = Server(node, "127.0.0.1", 0)
    errors = []

    def work(name, train):
        team = Team(Endpoint("127.0.0.1", server.port), name=name, settings=IMPATIENT, link_settings=links)
        try:
            train(team)
        except BaseException as error:
            errors.append(error)
            team.leave()

    try:
        call(server.start())
        workers = [threading.Thread(target=work, args=item, daemon=True) for item in loops.items()]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(LIMIT_S)
            assert not worker.is_alive(), "a worker hangs"
        call(server.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT_S)
        loop.close()
    if errors:
        raise errors[0]


def in_virtual_time(node, links, loops, delay_s=0.0):
    """Each worker in a virtual worker, with a device and a rate of its own."""
    simulation = Simulation(node, delay_s=delay_s)
    entropy = random.Random(0).randbytes
    for index, (name, train) in enumerate(loops.items()):
        rate = Trace.constant(2e5 * (index + 1))
        device = Device(0.5 + index, spread=0.3, seed=index)
        worker = VirtualWorker(
            simulation, name, device, (rate, rate), entropy=entropy, settings=IMPATIENT, link_settings=links
        )
        worker.train(lambda train=train, worker=worker: train(worker))
    simulation.run(10_000.0)
    assert simulation.finished, {name: robot.node.state for name, robot in simulation.robots.items()}


def with_delay(node, links, loops):
    in_virtual_time(node, links, loops, delay_s=0.05)


class ScriptedSeat(NodeView):
    """A worker of a virtual team whose training is a loop, and not a script."""

    def __init__(self, team, name, train, rate_bps):
        self.team, self.name, self.rate_bps = team, name, rate_bps
        self.reached = lambda: True
        self.loop = greenlet(lambda: train(self))

    def _wait(self, reached):
        self.reached = reached
        self.loop.parent.switch()

    def start(self, layout, parameters):
        self.team.layout = layout
        self.team.start(ScriptedWorker(self.name, None, 0, rate_bps=self.rate_bps, delay_s=0.01, initial=parameters))
        self.worker = self.team.workers[self.name]
        self._node = self.worker.node
        self._wait(lambda: self.node.state is not WorkerState.JOINING)

    @contextlib.contextmanager
    def hold(self):
        self.node.hold()
        yield
        self.node.release()

    def accumulate(self, sources, weight):
        self.node.accumulate(sources, weight)

    def exchange(self):
        ready_at = self.team.now + 0.1
        self.team.at(ready_at, lambda: None)
        self._wait(lambda: self.team.now >= ready_at)
        self.node.exchange(self.team.now)
        self.team.attend(self.worker)
        self._wait(lambda: not self.node.exchanging)

    def finish(self):
        self.node.finish(self.team.now)
        self.team.attend(self.worker)
        self._wait(lambda: self.node.state is WorkerState.DONE)

    def leave(self):
        self.node.leave(self.team.now, "left")
        self.team.attend(self.worker)


class LoopedTeam(VirtualTeam):
    """A virtual team around a given server; its workers do what their workers have them do."""

    def __init__(self, node, links):
        self._given = node
        super().__init__(Layout.from_shapes([("none", (1,))]), node.policy.name, [], link_settings=links)

    def _new_server(self):
        return self._given

    def _changed(self, worker):
        if worker.node.failure is not None:
            raise worker.node.failure


def in_the_scripted_team(node, links, loops):
    """The engine with real bytes; the last bytes may still be on their way when the loops have ended."""
    team = LoopedTeam(node, links)
    workers = [ScriptedSeat(team, name, train, 2e5 * (k + 1)) for k, (name, train) in enumerate(loops.items())]
    while running := [worker for worker in workers if not worker.loop.dead]:
        if ready := [worker for worker in running if worker.reached()]:
            for worker in ready:
                worker.loop.switch()
        else:
            assert team.clock.next < 10_000.0, {worker.name: worker.node.state for worker in running}
            team.clock.step()
    ends = team.now + 1.0
    while team.clock.next <= ends:
        team.clock.step()


@pytest.mark.parametrize("run_team", [over_sockets, in_virtual_time, with_delay, in_the_scripted_team])
def test_driver_conforms(run_team):
    check_driver(run_team)
