"""Every optimizer of torch.optim on one small job, alone and as the inner one of a team of three: held-out loss.

The job: a classifier of 16 features and 4 classes, whose labels a fixed network gives. ``alone`` is the bare optimizer
in one process on the whole data, with as many steps and as many samples in a step as one robot has. Each robot of the
team has a third of the data. SparseAdam needs sparse gradients: its job is to tell the class of a bag of words from an
embedding, and each robot has words of its own beside those of all.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from common import Figure, arguments, finish
from rowcast.config import ServerSettings
from rowcast.drivers.virtual import Device, Simulation, VirtualWorker
from rowcast.errors import NonFiniteGradient
from rowcast.links import Trace
from rowcast.optim import Optimizer
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

ROBOTS = 3
FEATURES, CLASSES, SAMPLES, HELD_OUT, BATCH = 16, 4, 3000, 2000, 32
DECAY = 1e-3
WORDS, OWN_WORDS, LENGTH = 60, 120, 12
#: So many times the held-out loss of the optimizer alone is asked of a team.
TOLERATED = 1.3
POLICIES = ("bsp", "bsp?codec=raw", "rog:4", "rowcast", "rowcast?codec=raw&adapt=off&auto_lr=off")
#: A link that takes about as long for a model in the one-bit code as a gradient takes.
RATE_BPS, COMPUTE_S = 12e3, 1.0

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

MAKERS: dict[str, Make] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.3),
    "SGD, momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.003),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.3, lambd=1e-4),
    "LBFGS, one iteration": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=1),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=4, history_size=10),
    "LBFGS, strong Wolfe": lambda p: torch.optim.LBFGS(p, max_iter=4, line_search_fn="strong_wolfe"),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
    "Muon": lambda p: torch.optim.Muon([one for one in p if one.ndim == 2], lr=0.02),
    "SparseAdam": lambda p: torch.optim.SparseAdam(p, lr=0.02),
}

#: The rows of the table: an optimizer, and perhaps an option of the policy behind a question mark.
ROWS = [*MAKERS, "SparseAdam ? row_weights=contributors"]


@dataclass(frozen=True)
class Data:
    """Samples, as each robot has them, and those that nobody has."""

    parts: list[tuple[Tensor, Tensor]]
    held_out: tuple[Tensor, Tensor]

    @property
    def whole(self) -> tuple[Tensor, Tensor]:
        return torch.cat([one[0] for one in self.parts]), torch.cat([one[1] for one in self.parts])


def features(seed: int) -> Data:
    chance = torch.Generator().manual_seed(seed)
    teacher = [torch.randn(FEATURES, 12, generator=chance), torch.randn(12, CLASSES, generator=chance)]

    def draw(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, FEATURES, generator=chance)
        scores = torch.tanh(x @ teacher[0] / 2) @ teacher[1]
        return x, (scores + 0.5 * torch.randn(scores.shape, generator=chance)).argmax(1)

    return Data([draw(SAMPLES // ROBOTS) for _ in range(ROBOTS)], draw(HELD_OUT))


def words(seed: int) -> Data:
    chance = torch.Generator().manual_seed(seed)
    meaning = torch.randn(WORDS + ROBOTS * OWN_WORDS, CLASSES, generator=chance)

    def draw(count: int, robot: int) -> tuple[Tensor, Tensor]:
        common = torch.randint(WORDS, (count, LENGTH // 3), generator=chance)
        first = WORDS + robot * OWN_WORDS
        own = torch.randint(first, first + OWN_WORDS, (count, LENGTH - LENGTH // 3), generator=chance)
        bag = torch.cat([common, own], 1)
        return bag, meaning[bag].sum(1).argmax(1)

    tests = [draw(HELD_OUT // ROBOTS, robot) for robot in range(ROBOTS)]
    held_out = torch.cat([one[0] for one in tests]), torch.cat([one[1] for one in tests])
    return Data([draw(SAMPLES // ROBOTS, robot) for robot in range(ROBOTS)], held_out)


def model_for(name: str) -> nn.Module:
    torch.manual_seed(1)
    if name == "SparseAdam":
        return nn.EmbeddingBag(WORDS + ROBOTS * OWN_WORDS, CLASSES, mode="sum", sparse=True)
    model = nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, CLASSES))
    if name == "Muon":
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim == 2)
    return model


def loss_of(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(data[0]), data[1])


def penalty(model: nn.Module) -> Tensor:
    """Keeps the whole data from being learned by heart; an embedding has a sparse gradient, and goes without."""
    if isinstance(model, nn.EmbeddingBag):
        return torch.zeros(())
    return DECAY * sum((parameter.square().sum() for parameter in model.parameters()), torch.zeros(()))


def batches(data: tuple[Tensor, Tensor], name: str, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end; an optimizer with a line search or without a step size sees all its data each time."""
    chance = torch.Generator().manual_seed(seed)
    while True:
        if name.startswith(("LBFGS", "Rprop")):
            yield data
            continue
        for chosen in torch.randperm(len(data[0]), generator=chance).split(BATCH):
            if len(chosen) == BATCH:
                yield data[0][chosen], data[1][chosen]


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, name: str, batch: tuple[Tensor, Tensor]) -> None:
    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch) + penalty(model)
        loss.backward()
        return float(loss.detach())

    if name.startswith("LBFGS"):
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()


def held_out_loss(model: nn.Module, data: Data) -> float:
    with torch.no_grad():
        loss = float(loss_of(model, data.held_out))
    return loss if math.isfinite(loss) else math.inf


def alone(name: str, data: Data, steps: int, seed: int) -> float:
    model = model_for(name)
    optimizer = MAKERS[name](list(model.parameters()))
    stream = batches(data.whole, name, seed)
    for _ in range(steps):
        one_step(model, optimizer, name, next(stream))
    return held_out_loss(model, data)


def team(name: str, policy: str, data: Data, steps: int, seed: int) -> float:
    """Held-out loss of what all replicas agree on at the end."""
    entropy = random.Random(seed)
    server = ServerNode(
        parse_policy(policy), settings=ServerSettings(expected_workers=ROBOTS), entropy=entropy.randbytes
    )
    simulation = Simulation(server)
    ends: list[float] = []

    def robot(index: int, worker: VirtualWorker) -> None:
        model = model_for(name)
        optimizer = Optimizer(MAKERS[name](list(model.parameters())), model, worker, nonfinite="skip")
        stream = batches(data.parts[index], name, seed + index)
        for _ in range(steps):
            try:
                one_step(model, optimizer, name, next(stream))
            except NonFiniteGradient:
                continue
        optimizer.close()
        ends.append(held_out_loss(model, data))

    trace = Trace.constant(RATE_BPS)
    for index in range(ROBOTS):
        worker = VirtualWorker(
            simulation, f"robot-{index}", Device(COMPUTE_S, 0.2, seed=index), (trace, trace), entropy=entropy.randbytes
        )
        worker.train(functools.partial(robot, index, worker))
    simulation.run(math.inf)
    return statistics.fmean(ends)


def figures_of(name: str, policies: Sequence[str], steps: int) -> list[Figure]:
    """Held-out losses of one optimizer; where it goes with the policy, a team is to come near what it does alone."""
    optimizer, _, option = name.partition(" ? ")
    data = words(0) if optimizer == "SparseAdam" else features(0)
    by_itself = alone(optimizer, data, steps, 0)
    figures = [Figure(f"{name}: alone", by_itself, "")]
    for policy in policies:
        text = policy if not option else f"{policy}{'&' if '?' in policy else '?'}{option}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss = team(optimizer, text, data, steps, 0)
        warned = any("does not go well" in str(warning.message) for warning in caught)
        behind = optimizer == "SparseAdam" and not option
        bound = None if warned or behind else TOLERATED * by_itself
        note = "warned of" if warned else "see the option row_weights" if behind else ""
        figures.append(Figure(f"{name}: {text}", loss, "", bound, note=note))
    return figures


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="steps of each robot, and of the optimizer alone")
    parser.add_argument("--only", nargs="*", default=ROWS, metavar="NAME", help=f"some of: {', '.join(ROWS)}")
    parser.add_argument("--policies", nargs="*", default=list(POLICIES), metavar="POLICY")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: list[Figure] = []
    table = Table(title="held-out loss")
    for head in ("optimizer", "alone", *options.policies):
        table.add_column(head)
    for name in options.only:
        row = figures_of(name, options.policies, options.steps)
        figures += row
        cells = (f"{figure.value:.3f}{'' if figure.met else ' !'}{'*' if figure.note else ''}" for figure in row)
        table.add_row(name, *cells)
    Console().print(table)
    finish(f"held-out loss after {options.steps} steps; no worse than {TOLERATED:g} times alone", figures, options)


if __name__ == "__main__":
    main()
