"""A robot whose process forks: workers of a DataLoader, a sweep that trains in children, a child that outlives it.

What forks runs in a process of its own (this file as a script): the tests' own process has threads that others made.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from live import IMPATIENT, LAYOUT, LIMIT_S, LiveServer, eventually, propose, python, start_of
from rowcast.drivers.sockets import Endpoint, Shaper, Team
from rowcast.errors import LocalProtocolError
from rowcast.links import Trace

#: Sums of whole numbers are exact with these.
POLICIES = ("bsp?codec=raw", "rog:4?codec=raw", "rowcast?codec=raw&auto_lr=off&refine=off&adapt=off")


def part(name, *arguments, **variables):
    """Starts a function of this file in a process of its own."""
    path = os.pathsep.join(sys.path)
    return python(Path(__file__), name, *arguments, env={**os.environ, **variables, "PYTHONPATH": path})


def ended(process):
    try:
        out, err = process.communicate(timeout=3 * LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate(timeout=LIMIT_S)
    complaints = [line for line in err.splitlines() if "parameters" not in line]  # whose they are is said at each start
    assert (process.returncode, complaints) == (0, []), (process.returncode, out, err)
    return out


# -- a place in a team belongs to the process that took it ------------------------------------------------------------


@pytest.mark.system
@pytest.mark.parametrize("policy", POLICIES)
def test_children_leave_the_parents_seat_alone_and_train_in_their_own(policy):
    """As in a sweep that forks: both end well, and what both have computed is in the parameters of both."""
    with LiveServer(policy, expected_workers=1) as server:
        steps = int(ended(part("train_and_fork", server.port)))
        assert sorted(server.node.frames_applied) == ["child", "parent"]
        assert not server.events("resume"), "a connection was cut"
        assert not server.events("error")
        assert server.ask(lambda node: np.array_equal(node.parameters, start_of() - steps))


def train_and_fork(port):
    team = Team(Endpoint("127.0.0.1", int(port)), name="parent", settings=IMPATIENT)
    team.start(LAYOUT, start_of())
    train(team, 3)
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            sweep(team, int(port))
            status = 0
        os._exit(status)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        train(team, 1)
    assert ended == (child, 0)
    print(team.iteration + 2)
    team.finish()


def sweep(parents, port):
    """What the child does: it may not use its parent's place in the team, may leave it, and takes one of its own."""
    for use in (lambda: propose(parents, 1), parents.exchange, parents.finish, lambda: parents.report(loss=1.0)):
        with pytest.raises(LocalProtocolError, match="spawn"):
            use()
    with pytest.raises(LocalProtocolError, match="spawn"), parents.still():
        pass
    parents.leave()
    team = Team(Endpoint("127.0.0.1", port), name="child", settings=IMPATIENT)
    team.start(LAYOUT, start_of())
    train(team, 2)
    team.finish(wait=False)


def train(team, steps):
    for _ in range(steps):
        propose(team, 1)
        team.exchange()


# -- a copy of a connection --------------------------------------------------------------------------------------------


@pytest.mark.system
@pytest.mark.parametrize("shaped", ["", "shaped"])
def test_a_child_that_outlives_its_robot_does_not_hide_its_death(shaped):
    """The server sees the end of the connection; it used to find out by the silence."""
    with LiveServer("rog:4", expected_workers=1) as server:
        robot = part("fork_and_wait", server.port, shaped)
        child = int(robot.stdout.readline())
        try:
            assert server.member("robot", "link") is not None
            robot.kill()
            lost = eventually(lambda: server.events("link_down", peer="robot"))
            assert "nothing" not in lost[0]["cause"]
            os.kill(child, 0)  # it is still there
        finally:
            os.kill(child, signal.SIGKILL)
            robot.communicate(timeout=LIMIT_S)


def fork_and_wait(port, shaped):
    address = ("127.0.0.1", int(port))
    if shaped:
        shaper = Shaper(*address, up=Trace.constant(1e9), down=Trace.constant(1e9))
        address = shaper.address
    team = Team(Endpoint(*address), name="robot", settings=IMPATIENT)
    team.start(LAYOUT, start_of())
    child = os.fork()
    if child:
        print(child, flush=True)
    threading.Event().wait()


@pytest.mark.system
def test_a_child_of_the_server_does_not_keep_its_port():
    """Another server can listen there, and nobody connects to one that is gone."""
    with LiveServer() as other:
        port = int(ended(part("serve_and_fork", other.port)))
    assert port


def serve_and_fork(_):
    with LiveServer() as server:
        port = server.port
        ours, theirs = os.pipe()
        runs, tells = os.pipe()
        child = os.fork()
        if not child:
            os.close(theirs)
            os.write(tells, b"1")
            os.read(ours, 1)
            os._exit(0)
        os.close(ours)
        os.read(runs, 1)  # what it does before it goes on is done
    with LiveServer(port=port):  # refused, as long as the child has the first one's listener
        print(port, flush=True)
    os.close(theirs)
    assert os.waitpid(child, 0)[1] == 0


# -- PyTorch -----------------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_pytorch_in_processes_that_fork():
    """Two robots whose DataLoaders fork, with each policy: all replicas are equal. Threads stay as the user set them.

    A child that was forked where PyTorch has several threads, and is to train, is told what will not work there.
    """
    *policies, warning = ended(part("train_with_loaders", OMP_NUM_THREADS="1")).splitlines()
    assert policies == list(POLICIES)
    assert "torch.set_num_threads(1)" in warning and "spawn" in warning


def train_with_loaders():
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    import rowcast

    assert torch.get_num_threads() == 1

    def robot(port, index, models):
        model = torch.nn.Linear(40, 40)
        inner = torch.optim.SGD(model.parameters(), lr=0.01)
        data = TensorDataset(torch.randn(24, 40, generator=torch.Generator().manual_seed(index)))
        team = rowcast.join(f"127.0.0.1:{port}", name=f"robot-{index}")
        with rowcast.Optimizer(inner, model, team) as optimizer:
            for (inputs,) in DataLoader(data, batch_size=4, num_workers=1, multiprocessing_context="fork"):
                optimizer.zero_grad()
                model(inputs).square().mean().backward()
                optimizer.step()
        models[index] = torch.nn.utils.parameters_to_vector(model.parameters()).detach()

    for policy in POLICIES:
        models = {}
        with LiveServer(policy, expected_workers=2) as server:
            robots = [threading.Thread(target=robot, args=(server.port, index, models)) for index in range(2)]
            for one in robots:
                one.start()
            for one in robots:
                one.join(LIMIT_S)
            assert sorted(models) == [0, 1]
            assert not server.events("resume"), "a connection was cut"
        torch.testing.assert_close(models[0], models[1], rtol=0, atol=1e-5)
        assert torch.get_num_threads() == 1
        print(policy, flush=True)
    torch.set_num_threads(2)
    if not (child := os.fork()):
        model = torch.nn.Linear(2, 2)
        with warnings.catch_warnings(record=True) as caught, contextlib.suppress(AttributeError):
            warnings.simplefilter("always")
            rowcast.Optimizer(torch.optim.SGD(model.parameters(), lr=1.0), model, None)
        print(*(warning.message for warning in caught), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.get_num_threads() == 2


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
