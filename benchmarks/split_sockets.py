"""Split inference over real sockets: the round trip, the same run as in virtual time, and requests computed together.

The second one has the very nodes, links and seconds of computation in both worlds: over TCP under the shaper, where
the engines wait as long as the profile says, and in virtual time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import torch

from common import Figure, arguments, best_s, finish
from lopinfer import read_model, read_trace
from rowcast.codecs.tensors import TensorType
from rowcast.config import AskerSettings, LinkSettings
from rowcast.drivers.sockets import Endpoint, InferenceServer, InferenceThread, Shaper
from rowcast.drivers.virtual import InferenceSimulation, ProfileEngine
from rowcast.graphs import Graph, Identity, Op, Profile
from rowcast.inference import AnswererNode, AskerNode, Made, ModelSpec, Piece, Planning, Side, Work
from rowcast.inference.model import server_side
from rowcast.inference.work import PART, SERVE, WHOLE
from rowcast.links import Trace, named_trace
from rowcast.planning import (
    ByRate,
    CostModel,
    LateStart,
    LinkCosts,
    RateEstimator,
    local,
    plan_table,
    streamed,
)
from rowcast.split import Captured, Remote, RemoteOptions, Serving, capture
from rowcast.split.engine import TorchEngine
from rowcast.testing.zoo import mobilenet

IMAGE_BYTES = 224 * 224 * 3
#: Of the emulated run: time between two inputs, deadline, and half of a round trip through the shaper (s).
EVERY_S, DEADLINE_S, DELAY_S = 0.1, 0.5, 0.0002


class Corner(torch.nn.Module):
    """A model that costs nothing: what is measured with it is the way there and back."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :1, :1].float()


def corner() -> tuple[Captured, torch.Tensor]:
    """That model, and an image of 150,528 bytes."""
    image = torch.randint(0, 255, (1, 224, 224, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return capture(Corner().eval(), image), image


def serve_corner(options: argparse.Namespace) -> None:
    """Serve that model."""
    with Serving(corner()[0], "127.0.0.1:0") as serving:
        print(serving.port, flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def process(role: str, *arguments: object) -> Iterator[tuple[int, IO[str]]]:
    """This benchmark in a process of its own, in one of its roles; its port, and its standard input.

    It ends with its input. Robot, link and server of a real system do not share an interpreter either.
    """
    command = [sys.executable, __file__, "--role", role, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdin is not None
        yield int(child.stdout.readline()), child.stdin
        child.stdin.close()


def round_trip(tiny: bool) -> list[Figure]:
    """From the image to the answer, over loopback, between two processes."""
    model, image = corner()
    times = np.array([float(bool(op.inputs)) for op in model.graph.ops])
    options = RemoteOptions(profile=Profile(times, times * 1e-6), codecs=(), method="offload")
    with (
        process("serve-corner") as (port, _),
        Remote(f"127.0.0.1:{port}", model, name="robot", options=options) as remote,
    ):
        remote.wait(30)
        runs = [_round_trips(remote, image, 20 if tiny else 300) for _ in range(1 if tiny else 5)]
    median = min(statistics.median(run) for run in runs)
    return [Figure("round trip, 150 kB in 8 frames", 1e3 * median, "ms", 1.0, note="median, the best of five runs")]


def _round_trips(remote: Remote, image: torch.Tensor, count: int) -> list[float]:
    return [remote(image).latency_s for _ in range(count)]


class WaitingEngine:
    """Takes as long as a profile says, and makes bytes of the size that tensors would have."""

    def __init__(self, engine: ProfileEngine, op_s: Sequence[float]) -> None:
        self._engine = engine
        self._op_s = op_s

    def run(self, works: Sequence[Work]) -> Sequence[Made]:
        made, seconds = self._engine.run(works)
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0 and not all(work.cancelled for work in works):
            time.sleep(min(left, 0.002))
        return [replace(one, pieces=[_with_bytes(piece) for piece in one.pieces]) for one in made]

    def is_trivial(self, works: Sequence[Work]) -> bool:
        # As the engine of PyTorch, where nothing is computed and tensors are sent as they are.
        return not sum(self._op_s[op] for work in works for op in work.side.ops)

    def forget(self, key: object) -> None:
        self._engine.forget(key)


def _with_bytes(piece: Piece) -> Piece:
    """A piece whose payload can be sent."""
    assert piece.payload is not None
    return replace(piece, payload=np.zeros(len(piece.payload), dtype=np.uint8))


def a_model(data: Path | None) -> tuple[ModelSpec, CostModel, str]:
    """VGG19 as the artifact has measured it, with a camera's image; or one that is made up."""
    if data is not None:
        graph, profile = read_model(data / "lopinfer-artifact" / "profiles" / "VGG19_BN.csv", IMAGE_BYTES)
        note = "VGG19 of the LOPInfer artifact"
    else:
        graph = Graph([Op((), IMAGE_BYTES), Op((0,), 800_000), Op((1,), 4000)], [2])
        profile, note = Profile(np.array([0, 0.05, 0.04]), np.array([0, 0.003, 0.002])), "a made-up model"
    first, *others = graph.ops
    graph = Graph([Op((), first.bytes, Identity(224), first.name), *others], graph.outputs)
    tensors = [
        TensorType(np.dtype("uint8"), (1, op.rows, max(op.bytes // op.rows, 1)), 1) if op.bytes else None
        for op in graph.ops
    ]
    link = LinkCosts.symmetric(8e7, 2 * DELAY_S, 1.0)
    return ModelSpec(graph, tuple(tensors)), CostModel(graph, profile, link), note


def planning_of(costs: CostModel) -> Planning:
    """Plans by the measured rate, and a late start."""
    table = plan_table(streamed, costs, 1e5, 1e9)
    late = LateStart.of(costs.profile, DEADLINE_S)
    chooser = ByRate(table, RateEstimator(2e7), late, 1.0)
    return Planning(chooser, local(costs), costs.profile.sustained_s, costs.power)


def seconds_of(costs: CostModel) -> dict[str, list[float]]:
    """What each operator takes in each lane of robot and server (s)."""
    robot_s, server_s = costs.profile.robot_s.tolist(), costs.profile.server_s.tolist()
    return {PART: robot_s, WHOLE: robot_s, SERVE: server_s}


def engines_of(spec: ModelSpec, costs: CostModel) -> dict[str, ProfileEngine]:
    """Those of each lane, in virtual time."""
    return {lane: ProfileEngine(spec, op_s) for lane, op_s in seconds_of(costs).items()}


def waiting_engines_of(spec: ModelSpec, costs: CostModel) -> dict[str, WaitingEngine]:
    """The same in real time."""
    return {lane: WaitingEngine(ProfileEngine(spec, op_s), op_s) for lane, op_s in seconds_of(costs).items()}


def data_of(options: argparse.Namespace) -> list[object]:
    """The option that names the data, for another process."""
    return [] if options.data is None else ["--data", options.data]


def serve_profile(options: argparse.Namespace) -> None:
    """Answer as a server with that profile would."""
    spec, costs, _ = a_model(options.data)
    node = AnswererNode(spec, forward_s=float(costs.profile.server_s.sum()))

    async def run() -> None:
        server = InferenceServer(node, waiting_engines_of(spec, costs)[SERVE], port=0)
        await server.start()
        print(server.port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await server.close()

    asyncio.run(run())


def shape(options: argparse.Namespace) -> None:
    """A link before a server; its trace begins with the first line on standard input."""
    trace = a_trace(options.data)
    with Shaper("127.0.0.1", options.port, up=trace, down=trace) as shaper:
        print(shaper.address[1], flush=True)
        sys.stdin.readline()
        shaper.begin()
        sys.stdin.read()


def emulated(options: argparse.Namespace, spec: ModelSpec, costs: CostModel, inputs_s: Sequence[float]) -> list[float]:
    """Latencies over TCP under the shaper (s)."""
    engines = waiting_engines_of(spec, costs)
    data = data_of(options)
    with process("serve-profile", *data) as (server, _), process("shape", *data, "--port", server) as (port, line):
        asker = AskerNode("robot", spec, planning_of(costs), settings=AskerSettings(deadline_s=DEADLINE_S))
        network = InferenceThread(asker, engines, Endpoint("127.0.0.1", port), LinkSettings(), lambda forward_s: None)
        network.start()
        network.wait(lambda: asker.served, 30)
        line.write("begin\n")
        line.flush()
        begun, futures = time.monotonic(), []
        for at in inputs_s:
            time.sleep(max(begun + at - time.monotonic(), 0.0))
            futures.append(network.submit(None, None))
        latencies = [future.result(30).latency_s for future in futures]
        network.leave()
    return latencies


def simulated(options: argparse.Namespace, spec: ModelSpec, costs: CostModel, inputs_s: Sequence[float]) -> list[float]:
    """The same in virtual time (s)."""
    trace = a_trace(options.data)
    engines = engines_of(spec, costs)
    server = AnswererNode(spec, forward_s=float(costs.profile.server_s.sum()))
    simulation = InferenceSimulation(server, engines[SERVE], delay_s=DELAY_S, goodput=1.0)
    asker = AskerNode("robot", spec, planning_of(costs), settings=AskerSettings(deadline_s=DEADLINE_S))
    robot = simulation.add(asker, engines[PART], trace, trace, inputs_s)
    simulation.run(inputs_s[-1] + 30)
    return [outcome.latency_s for outcome in sorted(robot.outcomes, key=lambda outcome: outcome.ticket)]


def a_trace(data: Path | None) -> Trace:
    """The rate of the link."""
    return named_trace("outdoor", 3) if data is None else read_trace(data / "lopinfer-artifact", "outdoors")


def agreement(options: argparse.Namespace) -> list[Figure]:
    """Real sockets against virtual time."""
    spec, costs, note = a_model(options.data)
    seconds = 1.0 if options.tiny else options.seconds
    inputs_s = [1 + EVERY_S * number for number in range(max(int(seconds / EVERY_S), 4))]
    real, virtual = (1e3 * np.array(run(options, spec, costs, inputs_s)) for run in (emulated, simulated))
    apart = abs(real.mean() / virtual.mean() - 1)
    text = f"{note}; {len(real)} inferences: {real.mean():.1f} ms over TCP, {virtual.mean():.1f} ms in virtual time"
    each = float(np.median(np.abs(real - virtual)))
    return [
        Figure("over TCP against virtual time, mean", 100 * apart, "% apart", 10.0, note=text),
        Figure("the same, one by one", each, "ms", note="median of the differences"),
    ]


def together(tiny: bool) -> list[Figure]:
    """A batch of eight against eight one by one, as the server computes them."""
    net, arguments = mobilenet(size=96)
    model = capture(net, arguments)
    engine = TorchEngine(model)
    side = server_side(model.graph, model.graph.inputs, model.graph.outputs)
    counter = itertools.count()

    def works(count: int) -> list[Work]:
        return [_whole_request(model, side, next(counter), arguments[0]) for _ in range(count)]

    repeat = 2 if tiny else 30
    single_s, batch_s = (best_s(_runs(engine, works, count), repeat) / count for count in (1, 8))
    return [
        Figure(
            "MobileNet, 96 px: an image in a batch of 8",
            batch_s / single_s,
            "of one alone",
            0.6,
            note=f"{1e3 * single_s:.2f} ms alone, {1e3 * batch_s:.2f} ms together",
        ),
    ]


def _runs(engine: TorchEngine, works: Callable[[int], list[Work]], count: int) -> Callable[[], object]:
    return lambda: engine.run(works(count))


def _whole_request(model: Captured, side: Side, key: int, image: torch.Tensor) -> Work:
    tensor = model.tensors[model.graph.inputs[0]]
    assert tensor is not None
    raw = 1
    payload = image.numpy().reshape(-1).view(np.uint8)
    pieces = (Piece(model.graph.inputs[0], 0, tensor.rows, raw, payload),)
    return Work(key, side, pieces, dict.fromkeys(side.wanted, raw))


def measured(options: argparse.Namespace) -> None:
    figures = [*round_trip(options.tiny), *together(options.tiny), *agreement(options)]
    finish("Split inference over sockets", figures, options)


ROLES = {"measure": measured, "serve-corner": serve_corner, "serve-profile": serve_profile, "shape": shape}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--data", type=Path, help="the folder that holds lopinfer-artifact")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the run over TCP")
    parser.add_argument("--role", choices=ROLES, default="measure", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    torch.set_num_threads(1)
    options = parser.parse_args()
    ROLES[options.role](options)


if __name__ == "__main__":
    main()
