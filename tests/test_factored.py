"""Matrices as two factors (docs/algorithms.md 5.11): the published algorithm, its code, its rule in any weather."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import teams
from rowcast.codecs import Half, OneBit, Raw, TimingOnly, codec_by_id
from rowcast.codecs.lowrank import Factors, LowRank
from rowcast.config import LinkSettings, ServerSettings
from rowcast.delivery.vectors import VectorInbox, VectorOutbox
from rowcast.delivery.window import Window
from rowcast.errors import LocalProtocolError, RemoteProtocolError
from rowcast.rows import Layout
from rowcast.session.link import Link
from rowcast.sync import parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training import WorkerNode, WorkerState
from rowcast.training.member import MemberState
from rowcast.wire import Ack, Rows
from teams import (
    Books,
    events,
    finished,
    members,
    names_of,
    noise,
    outages,
    quadratic,
    replicas_agree,
    start_of,
    worker,
)

#: Matrices of several rows and of one, a convolution, slices in pieces; and what travels as it is.
SHAPES = [("deep", (24, 10)), ("bias", (14,)), ("conv", (12, 3, 3)), ("wide", (9, 300)), ("flat", (2, 2)), ("one", ())]
LAYOUT = Layout.from_shapes(SHAPES, small_tensor=150, max_row=120)
SMALL = Layout.from_shapes([("weight", (24, 3)), ("bias", (7,))], small_tensor=1)
SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001)


def prove(examples):
    quiet = [HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=quiet)


# -- which matrices, and their code --------------------------------------------------------------------------------


def test_matrices_whose_factors_are_smaller_than_themselves_have_some():
    factors = Factors(LAYOUT, 1)
    # (12, 3, 3) is small: one row. The slices of (9, 300) are cut into three pieces each.
    assert [(block.height, block.width) for block in factors.blocks] == [(24, 10), (12, 9), *[(9, 100)] * 3]
    assert factors.basis_elements == 10 + 9 + 300 and factors.left_elements == 24 + 12 + 3 * 9
    for block in factors.blocks:
        matrix = block.of(np.arange(LAYOUT.elements, dtype=np.float32))
        assert matrix.shape == (block.height, block.width)
        spec = next(spec for spec in LAYOUT.tensors if spec.start <= block.start < spec.stop)
        whole = np.arange(spec.start, spec.stop).reshape(spec.shape[0], -1)
        column = (block.start - spec.start) % whole.shape[1]
        np.testing.assert_array_equal(matrix, whole[:, column : column + block.width])
    assert [len(Factors(LAYOUT, rank).blocks) for rank in (5, 6, 7, 8, 9)] == [5, 4, 4, 3, 0]
    buffers = Layout.from_shapes([("weight", (24, 10)), ("mean", (24, 10))], small_tensor=1, buffers=1)
    assert [block.start for block in Factors(buffers, 1).blocks] == [0]


def bound(rank, rest, layout=LAYOUT, seed=0):
    """A code in a random basis."""
    factors = Factors(layout, rank)
    sketches = np.random.default_rng(seed).standard_normal(factors.basis_elements)
    return LowRank(rank, rest, factors, factors.orthonormal(sketches))


@pytest.mark.parametrize("rest", [Raw(), OneBit(), Half()], ids=lambda codec: codec.name)
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_rows_are_told_in_the_basis_and_what_it_does_not_express_stays(rank, rest):
    random = np.random.default_rng(rank)
    code = bound(rank, rest)
    vector = random.standard_normal(LAYOUT.elements).astype(np.float32)
    rows = random.permutation(LAYOUT.rows)[: LAYOUT.rows - 4].astype(np.int64)
    before = vector.copy()
    assert len(code.encode(LAYOUT, vector, rows, consume=False)) == code.row_bytes(LAYOUT)[rows].sum()
    np.testing.assert_array_equal(vector, before)
    payload = code.encode(LAYOUT, vector, rows)
    code.check(LAYOUT, payload, rows)
    decoded = LAYOUT.zeros()
    code.add(LAYOUT, payload, rows, decoded, 1.0)
    np.testing.assert_allclose(decoded + vector, before, rtol=0, atol=1e-5)
    others = np.setdiff1d(np.arange(LAYOUT.rows), rows)
    for row in others:
        place = slice(LAYOUT.offsets[row], LAYOUT.offsets[row + 1])
        assert (vector[place] == before[place]).all() and not decoded[place].any()
    # A second time there is nothing left of matrices that the basis could express.
    coded = rows[Factors(LAYOUT, rank).widths[rows] > 0]
    again = code.encode(LAYOUT, vector, coded).view(np.float32)
    assert np.abs(again).max() < 1e-5
    # A row is the same in any company, and in a layout of its own.
    alone = LAYOUT.zeros()
    for row in rows:
        one = np.array([row])
        code.add(LAYOUT, code.encode(LAYOUT, before.copy(), one), one, alone, 1.0)
    np.testing.assert_array_equal(alone, decoded)
    part = LAYOUT.only(rows)
    packed = part.zeros()
    code.add(part, payload, np.arange(part.rows), packed, 1.0)
    scattered = [decoded[LAYOUT.offsets[row] : LAYOUT.offsets[row + 1]] for row in rows]
    np.testing.assert_array_equal(packed, np.concatenate(scattered))
    np.testing.assert_array_equal(code.row_bytes(part), code.row_bytes(LAYOUT)[rows])


def test_a_basis_is_orthonormal_whatever_the_sketches_are():
    factors = Factors(LAYOUT, 3)
    full = np.random.default_rng(0).standard_normal(factors.basis_elements)
    for sketches in (full, 1e-30 * full, 0 * full, np.ones_like(full)):
        basis = factors.orthonormal(sketches)
        for block in factors.blocks:
            rows = basis[block.basis_at : block.basis_at + 3 * block.width].reshape(3, block.width).astype(np.float64)
            np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=2e-7)  # rounded once, to float32


def test_what_a_peer_may_not_send_is_refused():
    code, sizes = bound(2, Raw()), LowRank(2, Raw())
    rows = np.arange(LAYOUT.rows)
    payload = code.encode(LAYOUT, np.ones(LAYOUT.elements, dtype=np.float32), rows)
    for place in (0, len(payload) // 4 - 1):
        bad = payload.copy()
        bad.view(np.float32)[place] = np.nan
        with pytest.raises(RemoteProtocolError, match="expected finite values"):
            code.check(LAYOUT, bad, rows)
    with pytest.raises(RemoteProtocolError, match="bytes for its rows"):
        code.check(LAYOUT, payload[:-4], rows)
    np.testing.assert_array_equal(sizes.row_bytes(LAYOUT), code.row_bytes(LAYOUT))
    with pytest.raises(LocalProtocolError, match="expected a basis"):
        sizes.encode(LAYOUT, LAYOUT.zeros(), rows)
    with pytest.raises(RemoteProtocolError, match="expected a basis before rows"):
        codec_by_id(code.wire_id).check(LAYOUT, payload, rows)


# -- the published algorithm ---------------------------------------------------------------------------------------


def gram_schmidt(matrix):
    for i in range(matrix.shape[1]):
        matrix[:, i] -= matrix[:, :i] @ (matrix[:, :i].T @ matrix[:, i])
        matrix[:, i] /= np.linalg.norm(matrix[:, i])
    return matrix


def published(layout, rank, gradients, iterations):
    """Algorithms 1 and 2 of arXiv 1905.13727, without momentum, on transposed matrices; the errors at last applied."""
    x, factors = start_of(layout).astype(np.float64), Factors(layout, rank)
    first = [factors.first_left()[b.left_at : b.left_at + rank * b.height] for b in factors.blocks]
    warm = [left.reshape(-1, rank).astype(np.float64) for left in first]
    errors = [np.zeros(layout.elements) for _ in gradients]
    for n in range(iterations):
        deltas = [error + gradient(n, x.astype(np.float32)) for error, gradient in zip(errors, gradients, strict=True)]
        update = np.mean(deltas, axis=0)
        for k, block in enumerate(factors.blocks):
            matrices = [block.of(delta).T for delta in deltas]
            p = gram_schmidt(np.mean([matrix @ warm[k] for matrix in matrices], axis=0))
            warm[k] = np.mean([matrix.T @ p for matrix in matrices], axis=0)
            update[block.of(np.arange(layout.elements))] = (p @ warm[k].T).T
        errors = [delta - update for delta in deltas]
        x = x - update
    return x - np.mean(errors, axis=0)


@pytest.mark.parametrize(("rank", "count"), [(1, 3), (2, 1), (2, 4), (5, 2)])
def test_a_team_does_what_is_published(rank, count):
    gradients = [quadratic(i, LAYOUT, rate=0.3) for i in range(count)]
    scripts = [
        worker(f"robot{i}", iterations=6, gradient=one, weight=1 / count, layout=LAYOUT)
        for i, one in enumerate(gradients)
    ]
    team = VirtualTeam(LAYOUT, f"powersgd:{rank}", scripts, link_settings=SMALL_FRAMES)
    finished(team)
    expected = published(LAYOUT, rank, gradients, 6)
    np.testing.assert_allclose(team.server.parameters, expected, rtol=0, atol=2e-5)
    replicas_agree(team, atol=1e-5)


@pytest.mark.parametrize("robots", [1, 2])
def test_a_rank_that_no_matrix_allows_is_synchronous_training_with_whole_rows(robots: int):
    both = []
    for policy in ("powersgd:9", "bsp?codec=raw"):
        scripts = [worker(f"robot{i}", gradient=quadratic(i, LAYOUT), layout=LAYOUT) for i in range(robots)]
        both.append(VirtualTeam(LAYOUT, policy, scripts))
        finished(both[-1])
    # What two robots send is added in the order of arrival, and each sum is rounded.
    rounded = 0.0 if robots == 1 else 16 * np.finfo(np.float32).eps
    np.testing.assert_allclose(both[0].server.parameters, both[1].server.parameters, rtol=0, atol=rounded)
    pushed = [[step["push_bytes"] for step in events(team, "robot0", "step")] for team in both]
    assert pushed[0] == pushed[1]


def test_directions_that_were_empty_for_long_are_found_when_something_is_in_them():
    """A basis of rank 2, updates of rank 1 or none: neither column of the warm start dies."""
    random = np.random.default_rng(3)
    first, second = (np.outer(random.standard_normal(24), random.standard_normal(3)).ravel() for _ in range(2))
    layout = Layout.from_shapes([("weight", (24, 3))], small_tensor=1)

    def gradient(n, x):
        return (0.0 * first if n < 3 else first if n < 8 else second + first).astype(np.float32)

    scripts = [worker("robot0", iterations=14, gradient=gradient, layout=layout, compute_s=0.5)]
    team = VirtualTeam(layout, "powersgd:2", scripts)
    left = []
    team.at(6.9, lambda: left.append(np.linalg.norm(team.workers["robot0"].node.pending)))
    finished(team)
    assert left[0] < 0.01 * np.linalg.norm(first + second)


# -- bytes ---------------------------------------------------------------------------------------------------------

BIG = Layout.from_shapes([("weight", (256, 300)), ("bias", (256,)), ("head", (10, 256))])


@pytest.mark.parametrize("rank", [1, 4])
def test_an_iteration_takes_the_bytes_of_both_factors(rank):
    factors = rank * (256 + 300 + 10 + 256)
    payload = 4 * (factors + 256)
    row_bytes = parse_policy(f"powersgd:{rank}").row_codec.row_bytes(BIG)
    assert 4 * Factors(BIG, rank).basis_elements + row_bytes.sum() == payload
    scripts = [worker(f"robot{i}", iterations=4, gradient=noise(i, BIG), layout=BIG) for i in range(2)]
    team = VirtualTeam(BIG, f"powersgd:{rank}", scripts)
    finished(team)
    for step in events(team, "robot1", "step"):
        assert payload < step["push_bytes"] < 1.1 * payload and payload < step["pull_bytes"] < 1.1 * payload
        assert step["push_rows"] == BIG.rows
    pushes = [record["bytes"] for record in events(team, "server", "push") if record["peer"] == "robot1"]
    assert pushes == [step["push_bytes"] for step in events(team, "robot1", "step")]


# -- any weather ---------------------------------------------------------------------------------------------------

WEATHER = ["powersgd:1", "powersgd:1?codec=onebit", "powersgd:1?row_weights=contributors"]


@prove(10)
@given(st.data())
def test_cuts_kills_restarts_and_joins_lose_nothing(data):
    duplicate = data.draw(st.sampled_from([0, 0.2]))
    scripts = [replace(script, duplicate=duplicate) for script in data.draw(members(count=3))]
    limit, expected = data.draw(st.sampled_from([0.3, 2.0])), data.draw(st.integers(1, 3))
    team = VirtualTeam(
        teams.LAYOUT,
        data.draw(st.sampled_from(WEATHER)),
        scripts,
        link_settings=SMALL_FRAMES,
        server_settings=ServerSettings(expected_workers=expected, absence_limit_s=limit),
    )
    books = Books(team)
    for time, name, down_s in data.draw(outages(names_of(scripts))):
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))

    def kill(name, down_s):
        one = team.workers[name]
        if not one.killed and one.node.failure is None and team.server.parameters is not None:
            books.kill(name)
            team.at(team.now + down_s, lambda: team.start(one.script))

    strikes = st.tuples(st.floats(0.0, 5.0), st.sampled_from(["robot1", "robot2"]), st.sampled_from([0.1, 1.0, 4.0]))
    for time, name, down_s in data.draw(st.lists(strikes, max_size=3)):
        team.at(time, lambda name=name, down_s=down_s: kill(name, down_s))
    if data.draw(st.booleans()):
        team.at(data.draw(st.floats(0.2, 5.0)), books.restart_server)
    team.at(data.draw(st.floats(0.5, 3.0)), lambda: team.start(worker("robot9", iterations=3, seed=5)))
    books.check_at(*data.draw(st.lists(st.floats(0.0, 8.0), max_size=6)))
    finished(team)
    books.check()
    assert max(team.gaps, default=0) == 0


#: A matrix of 3 x 3 and a vector: a few bytes.
TINY = Layout.from_shapes([("weight", (3, 3)), ("bias", (3,))], small_tensor=1)


def cut_at(direction, byte):
    scripts = [
        worker(f"robot{i}", iterations=2, gradient=quadratic(i, TINY, 0.3), weight=0.5, layout=TINY, delay_s=0.002)
        for i in range(2)
    ]
    team = VirtualTeam(TINY, "powersgd:1", scripts, link_settings=SMALL_FRAMES)
    books = Books(team)
    if byte is not None:
        team.cut_after("robot0", direction, byte, 0.2)
        team.at(0.31, books.check)
    finished(team)
    books.check()
    replicas_agree(team, atol=1e-5)
    return team


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_changes_only_the_time(direction):
    calm = cut_at(direction, None)
    total = calm.workers["robot0"].carried[direction]
    for byte in range(3, total, 17):
        team = cut_at(direction, byte)
        np.testing.assert_allclose(
            team.server.parameters, calm.server.parameters, rtol=0, atol=1e-5, err_msg=f"byte {byte}"
        )


def test_what_somebody_sends_as_it_is_reaches_all_as_it_is():
    """Who finishes has a residual that the basis of the next iteration does not express; nobody lacks it for long."""
    scripts = [
        worker(f"robot{i}", iterations=(2, 6, 6)[i], gradient=noise(i, SMALL), weight=1 / 3, layout=SMALL)
        for i in range(3)
    ]
    team = VirtualTeam(SMALL, "powersgd:1", scripts)
    lacking = {}

    def watch():
        """What members lack while all of them compute."""
        counted = [member for member in team.server.members.values() if member.gated]
        done = {(member.state, member.iteration, member.begun_iteration) for member in counted}
        for iteration in range(1, 6):
            if done == {(MemberState.COMPUTING, iteration, iteration)}:
                sizes = [float(np.abs(member.owed.source.total()).max()) for member in counted]
                lacking.setdefault(iteration, []).extend(sizes)

    for time in np.arange(0.1, 3.0, 0.003):
        team.at(time, watch)
    finished(team)
    assert max(lacking[1]) < 1e-6 and max(lacking[2]) > 0.1
    assert max(lacking[3]) < 1e-6 and max(lacking[4]) < 1e-6 and max(lacking[5]) < 1e-6
    replicas_agree(team, atol=1e-5)


# -- vectors on a stream of their own ------------------------------------------------------------------------------

PIECES = Layout.from_shapes([("basis", (1000,))], max_row=64)


def carried(outbox, inbox, now=0.0, lose=None):
    """Send all there is to send; the frame with the number ``lose`` is lost, and all behind it."""
    lost = False
    while (frame := outbox.next_frame(now)) is not None:
        lost = lost or frame.number == lose
        if not lost:
            inbox.accept(frame)
            outbox.acknowledged(now, inbox.received)
    return lost


def test_a_vector_arrives_whole_whenever_the_link_is_lost():
    vector = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    outbox, inbox = VectorOutbox(PIECES, Window(SMALL_FRAMES), 1), VectorInbox(PIECES)
    outbox.send(vector, 7)
    assert outbox.next_frame(0.0) is None and not outbox.empty  # there is no link
    outbox.link_ready()
    assert carried(outbox, inbox, lose=3) and not inbox.whole and inbox.number == 7
    assert outbox.in_flight > 0 and not outbox.settled and outbox.may_be_stuck_before(21.0, 20.0)
    outbox.link_lost()
    assert outbox.in_flight == 0 and outbox.settled and outbox.next_frame(1.0) is None
    outbox.link_ready()
    outbox.send(2 * vector, 8)  # another one meanwhile: the rest of the first is left out
    assert not carried(outbox, inbox, now=1.0)
    assert inbox.whole and inbox.number == 8 and outbox.empty and outbox.delivered == inbox.received
    np.testing.assert_array_equal(inbox.vector, 2 * vector)


def test_frames_that_had_arrived_are_known_again():
    outbox, inbox = VectorOutbox(PIECES, Window(SMALL_FRAMES), 1), VectorInbox(PIECES)
    outbox.send(np.ones(1000, dtype=np.float32), 1)
    outbox.link_ready()
    first = outbox.next_frame(0.0)
    assert inbox.accept(first)
    outbox.link_lost()  # the acknowledgement is lost with it
    outbox.link_ready()
    assert outbox.next_frame(1.0) is first and not inbox.accept(first)
    outbox.acknowledged(1.0, inbox.received)
    assert outbox.settled
    carried(outbox, inbox, now=1.0)
    assert inbox.whole and (inbox.vector == 1).all()
    with pytest.raises(RemoteProtocolError, match="expected a number up to"):
        outbox.acknowledged(1.0, inbox.received + 1)


def test_pieces_out_of_order_are_refused():
    outbox, inbox = VectorOutbox(PIECES, Window(LinkSettings(window_min_bytes=65536)), 1), VectorInbox(PIECES)
    outbox.send(np.ones(1000, dtype=np.float32), 1)
    outbox.link_ready()
    first = outbox.next_frame(0.0)
    outbox.acknowledged(0.01, 1)
    second = outbox.next_frame(0.01)
    with pytest.raises(RemoteProtocolError, match="expected number 1, got 2"):
        inbox.accept(second)
    with pytest.raises(RemoteProtocolError, match="expected row 0 and those behind it"):
        inbox.accept(replace(second, number=1))
    assert inbox.accept(first)
    for bad in (replace(second, iteration=2), replace(second, rows=second.rows + 1), replace(second, absolute=False)):
        with pytest.raises(RemoteProtocolError, match="and those behind it, of vector 1, got rows"):
            inbox.accept(bad)
    assert inbox.accept(second)


# -- what has no place ---------------------------------------------------------------------------------------------


def test_a_worker_that_waits_for_the_basis_says_so():
    node = WorkerNode("robot0", SMALL, SMALL.zeros())
    node.link_up(0.0, Link("server"))
    node.follow(parse_policy("powersgd:1"))
    node.welcomed_at, node.state = 1.0, WorkerState.ASKING
    assert node.waits_for(5.0) == "waiting for the basis of this iteration, which is made of everybody's sketch"


@pytest.mark.parametrize(
    ("policy", "text"),
    [("bsp", "expected an acknowledgement of row stream 0, got one of 1"), ("powersgd:1", "expected a number up to")],
)
def test_an_acknowledgement_of_what_was_not_sent_is_refused(policy, text):
    team = VirtualTeam(teams.LAYOUT, policy, [worker("robot0", iterations=3, compute_s=0.5)])
    team.run(0.3)
    with pytest.raises(RemoteProtocolError, match=text):
        team.workers["robot0"].node.receive(0.3, Ack(99, 1))
    with pytest.raises(RemoteProtocolError, match=text):
        team.server.receive(0.3, team.server.members["robot0"].link, Ack(99, 1))


def test_no_sketch_comes_before_the_start():
    two = ServerSettings(expected_workers=2)
    team = VirtualTeam(SMALL, "powersgd:1", [worker("robot0", layout=SMALL)], server_settings=two)
    team.run(1.0)
    outbox = VectorOutbox(Factors(SMALL, 1).basis_layout(), Window(LinkSettings()), 1)
    outbox.link_ready()
    outbox.send(np.ones(3, dtype=np.float32), 1)
    with pytest.raises(RemoteProtocolError, match="expected no sketch before the start"):
        team.server.receive(1.0, team.server.members["robot0"].link, outbox.next_frame(1.0))


def test_a_timing_only_code_has_the_sizes_of_the_real_one():
    real, timing = LowRank(2, Raw()), TimingOnly(LowRank(2, Raw()))
    np.testing.assert_array_equal(timing.row_bytes(LAYOUT.timing_only()), real.row_bytes(LAYOUT))
    assert timing.wire_id == real.wire_id + 128


@pytest.mark.parametrize("side", ["sketch", "basis"])
def test_a_link_on_which_nothing_of_a_stream_is_acknowledged_is_made_anew(side):
    """Heartbeats go on: nothing else tells that frames do not arrive."""
    scripts = [worker(f"robot{i}", iterations=3, layout=SMALL, gradient=noise(i, SMALL)) for i in range(2)]
    team = VirtualTeam(SMALL, "powersgd:1", scripts, link_settings=SMALL_FRAMES)
    node = team.server if side == "sketch" else team.workers["robot1"].node
    receive = node.receive

    def deaf(now, *heard):
        if not (isinstance(heard[-1], Rows) and heard[-1].stream and now < 10.0):
            receive(now, *heard)

    node.receive = deaf
    books = Books(team, start_of(SMALL))
    finished(team)
    books.check()
    replicas_agree(team)
    causes = [record["cause"] for record in events(team, "robot1" if side == "sketch" else "server", "link_down")]
    assert len(causes) >= 1 and causes[0].startswith("stuck:") and 20.0 < team.now < 60.0
