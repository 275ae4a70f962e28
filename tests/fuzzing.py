"""A fuzzer of what arrives: frames of valid sessions, mutated, through a decoder, a server and a worker.

Two kinds of mutation: bytes of a stream, as a bad link makes them; and fields or bytes of a message with the checksums
made right again, as a peer with a fault or with bad intentions sends them. A session is taken at any message of a
recorded one: before the handshake, while parameters are sent, while it computes, pushes, pulls, or drains. Whatever
comes, nothing but :class:`RemoteProtocolError` and :class:`LinkLost` may come out. And a server and a worker live
through thousands of mutated frames of their own conversation, link after link: their memory stays flat.

Everything follows from the seed. ``python tests/fuzzing.py --inputs 1000000`` (``make fuzz``), the suite takes 20,000.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import multiprocessing
import pickle
import random
import sys
import time
import tracemalloc
import warnings
from collections import Counter
from typing import get_type_hints

import msgspec
import numpy as np

from raw_frames import framed
from rowcast.codecs import codec_by_id, codec_for
from rowcast.config import ServerSettings
from rowcast.errors import LinkLost, NonFiniteGradient, RemoteProtocolError
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.session import Link
from rowcast.sync import parse_policy
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.training import ServerNode, WorkerNode, WorkerState
from rowcast.wire import HEADER_BYTES, PROTOCOL_VERSION, FrameDecoder, LayoutTable, RowLimits, Rows, Subtree, encode
from rowcast.wire.messages import CONTROL

POLICIES = ("bsp?codec=raw", "rog:4", "rowcast:3", "rowcast:2?pulls=common", "flown:2", "rog:2?codec=half")
POLICIES += ("sparseloco:1", "demo")
#: Some sessions have a secret.
SECRETS = (None, b"s" * 16)

#: 10 rows and 34 elements.
LAYOUT = Layout.from_shapes([("weight", (8, 3)), ("bias", (9,)), ("scale", ())], small_tensor=1)
#: The robot whose link is attacked; both: the one that brings the parameters, and one that receives them.
ROBOTS = ("robot0", "robot1")

#: What a server and a worker that live through all of it may hold more at the end than when they were warm.
MEMORY_BYTES = 256 << 10
#: Frames for that in ``make fuzz``, for each policy.
MEMORY_INPUTS = 20_000

INTEGERS = (0, 1, 2, 3, 7, 27, 255, 2**16, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e30, 1e300, 1.7e308, -1.7e308)
TEXTS = ("", "seed", "equal", "receive", "resume", "bsp", "rog:4", "rowcast:3", "asp?order=age", "\x1b[2J", "a" * 300)
CODES = ("secret", "layout", "version", "name", "protocol", "damaged", "other")
#: What no field of today holds, or another one.
STRANGE = (
    None,
    -1,
    -(2**63),
    float("nan"),
    float("inf"),
    b"",
    "",
    [],
    {},
    [[[[]]]],
    [0] * 1000,
    {str(number): number for number in range(100)},
    *INTEGERS,
    *FLOATS,
    msgspec.msgpack.Ext(5, b"x"),
)
#: Floats that a payload should not hold, or just may.
PATTERNS = (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\x01\x00\x00\x00", b"\xff\xff\xff\xff")


# -- recorded sessions -------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Recording:
    """What one side of a link hears in a session.

    Attributes:
        side: ``"server"`` or ``"worker"``.
        messages: in order.
        states: pickled (node, link, time) before each of them.
    """

    side: str
    messages: list
    states: list


class _Recorder(VirtualTeam):
    """A team that keeps the state of a node before each message on the link of one robot."""

    def __init__(self, robot, *arguments, **options):
        self.heard = {side: Recording(side, [], []) for side in ("server", "worker")}
        self._robot = robot
        super().__init__(*arguments, **options)

    def _to_server(self, robot, data):
        self._keep("server", self.server, robot, robot.server_link, data)
        super()._to_server(robot, data)

    def _to_worker(self, robot, data):
        self._keep("worker", robot.node, robot, robot.worker_link, data)
        super()._to_worker(robot, data)

    def _keep(self, side, node, robot, link, data):
        if robot.script.name != self._robot or len(data) < HEADER_BYTES:
            return
        decoder, link.decoder = link.decoder, None  # its buffer is large, and empty
        state = pickle.dumps((node, link, self.now, decoder.trusted, decoder.streams), protocol=5)
        link.decoder = decoder
        reader = _decoder(decoder.frames, trusted=True, streams={0: RowLimits(LAYOUT.rows)})
        for message in reader.feed(data):  # one, or none where a cut left a part of it
            self.heard[side].states.append(state)
            self.heard[side].messages.append(_kept(message))


def _decoder(frames, *, trusted, streams):
    decoder = FrameDecoder()
    decoder.frames, decoder.trusted, decoder.streams = frames, trusted, streams
    return decoder


def _kept(message):
    return dataclasses.replace(message, payload=message.payload.copy()) if isinstance(message, Rows) else message


@functools.cache
def recordings():
    """Sessions of each policy, from either side of the link of either robot."""
    found = []
    for policy in POLICIES:
        for number, robot in enumerate(ROBOTS):
            noise = np.random.default_rng(number)
            robots = [
                ScriptedWorker(
                    name,
                    lambda n, x, noise=noise: noise.standard_normal(LAYOUT.elements).astype(np.float32),
                    iterations=3,
                    compute_s=0.05 + 0.01 * place,
                    delay_s=0.002,
                    initial=np.arange(LAYOUT.elements, dtype=np.float32),
                    secret=SECRETS[number],
                )
                for place, name in enumerate(ROBOTS)
            ]
            settings = ServerSettings(expected_workers=2)
            team = _Recorder(robot, LAYOUT, policy, robots, server_settings=settings, secret=SECRETS[number])
            team.at(0.15, functools.partial(team.cut, robot, 0.1))
            team.run(100.0)
            assert team.finished and not team.failures
            found += team.heard.values()
    for recording in found:
        assert len(recording.messages) == len(recording.states)
    return found


@functools.cache
def oddities():
    """A message of each kind of control message, also of those that the sessions do not have."""
    plain = {bool: True, int: 1, float: 1.0, bytes: bytes(16), str: "name"}
    found = []
    for kind in CONTROL.values():
        hints = get_type_hints(kind)
        found.append(kind(**{name: plain.get(hints[name], ()) for name in kind.__struct_fields__ if name != "metrics"}))
    return found


# -- mutations ---------------------------------------------------------------------------------------------------------


class Mutator:
    """Makes messages and bytes that are nearly right."""

    def __init__(self, chance):
        self.chance = chance
        self._noise = np.random.default_rng(chance.getrandbits(32))

    def frame(self, message):
        """A kind and a body, the body of a message in which something was changed."""
        chance = self.chance
        match chance.randrange(11):
            case 0 | 1 | 2 | 3 | 4:
                message = self.message(message)
            case 5:
                return message.KIND, self.damaged(_body(message))
            case 6:
                return chance.choice((Rows.KIND, *CONTROL)), _body(message)
            case 7:
                kind = chance.choice((Rows.KIND, *CONTROL))
                return kind, chance.randbytes(chance.choice((0, 1, 8, 19, 20, 33, 60)))
            case 8:
                return chance.randrange(256), _body(message)
            case 9 if not isinstance(message, Rows):
                return message.KIND, self.fields(message)
        return message.KIND, _body(message)

    def version(self):
        """That of the protocol; now and then another one."""
        return PROTOCOL_VERSION if self.chance.random() >= 0.02 else self.chance.choice((0, 1, 3, 5, 255))

    def stream(self):
        """That of all rows; now and then another one."""
        return 0 if self.chance.random() >= 0.02 else self.chance.choice((1, 3, 255))

    def message(self, message):
        """The same kind of message with one to three fields changed."""
        names = _names(message)
        if not names:
            return message
        changes = {}
        for _ in range(self.chance.choice((1, 1, 2, 3))):
            name = self.chance.choice(names)
            changes[name] = self.value(message, name)
        if isinstance(message, Rows):
            return self._consistent(message, changes)
        return msgspec.structs.replace(message, **changes)

    def fields(self, message):
        """A body with other fields than its class has, or with values of other types."""
        chance, fields = self.chance, msgspec.msgpack.decode(_body(message))
        match chance.randrange(4):
            case 0:
                fields += chance.choices(STRANGE, k=chance.choice((1, 1, 3, 300)))
            case 1:
                del fields[chance.randrange(len(fields) + 1) :]
            case 2 if fields:
                fields[chance.randrange(len(fields))] = chance.choice(STRANGE)
            case _:
                fields.insert(chance.randrange(len(fields) + 1), chance.choice(STRANGE))
        return msgspec.msgpack.encode(fields)

    def value(self, message, name):
        """Another value of a field."""
        chance, old = self.chance, getattr(message, name)
        if name == "stream":
            return chance.choice((0, 1, 255))
        if isinstance(message, Rows) and name in ("rows", "payload"):
            return self._rows() if name == "rows" else self._payload(old)
        if isinstance(message, LayoutTable) and name == "part":
            return self._table(old)
        if isinstance(old, bool):
            return not old
        if isinstance(old, int):
            near = max(old + chance.choice((-2, -1, 1, 2)), 0)
            return min(near if chance.random() < 0.5 else chance.choice(INTEGERS), 2**64 - 1)
        if isinstance(old, float):
            return chance.choice((*FLOATS, old * 2, -old))
        if isinstance(old, bytes):
            return chance.choice((b"", old[:-1], old + b"x", self.damaged(old), bytes(len(old)), chance.randbytes(16)))
        if isinstance(old, str):
            return chance.choice((*TEXTS, *CODES, old + "x", old[:-1]))
        if isinstance(message, Subtree) and name == "below":
            few = tuple(chance.randbytes(chance.randrange(17)) for _ in range(chance.randrange(4)))
            return chance.choice([(), few, old[:1]])
        if isinstance(old, tuple):
            few = tuple(sorted(chance.sample(range(12), chance.randrange(4))))
            return chance.choice((few, old[:-1], old + old[-1:], old[::-1], (*old, chance.choice(INTEGERS))))
        return {chance.choice(("rate_bps", "share", "loss")): chance.choice(FLOATS) for _ in range(3)}

    def _rows(self):
        count = self.chance.randrange(1, LAYOUT.rows + 1)
        return np.sort(self._noise.permutation(LAYOUT.rows)[:count]).astype(np.int64)

    def _payload(self, old):
        payload = bytearray(old.tobytes())
        if payload and self.chance.random() < 0.7:
            place = self.chance.randrange(len(payload)) // 4 * 4
            pattern = self.chance.choice(PATTERNS)[: len(payload) - place]
            payload[place : place + len(pattern)] = pattern
        else:
            payload = bytearray(self.damaged(bytes(payload)))
        return np.frombuffer(bytes(payload), dtype=np.uint8)

    def _consistent(self, message, changes):
        """Row frames with a payload of the length that their rows and code ask for, more often than not."""
        changed = dataclasses.replace(message, **fitting(changes))
        if "payload" not in changes and self.chance.random() < 0.8:
            try:
                sizes = codec_for(LAYOUT, codec_by_id(changed.codec)).row_bytes(LAYOUT)
            except RemoteProtocolError:
                return changed
            length = int(sizes[changed.rows].sum())
            content = bytes(length) if self.chance.random() < 0.5 else self.chance.randbytes(length)
            changed = dataclasses.replace(changed, payload=np.frombuffer(content, dtype=np.uint8))
        return changed

    def _table(self, table):
        """Other layouts, none of them large: how large one may be is the business of other tests."""
        chance = self.chance
        match chance.randrange(6):
            case 0:
                shapes = [(f"t{i}", (chance.randrange(1, 40), chance.randrange(1, 9))) for i in range(3)]
                return Layout.from_shapes(shapes, small_tensor=1).to_table()
            case 1:
                return LAYOUT.timing_only().to_table()
            case 2:
                return table.replace(b"8", str(chance.randrange(30)).encode(), 1)
            case 3:
                return table[: chance.randrange(len(table) + 1)]
            case 4:
                return chance.choice((b"", b"[]", b"{}", b"null", b'{"tensors":[]}', b"[" * 2000, b"\xff"))
        # No digit may become a size that takes memory.
        return bytes(value ^ (1 << chance.randrange(4)) if chance.random() < 0.02 else value for value in table)

    def damaged(self, data):
        """Bytes flipped, changed, left out, put in or cut off."""
        chance, data = self.chance, bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            place = chance.randrange(len(data)) if data else 0
            match chance.randrange(6):
                case 0 | 1:
                    if data:
                        data[place] ^= 1 << chance.randrange(8)
                case 2:
                    if data:
                        data[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
                case 3:
                    del data[place : place + chance.choice((1, 1, 4, 8))]
                case 4:
                    data[place:place] = chance.randbytes(chance.choice((1, 1, 4, 8)))
                case 5:
                    del data[place:]
        return bytes(data)


def fitting(changes):
    """Numbers that do not fit into the head of a row frame are what the sender would be blamed for."""
    bits = {"number": 64, "iteration": 32, "codec": 8, "stream": 8}
    return {name: value & ((1 << bits[name]) - 1) if name in bits else value for name, value in changes.items()}


def _names(message):
    """Of its fields; the stream of rows stands in the header, and is changed there."""
    if isinstance(message, Rows):
        return [field.name for field in dataclasses.fields(message) if field.name != "stream"]
    return message.__struct_fields__


def _body(message):
    return encode(message)[HEADER_BYTES:]


# -- one input after the other -----------------------------------------------------------------------------------------


class Fuzzer:
    """Feeds mutated frames, and counts what comes of them.

    Attributes:
        counts: inputs by target and by how they ended.
    """

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.mutator = Mutator(self.chance)
        self.recordings = recordings()
        self.counts = Counter()

    @property
    def inputs(self):
        return sum(self.counts.values())

    def run(self, inputs):
        """At least so many inputs."""
        until = self.inputs + inputs
        while self.inputs < until:
            if self.chance.random() < 0.2:
                self._decoder()
            else:
                self._session()

    def _decoder(self):
        """A stream of a few frames, damaged somewhere, in pieces of any size."""
        chance, recording = self.chance, self.chance.choice(self.recordings)
        streams = chance.choice(({}, {0: RowLimits(1)}, {0: RowLimits(LAYOUT.rows), 3: RowLimits(1, 4)}))
        decoder = _decoder(0, trusted=chance.random() < 0.8, streams=streams)
        first = chance.randrange(len(recording.messages))
        frames = [encode(message, number) for number, message in enumerate(recording.messages[first : first + 6])]
        if chance.random() < 0.2:
            place = chance.randrange(len(frames))
            frames[place:place] = frames[place : place + 1] * chance.randrange(3)
        data = self.mutator.damaged(b"".join(frames))
        size = chance.choice((1, 7, 16, 100, 10_000))
        ended = "whole"
        try:
            for start in range(0, len(data), size):
                for _ in decoder.feed(data[start : start + size]):
                    pass
        except RemoteProtocolError as error:
            ended = type(error).__name__
        self.counts["decoder", ended] += 1

    def _session(self):
        """A node in the middle of a session; up to six frames, most of them mutated."""
        chance, recording = self.chance, self.chance.choice(self.recordings)
        place = chance.randrange(len(recording.messages))
        node, link, now, trusted, streams = pickle.loads(recording.states[place])  # noqa: S301 - made above
        link.decoder = _decoder(0, trusted=trusted, streams=streams)
        end = _ServerLink(node, link) if recording.side == "server" else _WorkerLink(node, link)
        for step in range(6):
            if chance.random() < 0.2:
                others = oddities() if chance.random() < 0.3 else chance.choice(self.recordings).messages
                message = chance.choice(others)
            else:
                message = recording.messages[min(place + step, len(recording.messages) - 1)]
            kind, body = (message.KIND, _body(message)) if chance.random() < 0.15 else self.mutator.frame(message)
            now += chance.choice((0.0, 0.001, 0.1, 1.0))
            try:
                version, stream = self.mutator.version(), self.mutator.stream()
                end.hear(now, framed(kind, body, version, link.decoder.frames, stream=stream))
                ended = "taken"
            except (RemoteProtocolError, LinkLost) as error:
                ended = type(error).__name__
                end.fail(now, error)
            except Exception as error:
                what = f"{recording.side}, message {place} + {step}, kind {kind}, body {body!r}"
                raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
            self.counts[recording.side, ended] += 1
            if ended != "taken" or link.closing:
                break
        end.go_on(now + chance.choice((0.0, 0.5, 11.0, 30.0)))


class _ServerLink:
    def __init__(self, node, link):
        self.node, self.link = node, link

    def hear(self, now, data):
        self.node.heard(now, self.link)
        for message in self.link.decoder.feed(data):
            self.node.receive(now, self.link, message)
        self._send(now)

    def fail(self, now, error):
        if isinstance(error, RemoteProtocolError):
            self.node.blame(now, self.link, error)
            self._send(now)
        self.node.link_down(now, self.link, str(error))

    def _send(self, now):
        for _ in range(100):
            ready = self.node.take_ready()
            if not ready:
                break
            for link in ready:
                for _ in range(100):
                    message = self.node.poll(now, link)
                    if message is None:
                        break
                    encode(message)

    def go_on(self, now):
        """Time passes for the server: what was let in must not end it later."""
        self.node.next_wake()
        for link, cause in self.node.on_timer(now):
            self.node.link_down(now, link, cause)
        self._send(now)
        self.node.status(now)


class _WorkerLink:
    def __init__(self, node, link):
        self.node, self.link = node, link
        node.link = link if node.link is not None else None

    def hear(self, now, data):
        self.node.heard(now)
        for message in self.link.decoder.feed(data):
            self.node.receive(now, message)
        self._send(now)

    def fail(self, now, error):
        if isinstance(error, RemoteProtocolError):
            self.node.blame(now, error)
        self.node.link_down(now, str(error))

    def _send(self, now):
        for _ in range(100):
            message = self.node.poll(now)
            if message is None:
                break
            encode(message)

    def go_on(self, now):
        """Time passes for the worker, and it comes back if its link was lost."""
        self.node.next_wake()
        try:
            self.node.on_timer(now)
        except LinkLost as error:
            self.node.link_down(now, str(error))
        self._send(now)


# -- a long life -------------------------------------------------------------------------------------------------------


class Couple:
    """A server node and a worker node that talk with each other, while a part of what they say is mutated.

    After each error the link is made anew, from another address; a worker that is beyond help is followed by another
    one of the same name. The server is always the same one.

    Attributes:
        server, worker: the nodes; the worker may be another one later.
        counts: frames by target and by how they ended.
        iterations: how many the workers have finished.
        links: how often they were connected.
    """

    def __init__(self, policy, seed):
        self.chance = random.Random(seed)
        self.mutator = Mutator(self.chance)
        self.counts = Counter()
        self.iterations = self.links = 0
        self.now = self._begun_at = 0.0
        settings = ServerSettings(
            gather_s=0.0, fresh_after_s=60.0
        )  # a team that nobody can join makes room for another
        self.server = ServerNode(
            parse_policy(policy), settings=settings, journal=_forgetful("server"), entropy=self.chance.randbytes
        )
        self._newcomer()

    def _newcomer(self):
        parameters = np.arange(LAYOUT.elements, dtype=np.float32)
        self.worker = WorkerNode(
            "robot0", LAYOUT, parameters, journal=_forgetful("robot0"), entropy=self.chance.randbytes
        )
        self._heard_by = {}
        self._begun_at = self.now

    def run(self, inputs):
        """At least so many frames."""
        until = sum(self.counts.values()) + inputs
        while sum(self.counts.values()) < until:
            self._round()

    def rest(self):
        """The link is down for ten minutes: buffers and what is kept for a while are gone."""
        self._part("the fuzzer rests")
        self.now += 600.0
        self._pass_time()

    def _round(self):
        self.now += self.chance.choice((0.001, 0.01, 0.1, 1.0))
        worker = self.worker
        if worker.state is WorkerState.DONE or worker.failure is not None or self.now > self._begun_at + 600.0:
            self._part("the worker has ended")
            self.now += self.chance.choice((1.0, 30.0, 100.0))
            self._newcomer()
        if not self._heard_by:
            self._meet()
        elif worker.state is WorkerState.COMPUTING:
            self._step()
        for side in ("server", "worker") * 2:
            self._deliver(side)
        self._pass_time()
        worker.notices.clear()
        self.server.notices.clear()

    def _step(self):
        worker = self.worker
        parts = [worker.replica[spec.start : spec.stop] for spec in LAYOUT.tensors]
        try:
            worker.accumulate([part - np.float32(0.5) for part in parts], 1.0)
        except NonFiniteGradient:  # numbers that were mutated have added up to infinity, and the training is over
            worker.leave(self.now, "diverged")
            return
        worker.exchange(self.now)
        self.iterations += 1

    def _meet(self):
        self.now += self.chance.choice((0.1, 1.0, 10.0))
        address = f"10.0.{self.chance.randrange(256)}.{self.chance.randrange(256)}"
        links = Link("server"), Link(address)
        self.worker.link_up(self.now, links[0])
        self._heard_by = {"worker": links[0], "server": links[1]}
        self.links += 1
        try:
            self.server.link_up(self.now, links[1])
        except LinkLost as error:
            self._part(str(error))

    def _part(self, cause):
        """The link is gone for both."""
        if self._heard_by:
            self.server.link_down(self.now, self._heard_by["server"], cause)
            self.worker.link_down(self.now, cause)
            self._heard_by = {}

    def _deliver(self, side):
        """What is to be said to one side reaches it."""
        for _ in range(100):
            if not self._heard_by:
                return
            sender = self._heard_by["server" if side == "worker" else "worker"]
            self.server.take_ready()
            message = self.server.poll(self.now, sender) if side == "worker" else self.worker.poll(self.now)
            if message is None:
                if sender.closing:
                    self._part("closed")
                return
            whole = sender.encoder.encode(message)
            if self.chance.random() < 0.1:
                kind, body = self.mutator.frame(message)
                version, stream = self.mutator.version(), self.mutator.stream()
                whole = framed(kind, body, version, self._heard_by[side].decoder.frames, stream=stream)
            self._hear(side, whole)

    def _hear(self, side, data):
        link, ended = self._heard_by[side], "taken"
        try:
            if side == "server":
                self.server.heard(self.now, link)
                for message in link.decoder.feed(data):
                    self.server.receive(self.now, link, message)
            else:
                self.worker.heard(self.now)
                for message in link.decoder.feed(data):
                    self.worker.receive(self.now, message)
        except (RemoteProtocolError, LinkLost) as error:
            ended = type(error).__name__
            if isinstance(error, RemoteProtocolError):
                if side == "server":
                    self.server.blame(self.now, link, error)
                    self._deliver("worker")  # why
                else:
                    self.worker.blame(self.now, error)
            self._part(str(error))
        self.counts[side, ended] += 1

    def _pass_time(self):
        self.server.next_wake()
        for link, cause in self.server.on_timer(self.now):
            if link is self._heard_by.get("server"):
                self._part(cause)
        self.worker.next_wake()
        try:
            self.worker.on_timer(self.now)
        except LinkLost as error:
            self._part(str(error))


def _forgetful(name):
    """A journal that keeps nothing."""
    return Journal(name, lambda record: None)


def live_on(policy, seed, inputs):
    """Let a :class:`Couple` live through ``inputs`` frames, and a tenth of it before anything is measured.

    Returns:
        The couple, and the bytes that were taken and not given back.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracemalloc.start()
        try:
            couple = Couple(policy, seed)
            held = []
            for part in (max(inputs // 10, 1), inputs):
                couple.run(part)
                couple.rest()
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
            return couple, held[1] - held[0]
        finally:
            tracemalloc.stop()


# -- many of them ------------------------------------------------------------------------------------------------------


def fuzz(seed, inputs):
    """Run ``inputs`` inputs; returns the counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fuzzer = Fuzzer(seed)
        fuzzer.run(inputs)
        return fuzzer.counts


def _fuzz(arguments):
    return fuzz(*arguments)


def _live_on(arguments):
    couple, grown = live_on(*arguments)
    return arguments[0], couple.counts, grown


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    share = -(-options.inputs // options.jobs)
    counts, most = Counter(), 0
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for found in pool.imap_unordered(_fuzz, [(options.seed + job, share) for job in range(options.jobs)]):
            counts += found
        lives = [(policy, options.seed, MEMORY_INPUTS) for policy in POLICIES]
        lived = list(pool.imap_unordered(_live_on, lives, chunksize=1))
    for (target, ended), count in sorted(counts.items()):
        print(f"{target:8} {ended:22} {count:>10,}")
    for policy, found, grown in sorted(lived, key=lambda life: life[0]):
        most = max(most, grown)
        print(f"{policy}: {sum(found.values()):,} frames in one life; memory grew by {grown >> 10} kB")
    done = sum(counts.values())
    print(f"{done:,} mutated frames in {time.monotonic() - begun:.0f} s; memory grew by at most {most >> 10} kB")
    if done < max(options.inputs, 1):
        sys.exit(f"expected at least {max(options.inputs, 1):,} mutated frames")
    if most > MEMORY_BYTES:
        sys.exit(f"expected memory to grow by at most {MEMORY_BYTES >> 10} kB")


if __name__ == "__main__":
    main()
