"""SPARTA, the policy ``sparta``: in each step rows drawn at random are averaged, of models that are each one's own."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rowcast.config import LinkSettings, ServerSettings
from rowcast.drivers.virtual import Device, Simulation, VirtualWorker
from rowcast.errors import ConfigError, NonFiniteGradient
from rowcast.links import Trace
from rowcast.optim import Optimizer
from rowcast.rows import Layout
from rowcast.rows.kernels import row_abs_sums, row_sums
from rowcast.sync import RowsToSend, parse_policy
from rowcast.sync.sample import draw, drawn_of
from rowcast.testing import VirtualTeam
from rowcast.training import ServerNode, WorkerNode
from rowcast.wire import Rows
from teams import (
    LAYOUT,
    Books,
    events,
    finished,
    links,
    noise,
    outages,
    quadratic,
    replicas_agree,
    start_of,
    worker,
)

SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001)


# -- which rows --------------------------------------------------------------------------------------------------------


def test_the_draw_is_the_same_everywhere_and_always():
    """Two ends with other machines and other versions draw the same rows: these numbers must never change."""
    assert draw(1, 27, 0.1).tolist() == [1, 2, 9]
    assert draw(2, 27, 0.1).tolist() == [8, 11, 18]
    assert draw(1, 28, 0.1).tolist() == [13, 22, 26]
    assert draw(123_456, 100_000, 0.00005).tolist() == [10843, 42368, 60858, 68604, 89388]


def test_a_share_of_the_units_is_drawn_without_replacement_and_at_least_one():
    assert [drawn_of(share, 100) for share in (1e-6, 0.005, 0.01, 0.07, 0.071, 0.29, 1.0)] == [1, 1, 1, 7, 8, 29, 100]
    assert drawn_of(1.0, 1) == drawn_of(1e-6, 1) == 1
    for share, population in itertools.product((1e-6, 0.005, 0.3, 1.0), (1, 2, 27, 1000)):
        drawn = draw(5, population, share)
        assert drawn.dtype == np.int64 and len(drawn) == drawn_of(share, population)
        assert (np.diff(drawn) > 0).all() and drawn[0] >= 0 and drawn[-1] < population


def test_every_unit_is_drawn_equally_often_and_iterations_are_independent():
    population, share, iterations = 50, 0.2, 4000
    hits = np.zeros((iterations, population))
    for n in range(iterations):
        hits[n, draw(n + 1, population, share)] = 1
    # Each column is binomial: 4000 draws with probability 0.2 have a standard deviation of 25.
    assert np.abs(hits.sum(axis=0) - iterations * share).max() < 4 * 25.3
    again = (hits[1:] * hits[:-1]).sum() / hits[:-1].sum()
    assert again == pytest.approx(share, abs=0.01)


def view_of(layout, eligible, iteration=1):
    row_bytes = parse_policy("sparta").row_codec.row_bytes(layout)
    return RowsToSend(
        eligible=np.asarray(eligible, dtype=np.int64),
        stamps=np.zeros(layout.rows, dtype=np.int32),
        abs_sums=np.ones(layout.rows, dtype=np.float32),
        row_bytes=row_bytes,
        total_bytes=int(row_bytes.sum()),
        largest_bytes=int(row_bytes.max()),
        iteration=iteration,
        travelled_bytes=0,
    )


def test_a_push_holds_what_is_drawn_of_what_there_is_to_send():
    policy = parse_policy("sparta?share=0.3")
    drawn = draw(7, LAYOUT.rows, 0.3)
    everything = policy.choose_push(LAYOUT, view_of(LAYOUT, range(LAYOUT.rows), 7))
    assert everything.order.tolist() == drawn.tolist() and everything.quota == len(drawn) == 8
    part = policy.choose_push(LAYOUT, view_of(LAYOUT, drawn[::2], 7))
    assert part.order.tolist() == drawn[::2].tolist() and part.quota == 4
    others = np.setdiff1d(np.arange(LAYOUT.rows), drawn)
    assert policy.choose_push(LAYOUT, view_of(LAYOUT, others, 7)).quota == 0
    # Everything that is owed is pulled.
    assert policy.choose_pull(LAYOUT, view_of(LAYOUT, others, 7)).quota == len(others)


def test_whole_tensors_may_be_drawn():
    policy = parse_policy("sparta?granularity=tensor&share=0.34")
    chosen = {tuple(policy.choose_push(LAYOUT, view_of(LAYOUT, range(LAYOUT.rows), n)).order) for n in range(1, 30)}
    parts = [tuple(range(spec.first_row, spec.end_row)) for spec in LAYOUT.tensors]
    assert chosen == {one + two for one, two in itertools.combinations(parts, 2)}  # 0.34 x 3 tensors, rounded up


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparta:8", "sparta takes no number; write the share that is averaged behind a question mark"),
        ("sparta?order=age", "order: expected 'random', got 'age'"),
        ("sparta?pull_share=0.5", "order=random goes with slack 0, anticipate=team and pulls of everything only"),
        ("sparta?share=0", "expected a share in 1e-06 .. 1"),
        ("sparta?granularity=model", "granularity=model sends all rows together; take share=1"),
        ("sparta?anticipate=own", "the option anticipate goes with 'rowcast' only"),
        ("bsp?order=random", "write 'sparta'"),
        ("rog:4?order=random", "write 'sparta'"),
        ("rowcast?order=random", "write 'sparta'"),
    ],
)
def test_what_does_not_go_together(text, message):
    with pytest.raises(ConfigError) as caught:
        parse_policy(text)
    assert message in str(caught.value)


def test_the_settings_are_the_published_ones():
    policy = parse_policy("sparta")
    assert (policy.slack, policy.share, policy.share_of_pull, policy.granularity) == (0, 0.005, 1.0, "row")
    assert (policy.codec, policy.local_steps, policy.outer_lr, policy.outer_momentum) == ("raw", 1, 1.0, 0.0)
    assert policy.sampled and not policy.whole_pushes and not parse_policy("bsp").sampled
    assert policy.push_bound is None and policy.pull_bound == 1
    assert parse_policy("sparta?order=random&share=0.05&codec=half").share == 0.05


# -- what is published -------------------------------------------------------------------------------------------------


def elements_of(rows, layout):
    return np.concatenate([np.arange(layout.offsets[row], layout.offsets[row + 1]) for row in rows])


def published(start, gradients, iterations, share, layout=LAYOUT):
    """The parameters from which each worker computes, iteration by iteration, [iterations + 1, workers, elements]."""
    own = [np.stack([start.astype(np.float64)] * len(gradients))]
    for n in range(iterations):
        stepped = np.stack([one - gradient(n, one) for gradient, one in zip(gradients, own[-1], strict=True)])
        part = elements_of(draw(n + 1, layout.rows, share), layout)
        stepped[:, part] = stepped[:, part].mean(axis=0)
        own.append(stepped)
    return np.stack(own)


def watched(gradient, seen):
    def watch(n, x):
        seen.append(x.copy())
        return gradient(n, x)

    return watch


def sparta_team(gradients, iterations, text, *, rates=None, compute=None, layout=LAYOUT, **more):
    """A team, and what each worker has computed from."""
    seen = [[] for _ in gradients]
    scripts = [
        worker(
            f"robot{i}",
            iterations=iterations,
            gradient=watched(gradient, seen[i]),
            rate_bps=1e7 if rates is None else rates[i],
            compute_s=0.1 if compute is None else compute[i],
            layout=layout,
        )
        for i, gradient in enumerate(gradients)
    ]
    return VirtualTeam(layout, text, scripts, link_settings=SMALL_FRAMES, **more), seen


def test_two_workers_by_hand():
    """Two parameters, a row each, one of them averaged in each iteration; steps of 1 up and of 3 up."""
    layout = Layout.from_shapes([("a", (1,)), ("b", (1,))], small_tensor=1)
    assert [draw(n, 2, 0.5).tolist() for n in (1, 2, 3)] == [[0], [1], [1]]
    up = [lambda n, x: np.full(2, -1.0), lambda n, x: np.full(2, -3.0)]
    team, seen = sparta_team(up, 3, "sparta?share=0.5", layout=layout)
    finished(team)
    by_hand = [((0, 0), (0, 0)), ((2, 1), (2, 3)), ((3, 4), (5, 4))]
    for n, (one, two) in enumerate(by_hand):
        np.testing.assert_allclose(seen[0][n] - start_of(layout), one, atol=1e-5)
        np.testing.assert_allclose(seen[1][n] - start_of(layout), two, atol=1e-5)
    # At the end all that is left is averaged: three steps of 2.
    np.testing.assert_allclose(team.server.parameters - start_of(layout), [6.0, 6.0], atol=1e-5)
    replicas_agree(team)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.data())
def test_every_worker_computes_from_what_is_published_whatever_the_links_do(data):
    count, iterations = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 10))
    share = data.draw(st.sampled_from([0.005, 0.1, 0.3, 1.0]))
    gradients = [quadratic(i, rate=0.3) for i in range(count)]
    rates = [data.draw(links()) for _ in range(count)]
    compute = [data.draw(st.sampled_from([0.001, 0.1, 0.5])) for _ in range(count)]
    team, seen = sparta_team(gradients, iterations, f"sparta?share={share}", rates=rates, compute=compute)
    books = Books(team)
    for time, name, down_s in data.draw(outages([f"robot{i}" for i in range(count)])):
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
    books.check_at(*data.draw(st.lists(st.floats(0.0, 8.0), max_size=4)))
    finished(team)
    books.check()
    replicas_agree(team, atol=1e-5)
    expected = published(start_of(), gradients, iterations, share)
    for i in range(count):
        np.testing.assert_allclose(np.stack(seen[i]), expected[:-1, i], rtol=0, atol=2e-5)
    np.testing.assert_allclose(team.server.parameters, expected[-1].mean(axis=0), rtol=0, atol=2e-5)
    assert max(team.gaps) == max(team.push_ages) == max(team.pull_ages) == 0


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_at_any_byte_changes_nothing_but_the_time(direction):
    layout = Layout.from_shapes([("weight", (3, 3)), ("bias", (3,))], small_tensor=1)
    gradients = [quadratic(i, layout, rate=0.3) for i in range(2)]
    calm, told = sparta_team(gradients, 2, "sparta?share=0.5", layout=layout)
    finished(calm)
    total = calm.workers["robot0"].carried[direction]
    assert total > 200
    for byte in range(0, total, 7):
        team, seen = sparta_team(gradients, 2, "sparta?share=0.5", layout=layout)
        team.cut_after("robot0", direction, byte, 0.2)
        finished(team)
        np.testing.assert_allclose(np.array(seen), np.array(told), rtol=0, atol=1e-6, err_msg=f"byte {byte}")
        np.testing.assert_allclose(team.server.parameters, calm.server.parameters, rtol=0, atol=1e-6)


def pushed_by(team):
    """The rows that came from each worker, by iteration, from now on."""
    found = {}
    receive = team.server.receive

    def watch(now, link, message):
        if isinstance(message, Rows) and not message.absolute:
            name = next(member.name for member in team.server.members.values() if member.link is link)
            found.setdefault((message.iteration, name), []).extend(message.rows.tolist())
        receive(now, link, message)

    team.server.receive = watch
    return found


def test_all_workers_send_the_same_rows_and_nothing_else():
    team, _ = sparta_team([noise(i) for i in range(3)], 12, "sparta?share=0.2", rates=[1e5, 1e6, 2e4])
    found = pushed_by(team)
    team.run(100.0)
    finished(team)
    for n in range(1, 12):  # behind the last iteration follows the rest
        drawn = draw(n, LAYOUT.rows, 0.2).tolist()
        assert [found[n, f"robot{i}"] for i in range(3)] == [drawn] * 3
    assert all(sorted(found[12, f"robot{i}"]) != draw(12, LAYOUT.rows, 0.2).tolist() for i in range(3))
    shares = {record["push_share"] for record in events(team, "robot0", "step")}
    assert shares == {round(6 / LAYOUT.rows, 6)}


def test_rows_without_a_gradient_are_no_bytes():
    """Nobody waits for them, so nothing is said of them; where all that is drawn is like that a push has no rows."""
    mask = np.zeros(LAYOUT.elements, dtype=np.float32)
    mask[-1] = 1  # only the last row ever moves

    def still(n, x):
        return mask * np.float32(0.1)

    team, _ = sparta_team([still, still], 40, "sparta?share=0.005")
    found = pushed_by(team)
    finished(team)
    drawn = [n for n in range(1, 40) if draw(n, LAYOUT.rows, 0.005)[0] == LAYOUT.rows - 1]
    assert drawn and sorted(n for n, name in found if name == "robot0" and n < 40) == drawn
    np.testing.assert_allclose(team.server.parameters, start_of() - 4.0 * mask, atol=1e-5)


# -- who comes and goes ------------------------------------------------------------------------------------------------


def test_one_s_own_parameters_do_not_jump_when_others_come_and_go():
    """What is pending counts with another weight then, and leads to the same parameters as before."""
    step = np.float32(0.01)
    seen = []
    scripts = [
        worker("robot0", iterations=80, gradient=watched(lambda n, x: np.full(LAYOUT.elements, step), seen)),
        worker("robot1", iterations=80, gradient=lambda n, x: np.full(LAYOUT.elements, step)),
        worker("robot2", iterations=30, gradient=lambda n, x: np.full(LAYOUT.elements, step)),
    ]
    settings = ServerSettings(expected_workers=1)
    team = VirtualTeam(LAYOUT, "sparta", scripts[:1], server_settings=settings, link_settings=SMALL_FRAMES)
    books = Books(team)
    weights = []
    for time in np.arange(0.55, 9.0, 0.1):
        team.at(time, lambda: weights.append(team.workers["robot0"].node.contribution.weight))
    team.at(2.0, lambda: team.start(scripts[1]))
    team.at(3.0, lambda: team.start(scripts[2]))
    books.check_at(1.0, 2.5, 3.5, 4.5, 6.5, 7.5)
    finished(team)
    books.check()
    replicas_agree(team)
    assert set(np.round(1 / np.array(weights))) == {1, 2, 3}
    # In each iteration a row goes its own step; the one that is drawn goes to the mean; and what somebody who ends has
    # not sent arrives. It is never more than all steps of one robot, times its weight.
    moves = np.abs(np.diff(np.stack(seen), axis=0))
    rows = np.maximum.reduceat(moves, LAYOUT.offsets[:-1], axis=1)
    far = (rows > 1.5 * step).sum(axis=1)
    arrivals = np.flatnonzero(far > 1)
    assert len(arrivals) == 1, arrivals  # robot2 has ended
    assert rows[arrivals[0]].max() < 30 * step


def own_steps(node):
    """What leads from the replica to one's own parameters."""
    vector, times = node.anticipated
    return np.repeat(times, node.layout.lengths) * vector


@pytest.mark.parametrize("rule", ["average", "first"])
def test_another_weight_counts_for_what_is_pending_too_and_is_booked(rule):
    layout = Layout.from_shapes([("weight", (3, 3)), ("mean", (3,))], small_tensor=1, buffers=1, buffer_rule=rule)
    node = WorkerNode("robot", layout, layout.zeros())
    node.policy = parse_policy("sparta")

    def add(step, weight):
        proposed = node.replica - np.float32(step)
        node.accumulate([proposed[spec.start : spec.stop] for spec in layout.tensors], weight)

    parameters = slice(0, layout.offsets[layout.parameter_rows])
    total = 0.0
    for step, weight in ((1.0, 0.5), (2.0, 0.25), (-0.5, 0.25), (4.0, 2.0), (1.0, 1.0)):
        add(step, weight)
        total += step
        np.testing.assert_allclose(node.pending[parameters], weight * total)
        np.testing.assert_allclose(own_steps(node)[parameters], total)
        np.testing.assert_allclose(node.computed, row_sums(node.pending, layout.offsets))
    # What the first worker makes of the buffers counts in full whatever its weight is: here it was given as it counts.
    each = [0.5, 0.5, -0.125, 8.0, 1.0]
    np.testing.assert_allclose(node.pending[parameters.stop :], total if rule == "average" else sum(each))
    with pytest.raises(NonFiniteGradient):
        add(np.nan, 0.5)
    np.testing.assert_allclose(own_steps(node)[parameters], total)
    sizes = np.empty(layout.rows, dtype=np.float32)
    row_abs_sums(node.pending, layout.offsets, sizes)
    node.residual.measure()
    np.testing.assert_allclose(node.residual.abs_sums, sizes)


def test_other_policies_keep_the_weights_of_what_is_pending():
    node = WorkerNode("robot", LAYOUT, LAYOUT.zeros())
    node.policy = parse_policy("rowcast:4")
    node.inner_momentum = 1.0  # the others have all of the same
    for weight in (0.5, 0.25):
        proposed = node.replica - np.float32(1)
        node.accumulate([proposed[spec.start : spec.stop] for spec in LAYOUT.tensors], weight)
    np.testing.assert_allclose(node.pending, 0.75)
    np.testing.assert_array_equal(node.anticipated[1], np.full(LAYOUT.rows, 4.0, dtype=np.float32))


def test_who_ends_early_delivers_all_it_has_and_others_get_it_with_their_next_pull():
    gradients = [noise(i) for i in range(3)]
    scripts = [worker(f"robot{i}", iterations=4 if i == 2 else 12, gradient=g) for i, g in enumerate(gradients)]
    team = VirtualTeam(LAYOUT, "sparta?share=0.05", scripts, link_settings=SMALL_FRAMES)
    books = Books(team)
    books.check_at(*np.arange(0.1, 1.5, 0.1))
    finished(team)
    books.check()
    replicas_agree(team)
    ended = next(record["t"] for record in events(team, "server", "push") if record["iteration"] == 6)
    pulls = [record["pull_rows"] for record in events(team, "robot0", "step") if record["t"] < ended + 0.3]
    assert max(pulls) > LAYOUT.rows / 2


def test_a_lossy_code_keeps_the_books_and_trains():
    for codec in ("half", "onebit"):
        team, _ = sparta_team([quadratic(i, rate=0.3) for i in range(3)], 30, f"sparta?share=0.3&codec={codec}")
        books = Books(team)
        books.check_at(0.5, 1.5, 2.5)
        finished(team)
        books.check()
        replicas_agree(team)
        target = np.mean([np.random.default_rng(i).standard_normal(LAYOUT.elements) for i in range(3)], axis=0)
        far, near = (np.abs(vector - target).max() for vector in (start_of(), team.server.parameters))
        assert near < far / 20, codec


# -- with PyTorch ------------------------------------------------------------------------------------------------------


def norm_model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


def flat_of(model):
    """Parameters, and behind them the buffers that travel."""
    values = [parameter.detach() for parameter in model.parameters()]
    values += [value for name, value in model.named_buffers() if "running" in name]
    return torch.cat([value.reshape(-1) for value in values]).numpy().copy()


def put_into(model, vector):
    place = 0
    values = [*model.parameters(), *(value for name, value in model.named_buffers() if "running" in name)]
    with torch.no_grad():
        for value in values:
            value.copy_(torch.from_numpy(vector[place : place + value.numel()]).view_as(value))
            place += value.numel()


def backward_on(model, index, n):
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(100 * index + n)) + index
    model.zero_grad()
    (model(features) - features[:, :2]).square().mean().backward()


def in_one_process(layout, workers, steps, share, inner):
    """The published software's loop: own optimizers, own models, and after each step the mean of what is drawn."""
    models = [norm_model() for _ in range(workers)]
    optimizers = [inner(model.parameters()) for model in models]
    looks = []
    for n in range(steps):
        looks.append([flat_of(model) for model in models])
        for index, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            backward_on(model, index, n)
            optimizer.step()
        vectors = np.stack([flat_of(model) for model in models])
        part = elements_of(draw(n + 1, layout.rows, share), layout)
        vectors[:, part] = vectors[:, part].mean(axis=0)
        for model, vector in zip(models, vectors, strict=True):
            put_into(model, vector)
    return looks, np.mean([flat_of(model) for model in models], axis=0)


INNER = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}


@pytest.mark.parametrize("inner", INNER)
def test_a_model_trains_as_published_and_is_evaluated_as_it_is(inner):
    steps, share, robots = 25, 0.2, 3
    entropy = random.Random(0)
    server = ServerNode(
        parse_policy(f"sparta?share={share}"),
        settings=ServerSettings(expected_workers=robots),
        entropy=entropy.randbytes,
    )
    simulation = Simulation(server)
    looks, ends = [[] for _ in range(robots)], [None] * robots

    def loop(index, team):
        model = norm_model()
        optimizer = Optimizer(INNER[inner](model.parameters()), model, team)
        for n in range(steps):
            before = flat_of(model)
            with optimizer.evaluating():
                looks[index].append(flat_of(model))
            assert np.array_equal(looks[index][-1], before) and np.array_equal(flat_of(model), before)
            backward_on(model, index, n)
            optimizer.step()
        optimizer.close()
        with optimizer.evaluating():
            ends[index] = flat_of(model)

    for index in range(robots):
        rate = Trace.constant(1e6)
        team = VirtualWorker(simulation, f"robot-{index}", Device(1.0 + index), (rate, rate), entropy=entropy.randbytes)
        team.train(lambda index=index, team=team: loop(index, team))
    simulation.run(1000.0)
    assert simulation.finished
    expected, average = in_one_process(server.layout, robots, steps, share, INNER[inner])
    for index in range(robots):
        np.testing.assert_allclose(looks[index], [look[index] for look in expected], rtol=0, atol=2e-5)
        np.testing.assert_allclose(ends[index], average, rtol=0, atol=2e-5)
    apart = np.abs(np.array(expected[-1]) - np.array(expected[-1]).mean(axis=0)).max()
    assert apart > 0.05  # they are not one model
