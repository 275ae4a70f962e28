"""What a team shares of a model: layout, names, refusals, and statistics that move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.optim import Optimizer
from test_optim_fakes import EchoTeam, Hub, backward, flat, small_model


def test_the_layout_follows_the_model_and_the_team_s_values_come_in() -> None:
    hub = Hub(2)
    first, second = small_model(1), small_model(2)
    for model in (first, second):
        order = reversed(list(model.parameters()))
        Optimizer(torch.optim.SGD(order, lr=0.1), model, hub.member())
    assert [spec.name for spec in hub.members[0].layout.tensors] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    np.testing.assert_array_equal(flat(second), flat(first))
    np.testing.assert_array_equal(hub.members[1].replica, flat(first))


def test_only_shared_trainable_optimized_parameters_travel() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(4, 4)
            self.decoder = nn.Linear(4, 4)
            self.decoder.weight = self.encoder.weight  # tied: counts once
            self.head = nn.Linear(4, 2)
            self.unused = nn.Parameter(torch.ones(3))
            self.nothing = nn.Parameter(torch.ones(0))
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * self.head(self.decoder(self.encoder(x)))

    torch.manual_seed(0)
    model, team = Model(), EchoTeam()
    model.encoder.bias.requires_grad_(False)
    kept_out = {id(model.head.bias)}
    inner = torch.optim.AdamW([p for p in model.parameters() if id(p) not in kept_out], lr=0.1, weight_decay=0.1)
    optimizer = Optimizer(inner, model, team)
    names = {spec.name for spec in team.layout.tensors}
    assert names == {"unused", "scale", "encoder.weight", "decoder.bias", "head.weight"}
    model(torch.ones(2, 4)).sum().backward()
    head_bias, frozen = model.head.bias.detach().clone(), model.encoder.bias.detach().clone()
    optimizer.step()
    assert torch.equal(model.head.bias, head_bias) and torch.equal(model.encoder.bias, frozen)
    assert model.decoder.weight is model.encoder.weight
    assert model.unused.tolist() == [1, 1, 1] and float(model.scale.detach()) != 2.0


def test_the_prefix_of_torch_compile_is_left_out_of_names() -> None:
    model, team = nn.ModuleDict({"_orig_mod": small_model()}), EchoTeam()
    Optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, team)
    assert team.layout.tensors[0].name == "0.weight"


def test_parameters_that_cannot_be_shared_are_named() -> None:
    model = small_model()

    def refused(parameters: list[nn.Parameter], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Optimizer(torch.optim.SGD(parameters, lr=0.1), model, EchoTeam())

    stranger = nn.Parameter(torch.ones(7, 3))
    refused([*model.parameters(), stranger], r"param_groups\[0\]\['params'\]\[4\] of shape \(7, 3\) is in no module")
    for number, wrong in enumerate(
        (torch.ones(2, dtype=torch.complex64), torch.ones(2, device="meta"), torch.eye(2).to_sparse())
    ):
        model.register_parameter(f"wrong{number}", nn.Parameter(wrong))
        refused([model.get_parameter(f"wrong{number}")], f"'wrong{number}'")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    refused(list(model.parameters()), "found none")


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_lazy_parameter_is_refused_until_it_has_a_shape() -> None:
    model = nn.Sequential(nn.LazyLinear(2))
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"'0.weight' has no shape yet"):
        Optimizer(inner, model, EchoTeam())
    model(torch.ones(1, 3))
    Optimizer(inner, model, EchoTeam())


def test_a_parameter_unfrozen_or_added_later_is_refused_before_it_drifts() -> None:
    model, team = small_model(), EchoTeam()
    model[0].bias.requires_grad_(False)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = Optimizer(inner, model, team)
    model[0].bias.requires_grad_(True)
    backward(model, 0)
    before = flat(model)
    with pytest.raises(LocalProtocolError, match=r"\[1\] of shape \(6,\) has a gradient, but was frozen"):
        optimizer.step()
    with pytest.raises(LocalProtocolError, match="was frozen"):
        optimizer.zero_grad()
        optimizer.step(lambda: backward(model, 0) or 0.0)
    np.testing.assert_array_equal(flat(model), before)
    assert team.contributions == 0
    model[0].bias.requires_grad_(False)
    optimizer.zero_grad()
    extra = nn.Parameter(torch.ones(2))
    inner.add_param_group({"params": [extra]})
    optimizer.step()
    extra.grad = torch.ones(2)
    with pytest.raises(LocalProtocolError, match=r"param_groups\[1\]"):
        optimizer.step()
