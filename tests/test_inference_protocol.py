"""Robot and server of an inference against a peer with a fault, message by message."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from inferences import (
    MIDDLE,
    OFFLOAD,
    World,
    costs_of,
    engines_of,
    image_of,
    model_of,
    plan_of,
    planning_of,
    robot_of,
    same,
    server_of,
    truth,
)
from raw_frames import framed
from rowcast.codecs.tensors import tensor_codec_by_name
from rowcast.config import ServerSettings
from rowcast.errors import AuthenticationFailed, LinkLost, ModelMismatch, RemoteProtocolError
from rowcast.inference import ModelSpec
from rowcast.inference.door import first_difference
from rowcast.rows import Layout
from rowcast.session import JoinRequest, Link
from rowcast.sync import parse_policy
from rowcast.training import ServerNode, WorkerNode
from rowcast.wire import (
    Ack,
    Answer,
    Ask,
    Busy,
    Cancel,
    Challenge,
    Computed,
    Drop,
    FrameDecoder,
    Go,
    Grant,
    Heartbeat,
    Hello,
    LayoutTable,
    Leave,
    Proof,
    PushEnd,
    Refusal,
    Request,
    Rows,
    Served,
    StateEnd,
    Welcome,
)

MODEL = model_of()
COSTS = costs_of(MODEL)
RAW, HALF, DEFLATE = (tensor_codec_by_name(name).wire_id for name in ("raw", "half", "deflate"))
IMAGE = image_of(MODEL)
DOWN = MODEL.graph.outputs
TRUTH = truth(MODEL, IMAGE)


def request(number=1, up=(0,), down=DOWN, codecs=(RAW, RAW), slabs=1, deadline_s=0.0):
    return Request(number, up, down, codecs, slabs, deadline_s)


def rows(number, start, stop, *, payload=None, values=IMAGE, indices=None, **more):
    """Rows of a tensor, as a frame with this number."""
    of, op, stream, codec = ({"of": 1, "op": 0, "stream": 1, "codec": RAW} | more).values()
    if payload is None:
        tensor = MODEL.tensor(op)
        data = values[op] if op in values else np.zeros(tensor.shape, tensor.dtype)
        payload = np.ascontiguousarray(data[:, start:stop]).view(np.uint8).reshape(-1)
    indices = np.arange(start, stop) if indices is None else np.array(indices)
    return Rows(number, of, codec, True, False, indices, payload, stream)


def hello(name="robot", model=MODEL, **changes):
    plain = Hello(name, bytes(16), b"", b"", model.digest, model.parameters, b"", False, 0, 0, wish="infer")
    return msgspec.structs.replace(plain, **changes)


# -- the server --------------------------------------------------------------------------------------------------------


class Guest:
    """A robot's end of a connection, by hand."""

    def __init__(self, server, name="robot"):
        self.server = server
        self.link = Link(name)
        server.link_up(0.0, self.link)
        assert isinstance(self.heard()[0], Challenge)
        self.say(hello(name, session=name.encode().ljust(16)))

    def say(self, *messages):
        for message in messages:
            self.server.receive(0.0, self.link, message)

    def heard(self):
        """All that the server has to say."""
        found = []
        while (message := self.server.poll(0.0, self.link)) is not None:
            found.append(message)
        return found


class Host:
    """A server with its engine."""

    def __init__(self, **settings):
        self.server = server_of(MODEL, **settings)
        self.engine = engines_of(MODEL, COSTS)[1]

    def compute(self):
        """Do what there is to do; how many requests were computed."""
        done = 0
        while works := self.server.take_work(10.0):
            made, seconds = self.engine.run(works)
            self.server.work_done(10.0, "serve", works, made, seconds)
            done += len(works)
        for key in self.server.take_forgotten():
            self.engine.forget(key)
        return done


def answer_of(heard, number=1):
    """The tensors that came back for a request."""
    got = {op: [] for op in DOWN}
    assert isinstance(heard[-1], Answer) and heard[-1].number == number
    for message in heard:
        if isinstance(message, Rows):
            assert message.iteration == number
            op = DOWN[message.stream - 1]
            slab = MODEL.tensor(op).slab(int(message.rows[0]), int(message.rows[-1]) + 1)
            got[op].append(np.frombuffer(message.payload.tobytes(), slab.dtype).reshape(slab.shape))
    return [np.concatenate(got[op], axis=1) for op in DOWN]


#: What a robot says that is wrong, after what came before.
WRONG_UP = {
    "overlapping": ([request(), rows(1, 0, 5)], rows(2, 4, 8)),
    "the same again": ([request(), rows(1, 0, 5)], rows(2, 0, 5)),
    "a gap": ([request(), rows(1, 0, 5)], rows(2, 6, 8)),
    "not from the first": ([request()], rows(1, 1, 4)),
    "a hole": ([request()], rows(1, 0, 3, indices=[0, 2, 3])),
    "more rows than the tensor has": ([request(up=(2, 3), down=(8,), codecs=(RAW,))], rows(1, 0, 7, op=2)),
    "rows behind the last": ([request(), rows(1, 0, 12)], rows(2, 11, 13, payload=np.zeros(48, np.uint8))),
    "an unknown request": ([request()], rows(1, 0, 5, of=2)),
    "request 0": ([request()], rows(1, 0, 5, of=0)),
    "no request": ([], rows(1, 0, 5)),
    "a dropped request": ([request(), rows(1, 0, 5), Drop(1)], rows(2, 5, 8)),
    "an answered request": ([request(), rows(1, 0, 12), "answer"], rows(2, 0, 5)),
    "a tensor that is not sent": ([request()], rows(1, 0, 5, stream=2)),
    "stream 0": ([request()], rows(1, 0, 5, stream=0)),
    "an unknown codec": ([request()], rows(1, 0, 5, codec=63)),
    "a codec of other elements": ([request()], rows(1, 0, 5, codec=HALF)),
    "too many bytes": ([request()], rows(1, 0, 5, payload=np.zeros(24 * 5 + 1, np.uint8))),
    "too many coded bytes": ([request()], rows(1, 0, 5, codec=DEFLATE, payload=np.zeros(10_000, np.uint8))),
    "a frame left out": ([request(), rows(1, 0, 5)], rows(3, 5, 8)),
    "a frame twice": ([request(), rows(1, 0, 5)], rows(1, 5, 8)),
    "drop of nothing": ([request()], Drop(2)),
    "drop of 0": ([request()], Drop(0)),
    "a number again": ([request()], request()),
    "a number going back": ([request(5)], request(4)),
    "request number 0": ([], request(0)),
    "an operator that there is not": ([], request(up=(0, 10))),
    "an operator far away": ([], request(down=(2**63,), codecs=(RAW,))),
    "an operator twice": ([], request(up=(0, 0))),
    "not ascending": ([], request(down=(9, 8))),
    "nothing sent": ([], request(up=())),
    "nothing wanted": ([], request(down=(), codecs=())),
    "not computable": ([], request(up=(2,))),
    "too few codecs": ([], request(codecs=(RAW,))),
    "too many codecs": ([], request(codecs=(RAW, RAW, RAW))),
    "a codec that there is not": ([], request(codecs=(RAW, 63))),
    "a codec that carries it not": ([], request(down=(0,), codecs=(HALF,))),
    "no slab": ([], request(slabs=0)),
    "more slabs than rows": ([], request(slabs=13)),
    "slabs without end": ([], request(slabs=2**63)),
    "a negative deadline": ([], request(deadline_s=-1.0)),
    "too many requests": ([request(1), request(2)], request(3)),
    "an answer": ([request()], Answer(1, 0, 0.0, 0.0)),
    "busy": ([request()], Busy(1, 1.0, "so")),
    "served": ([], Served(bytes(16), False, 0, 1, 0.0)),
    "another hello": ([], hello()),
    "a challenge": ([], Challenge(bytes(16), bytes(16), False)),
    "a proof": ([], Proof(bytes(32))),
    "a layout": ([], LayoutTable(b"", 0)),
    "an acknowledgement": ([request()], Ack(1, 1)),
    **{
        f"training: {type(message).__name__}": ([], message)
        for message in (
            Ask(1, 1.0, 1.0),
            PushEnd(1, 0.0, 0.0, 0.0, False),
            Computed(1, 0.0, 0.0, 0.0, False),
            StateEnd(),
            Go(1, 0.0, 0.0, 0, 1, 1),
            Cancel(1),
        )
    },
}


@pytest.mark.parametrize("name", WRONG_UP)
def test_the_server_refuses_what_has_no_place_and_goes_on_for_others(name):
    before, wrong = WRONG_UP[name]
    host = Host(requests_per_robot=2, batch_wait_s=0.0)
    other, guest = Guest(host.server, "other"), Guest(host.server)
    other.say(request(), rows(1, 0, 5))
    for message in before:
        if message == "answer":
            assert host.compute() == 1
            assert same(answer_of(guest.heard()), TRUTH)
        else:
            guest.say(message)
    with pytest.raises(RemoteProtocolError) as caught:
        guest.say(wrong)
    host.server.blame(0.0, guest.link, caught.value)
    assert guest.link.closing
    last = guest.heard()[-1]
    assert isinstance(last, Refusal) and last.code == "protocol" and last.text in str(caught.value)
    host.server.link_down(0.0, guest.link, "closed")
    assert list(host.server.robots) == ["other"]
    other.say(rows(2, 5, 12))
    host.compute()
    assert same(answer_of(other.heard()), TRUTH)
    assert host.engine.held == set() and len(host.server._batches) == 0


def test_what_comes_late_is_normal_for_the_server():
    """Drop and answer, drop and busy, rows and busy cross each other on the way."""
    host = Host(queue_limit=1)
    guest = Guest(host.server)
    guest.say(request(), rows(1, 0, 12))
    host.compute()
    guest.heard()
    guest.say(Drop(1), Drop(1))
    guest.say(request(2), rows(2, 0, 12, of=2))  # it waits for the engine: the queue is full
    guest.say(request(3), rows(3, 0, 6, of=3), rows(4, 6, 12, of=3))
    heard = guest.heard()
    assert [message.number for message in heard if isinstance(message, Busy)] == [3]
    assert [message for message in heard if isinstance(message, Ack)][-1].number == 4
    guest.say(Drop(3), Heartbeat({"rate_bps": 1.0}, 10))
    assert host.compute() == 1
    assert same(answer_of(guest.heard(), 2), TRUTH)


def test_who_reads_nothing_cannot_have_more_and_more_computed():
    """An answer that was not sent counts as under way, so what waits to be sent is bounded."""
    host = Host(requests_per_robot=2)
    guest = Guest(host.server)
    for number in (1, 2):
        guest.say(request(number), rows(number, 0, 12, of=number))
        assert host.compute() == 1
    robot = host.server.robots["robot"]
    waiting = sum(len(message.payload) for message in robot.out if isinstance(message, Rows))
    assert waiting == 2 * sum(MODEL.tensor(op).nbytes for op in DOWN)
    with pytest.raises(RemoteProtocolError, match="at most 2 under way"):
        guest.say(request(3))
    guest.say(Drop(1))
    assert all(getattr(message, "iteration", 2) == 2 for message in robot.out)
    guest.say(request(3), rows(3, 0, 12, of=3))
    host.compute()
    heard = guest.heard()
    assert [message.number for message in heard if isinstance(message, Answer)] == [2, 3]
    assert not robot.tasks and not robot.out


def test_a_payload_that_cannot_be_decoded_is_blamed_on_its_sender_alone():
    """Three robots are computed together; one of them has sent what no codec makes. The others get their answers."""
    host = Host(batch_wait_s=0.0)
    guests = [Guest(host.server, name) for name in ("one", "two", "three")]
    for guest in guests:
        bad = guest.link.peer == "two"
        payload = np.full(50, 255, np.uint8)
        guest.say(request(), rows(1, 0, 12, codec=DEFLATE, payload=payload) if bad else rows(1, 0, 12))
    sizes = []
    while works := host.server.take_work(0.0):
        for key in host.server.take_forgotten():
            host.engine.forget(key)
        sizes.append(len(works))
        try:
            made, seconds = host.engine.run(works)
        except RemoteProtocolError as error:
            host.server.work_failed(0.0, works, error)
        else:
            host.server.work_done(0.0, "serve", works, made, seconds)
    assert sizes == [3, 1, 1, 1]
    for guest in guests:
        if guest.link.peer == "two":
            assert guest.link.closing and guest.heard()[-1].code == "protocol"
        else:
            assert not guest.link.closing and same(answer_of(guest.heard()), TRUTH)
    for key in host.server.take_forgotten():
        host.engine.forget(key)
    assert host.engine.held == set()


def test_a_server_that_fails_says_when_to_come_back():
    host = Host()
    guest = Guest(host.server)
    guest.say(request(), rows(1, 0, 12))
    host.server.work_failed(0.0, host.server.take_work(0.0), LinkLost("no memory"))
    (busy,) = [message for message in guest.heard() if isinstance(message, Busy)]
    assert busy.number == 1 and busy.wait_s > 0 and "no memory" in busy.cause
    assert not guest.link.closing and not host.server.robots["robot"].tasks


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Request, [1, [0], [8, 9], [RAW, RAW], 1, math.nan]),
        (Request, [1, [0], [8, 9], [RAW, RAW], 1, math.inf]),
        (Request, [-1, [0], [8, 9], [RAW, RAW], 1, 0.0]),
        (Request, [1, [-1], [8, 9], [RAW, RAW], 1, 0.0]),
        (Request, [1, [0] * 255, [8, 9], [RAW, RAW], 1, 0.0]),
        (Request, [1, [0], [8, 9], [RAW, RAW], 1.5, 0.0]),
        (Drop, [-1]),
        (Answer, [1, 0, math.nan, 0.0]),
        (Answer, [1, -1, 0.0, 0.0]),
        (Busy, [1, math.nan, ""]),
        (Served, [bytes(16), False, 0, -1, 0.0]),
        (Served, [bytes(16), False, 0, 1, math.inf]),
    ],
)
def test_numbers_that_are_none_do_not_reach_a_node(kind, fields):
    decoder = FrameDecoder()
    decoder.trusted = True
    with pytest.raises(RemoteProtocolError, match=kind.__name__):
        list(decoder.feed(framed(kind.KIND, msgspec.msgpack.encode(fields))))


# -- the robot ---------------------------------------------------------------------------------------------------------


class Asker:
    """A robot with its engine, and the server's end of its connection by hand."""

    def __init__(self, on_server=OFFLOAD, **settings):
        self.plan = plan_of(COSTS, on_server)
        self.node = robot_of("robot", MODEL, planning_of(COSTS, self.plan), **settings)
        self.engine = engines_of(MODEL, COSTS)[0]
        self.connect()

    def connect(self, served=True):
        self.link = Link("server")
        self.node.connecting(0.0, "server")
        self.node.link_up(0.0, self.link)
        self.say(Challenge(bytes(16), bytes(16), False))
        assert isinstance(self.heard()[0], Hello)
        if served:
            self.say(Served(bytes(16), False, 7, 2, 0.001))

    def say(self, *messages):
        for message in messages:
            self.node.receive(0.0, message)

    def heard(self):
        found = []
        while (message := self.node.poll(0.0)) is not None:
            found.append(message)
        return found

    def compute(self, lanes=("part",)):
        for lane in lanes:
            while works := self.node.take_work(0.0, lane):
                made, seconds = self.engine.run(works)
                self.node.work_done(0.0, lane, works, made, seconds)
        for key in self.node.take_forgotten():
            self.engine.forget(key)

    def ask(self):
        self.node.ask(0.0, IMAGE)
        self.compute()
        return self.heard()

    def answer(self, of=1):
        """What a server without a fault says."""
        values = dict(zip(DOWN, TRUTH, strict=True))
        tensors = [
            rows(1, 0, MODEL.tensor(op).rows, of=of, op=op, stream=1 + place, values=values)
            for place, op in enumerate(DOWN)
        ]
        return [*tensors, Answer(of, 7, 0.001, 0.0)]


GOOD = [
    rows(1, 0, 1, op=8, stream=1, values=dict(zip(DOWN, TRUTH, strict=True))),
    rows(1, 0, 6, op=9, stream=2, values=dict(zip(DOWN, TRUTH, strict=True))),
]
DONE = Answer(1, 7, 0.001, 0.0)
WRONG_DOWN = {
    "rows twice": (GOOD[:1], GOOD[0]),
    "a gap": ([], rows(1, 1, 3, op=9, stream=2)),
    "a hole": ([], rows(1, 0, 3, op=9, stream=2, indices=[0, 2, 4])),
    "more rows than the tensor has": ([], rows(1, 0, 7, op=9, stream=2)),
    "an unknown request": ([], rows(1, 0, 1, op=8, of=2)),
    "a tensor that was not asked for": ([], rows(1, 0, 1, op=8, stream=3)),
    "stream 0": ([], rows(1, 0, 1, op=8, stream=0)),
    "an unknown codec": ([], rows(1, 0, 1, op=8, codec=63)),
    "too many bytes": ([], rows(1, 0, 1, op=8, payload=np.zeros(41, np.uint8))),
    "an answer before its rows": ([], DONE),
    "an answer before the last rows": (GOOD[:1], DONE),
    "an answer twice": ([*GOOD, DONE], DONE),
    "an answer twice, late": ([*GOOD, DONE, "compute"], DONE),
    "rows behind the answer": ([*GOOD, DONE], GOOD[0]),
    "an answer to nothing": ([], Answer(2, 7, 0.0, 0.0)),
    "an answer to 0": ([], Answer(0, 7, 0.0, 0.0)),
    "negative seconds": (GOOD, Answer(1, 7, -1.0, 0.0)),
    "negative waiting": (GOOD, Answer(1, 7, 0.0, -1.0)),
    "busy with nothing": ([], Busy(2, 1.0, "so")),
    "busy for less than no time": ([], Busy(1, -1.0, "so")),
    "an acknowledgement of what was not sent": ([], Ack(99, 1)),
    "an acknowledgement on another stream": ([], Ack(1, 2)),
    "served again": ([], Served(bytes(16), False, 0, 1, 0.0)),
    "a challenge": ([], Challenge(bytes(16), bytes(16), False)),
    "a proof": ([], Proof(bytes(32))),
    "a request": ([], request()),
    "a drop": ([], Drop(1)),
    "a welcome": ([], Welcome("seed", bytes(16), "bsp", 0, 1, 0, 0, b"")),
    "a layout": ([], LayoutTable(b"", 0)),
    **{
        f"training: {type(message).__name__}": ([], message)
        for message in (Go(1, 0.0, 0.0, 0, 1, 1), Cancel(1), Grant(1, 0.0), Computed(1, 0.0, 0.0, 0.0, False))
    },
}


@pytest.mark.parametrize("name", WRONG_DOWN)
def test_the_robot_refuses_what_has_no_place_and_answers_itself(name):
    before, wrong = WRONG_DOWN[name]
    asker = Asker()
    asker.ask()
    for message in before:
        if message == "compute":
            asker.compute()
        else:
            asker.say(message)
    with pytest.raises(RemoteProtocolError) as caught:
        asker.say(wrong)
    assert asker.node.blame(0.0, caught.value)
    asker.node.link_down(0.0, str(caught.value))
    assert asker.node.failure is None
    asker.compute(("whole",))
    (outcome,) = asker.node.outcomes
    assert same(outcome.value, TRUTH)
    assert outcome.by == ("server" if "compute" in before else "robot")
    asker.node.outcomes.clear()
    asker.connect()  # and the next one is the server's again
    asker.ask()
    asker.say(*asker.answer(of=2))
    asker.compute()
    (outcome,) = asker.node.outcomes
    assert (outcome.by, outcome.version) == ("server", 7) and same(outcome.value, TRUTH)
    assert asker.engine.held == set()


def test_what_comes_late_is_normal_for_the_robot():
    """It has answered itself, or was turned away: what the server sent meanwhile is of no interest, and not wrong."""
    asker = Asker(deadline_s=0.1)
    sent = asker.ask()
    assert [type(message) for message in sent[:2]] == [Request, Rows]
    asker.say(GOOD[1])
    asker.node.pass_time(0.05)
    asker.compute(("whole",))
    (outcome,) = asker.node.outcomes
    assert outcome.by == "robot" and asker.heard() == [Drop(1)]
    asker.say(Ack(1, 1), *asker.answer()[:1], DONE, DONE, Busy(1, 1.0, "late"), GOOD[0])
    asker.ask()
    asker.say(Busy(2, 0.0, "full"), Ack(2, 1))
    asker.say(*asker.answer(of=2))
    asker.compute(("whole",))
    assert [one.by for one in asker.node.outcomes] == ["robot", "robot"]
    assert not [record for record in asker.node.journal.records if record["event"] == "error"]
    assert asker.engine.held == set()


def test_the_robot_gives_up_on_a_server_that_is_always_wrong():
    asker = Asker(fallback="none", refusals_limit=3)
    asker.node.ask(0.0, IMAGE)
    for _ in range(4):
        assert asker.node.failure is None
        error = None
        try:
            asker.say(Answer(99, 0, 0.0, 0.0))
        except RemoteProtocolError as caught:
            error = caught
        asker.node.blame(0.0, error)
        asker.node.link_down(0.0, str(error))
        if asker.node.failure is None:
            asker.connect()
    assert asker.node.failure is error
    assert [outcome.error for outcome in asker.node.outcomes] == [error]


def test_busy_is_obeyed_while_there_is_a_fallback():
    asker = Asker()
    asker.ask()
    asker.say(Busy(1, 5.0, "64 requests wait"))
    asker.compute(("whole",))
    assert asker.node.outcomes.popleft().by == "robot"
    asker.ask()
    asker.compute(("whole",))
    assert asker.node.outcomes.popleft().spent.up_bytes == 0
    asker.node.ask(5.1, IMAGE)
    assert any(isinstance(message, Request) for message in asker.heard())


def test_a_payload_of_the_server_that_cannot_be_decoded_is_not_the_answer():
    """It is found out where it is decoded, beside the event loop."""
    for fallback in ("model", "none"):
        asker = Asker(MIDDLE, fallback=fallback)
        asker.ask()
        (down,) = asker.plan.down
        payload = np.full(30, 255, np.uint8)
        asker.say(rows(1, 0, 6, op=down, codec=DEFLATE, payload=payload), Answer(1, 7, 0.0, 0.0))
        works = asker.node.take_work(0.0, "part")
        with pytest.raises(RemoteProtocolError) as caught:
            asker.engine.run(works)
        asker.node.work_failed(0.0, works, caught.value)
        asker.compute(("part", "whole"))
        (outcome,) = asker.node.outcomes
        if fallback == "model":
            assert outcome.by == "robot" and same(outcome.value, TRUTH)
        else:
            assert outcome.error is caught.value
        assert asker.engine.held == set()


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
