"""What a training loop has beside its parameters: kept with the state of its robot, and loaded when that goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import rowcast
from live import IMPATIENT, LiveServer
from rowcast.drivers.sockets import Team
from rowcast.errors import ConfigError
from rowcast.optim.keeping import Keeping, from_plain, to_plain
from rowcast.streams import Positions

STATES = [
    {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.arange(6.0).reshape(2, 3)}},
        "param_groups": [{"lr": 0.1}],
    },
    {"betas": (0.9, 0.999), "foreach": None, "nesterov": True, "params": [0, 1]},
    {"half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16), "mask": torch.tensor([True, False])},
    {"best": float("inf"), "worst": float("nan"), "name": "robot", "array": np.array([1, 2], dtype=np.int64)},
    {"old_dirs": [torch.ones(3), torch.zeros(3)], "empty": {}, "none": []},
]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or one != one)


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_states_come_back_as_they_were(state):
    arrays = {}
    plain = to_plain(state, arrays, "it")
    assert same(from_plain(json.loads(json.dumps(plain, allow_nan=False)), arrays), state)


def test_what_is_kept_is_a_copy():
    tensor, arrays = torch.ones(3), {}
    plain = to_plain({"x": tensor}, arrays, "it")
    tensor.zero_()
    assert torch.equal(from_plain(plain, arrays)["x"], torch.ones(3))


def test_what_cannot_be_kept_is_named_and_left_out():
    with pytest.raises(ConfigError, match=r"it\.fn: expected tensors, numbers, texts, lists and dicts .*got function"):
        to_plain({"fn": same}, {}, "it")
    model = nn.Linear(2, 1)
    keeping = Keeping(torch.optim.SGD(model.parameters(), lr=0.1), model)
    odd = nn.Module()
    odd.state_dict = lambda: {"fn": same}
    keeping.add("odd", odd)
    with pytest.warns(UserWarning, match="state_dir: odd is not kept: odd.fn: expected"):
        extras = keeping.extras()
    assert set(extras.values) == {"buffers", "optimizer"}
    assert set(keeping.extras().values) == {"buffers", "optimizer"}, "told once"


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))


class Loop:
    """A training loop whose batches depend on the iteration only."""

    def __init__(self, server, state_dir, made=torch.optim.AdamW, **options):
        self.model = network()
        self.team = Team(
            server.endpoint, name="robot", settings=replace(IMPATIENT, state_limit_s=0.0), state_dir=state_dir
        )
        self.optimizer = rowcast.Optimizer(made(self.model.parameters(), **options), self.model, self.team)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, 0.5)
        self.optimizer.keep("scheduler", self.scheduler)

    def steps(self, last):
        while self.team.iteration < last:
            self.team.read_to(Positions({"log": self.team.iteration + 1}).pack())
            generator = torch.Generator().manual_seed(self.team.iteration)
            batch = torch.randn(16, 4, generator=generator)

            def closure(batch=batch):
                self.optimizer.zero_grad()
                loss = (self.model(batch) - batch.sum(1, keepdim=True)).square().mean()
                loss.backward()
                return loss

            self.optimizer.step(closure)
            self.scheduler.step()


@pytest.mark.parametrize(
    ("policy", "made", "options"),
    [
        ("bsp?codec=raw", torch.optim.AdamW, {"lr": 0.01}),
        ("diloco:2?codec=raw", torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    ],
)
def test_a_robot_that_goes_on_trains_as_if_nothing_had_happened(policy, made, options, tmp_path):
    ends = []
    for breaks in ((), (3, 5)):
        with LiveServer(policy, expected_workers=1) as server:
            loop = Loop(server, tmp_path, made, **options)
            assert loop.optimizer.restored is None
            for last in breaks:
                loop.steps(last)
                loop.team.leave()
                loop = Loop(server, tmp_path, made, **options)
                assert loop.optimizer.restored == loop.team.iteration == last
                assert Positions.unpack(loop.team.resumed_positions) == Positions({"log": last})
            loop.steps(8)
            loop.optimizer.close()
            ends.append((loop.model.state_dict(), loop.scheduler.get_last_lr(), loop.optimizer.state_dict()["state"]))
    (model, rate, state), (again, rate_again, state_again) = ends
    assert rate == rate_again
    for name, value in model.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}")
    for index, one in state.items():
        for name, value in one.items():
            torch.testing.assert_close(
                state_again[index][name], value, rtol=0, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_a_state_that_does_not_fit_and_a_name_that_is_taken_are_errors(tmp_path):
    with LiveServer("bsp?codec=raw", expected_workers=1) as server:
        loop = Loop(server, tmp_path, lr=0.01)
        with pytest.raises(ConfigError, match="keep: the name 'scheduler' is taken"):
            loop.optimizer.keep("scheduler", loop.scheduler)
        with pytest.raises(ConfigError, match=r"keep: 'number': expected an object with state_dict\(\) .*got int"):
            loop.optimizer.keep("number", 3)
        loop.steps(2)
        loop.team.leave()
        model = network()
        groups = [{"params": [parameter]} for parameter in model.parameters()]
        team = Team(server.endpoint, name="robot", settings=IMPATIENT, state_dir=tmp_path)
        with pytest.raises(
            ConfigError, match="the state of 'optimizer' that was kept does not fit what is trained now"
        ):
            rowcast.Optimizer(torch.optim.SGD(groups, lr=0.1), model, team)
