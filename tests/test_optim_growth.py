"""Updates that grow as they do when training diverges, and the warning of them."""

from __future__ import annotations

import math
import random
import warnings

import pytest
import torch
from torch import nn

from rowcast.config import ServerSettings
from rowcast.drivers.virtual import Device, Simulation, VirtualWorker
from rowcast.links import Trace
from rowcast.optim import Optimizer
from rowcast.optim.growth import Growth
from rowcast.sync import parse_policy
from rowcast.training import ServerNode


def noted(sizes: list[float]) -> list[bool]:
    growth = Growth()
    return [growth.add(size) for size in sizes]


def test_what_is_ten_times_as_large_three_times_running_is_a_sign() -> None:
    assert noted([1.0] * 8 + [10.0, 10.0, 10.0]) == [False] * 10 + [True]
    assert not any(noted([1.0] * 8 + [10.0, 10.0, 9.9, 10.0, 10.0]))
    assert not any(noted([1.0] * 7 + [50.0] * 3)), "seven updates do not tell what is usual"


def test_growth_to_four_times_is_usual_and_so_are_single_leaps() -> None:
    chance = random.Random(3)
    assert not any(noted([1 + 3 * min(k / 40, 1.0) + chance.random() for k in range(400)]))
    assert not any(noted([100.0 if k % 5 == 4 else 1.0 for k in range(100)]))


def test_most_of_the_last_ones_shortened_is_a_sign_too() -> None:
    growth = Growth()
    signs = [growth.add(1.0, shortened=k % 4 > 0) for k in range(40)]
    assert signs.index(True) == 31 and growth.shortened == 24
    half = Growth()
    signs = [half.add(1.0, shortened=k % 2 == 0) for k in range(100)]
    assert not any(signs)


def test_updates_of_nothing_or_of_no_number_are_no_sign() -> None:
    assert not any(noted([0.0] * 20 + [1.0] * 5))
    assert not any(noted([1.0] * 20 + [math.inf] * 5 + [math.nan] * 5))


def train(lr: float, steps: int, momentum: float = 0.0, policy: str = "rowcast") -> list[str]:
    """What is warned of while one robot fits a line with this learning rate."""
    entropy = random.Random(0)
    server = ServerNode(parse_policy(policy), settings=ServerSettings(expected_workers=1), entropy=entropy.randbytes)
    simulation = Simulation(server)
    link = Trace.constant(1e6)
    worker = VirtualWorker(simulation, "robot", Device(1.0), (link, link), entropy=entropy.randbytes)
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    caught: list[str] = []

    def robot() -> None:
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        inner = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
        optimizer = Optimizer(inner, model, worker, nonfinite="skip")
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for _ in range(steps):
                optimizer.zero_grad()
                (model(x) - y).square().mean().backward()
                optimizer.step()
        caught.extend(str(one.message) for one in found)
        optimizer.close()

    worker.train(robot)
    simulation.run(math.inf)
    return caught


@pytest.mark.parametrize(
    ("policy", "sign"),
    [
        ("rowcast", "of the last 32 had to be shortened, at"),
        ("rowcast?trust=0", "times the median of those before, at"),
        ("bsp", "times the median of those before, at"),
    ],
)
def test_training_that_diverges_is_warned_of_once_with_the_remedy(policy: str, sign: str) -> None:
    (warning,) = [one for one in train(lr=1.5, steps=120, policy=policy) if "have grown" in one]
    assert sign in warning
    assert (
        "a learning rate of 1.5" in warning and "half of it to begin with" in warning and "clip_grad_norm_" in warning
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_that_converges_is_not(momentum: float) -> None:
    assert train(lr=0.05, steps=120, momentum=momentum) == []
