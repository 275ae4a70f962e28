"""The outer learning rate that adapts: it rises while successive movements of the team agree, and only then."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from rowcast.drivers.virtual import Device
from rowcast.errors import ConfigError, RemoteProtocolError
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal
from rowcast.links import Trace
from rowcast.optim.inner import momentum_of
from rowcast.sync import OuterRateChange, OuterRateTuner, parse_policy
from rowcast.sync.outer_rate import ELEMENTS, HIGH, LOW, WINDOW, carried
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.wire import Horizon
from teams import LAYOUT, Books, events, finished, quadratic, replicas_agree, worker

Vector = np.ndarray
Gradient = Callable[[int, Vector], Vector]


def moved(tuner: OuterRateTuner, movements: list[Vector], momentum: float = 0.0) -> list[OuterRateChange | None]:
    """What the tuner says of these movements of the parameters, one a window."""
    at = np.zeros(len(movements[0]), dtype=np.float32)
    said = [tuner.look(0, at, momentum)]
    for k, movement in enumerate(movements):
        with np.errstate(all="ignore"):
            at = (at - movement).astype(np.float32)
        said.append(tuner.look((k + 1) * WINDOW, at, momentum))
    return said


def noise(count: int, elements: int = 4000, momentum: float = 0.0) -> list[Vector]:
    """So many windows of an exponential average of independent gradients."""
    random = np.random.default_rng(5)
    velocity, windows = np.zeros(elements), []
    for _ in range(60):  # until it is in its usual state
        velocity = momentum * velocity + random.standard_normal(elements)
    for _ in range(count):
        window = np.zeros(elements)
        for _ in range(WINDOW):
            velocity = momentum * velocity + random.standard_normal(elements)
            window += velocity
        windows.append(window)
    return windows


# -- what the momentum carries ---------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.3, 0.7, 0.9, 0.95])
def test_what_is_carried_is_the_cosine_of_two_windows_of_an_average(momentum: float) -> None:
    first, second = noise(2, 200_000, momentum)
    cosine = first @ second / math.sqrt((first @ first) * (second @ second))
    assert carried(momentum) == pytest.approx(cosine, abs=0.01)


def test_nothing_is_carried_without_momentum_and_everything_by_one_that_forgets_nothing() -> None:
    assert carried(0.0) == 0.0
    assert carried(1.0) == 1.0
    values = [carried(momentum) for momentum in np.linspace(0, 1, 21)]
    assert values == sorted(values)


# -- the tuner -------------------------------------------------------------------------------------------------


def test_movements_that_agree_raise_the_rate_to_twice_that_of_the_policy() -> None:
    tuner = OuterRateTuner(0.7)
    ahead = np.ones(30)
    assert moved(tuner, [ahead, ahead, ahead])[2:] == [OuterRateChange(1.4, 0.7, pytest.approx(1.0)), None]
    assert tuner.outer_lr == 1.4


def test_between_the_bounds_the_rate_rises_in_proportion_and_falls_again() -> None:
    tuner, cosine = OuterRateTuner(1.0), (LOW + HIGH) / 2
    first, aside = np.array([1.0, 0.0]), np.array([cosine, math.sqrt(1 - cosine**2)])
    changes = moved(tuner, [first, aside, -aside])
    assert changes[2] is not None and changes[2].outer_lr == pytest.approx(1.5, abs=1e-4)
    assert changes[2].alignment == pytest.approx(cosine, abs=1e-5)
    assert changes[3] is not None and (changes[3].outer_lr, changes[3].before) == (1.0, changes[2].outer_lr)
    assert tuner.outer_lr == 1.0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_opposed_and_random_movements_leave_the_rate(momentum: float) -> None:
    for movements in (noise(6, momentum=momentum), [np.ones(9) * (-1) ** k for k in range(6)]):
        tuner = OuterRateTuner(1.0)
        assert moved(tuner, movements, momentum) == [None] * 7
        assert tuner.outer_lr == 1.0


def test_momentum_alone_would_look_like_progress() -> None:
    """With the momentum unknown, the same noise agrees well enough to be believed."""
    movements = noise(6, momentum=0.97)
    blind, told = OuterRateTuner(1.0), OuterRateTuner(1.0)
    assert any(moved(blind, movements)) and not any(moved(told, movements, 0.97))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 3e38])
def test_movements_that_say_nothing_leave_the_rate(value: float) -> None:
    tuner = OuterRateTuner(1.0)
    assert moved(tuner, [np.full(9, value)] * 4) == [None] * 5
    assert tuner.outer_lr == 1.0


def test_movements_that_say_nothing_take_the_rate_back() -> None:
    tuner = OuterRateTuner(1.0)
    assert [each and each.outer_lr for each in moved(tuner, [np.ones(9)] * 2 + [np.zeros(9)])] == [None, None, 2.0, 1.0]


@pytest.mark.parametrize("momentum", [1.0, 7.0])
def test_a_momentum_that_forgets_nothing_explains_everything(momentum: float) -> None:
    tuner = OuterRateTuner(1.0)
    assert not any(moved(tuner, [np.ones(9)] * 4, momentum))


def test_a_look_is_taken_once_a_window() -> None:
    tuner, looks = (
        OuterRateTuner(1.0),
        (0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW, 3 * WINDOW + 1, 4 * WINDOW - 1),
    )
    changes = [tuner.look(oldest, np.full(4, at, dtype=np.float32), 0.0) for at, oldest in enumerate(looks)]
    # Looks at 0, one window later, and two after that: two movements. The next is due a window behind the last.
    assert [k for k, change in enumerate(changes) if change is not None] == [5]


def test_of_a_large_model_a_part_is_looked_at() -> None:
    """Places are drawn once, from all over the model; what is kept does not grow with it."""
    elements = 40 * ELEMENTS
    whole, part = OuterRateTuner(1.0), OuterRateTuner(1.0)
    random = np.random.default_rng(3)
    first = random.standard_normal(elements).astype(np.float32)
    second = (0.75 * first + math.sqrt(1 - 0.75**2) * random.standard_normal(elements)).astype(np.float32)
    at = np.zeros(elements, dtype=np.float32)
    for k, movement in enumerate([np.zeros(1, np.float32), first, second]):
        at = at - movement
        whole.look(k * WINDOW, at[:ELEMENTS], 0.0)
        part.look(k * WINDOW, at, 0.0)
    assert 1.4 < whole.outer_lr < 1.6
    assert part.outer_lr == pytest.approx(whole.outer_lr, abs=0.05)
    sizes = [len(value) for value in vars(part).values() if isinstance(value, np.ndarray)]
    assert max(sizes) == ELEMENTS


# -- a team ----------------------------------------------------------------------------------------------------


def ahead(index: int, parameters: Vector) -> Vector:
    return np.full(LAYOUT.elements, 0.25, dtype=np.float32)


def team_of(policy: str, *, iterations: int = 60, gradient: Gradient = ahead) -> VirtualTeam:
    scripts: list[ScriptedWorker] = [
        worker(f"robot{i}", iterations=iterations, rate_bps=1e6, compute_s=0.1, gradient=gradient) for i in range(2)
    ]
    return VirtualTeam(LAYOUT, policy, scripts)


def test_the_journal_and_the_workers_are_told_and_the_books_are_kept() -> None:
    team = team_of("rowcast:4?codec=raw", gradient=ahead)
    books = Books(team)
    books.check_at(2.0, 4.0)
    finished(team)
    books.check()
    replicas_agree(team)
    (change,) = events(team, "server", "outer_lr")
    assert (change["outer_lr"], change["before"], change["alignment"]) == (2.0, 1.0, 1.0)
    assert team.server.policy.outer_lr == 2.0
    for one in team.workers.values():
        assert one.node.policy.outer_lr == 2.0 and one.node.rule.told.outer_lr == 2.0
    # Three looks at least before the rate rises; from then on each contribution counts twice.
    lengths = -(team.server.parameters - worker("robot0").initial) / 0.25
    assert (lengths > 60 + 20).all() and (lengths < 2 * 60 - 2 * WINDOW).all()


def test_without_the_option_the_rate_stays() -> None:
    team = team_of("rowcast:4?codec=raw&auto_lr=off", gradient=ahead)
    finished(team)
    assert not events(team, "server", "outer_lr") and team.workers["robot0"].node.rule.told.outer_lr == 0
    assert team.server.parameters == pytest.approx(worker("robot0").initial - 60 * 0.25, abs=1e-3)


def test_where_only_the_timing_is_simulated_the_rate_stays() -> None:
    """Its rows have sizes, which all point in one direction, and no content."""
    link, count = Trace.constant(1e6), 2
    journals = [Journal(f"robot-{k}", lambda record: None) for k in range(count)]
    team = timing_team("rowcast:4", LAYOUT, [Device(0.1)] * count, [(link, link)] * count, journals)
    team.run(20.0)
    assert team.server.policy.auto_lr and team.server.policy.outer_lr == 1.0
    for robot in team.robots.values():
        assert robot.node.iteration > 4 * WINDOW and robot.node.policy.outer_lr == 1.0


def test_a_rate_of_ones_own_is_what_the_rise_begins_at() -> None:
    team = team_of("rowcast:4?codec=raw&outer_lr=0.5", gradient=ahead)
    finished(team)
    assert [(each["outer_lr"], each["before"]) for each in events(team, "server", "outer_lr")] == [(1.0, 0.5)]


def test_where_the_team_has_arrived_the_rate_is_that_of_the_policy() -> None:
    """A quadratic of a rate so small that the way is long: it rises on the way, and stays where steps turn."""
    team = team_of("rowcast:4?codec=raw", gradient=quadratic(1, rate=0.02), iterations=40)
    finished(team)
    assert events(team, "server", "outer_lr")[0]["outer_lr"] == 2.0
    swinging = team_of("rowcast:1?codec=raw", gradient=quadratic(1, rate=1.0), iterations=80)
    finished(swinging)
    assert swinging.server.policy.outer_lr == 1.0


@pytest.mark.parametrize("outer_lr", [-1.0, 2.01, 1e30])
def test_a_rate_that_the_policy_does_not_allow_is_refused(outer_lr: float) -> None:
    team = team_of("rowcast:4")
    team.run(2.0)
    with pytest.raises(RemoteProtocolError, match=r"outer learning rate in 0 \.\. 2, got"):
        team.workers["robot0"].node.receive(team.now, Horizon(1, 1, 4, 2, 1, True, outer_lr))


def test_only_where_rows_are_streamed() -> None:
    assert parse_policy("rowcast").auto_lr and parse_policy("rowcast:4").auto_lr
    with pytest.raises(ConfigError, match="'rowcast' only"):
        parse_policy("rog:4?auto_lr=on")


# -- the momentum of the inner optimizer -----------------------------------------------------------------------


def test_the_momentum_of_an_inner_optimizer_is_the_largest_of_its_groups() -> None:
    weights = [nn.Parameter(torch.zeros(2, 2)) for _ in range(2)]
    found = {
        "sgd": torch.optim.SGD(weights, lr=0.1),
        "momentum": torch.optim.SGD(weights, lr=0.1, momentum=0.7),
        "groups": torch.optim.SGD([{"params": weights[:1], "momentum": 0.5}, {"params": weights[1:]}], lr=0.1),
        "adam": torch.optim.Adam(weights, betas=(0.8, 0.99)),
        "adam in groups": torch.optim.AdamW(
            [{"params": weights[:1]}, {"params": weights[1:], "betas": (0.95, 0.999)}], betas=(0.6, 0.9)
        ),
        "rmsprop": torch.optim.RMSprop(weights, momentum=0.3),
        "rmsprop alone": torch.optim.RMSprop(weights),
        "lbfgs": torch.optim.LBFGS(weights),
    }
    expected = {"sgd": 0.0, "momentum": 0.7, "groups": 0.5, "adam": 0.8, "adam in groups": 0.95}
    expected |= {"rmsprop": 0.3, "rmsprop alone": 0.0, "lbfgs": 0.0}
    assert {name: momentum_of(inner) for name, inner in found.items()} == expected


def test_the_momentum_of_muon_counts() -> None:
    muon = getattr(torch.optim, "Muon", None)
    if muon is None:
        pytest.skip("this version of PyTorch has no Muon")
    assert momentum_of(muon([nn.Parameter(torch.zeros(2, 2))], momentum=0.85)) == 0.85
