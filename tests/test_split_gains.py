"""What streaming of rows gains on captured models: the planner, on row rules of real operators."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from captured_models import small
from rowcast.graphs import Profile
from rowcast.planning import CostModel, LinkCosts, offload, streamed
from rowcast.split import Captured, capture
from rowcast.testing.zoo import vgg

#: Time of transfer over time of computing.
RATIOS = (0.25, 0.5, 1.0, 2.0, 4.0)


def shares(captured: Captured) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """float64 [ops]: multiplications of convolutions and linear layers, and one for each element of other tensors."""
    found = np.zeros(len(captured.graph))
    for op, node in enumerate(captured.nodes):
        kind = captured.tensors[op]
        if captured.graph.ops[op].inputs and kind is not None:
            weight = node.args[1] if len(node.args) > 1 else None
            shape = weight.meta["val"].shape if isinstance(weight, torch.fx.Node) and weight.op == "get_attr" else ()
            found[op] = kind.elements * (math.prod(shape[1:]) if len(shape) > 1 else 1)
    return found / found.sum()


def gains(captured: Captured) -> list[float]:
    """Streamed latency over the serial one, for each ratio, where the server computes everything."""
    server = shares(captured)
    found = []
    for ratio in RATIOS:
        link = LinkCosts(8 * captured.graph.ops[0].bytes / ratio, 1e12)
        costs = CostModel(captured.graph, Profile(100 * server, server), link)
        found.append(streamed(costs).latency_s / offload(costs).latency_s)
    return found


def test_streaming_gains_most_on_vgg19_where_transfer_takes_as_long_as_computing() -> None:
    captured = capture(*vgg(width=4, hidden=32))
    quarter, half, equal, double, fourfold = gains(captured)
    assert equal <= 0.75
    assert equal < half < quarter < 1
    assert equal < double < fourfold < 1
    for ratio, gain in zip(RATIOS, (quarter, half, equal, double, fourfold), strict=True):
        assert gain >= max(ratio, 1) / (ratio + 1)  # one of the two is busy all the time


@pytest.mark.parametrize("name", ["mobilenet-se", "vit"])
def test_streaming_gains_little_where_the_first_operators_read_everything(name: str) -> None:
    """Squeeze and excitation reads all rows, and so does attention."""
    captured, _ = small(name)
    assert min(gains(captured)) > 0.85
