"""Rules at their edges: one iteration more, one frame later, one part twice. Each of these was wrong unnoticed once."""

from __future__ import annotations

import dataclasses
import itertools
import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loops import run_team
from one_line import ROWS, WIDE, Line, rows_of
from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.drivers.virtual import VirtualWorker
from rowcast.errors import RemoteProtocolError
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.optim import Optimizer
from rowcast.sync import RowsToSend, SlackTuner, VersionTable, parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training import WorkerState
from rowcast.wire import Ack, Ask, Cancel, Finish, Go, Message, PushEnd, Rows
from teams import LAYOUT, Books, events, finished, replicas_agree, worker

#: Where three workers begin.
TRIPLES = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))


# -- what is counted once ------------------------------------------------------------------------------------------


def test_an_outer_step_is_taken_once_for_all_parts_of_an_iteration() -> None:
    """``no_sync`` with an outer momentum: DiLoCo's step (arXiv 2311.08105, Alg. 1) of the sum of the parts."""
    parameter = torch.nn.Parameter(torch.zeros(8, 4))
    model = torch.nn.Module()
    model.register_parameter("weight", parameter)
    parts = [(1.0, 0.5, 0.25), (0.5, 0.25, 0.125), (2.0, 1.0, 0.5)]

    def loop(index: int, worker: VirtualWorker) -> None:
        def train(amount: float) -> None:
            parameter.grad = torch.full_like(parameter, amount)
            optimizer.step()

        with Optimizer(torch.optim.SGD([parameter], lr=1.0), model, worker) as optimizer:
            for *before, last in parts:
                with optimizer.no_sync():
                    for amount in before:
                        train(amount)
                train(last)

    server, _ = run_team("bsp?codec=raw&outer_momentum=0.5", 1, loop)
    momentum = moved = 0.0
    for amounts in parts:
        momentum = 0.5 * momentum + sum(amounts)
        moved += sum(amounts) + 0.5 * momentum
    np.testing.assert_allclose(server.parameters, -moved, rtol=1e-6)


def test_a_frame_that_comes_twice_is_applied_once_and_acknowledged_again() -> None:
    line, pulled = Line("bsp?codec=raw"), []
    line.pass_on(0.0)
    line.step(1.0)

    def keep(message: Message) -> Message:
        pulled.append(message)
        return message

    pushed = rows_of(line.pass_on(1.0, keep))
    server, node, link = line.server, line.worker, line.server.members["robot"].link
    parameters, replica = server.parameters.copy(), node.replica.copy()
    assert len(pushed) > 1 and len(rows_of(pulled)) > 1
    for frame in (pushed[0], pushed[-1]):
        server.receive(2.0, link, frame)
        assert server.poll(2.0, link) == Ack.at(2.0, pushed[-1].number)
    for frame in (rows_of(pulled)[0], rows_of(pulled)[-1]):
        node.receive(2.0, frame)
        assert node.poll(2.0) == Ack.at(2.0, rows_of(pulled)[-1].number)
    np.testing.assert_array_equal(server.parameters, parameters)
    np.testing.assert_array_equal(node.replica, replica)


def test_frames_that_all_come_twice_change_nothing() -> None:
    """Were one an error, the team would connect anew for ever: it gets no more time than it takes without them."""
    ends = []
    for duplicate in (0.0, 1.0):
        scripts = [worker("robot0", iterations=4, duplicate=duplicate), worker("robot1", duplicate=duplicate)]
        team = VirtualTeam(LAYOUT, "rog:2?codec=raw", scripts)
        finished(team, until=30.0)
        assert not events(team, "server", "error") and not events(team, "robot0", "error")
        replicas_agree(team)
        ends.append(team.server.parameters)
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-5)


# -- who counts from where -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rows", "push end", "finish"])
def test_an_iteration_after_the_next_one_is_refused(kind: str) -> None:
    line = Line("ssp:4?codec=raw")
    line.pass_on(0.0)
    for time in (1.0, 2.0):
        line.step(time)
        line.pass_on(time)
    assert line.worker.state is WorkerState.COMPUTING and line.worker.iteration == 2
    member = line.server.members["robot"]

    def said(iteration: int) -> Message:
        number, payload = member.inbox.received + 1, np.ones(100, dtype=np.float32).view(np.uint8)
        return {
            "rows": Rows(number, iteration, rows_codec(line), False, False, np.array([3]), payload),
            "push end": PushEnd(iteration, 0.1, 0.1, 1e6, False),
            "finish": Finish(iteration, True),
        }[kind]

    before = line.server.parameters.copy()
    for iteration in (1, 4):
        with pytest.raises(RemoteProtocolError, match=f"expected iteration 2 or 3 of robot, got {iteration}"):
            line.server.receive(3.0, member.link, said(iteration))
    np.testing.assert_array_equal(line.server.parameters, before)
    line.server.receive(3.0, member.link, said(3))


def rows_codec(line: Line) -> int:
    return line.server.policy.row_codec.wire_id


def test_a_request_for_a_slot_two_iterations_ahead_is_refused() -> None:
    line = Line("flown:2?codec=raw")
    line.pass_on(0.0)
    link = line.server.members["robot"].link
    with pytest.raises(RemoteProtocolError, match="expected iteration 0 or 1 of robot, got 2"):
        line.server.receive(1.0, link, Ask(2, 1.0, 1e6))
    line.server.receive(1.0, link, Ask(1, 1.0, 1e6))


@pytest.mark.parametrize("policy", ["asp", "ssp:30"])
def test_a_newcomer_starts_at_the_count_of_the_slowest(policy: str) -> None:
    scripts = [worker("fast", iterations=60), worker("slow", iterations=8, compute_s=1.0)]
    team = VirtualTeam(LAYOUT, policy, scripts)
    team.at(4.5, lambda: team.start(worker("new", iterations=3)))
    finished(team)
    replicas_agree(team)
    begun = events(team, "new", "step")[0]
    at_that_time = {
        name: max(record["iteration"] for record in events(team, name, "step") if record["t"] <= 4.5)
        for name in ("fast", "slow")
    }
    assert at_that_time["fast"] > at_that_time["slow"] + 20
    assert begun["iteration"] == at_that_time["slow"] + 1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_the_oldest_row_of_all_is_known_whatever_a_worker_says(data: st.DataObject) -> None:
    """A worker may say the iteration before its last one again, after all rows of the last one have come."""
    table, rows = VersionTable(3), np.arange(3)
    versions = {name: np.full(3, start) for name, start in zip("abc", data.draw(TRIPLES), strict=True)}
    for name, known in versions.items():
        table.admit(name, int(known[0]))
    counts = {name: int(known[0]) for name, known in versions.items()}
    for _ in range(data.draw(st.integers(0, 30))):
        name = data.draw(st.sampled_from("abc"))
        if (versions[name] > counts[name]).all():
            counts[name] += data.draw(st.integers(0, 1))
        which = rows[data.draw(st.lists(st.booleans(), min_size=3, max_size=3))]
        iteration = counts[name] + data.draw(st.integers(0, 1))
        versions[name][which] = iteration
        table.advance(name, which, iteration)
        if data.draw(st.booleans()):
            assert table.oldest() == min(known.min() for known in versions.values())
        if data.draw(st.booleans()):
            assert table.oldest_of(name) == versions[name].min()
    lowest = min(known.min() for known in versions.values())
    assert table.oldest() == lowest
    assert table.behind(lowest + 1) == [name for name, known in versions.items() if known.min() == lowest]


def outage(begin_s: float, end_s: float, rate_bps: float) -> Trace:
    """A link that carries nothing for a while; nobody is told."""
    return Trace(
        np.array([0.0, begin_s, end_s]), np.array([rate_bps, 0.0, rate_bps]), "outage", loop=False, duration_s=math.inf
    )


def test_the_oldest_row_of_who_returns_counts_as_the_oldest_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = [1e5, 1e5, outage(4.0, 14.0, 1e5)]
    scripts = [worker(f"robot{i}", iterations=110, rate_bps=rate, compute_s=0.2) for i, rate in enumerate(rates)]
    team = VirtualTeam(
        LAYOUT,
        "rowcast:4",
        scripts,
        server_settings=ServerSettings(expected_workers=3, silence_limit_s=100.0),
        worker_settings=WorkerSettings(silence_limit_s=100.0),
    )
    returns = []
    record = Journal.record

    def watch(journal: Journal, now: float, event: str, **fields: object) -> None:
        record(journal, now, event, **fields)
        if event == "return":
            versions = team.server.versions
            others = min(versions.oldest_of(f"robot{i}") for i in (0, 1))
            returns.append((versions.oldest_of("robot2"), others))

    monkeypatch.setattr(Journal, "record", watch)
    finished(team)
    replicas_agree(team)
    assert len(returns) == 1
    assert returns[0][0] == returns[0][1] > 20


def test_the_server_knows_who_waits_at_a_gate_that_workers_open_themselves() -> None:
    """As many iterations ahead as the slack allows a worker computes; it waits when it is one further."""
    scripts = [worker("quick", iterations=9), worker("slow", iterations=1, compute_s=20.0)]
    team = VirtualTeam(LAYOUT, "rowcast:2?elastic=off&codec=raw", scripts)
    seen = []

    def look() -> None:
        node = team.workers["quick"].node
        (state,) = (line.state for line in team.server.status(team.now) if line.name == "quick")
        seen.append((node.iteration, node.state.value, state))

    for time in (0.15, 0.25, 0.35, 5.0):
        team.at(time, look)
    team.run(6.0)
    assert seen == [
        (1, "computing", "computing"),
        (2, "computing", "computing"),
        (3, "waiting", "waiting"),
        (3, "waiting", "waiting"),
    ]


# -- what is sent when ---------------------------------------------------------------------------------------------


def test_a_row_that_was_lost_twice_is_as_old_as_before_the_first_time() -> None:
    """After a cut the oldest rows go first: those of two lost frames are no younger than those of one."""
    line = Line("rowcast:4?codec=raw&refine=off&adapt=off", dataclasses.replace(WIDE, window_min_bytes=24_000))
    line.pass_on(0.0)
    for time in (1.0, 2.0):
        line.step(time)
        sent = rows_of(line.pass_on(time, lost=(Rows,)))
    twice = np.unique(np.concatenate([frame.rows for frame in sent]))
    assert 0 < len(twice) < ROWS.rows and 0 in twice  # the others are on their way once
    line.cut(3.0)
    line.connect(3.0)
    first = rows_of(line.pass_on(3.0))[0]
    assert first.rows[0] == 0
    assert set(first.rows) <= set(twice)


def test_nothing_beyond_the_quota_is_sent_when_the_time_left_is_used_up() -> None:
    """What is on its way takes all of the time that is left: the first frame beyond the quota is one too many."""
    frames = []
    for mta_time_s in (2.0, 1 / 1024):
        line = Line("rog:4?codec=raw")
        line.pass_on(0.0)
        line.step(1.0)

        def grant(message: Message, mta_time_s: float = mta_time_s) -> Message:
            return msgspec.structs.replace(message, mta_time_s=mta_time_s) if isinstance(message, Go) else message

        line.pass_on(1.0, grant)
        line.step(2.0)
        # Nothing is acknowledged: what was sent stays on its way. Nor does the server say that it is enough.
        sent = line.pass_on(2.0, lambda message: None if isinstance(message, Ack | Cancel) else message)
        frames.append(rows_of(sent))
    (quota,) = {next(place for place, frame in enumerate(sent) if frame.quota_end) for sent in frames}
    assert len(frames[0]) > quota + 1
    assert len(frames[1]) == quota + 1


@pytest.mark.parametrize(("stamp", "quota"), [(4, 30), (5, 30), (6, 11)])
def test_what_is_owed_goes_in_the_last_pull_that_keeps_the_bound(stamp: int, quota: int) -> None:
    """Once in four pulls: a row stamped 5 was in none of 6, 7 and 8, so that of 9 has it, share or no share."""
    policy = parse_policy("rog:4?share=0.25&codec=raw")
    assert policy.pull_bound == 4
    stamps = np.full(ROWS.rows, 8, dtype=np.int32)
    stamps[:30] = stamp
    seen = RowsToSend(
        eligible=np.arange(ROWS.rows),
        stamps=stamps,
        abs_sums=np.ones(ROWS.rows, dtype=np.float32),
        row_bytes=ROWS.lengths * 4,
        total_bytes=ROWS.elements * 4,
        largest_bytes=int(ROWS.lengths.max()) * 4,
        iteration=9,
        travelled_bytes=0,
    )
    assert policy.choose_pull(ROWS, seen).quota == quota


def test_a_push_that_was_given_up_is_not_booked_for_another_iteration() -> None:
    """Back from an absence a robot counts from another iteration: what it had sent for the old one is no part of it."""
    scripts = [worker("robot0", iterations=80), worker("robot1", iterations=60, rate_bps=2e4)]
    team = VirtualTeam(
        LAYOUT,
        "rog:4?codec=raw",
        scripts,
        server_settings=ServerSettings(expected_workers=2, absence_limit_s=1.0),
        link_settings=LinkSettings(frame_min_bytes=64, window_min_bytes=512, frame_s=0.005),
    )
    books = Books(team)
    cut: list[int] = []

    def cut_in_a_push() -> None:
        node = team.workers["robot1"].node
        if node.state is WorkerState.PUSHING and node.outbox.delivered > 20:
            cut.append(node.iteration)
            team.cut("robot1", 3.0)
        else:
            team.at(team.now + 0.002, cut_in_a_push)

    team.at(1.0, cut_in_a_push)
    finished(team)
    books.check()
    steps = events(team, "robot1", "step")
    before, after = next(pair for pair in itertools.pairwise(steps) if pair[1]["iteration"] > pair[0]["iteration"] + 1)
    assert before["iteration"] == cut[0] - 1
    assert all(step["push_share"] <= 1 for step in steps)
    assert after["push_rows"] <= LAYOUT.rows


def test_two_frames_of_the_least_size_are_on_their_way_however_slow_the_link() -> None:
    """A link that was measured to carry next to nothing: behind a frame there is one more, and no third."""
    crawl = LinkSettings(
        frame_min_bytes=1024, frame_max_bytes=1024, window_min_bytes=1024, initial_rate_bps=1e3, window_s=0.1
    )
    line = Line("bsp?codec=raw", crawl)
    line.pass_on(0.0)
    line.step(1.0)
    withheld = line.pass_on(1.0, lambda message: None if isinstance(message, Ack) else message)
    assert [len(frame.rows) for frame in rows_of(withheld)] == [2, 2]


def test_an_iteration_that_is_told_again_after_a_cut_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides on a slack that adapts is how large updates are: each is looked at once."""
    sizes = []
    computed = SlackTuner.computed
    monkeypatch.setattr(
        SlackTuner, "computed", lambda tuner, size, lack: (sizes.append(size), computed(tuner, size, lack))
    )
    team = VirtualTeam(LAYOUT, "rowcast:4?auto=on", [worker(f"robot{i}", iterations=12) for i in (0, 1)])
    for time in (0.35, 0.52, 0.77):
        team.at(time, lambda: team.cut("robot1", 0.0))
    finished(team)
    replicas_agree(team)
    assert len(events(team, "robot1", "resume")) == 3
    assert len(sizes) == 24


def test_the_first_push_too_is_told_that_all_quotas_are_there() -> None:
    heard: list[Message] = []

    def note(message: Message) -> Message:
        heard.append(message)
        return message

    line = Line("rog:4?codec=raw")
    line.pass_on(0.0)
    for iteration in (1, 2):
        line.step(float(iteration))
        line.pass_on(float(iteration), note)
    assert [message for message in heard if isinstance(message, Cancel)] == [Cancel(1), Cancel(2)]
