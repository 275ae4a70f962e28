"""Robot and server of an inference against a peer with a fault, message by message."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import numpy as np
import pytest

from inference_peers import (
    DEFLATE,
    DOWN,
    HALF,
    IMAGE,
    MODEL,
    RAW,
    TRUTH,
    Asker,
    Guest,
    Host,
    answer_of,
    hello,
    request,
    rows,
)
from inferences import (
    MIDDLE,
    same,
)
from raw_frames import framed
from rowcast.errors import LinkLost, RemoteProtocolError
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
    LayoutTable,
    Proof,
    PushEnd,
    Refusal,
    Request,
    Rows,
    Served,
    StateEnd,
    Welcome,
)

# -- the server --------------------------------------------------------------------------------------------------------


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
    "more slabs than were announced": (
        [request(), dataclasses.replace(rows(1, 0, 4), quota_end=True)],
        dataclasses.replace(rows(2, 4, 8), quota_end=True),
    ),
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


def test_rows_that_nothing_is_computed_of_may_come_after_the_answer():
    """A skip with stride 2 never reads the last row: the answer is complete before that row arrives."""
    assert MODEL.graph.ops[6].rule.need(0, 6) == (0, 11)
    host = Host(requests_per_robot=1)
    guest = Guest(host.server)
    most = dataclasses.replace(rows(1, 0, 11, op=3), quota_end=True)
    guest.say(request(1, up=(3,), down=(6,), codecs=(RAW,), slabs=12), most)
    assert host.compute() == 1
    assert isinstance(guest.heard()[-1], Answer)
    guest.say(rows(2, 11, 12, op=3))
    assert guest.heard() == [Ack(2, 1)]
    guest.say(request(2), rows(3, 0, 12, of=2))
    host.compute()
    assert same(answer_of(guest.heard(), 2), TRUTH)
    guest.say(request(3, up=(3,), down=(6,), codecs=(RAW,), slabs=12), dataclasses.replace(most, number=4, iteration=3))
    assert host.compute() == 1
    guest.say(rows(5, 11, 12, op=3, of=3))  # and before the answer was sent
    assert host.compute() == 0
    assert [message.number for message in guest.heard() if isinstance(message, Answer)] == [3]
    assert host.engine.held == set()


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
