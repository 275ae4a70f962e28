"""All drivers under the one conformance suite."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from live import IMPATIENT, LIMIT_S
from rowcast.drivers.sockets import Endpoint, Server, Team
from rowcast.drivers.virtual import Device, Simulation, VirtualSeat
from rowcast.links import Trace
from rowcast.testing import check_driver


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
    """Each worker in a virtual seat, with a device and a rate of its own."""
    simulation = Simulation(node, delay_s=delay_s)
    entropy = random.Random(0).randbytes
    for index, (name, train) in enumerate(loops.items()):
        rate = Trace.constant(2e5 * (index + 1))
        device = Device(0.5 + index, spread=0.3, seed=index)
        seat = VirtualSeat(
            simulation, name, device, rate, rate, entropy=entropy, settings=IMPATIENT, link_settings=links
        )
        seat.train(lambda train=train, seat=seat: train(seat))
    simulation.run(10_000.0)
    assert simulation.finished, {name: robot.node.phase for name, robot in simulation.robots.items()}


def with_delay(node, links, loops):
    in_virtual_time(node, links, loops, delay_s=0.05)


@pytest.mark.parametrize("run_team", [over_sockets, in_virtual_time, with_delay])
def test_driver_conforms(run_team):
    check_driver(run_team)
