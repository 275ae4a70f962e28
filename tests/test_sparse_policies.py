"""SparseLoCo and decoupled momentum: the residual that decays, in books and over cuts, and the published rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loops import run_team
from rowcast.codecs import codec_by_name
from rowcast.drivers.virtual import VirtualWorker
from rowcast.errors import ConfigError, NonFiniteGradient
from rowcast.optim import Optimizer
from rowcast.rows import Layout
from rowcast.rows.kernels import row_sums
from rowcast.rows.scaling import scale_rows
from rowcast.sync import parse_policy
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.training import WorkerNode
from teams import LAYOUT, Books, events, finished, members, names_of, outages, replicas_agree, start_of, worker

#: Rows of 300 and of 70 elements, some of which are longer than a piece of the cosine transform.
WIDE = Layout.from_shapes([("weight", (4, 300)), ("bias", (70,))])


# -- how they are written ----------------------------------------------------------------------------------------------


def test_the_two_families_have_the_published_settings() -> None:
    policy = parse_policy("sparseloco:30")
    assert (policy.slack, policy.share, policy.granularity, policy.local_steps) == (0, 1.0, "model", 30)
    assert (policy.codec, policy.pull_codec, policy.feedback) == ("topk64", "topk16", 0.95)
    assert (policy.outer_lr, policy.outer_momentum) == (1.0, 0.0)
    policy = parse_policy("demo")
    assert (policy.slack, policy.share, policy.granularity, policy.local_steps) == (0, 1.0, "model", 1)
    assert (policy.codec, policy.pull_codec, policy.feedback) == ("dct128", "dct32", 0.999)
    assert (policy.outer_lr, policy.outer_momentum) == (1.0, 0.0)


def test_feedback_and_the_codec_of_pulls_are_options_of_their_own() -> None:
    policy = parse_policy("sparseloco:8?feedback=0.9&pull_codec=raw&codec=half")
    assert (policy.feedback, policy.row_codec.name, policy.row_codec_of_pull.name) == (0.9, "half", "raw")
    policy = parse_policy("rog:4?feedback=1")
    assert (policy.feedback, policy.row_codec.name, policy.row_codec_of_pull.name) == (1.0, "onebit", "onebit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparseloco", "local steps, 1 or more, behind a colon, for example 'sparseloco:8'"),
        ("sparseloco:0", "local steps, 1 or more, behind a colon, for example 'sparseloco:8'"),
        ("demo:3", "demo takes no number; write 'demo'"),
        *((f"demo?feedback={value}", "expected feedback above 0 .. 1") for value in ("0", "-1", "1.01", "nan", "inf")),
        ("demo?feedback=x", "feedback: expected a number, got 'x'"),
        ("demo?pull_codec=rwa", "unknown codec 'rwa'; did you mean 'raw'"),
        ("demo?pull_codec=zero", "the codec 'zero' sends nothing"),
        ("rowcast?pull_codec=raw", "pull_codec goes with pushes and pulls only"),
        ("sparta?feedback=0.9", "with order=random own parameters are"),
        ("flown:2?pull_codec=raw", "pull_codec goes with pushes and pulls only"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_policy(text)


# -- one worker's residual ---------------------------------------------------------------------------------------------


def parts_of(vector: np.ndarray, layout: Layout = LAYOUT) -> list[np.ndarray]:
    return [vector[spec.start : spec.stop] for spec in layout.tensors]


def node_with(text: str, layout: Layout = LAYOUT, pending: float = 8.0) -> WorkerNode:
    node = WorkerNode("robot", layout, start_of(layout))
    node.policy = parse_policy(text)
    node.pending[:] = pending
    node.computed[:] = row_sums(node.pending, layout.offsets)
    return node


def in_balance(node: WorkerNode) -> bool:
    """Nothing was delivered: all that was computed is pending, and its rows are measured."""
    node.residual.measure()
    np.testing.assert_allclose(node.residual.abs_sums, row_sums(np.abs(node.pending), node.layout.offsets), rtol=1e-6)
    return np.allclose(node.computed, row_sums(node.pending, node.layout.offsets), rtol=1e-6, atol=1e-4)


def test_what_is_pending_decays_once_for_all_parts_of_an_iteration() -> None:
    node = node_with("bsp?feedback=0.5")
    for expected in ((4 + 1, 4 + 2), (3 + 1, 3 + 2)):
        for wanted in expected:
            node.accumulate(parts_of(node.replica - 2), 0.5)
            np.testing.assert_allclose(node.pending, wanted, atol=1e-5)
            assert in_balance(node)
        assert node.contribution.end(node.policy)


def test_an_iteration_without_a_contribution_decays_as_well() -> None:
    node = node_with("bsp?feedback=0.5")
    assert not node.contribution.end(node.policy)
    np.testing.assert_array_equal(node.pending, 4.0)
    assert in_balance(node)


def test_a_refused_update_does_not_decay_twice() -> None:
    node = node_with("bsp?feedback=0.5")
    bad = start_of()
    bad[-1] = np.nan
    with pytest.raises(NonFiniteGradient):
        node.accumulate(parts_of(bad), 1.0)
    assert not node.contribution.end(node.policy)
    np.testing.assert_array_equal(node.pending, 4.0)
    assert in_balance(node)


def test_buffers_are_values_and_never_decay() -> None:
    layout = Layout.from_shapes([("weight", (6, 4)), ("mean", (5,))], small_tensor=1, buffers=1)
    node = node_with("bsp?feedback=0.5", layout)
    node.accumulate(parts_of(node.replica, layout), 1.0)
    node.contribution.end(node.policy)
    assert (node.pending[:24] == 4.0).all() and (node.pending[24:] == 8.0).all()
    node.contribution.drop(node.policy)
    assert not node.pending[:24].any() and (node.pending[24:] == 8.0).all()
    assert in_balance(node)


@pytest.mark.parametrize("text", ["bsp", "rog:4?feedback=1"])
def test_without_a_decay_nothing_is_lost_or_dropped(text: str) -> None:
    node = node_with(text)
    node.contribution.end(node.policy)
    node.contribution.drop(node.policy)
    np.testing.assert_array_equal(node.pending, 8.0)


def test_nothing_decays_before_the_server_has_told_its_policy() -> None:
    node = node_with("bsp")
    node.policy = None
    node.contribution.end(None)
    node.contribution.drop(None)
    np.testing.assert_array_equal(node.pending, 8.0)


def test_rows_of_a_long_vector_are_scaled_in_parts_alike() -> None:
    layout = Layout.from_shapes([("long", (40, 30_000))])
    vector = np.random.default_rng(0).standard_normal(layout.elements).astype(np.float32)
    expected, gained = np.float32(0.95) * vector, np.ones(layout.rows)
    sums = row_sums(vector, layout.offsets)
    scale_rows(vector, layout.offsets, 0.95, gained)
    np.testing.assert_array_equal(vector, expected)
    np.testing.assert_allclose(gained, 1 - 0.05 * sums, atol=1e-2)


def test_parts_of_an_iteration_of_torch_decay_what_is_pending_once() -> None:
    """``no_sync``: two parts a step, in a code that expresses all of it but for the server's word."""
    parameter = torch.nn.Parameter(torch.zeros(8, 4))
    model = torch.nn.Module()
    model.register_parameter("weight", parameter)
    pending: list[float] = []

    def loop(index: int, worker: VirtualWorker) -> None:
        with Optimizer(torch.optim.SGD([parameter], lr=1.0), model, worker) as optimizer:
            for _ in range(3):
                worker.node.pending[:] = 1.0  # as if the code had left it
                with optimizer.no_sync():
                    parameter.grad = torch.full_like(parameter, 0.25)
                    optimizer.step()
                pending.append(float(worker.node.pending[0]))
                parameter.grad = torch.full_like(parameter, 0.5)
                optimizer.step()

    run_team("bsp?codec=raw&feedback=0.5", 1, loop)
    assert pending == [0.75, 0.75, 0.75]


# -- the published rules -----------------------------------------------------------------------------------------------


def coded(name: str, vector: np.ndarray, layout: Layout) -> np.ndarray:
    """What arrives of a vector; the codes have a reference in numpy of their own in test_codecs_chunks.py."""
    codec, rows, arrived = codec_by_name(name), np.arange(layout.rows), layout.zeros()
    codec.add(layout, codec.encode(layout, vector.astype(np.float32), rows), rows, arrived, 1.0)
    return arrived.astype(np.float64)


def published(gradients, rounds: int, name: str, beta: float, layout: Layout) -> np.ndarray:
    """SparseLoCo (arXiv 2508.15706) and DeMo without its sign (arXiv 2411.19870): the same but for code and beta."""
    parameters = start_of(layout).astype(np.float64)
    residuals = [np.zeros(layout.elements) for _ in gradients]
    for n in range(rounds):
        sent = []
        for k, gradient in enumerate(gradients):
            residuals[k] = beta * residuals[k] + gradient(n, parameters.astype(np.float32))
            sent.append(coded(name, residuals[k], layout))
            residuals[k] -= sent[k]
        parameters = parameters - sum(sent) / len(sent)
    return parameters


def local_steps(seed: int, steps: int, layout: Layout):
    """What ``steps`` steps of SGD come to that begin at the parameters, on a quadratic of a worker's own."""
    random = np.random.default_rng(seed)
    target, curvature = random.standard_normal((2, layout.elements)).astype(np.float32)

    def moved(n: int, parameters: np.ndarray) -> np.ndarray:
        here = parameters.copy()
        for _ in range(steps):
            here -= np.float32(0.1) * curvature**2 * (here - target)
        return parameters - here

    return moved


@pytest.mark.parametrize(
    ("text", "code", "beta", "steps"),
    [
        ("sparseloco:1?pull_codec=raw", "topk64", 0.95, 4),
        ("demo?pull_codec=raw", "dct128", 0.999, 1),
        ("demo?pull_codec=raw&feedback=0.5", "dct128", 0.5, 1),
    ],
)
def test_workers_on_exact_pulls_are_the_published_algorithm(text: str, code: str, beta: float, steps: int) -> None:
    # Four: the weight is a power of two, so that a code rounds what has it as what has it not.
    gradients = [local_steps(seed, steps, WIDE) for seed in range(4)]
    scripts = [
        ScriptedWorker(f"robot{k}", gradient, 12, weight=1 / 4, initial=start_of(WIDE))
        for k, gradient in enumerate(gradients)
    ]
    team = VirtualTeam(WIDE, text, scripts)
    finished(team)
    expected = published(gradients, 12, code, beta, WIDE)
    assert np.abs(expected - start_of(WIDE)).max() > 0.5
    np.testing.assert_allclose(team.server.parameters, expected, rtol=0, atol=2e-5)
    replicas_agree(team, atol=2e-5)


def test_pushes_and_pulls_travel_in_codes_of_their_own() -> None:
    sent = {}
    for text in ("demo", "demo?pull_codec=raw", "demo?codec=raw&pull_codec=dct32"):
        scripts = [ScriptedWorker(f"robot{k}", local_steps(k, 1, WIDE), 4, initial=start_of(WIDE)) for k in range(2)]
        team = VirtualTeam(WIDE, text, scripts)
        finished(team)
        steps = events(team, "robot0", "step")[1:]
        sent[text] = (steps[-1]["push_bytes"], steps[-1]["pull_bytes"])
    sizes = {name: int(codec_by_name(name).row_bytes(WIDE).sum()) for name in ("dct128", "dct32", "raw")}
    for text, (up, down) in zip(sent, [("dct128", "dct32"), ("dct128", "raw"), ("raw", "dct32")], strict=True):
        for size, code in zip(sent[text], (up, down), strict=True):
            assert sizes[code] <= size <= sizes[code] + 250, (text, code)


# -- books -------------------------------------------------------------------------------------------------------------

TEXTS = ["sparseloco:2", "demo", "sparseloco:2?codec=onebit&pull_codec=half", "demo?codec=half&pull_codec=topk64"]
TEXTS += ["ssp:2?feedback=0.9", "asp?feedback=0.5", "flown:2?feedback=0.9", "rog:4?feedback=0.9&pull_codec=half"]
TEXTS += ["rowcast:3?feedback=0.9", "rowcast:3?feedback=0.9&pulls=common"]


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_books_count_what_was_lost_on_purpose_whatever_the_links_do(data: st.DataObject) -> None:
    scripts = data.draw(members())
    team = VirtualTeam(LAYOUT, data.draw(st.sampled_from(TEXTS)), scripts)
    books = Books(team)
    for time, name, down_s in data.draw(outages(names_of(scripts))):
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
    books.check_at(*data.draw(st.lists(st.floats(0.0, 8.0), max_size=4)))
    finished(team)
    books.check()
    replicas_agree(team, atol=5e-4)
    computed = sum(one.node.computed for one in team.workers.values())
    delivered = row_sums(start_of() - team.server.parameters, LAYOUT.offsets)
    np.testing.assert_allclose(delivered, computed, atol=2e-3)


@pytest.mark.parametrize("text", ["sparseloco:1", "demo", "rog:4?feedback=0.9"])
def test_what_is_left_at_the_end_is_dropped_and_without_a_decay_delivered(text: str) -> None:
    moved = {}
    for more in ("feedback=0.9", "feedback=1"):
        team = VirtualTeam(LAYOUT, f"{text}{'&' if '?' in text else '?'}{more}", [worker("robot1"), worker("robot2")])
        finished(team)
        moved[more] = sum(one.node.computed for one in team.workers.values())
        assert not any(one.node.pending.any() for one in team.workers.values())
        replicas_agree(team)
    # noise is the same in both: all of it counts, or less of it
    updates = [worker(name).gradient for name in ("robot1", "robot2")]
    total = sum(update(n, start_of()) for n in range(6) for update in updates) / 2
    np.testing.assert_allclose(moved["feedback=1"], row_sums(total.astype(np.float32), LAYOUT.offsets), atol=1e-4)
    assert np.abs(moved["feedback=0.9"] - moved["feedback=1"]).max() > 0.05
