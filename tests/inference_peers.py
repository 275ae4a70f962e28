"""The two ends of a conversation about inferences, by hand: a guest at a server, and a robot without one."""

from __future__ import annotations

import msgspec
import numpy as np

from inferences import (
    OFFLOAD,
    costs_of,
    engines_of,
    image_of,
    model_of,
    plan_of,
    planning_of,
    robot_of,
    server_of,
    truth,
)
from rowcast.codecs.tensors import tensor_codec_by_name
from rowcast.session import Link
from rowcast.wire import Answer, Challenge, Hello, Request, Rows, Served

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


class Guest:
    """A robot's end of a connection, by hand."""

    def __init__(self, server, name="robot", now=0.0):
        self.server = server
        self.now = now
        self.link = Link(name)
        server.link_up(now, self.link)
        assert isinstance(self.heard()[0], Challenge)
        self.say(hello(name, session=name.encode().ljust(16)))

    def say(self, *messages):
        for message in messages:
            self.server.receive(self.now, self.link, message)

    def heard(self):
        """All that the server has to say."""
        found = []
        while (message := self.server.poll(self.now, self.link)) is not None:
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
