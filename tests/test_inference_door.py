"""How a robot comes to a server of inferences: the right one, with the same model and the same secret."""

from __future__ import annotations

import numpy as np
import pytest

from inference_peers import COSTS, MODEL, TRUTH, Asker, Guest, Host, answer_of, hello, request, rows
from inferences import World, plan_of, planning_of, robot_of, same, server_of
from rowcast.config import ServerSettings
from rowcast.errors import AuthenticationFailed, LinkLost, ModelMismatch, RemoteProtocolError
from rowcast.inference import ModelSpec
from rowcast.inference.door import first_difference
from rowcast.rows import Layout
from rowcast.session import JoinRequest, Link
from rowcast.sync import parse_policy
from rowcast.training import ServerNode, WorkerNode
from rowcast.wire import Answer, Busy, Challenge, LayoutTable, Leave, Proof, Refusal, Served, Welcome

# -- at the door -------------------------------------------------------------------------------------------------------


def refusal_of(server, message):
    """What a server says to a hello that it does not like."""
    link = Link("robot")
    server.link_up(0.0, link)
    try:
        server.receive(0.0, link, message)
    except RemoteProtocolError as error:
        server.blame(0.0, link, error)
    found = []
    while (said := server.poll(0.0, link)) is not None:
        found.append(said)
    assert link.closing and isinstance(found[-1], Refusal)
    return found[-1]


def another(**changes):
    """The model with a line of its description, its parameters or its tensors changed."""
    lines = changes.pop("lines", MODEL.describe())
    values = {"graph": MODEL.graph, "tensors": MODEL.tensors, "parameters": MODEL.parameters} | changes
    return ModelSpec(**values, describe=lambda: lines)


def test_another_model_is_named_by_its_first_difference():
    lines = [*MODEL.describe()[:3], "op3: other rows", *MODEL.describe()[4:]]
    for model in (another(parameters=b"others", lines=lines), another(parameters=b"others")):
        world = World(MODEL, COSTS, plan_of(COSTS))
        world.model = model
        robot = world.add()
        world.model = MODEL
        world.at(0.0, world.ask)
        world.run(1.0)
        failure = robot.node.failure
        assert isinstance(failure, ModelMismatch) and "other parameters" in str(failure)
        named = "here 'op3: other rows', on the server 'op3: rows'" in str(failure)
        assert named == (model.describe() == lines)
        assert "from the same checkpoint on both sides" in str(failure)
        assert [outcome.error for outcome in robot.outcomes] == [failure]


def test_tensors_of_another_type_are_another_model():
    """The operators and their sizes are the same; 4 bytes are taken for something else."""
    wide = MODEL.tensors[5]
    tensors = (*MODEL.tensors[:5], type(wide)(np.dtype(np.int32), wide.shape, wide.row_axis), *MODEL.tensors[6:])
    said = refusal_of(server_of(MODEL), hello(model=another(tensors=tensors)))
    assert said.code == "model" and "other operators" in said.text


def test_differences_are_found_wherever_they_are():
    assert first_difference(["a", "b"], b"a\nb") == ""
    assert first_difference(["a", "b"], b"a") == "here 2 operators and parameters, on the server 1"
    assert first_difference(["a"], b"a\nb") == "here 1 operators and parameters, on the server 2"
    assert "\\xff" in first_difference(["a"], b"\xff")


def test_a_live_server_serves_other_parameters_of_the_same_model():
    world = World(MODEL, COSTS, plan_of(COSTS))
    world.simulation.server._hosting._live = True
    world.model = another(parameters=b"from yesterday")
    robot = world.add()
    world.run(0.5)
    assert robot.node.served and robot.node.failure is None


def test_a_name_that_is_taken_is_refused_and_the_same_robot_may_come_back():
    host = Host()
    first = Guest(host.server)
    said = refusal_of(host.server, hello(session=b"another life 000"))
    assert said.code == "name" and "choose another name" in said.text
    again = Guest(host.server)  # the same session, before its old connection was found to be lost
    assert first.link.closing and not again.link.closing
    again.say(request(), rows(1, 0, 12))
    host.server.link_down(0.0, first.link, "replaced")
    host.compute()
    assert same(answer_of(again.heard()), TRUTH)


def test_a_wrong_secret_ends_the_robot_with_the_reason():
    world = World(MODEL, COSTS, plan_of(COSTS), secret=b"the right secret")
    robot = world.add(secret=b"the wrong secret")
    world.run(5.0)
    node = robot.node
    assert not node.served and "did not prove that it knows the shared secret" in node.notices[0]
    assert node.failure is None  # with a fallback it looks on, and says so
    world.ask()
    world.run(6.0)
    assert world.check()[1].by == "robot"
    lone = World(MODEL, COSTS, plan_of(COSTS), secret=b"the right secret")
    lost = lone.add(secret=b"the wrong secret", fallback="none", connect_limit_s=2.0)
    lone.at(0.5, lone.ask)
    lone.run(30.0)
    assert isinstance(lost.node.failure, AuthenticationFailed)
    assert isinstance(lone.check()[1].error, AuthenticationFailed)


def test_with_the_same_secret_they_work_together():
    world = World(MODEL, COSTS, plan_of(COSTS), secret=b"the right secret")
    robot = world.add(secret=b"the right secret")
    world.at(0.1, world.ask)
    world.run(1.0)
    assert world.check()[1].by == "server" and robot.node._door.unproven == ""


@pytest.mark.parametrize(
    "message",
    [
        Served(bytes(16), False, 0, 1, 0.0),
        Refusal("model", "go away"),
        LayoutTable(b"lines", 0),
        Leave("gone"),
        Busy(1, 1.0, ""),
        Proof(bytes(32)),
        Answer(1, 0, 0.0, 0.0),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_server_that_proves_nothing_is_believed_nothing(message):
    node = robot_of("robot", MODEL, planning_of(COSTS, plan_of(COSTS)), secret=b"the right secret")
    link = Link("server")
    node.link_up(0.0, link)
    node.receive(0.0, Challenge(bytes(16), bytes(16), True))
    with pytest.raises(LinkLost, match="did not prove that it knows the shared secret"):
        node.receive(0.0, message)
    node.link_down(0.0, "doubt")
    assert node.failure is None and not node.served and node.connect_at is not None


def test_a_served_out_of_turn_and_one_that_cannot_be_are_refused():
    for served, answered in ((Served(bytes(16), False, 0, 1, 0.0), False), (Served(bytes(16), False, 0, 0, 0.0), True)):
        node = robot_of("robot", MODEL, planning_of(COSTS, plan_of(COSTS)))
        node.link_up(0.0, Link("server"))
        if answered:
            node.receive(0.0, Challenge(bytes(16), bytes(16), False))
        with pytest.raises(RemoteProtocolError):
            node.receive(0.0, served)
        assert not node.served


LAYOUT = Layout.from_shapes([("weight", (8, 3))], small_tensor=1)


def test_a_robot_that_asks_a_server_of_a_training_is_told_so():
    said = refusal_of(ServerNode(parse_policy("bsp"), settings=ServerSettings()), hello())
    assert "trains a team and answers no inferences" in said.text
    asker = Asker.__new__(Asker)
    asker.node = robot_of("robot", MODEL, planning_of(COSTS, plan_of(COSTS)), fallback="none", connect_limit_s=1.0)
    asker.connect(served=False)
    with pytest.raises(LinkLost, match="trains a team and answers no inferences"):
        asker.say(said)
    asker.connect(served=False)
    with pytest.raises(RemoteProtocolError, match="expected a server that answers inferences"):
        asker.say(Welcome("seed", bytes(16), "bsp", 0, 1, 0, 0, b""))


def test_a_worker_that_comes_to_a_server_of_inferences_is_told_so():
    worker = WorkerNode("robot", LAYOUT, LAYOUT.zeros(), request=JoinRequest())
    server = server_of(MODEL)
    ends = Link("server"), Link("robot")
    worker.connecting(0.0, "server")
    worker.link_up(0.0, ends[0])
    server.link_up(0.0, ends[1])
    for _ in range(3):
        while (message := worker.poll(0.0)) is not None:
            server.receive(0.0, ends[1], message)
        while (message := server.poll(0.0, ends[1])) is not None:
            try:
                worker.receive(0.0, message)
            except LinkLost as error:
                worker.link_down(0.0, str(error))
    assert ends[1].closing and not server.robots
    assert "answers inferences and trains no team" in str(worker.failure)
