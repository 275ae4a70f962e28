"""The model: shapes, size, batch norm."""

from __future__ import annotations

import pytest
import torch

from rowcast.errors import ConfigError
from rowcast.tasks.cruda import ConvMLP, ConvMLPConfig, count_parameters, freeze_batch_norm
from rowcast.tasks.cruda.models import seeded_model

SMALL = {"tokens": 8, "conv_blocks": 1, "widths": (8, 16), "depths": (1, 2), "mlp_ratio": 2}


@pytest.mark.parametrize(
    ("channels", "side", "stem_stride"), [(1, 8, 1), (1, 28, 2), (3, 32, 4), (3, 32, 2), (1, 8, 4), (1, 28, 4)]
)
def test_scores_have_one_column_for_each_class(channels: int, side: int, stem_stride: int) -> None:
    model = ConvMLP(ConvMLPConfig(in_channels=channels, classes=7, stem_stride=stem_stride, **SMALL))
    scores = model(torch.zeros(3, channels, side, side))
    assert scores.shape == (3, 7)
    scores.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("stem_stride", "side"), [(1, 16), (2, 8), (4, 4)])
def test_the_tokenizer_shrinks_by_its_stride(stem_stride: int, side: int) -> None:
    model = ConvMLP(ConvMLPConfig(in_channels=1, stem_stride=stem_stride, **SMALL))
    assert model.tokenizer(torch.zeros(2, 1, 16, 16)).shape == (2, 8, side, side)


def test_the_default_has_the_size_of_the_paper() -> None:
    # The ROG artifact's table of tensors, 100 classes: 16.95 million elements.
    assert count_parameters(ConvMLP(ConvMLPConfig(classes=100))) == 16_948_804


def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_scale() -> None:
    model = ConvMLP(ConvMLPConfig(in_channels=1, stem_stride=1, **SMALL))
    model.train()
    assert freeze_batch_norm(model) is model
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    assert before and all(torch.equal(before[name], value) for name, value in model.named_buffers())
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(m.weight.grad is not None and m.bias.grad is not None for m in norms)
    assert model.training
    model.train()
    model(torch.randn(4, 1, 8, 8))
    assert not all(torch.equal(before[name], value) for name, value in model.named_buffers())


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    config = ConvMLPConfig(in_channels=1, **SMALL)
    generator = torch.random.get_rng_state()
    one, same, other = (seeded_model(config, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(generator, torch.random.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("in_channels", 0),
        ("classes", 1),
        ("tokens", 7),
        ("stem_stride", 3),
        ("conv_blocks", -1),
        ("widths", ()),
        ("depths", (1,)),
        ("mlp_ratio", 0),
    ],
)
def test_a_size_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"ConvMLPConfig\.{field}: expected .*, got"):
        ConvMLPConfig(**{field: value})  # type: ignore[arg-type]
