"""The wrapper's own share of a step: what ``rowcast.Optimizer.step()`` takes beside the inner optimizer's step.

The model-sized vectors that a step reads (r) and writes (w), beside the inner optimizer, for parameters that are
float32 in host memory; a copy is 1 r and 1 w:

=====================================================  ======
look for NaN and infinity in the gradients             1 r
notice what was written by hand: parameters and image  2 r
look for NaN and infinity in what is proposed          1 r
accumulate: parameters, image, pending                 3 r 1 w
write replica, less what is pending if the policy      1-2 r
looks ahead, into parameters and image                 2 w
=====================================================  ======

That is 8 to 9 r and 3 w. A written line is read first unless it is in a cache, which makes two more of the last row.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from common import best_s
from goodput import server_process
from rowcast.drivers.sockets import Endpoint, Team
from rowcast.optim import Optimizer
from rowcast.rows import Layout

#: Between two steps, where the gradient would be computed: what is on its way arrives (s).
PAUSE_S = 0.3


@dataclass(frozen=True)
class Share:
    """The shortest of several steps, beside the inner optimizer.

    Attributes:
        step_s: of the whole step.
        team_s: of that, in :meth:`Team.exchange`: accumulating, what the policy waits for, and writing the model.
        copy_s: a copy of a model-sized vector, measured between the steps.
    """

    step_s: float
    team_s: float
    copy_s: float


class _Clock:
    """How long some calls took since the last look."""

    def __init__(self) -> None:
        self._total_s = self._begun = 0.0

    def begin(self, *_: object) -> None:
        self._begun = time.perf_counter()

    def end(self, *_: object) -> None:
        self._total_s += time.perf_counter() - self._begun

    def taken_s(self) -> float:
        taken_s, self._total_s = self._total_s, 0.0
        return taken_s


def measure(layout: Layout, policy: str, steps: int, pause_s: float = PAUSE_S) -> Share:
    """Steps of a worker alone with a server in a process of its own, over unshaped loopback."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(spec.shape)) for spec in layout.tensors])
    for parameter in model:
        parameter.grad = torch.full_like(parameter, 1e-3)
    inner = torch.optim.SGD(model.parameters(), lr=1e-2)
    own, exchange = _Clock(), _Clock()
    inner.register_step_pre_hook(own.begin)
    inner.register_step_post_hook(own.end)
    source, target = np.ones(layout.elements, dtype=np.float32), layout.zeros()
    copies, all_steps, in_team = [], [], []
    with server_process(policy) as port:
        team = Team(Endpoint("127.0.0.1", port), name="robot-0")
        with Optimizer(inner, model, team) as optimizer:
            whole = team.exchange

            def timed(*arguments) -> None:
                exchange.begin()
                whole(*arguments)
                exchange.end()

            team.exchange = timed  # type: ignore[method-assign]
            for _ in range(steps):
                time.sleep(pause_s)
                copies.append(best_s(lambda: np.copyto(target, source), 2))
                begun = time.perf_counter()
                optimizer.step()
                all_steps.append(time.perf_counter() - begun - own.taken_s())
                in_team.append(exchange.taken_s())
    best = min(range(steps), key=all_steps.__getitem__)
    return Share(all_steps[best], in_team[best], min(copies))
