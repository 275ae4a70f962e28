"""What tests of inferences share: a small model, an engine that computes it exactly, and links that carry bytes."""

from __future__ import annotations

import dataclasses
import math
import random
from functools import cache, partial

import numpy as np

from rowcast.codecs.tensors import TensorType, tensor_codec_by_id
from rowcast.config import AnswererSettings, AskerSettings
from rowcast.drivers.virtual.inferences import InferenceSimulation, VirtualRobot
from rowcast.drivers.virtual.profiled import ProfileEngine
from rowcast.errors import LinkLost, RemoteProtocolError
from rowcast.graphs import Barrier, Graph, Identity, Op, Profile, RunningSum, Window
from rowcast.inference import AnswererNode, AskerNode, ModelSpec, Planning
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.planning import Always, CostModel, Decision, LateStart, LinkCosts, local, streamed_plan
from rowcast.testing.pipes import Connection, Pipe

#: Values are whole numbers below this: exact in every type and codec that is used here.
MODULUS = 251

#: Rule, what it reads, and elements of a row of each operator. The skip through 6 never reads the last row of 3.
_OPS = (
    (Identity(12), (), 24),
    (Window(12, 3, padding=1), (0,), 40),
    (Window(12, 3, 2, 1), (1,), 32),
    (Identity(12), (0, 1), 40),
    (RunningSum(6), (2,), 32),
    (Identity(6), (2, 4), 32),
    (Window(12, 1, 2), (3,), 32),
    (Identity(6), (5, 6), 32),
    (Barrier(6), (7,), 10),
    (Identity(6), (7,), 8),
)
#: Operators on the server: all; behind one tensor; behind two; some in the middle, so that the robot goes on behind.
OFFLOAD, ONE, TWO, MIDDLE = frozenset(range(1, 10)), frozenset(range(2, 10)), frozenset(range(4, 10)), frozenset({4, 5})


@cache
def model_of(wide=1):
    """The model, its rows ``wide`` times as long."""
    tensors = []
    ops = []
    for number, (rule, inputs, width) in enumerate(_OPS):
        dtype = np.dtype(np.float32 if number else np.uint8)
        tensors.append(TensorType(dtype, (1, rule.out_rows, width * wide), 1))
        ops.append(Op(inputs, tensors[-1].nbytes, rule, f"op{number}"))
    graph = Graph(ops, [8, 9])
    lines = [f"op{n}: rows" for n in range(len(ops))]
    return ModelSpec(graph, tuple(tensors), parameters=b"parameters", describe=lambda: lines)


def costs_of(model, *, rate_bps=8e6, robot_s=0.05, server_s=0.005, tensors=(), floor_s=0.0, **link):
    """Costs of the model, its seconds shared by its operators."""
    ops = len(model.graph)
    share = np.arange(ops) / np.arange(ops).sum()
    profile = Profile(share * robot_s, share * server_s, floor_s, floor_s / 10)
    return CostModel(model.graph, profile, LinkCosts.symmetric(rate_bps, **link), tensors=tensors)


def plan_of(costs, on_server=OFFLOAD, slabs=1):
    """The plan with these operators on the server."""
    return streamed_plan(costs, costs.mask(on_server), slabs)


def planning_of(costs, plan, deadline_s=None):
    """Always this plan, with the late start where there is a deadline."""
    late = None if deadline_s is None else LateStart.of(costs.profile, deadline_s)
    return Planning(Always(Decision.of(plan, late)), local(costs), costs.profile.sustained_s)


class ValueEngine(ProfileEngine):
    """Takes the seconds of a profile, and computes: sums of the rows that the rules say."""

    def __init__(self, model, *arguments, **options):
        super().__init__(model, *arguments, **options)
        self._values = {}

    def forget(self, key):
        super().forget(key)
        self._values.pop(key, None)

    @property
    def held(self):
        """Requests that something is kept of."""
        return set(self._values) | set(self._runs)

    def _one(self, work):
        values = self._values.setdefault(work.key, {})
        for piece in work.pieces:
            tensor = self._model.tensor(piece.op)
            where = tensor.index(piece.start, piece.stop)
            slab = tensor.slab(piece.start, piece.stop)
            if piece.payload is None:
                rows = work.inputs[piece.op][where]
            else:
                rows = tensor_codec_by_id(piece.codec).decode(piece.payload, slab)
            _append(values, piece.op, rows)
        made, seconds = super()._one(work)
        compute(self._model, work.side.ops, values)
        pieces = [
            dataclasses.replace(piece, payload=_encoded(self._model.tensor(piece.op), values[piece.op], piece))
            for piece in made.pieces
        ]
        value = None
        if made.complete:
            outputs = self._model.graph.outputs
            value = [values[op] for op in outputs] if set(outputs) <= set(work.side.wanted) else None
            del self._values[work.key]
        return dataclasses.replace(made, pieces=pieces, value=value), seconds


def _encoded(tensor, values, piece):
    slab = np.ascontiguousarray(values[tensor.index(piece.start, piece.stop)])
    return tensor_codec_by_id(piece.codec).encode(slab, tensor.slab(piece.start, piece.stop))


def _append(values, op, rows):
    values[op] = rows if op not in values else np.concatenate([values[op], rows], axis=1)


def compute(model, ops, values):
    """All rows of operators that can be computed of what is there: [1, rows, elements] by operator."""
    graph = model.graph
    there = [values[op].shape[1] if op in values else 0 for op in range(len(graph))]
    for op in sorted(ops):
        rule = graph.ops[op].rule
        first, there[op] = there[op], rule.can(graph.read_rows(op, there))
        tensor = model.tensor(op)
        width = tensor.shape[2]
        rows = []
        for row in range(first, there[op]):
            total = np.full(width, op, dtype=np.int64)
            for source in graph.reads[op]:
                same = graph.ops[source].rows == rule.rows
                begin, end = rule.need(row, row + 1) if same else (0, graph.ops[source].rows)
                if begin < end:
                    weights = np.arange(begin + 1, end + 1)
                    with np.errstate(invalid="ignore"):  # a fuzzer's rows need not be numbers
                        summed = weights @ values[source][0, begin:end].astype(np.int64)
                    total += np.take(summed, np.arange(width), mode="wrap")
            rows.append(total % MODULUS)
        if rows:
            _append(values, op, np.array(rows, dtype=tensor.dtype)[None])


def image_of(model, seed=0):
    """The model's inputs, by operator."""
    shape = model.tensor(0).shape
    return {0: np.random.default_rng(seed).integers(0, MODULUS, shape).astype(np.uint8)}


def truth(model, inputs):
    """The answer of the undivided model."""
    values = dict(inputs)
    compute(model, range(1, len(model.graph)), values)
    return [values[op] for op in model.graph.outputs]


def same(answer, expected):
    return len(answer) == len(expected) and all(map(np.array_equal, answer, expected))


# -- worlds ------------------------------------------------------------------------------------------------------------


def server_of(model, seed=0, secret=None, journal=None, forward_s=0.0, **settings):
    entropy = random.Random(seed).randbytes
    settings = AnswererSettings(**settings)
    return AnswererNode(model, settings=settings, secret=secret, journal=journal, forward_s=forward_s, entropy=entropy)


def robot_of(name, model, planning, seed=0, secret=None, journal=None, **settings):
    entropy = random.Random(f"{name}{seed}").randbytes
    return AskerNode(
        name, model, planning, settings=AskerSettings(**settings), secret=secret, journal=journal, entropy=entropy
    )


def engines_of(model, costs, kind=ValueEngine):
    """Those of robot and server."""
    profile, codecs = costs.profile, costs.tensors
    speed = codecs[0].server_speed if codecs else 1.0
    return (
        kind(model, profile.robot_s, profile.robot_floor_s, codecs, step_s=profile.robot_step_s),
        kind(model, profile.server_s, profile.server_floor_s, codecs, speed, profile.server_step_s),
    )


class World:
    """A server and robots with one plan, in virtual time.

    Attributes:
        simulation: runs them.
        asked: tickets of each robot.
        journals: by name.
    """

    def __init__(self, model, costs, plan, *, kind=InferenceSimulation, engine=ValueEngine, seed=0, **server):
        self.model, self.costs, self.plan = model, costs, plan
        self.engine_kind, self.seed, self._server = engine, seed, server
        self.journals = {"server": Journal("server")}
        self.engine = engines_of(model, costs, engine)[1]
        link = costs.link
        self.simulation = kind(self.new_server(), self.engine, delay_s=link.message_s, goodput=link.goodput)
        self.asked = {}
        self.inputs = {}

    def new_server(self):
        return server_of(self.model, self.seed, journal=self.journals["server"], **self._server)

    def add(self, name="robot", trace=None, down=None, planning=None, secret=None, **settings):
        costs = self.costs
        planning = planning or planning_of(costs, self.plan, settings.get("deadline_s"))
        journal = self.journals[name] = Journal(name)
        node = robot_of(name, self.model, planning, self.seed, secret, journal, **settings)
        engine = engines_of(self.model, costs, self.engine_kind)[0]
        up = trace or Trace.constant(costs.link.up_bps)
        self.asked[name] = {}
        robot = self.simulation.add(node, engine, up, down or Trace.constant(costs.link.down_bps))
        robot.engine = engine
        return robot

    def ask(self, name="robot", inputs=None, deadline_s=None):
        robot = self.simulation.robots[name]
        if inputs is None:
            inputs = image_of(self.model, len(self.asked[name]))
        ticket = self.simulation.ask(robot, inputs, deadline_s)
        self.asked[name][ticket] = inputs
        return ticket

    def at(self, time, action, *arguments):
        self.simulation.clock.at(time, action, *arguments)

    def restart(self):
        self.engine = engines_of(self.model, self.costs, self.engine_kind)[1]
        self.simulation.restart_server(self.new_server(), self.engine)

    def run(self, until):
        self.simulation.run(until)

    def outcome(self, name="robot"):
        """The only one."""
        (found,) = self.simulation.robots[name].outcomes
        return found

    def check(self, name="robot"):
        """Every ticket has one outcome, answers are right; the outcomes by ticket."""
        outcomes = self.simulation.robots[name].outcomes
        found = {outcome.ticket: outcome for outcome in outcomes}
        assert len(found) == len(outcomes), "two outcomes of one ticket"
        assert set(found) == set(self.asked[name]), (set(self.asked[name]) - set(found), "without outcome")
        for ticket, outcome in found.items():
            answered = outcome.error is None and not outcome.superseded
            assert bool(outcome.by) == answered, outcome
            assert math.isfinite(outcome.joules) and outcome.joules >= 0
            if answered and self.engine_kind is ValueEngine:
                assert same(outcome.value, truth(self.model, self.asked[name][ticket])), outcome
        return found


class ByteSimulation(InferenceSimulation):
    """The same over links that carry the bytes of frames: see :class:`rowcast.testing.pipes.Pipe`."""

    def _robot(self, node, up, down):
        pipes = [Pipe(self.clock, self._delay_s, lambda: False) for _ in range(2)]
        robot = VirtualRobot(node, *pipes, self._delay_s)
        robot.traces = up, down
        robot.connection = None
        for pipe, deliver in zip(pipes, (self._bytes_to_server, self._bytes_to_robot), strict=True):
            pipe.deliver, pipe.idle = partial(deliver, robot), partial(self._idle, robot)
            pipe.cut = partial(self.disconnect, robot, "cut")
        return robot

    def _opened(self, robot):
        robot.connection = Connection(robot.worker_link, robot.server_link)
        robot.up.open(robot.connection, robot.worker_link, robot.traces[0])
        robot.down.open(robot.connection, robot.server_link, robot.traces[1])

    def _closing(self, robot, now):
        connection = robot.connection
        robot.up.break_off(now)
        robot.down.break_off(now)
        if connection is robot.connection:
            connection.alive = False

    def _idle(self, robot):
        self.attend(robot)
        if robot.connected and robot.down.takes(self.clock.now):
            self.send_down(robot)
        self.serve()

    def _bytes_to_server(self, robot, data):
        now, link = self.clock.now, robot.server_link
        self.server.heard(now, link)
        try:
            for message in link.decoder.feed(data):
                self.server.receive(now, link, message)
        except RemoteProtocolError as error:
            self.server.blame(now, link, error)
        except LinkLost as error:
            self.disconnect(robot, str(error))
        self.serve()

    def _bytes_to_robot(self, robot, data):
        now, node = self.clock.now, robot.node
        node.heard(now)
        try:
            for message in robot.worker_link.decoder.feed(data):
                node.receive(now, message)
        except RemoteProtocolError as error:
            self.disconnect(robot, node.blame(now, error))
        except LinkLost as error:
            self.disconnect(robot, str(error))
        self.attend(robot)
