"""Compiled kernels before the clock runs: what is slow the first time is slow before a training begins.

numba compiles a kernel at its first call and keeps it on disk (:mod:`rowcast.rows.kept`). So whatever calls them all
once warms up a machine: :func:`warm_up` lets a small team train in virtual time, and then does what a worker does
besides; :func:`warm_rest` calls what only some teams, and inferences, need. Processes that are started later find the
kernels where they are kept, and compile nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rowcast.codecs import REGISTRY as CODECS
from rowcast.codecs import Above, Codec, Thresholded, codec_by_name
from rowcast.codecs.base import Vector, fitting
from rowcast.codecs.tensors import REGISTRY as TENSOR_CODECS
from rowcast.codecs.tensors import TensorType
from rowcast.config import ServerSettings, WorkerSettings
from rowcast.delivery.floored import Floored
from rowcast.delivery.half_residual import HalfResidual
from rowcast.planning.flow import SINK, SOURCE, Arcs, minimum_cut
from rowcast.rows import Layout
from rowcast.rows.compiling import HAS_NUMBA
from rowcast.rows.kept import KernelEvent, Place, place_of_kernels, watch_kernels
from rowcast.rows.scattered import Scattered, addresses_of
from rowcast.sync import REGISTRY as FAMILIES
from rowcast.sync import parse_policy
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.training import WorkerNode
from rowcast.training.guard.loops import scale, sums
from rowcast.training.memory import can_be_half
from rowcast.training.proposal.row_weights import WINDOW
from rowcast.wire.index import encode_index

__all__ = ["HAS_NUMBA", "Kernel", "Place", "Warmed", "place_of_kernels", "usual_policies", "warm_rest", "warm_up"]
__all__ += ["warm_worker", "watched"]

#: A matrix and a vector of few elements; what is compiled does not depend on how many.
LAYOUT = Layout.from_shapes([("block", (300, 40)), ("bias", (60,))])
#: Steps of each worker: as many as a policy needs until it has used all that it has.
STEPS = 12
#: MB of a worker whose pending rows do not fit into float32, with this layout.
TIGHT_MB = 0.12


@dataclass(frozen=True)
class Kernel:
    """A kernel that was asked for.

    Attributes:
        name: its module and name, without ``rowcast.``.
        seconds: compiling took, without the kernels that it calls; 0 where it was found.
        found: it was there already.
        kept: it is there for processes that come.
    """

    name: str
    seconds: float
    found: bool
    kept: bool


@dataclass
class Warmed:
    """What was asked for, in the order in which it was ready."""

    kernels: list[Kernel] = field(default_factory=list)

    @property
    def compiled(self) -> list[Kernel]:
        """Those that were not there."""
        return [kernel for kernel in self.kernels if not kernel.found]

    @property
    def lost(self) -> list[Kernel]:
        """Those that the next process compiles again."""
        return [kernel for kernel in self.kernels if not kernel.kept]


@contextlib.contextmanager
def watched(clock: Callable[[], float], shows: Callable[[Kernel], None] | None = None) -> Iterator[Warmed]:
    """Notes which kernels are asked for within, each time numba looks for one on disk.

    A kernel that this process has used before is not asked for again.

    Args:
        clock: tells seconds that do not go back.
        shows: called with each kernel when it is ready.
    """
    warmed = Warmed()
    open_: list[list[float]] = []  # when it began, and how much of its time belongs to kernels that it calls

    def note(event: KernelEvent, name: str) -> None:
        seconds = 0.0
        if event == "missing":
            open_.append([clock(), 0.0])
            return
        if event != "found":
            began, within = open_.pop()
            whole = clock() - began
            seconds = whole - within
            if open_:
                open_[-1][1] += whole
        kernel = Kernel(name.removeprefix("rowcast."), seconds, event == "found", event != "lost")
        warmed.kernels.append(kernel)
        if shows is not None:
            shows(kernel)

    with watch_kernels(note):
        yield warmed


def usual_policies() -> list[str]:
    """One policy of each family: a robot learns only from its server which one is trained with."""
    return [family.example for family in FAMILIES.usable().values()]


def warm_up(policy: str, *, half: bool = False) -> None:
    """Call each kernel that a server and its workers need for a policy: those not yet there are compiled and kept.

    Args:
        policy: its text.
        half: a worker's memory is limited, so that pending rows may be in half precision.

    Raises:
        ConfigError: no such policy.
    """
    chosen = parse_policy(policy)
    _train(policy, 2, rate_bps=2e4)  # a link on which rows wait
    _train(policy, 1, rate_bps=1e8)  # one that idles, which some policies use for more of the same rows
    _train(policy, 3, settings=ServerSettings(expected_workers=3, guard="strict"))
    if half and can_be_half(LAYOUT, chosen):
        _train(policy, 2, memory_mb=TIGHT_MB)
    # What depends on how many rows there are, and on how many readers.
    encode_index(np.array([0, 300, 600], dtype=np.int64))
    Floored(LAYOUT, LAYOUT.zeros(), np.zeros(LAYOUT.rows, dtype=np.int32)).touch(np.zeros(1, dtype=np.int64))
    warm_worker(LAYOUT, half=half)


def warm_rest() -> None:
    """Call what only some teams need, whatever their policy: robots that are killed, robots out of line; inferences."""
    # Until a row counts among those who have sent something of it lately, and not among all.
    _train("rog:4?row_weights=contributors", 2, apart=True, steps=WINDOW + 4)
    _recover()
    rows, places = np.ones(4, dtype=np.float32), np.array([0, 2, 4], dtype=np.int64)
    scale(rows, places, np.ones(2, dtype=np.float32))
    sums(rows, places, np.zeros(2))
    for codec in TENSOR_CODECS.usable().values():
        for name in codec.dtypes:
            tensor = TensorType(np.dtype(name), (1, 8, 8, 3), row_axis=1, channel_axis=3)
            slab = np.zeros(tensor.shape, dtype=tensor.dtype)
            codec.decode(codec.encode(slab, tensor), tensor)
    ends = np.array([[SOURCE, 2], [2, SINK]], dtype=np.int64)
    minimum_cut(Arcs(3, ends[:, 0].copy(), ends[:, 1].copy()), np.ones(2, dtype=np.int64))


def warm_worker(layout: Layout, *, half: bool = False) -> None:
    """What a worker calls besides the policy: first steps, every codec, and the tensors of its model.

    Args:
        layout: of the model; memory for it is touched as well.
        half: as in :func:`warm_up`.
    """
    node = WorkerNode("warm-up", layout, layout.zeros())
    for policy in ("bsp", "diloco:1"):  # without and with outer momentum
        node.policy = parse_policy(policy)
        sources = [node.replica[spec.start : spec.stop] for spec in layout.tensors]
        node.accumulate(sources, 1.0)
        node.accumulate(tuple(sources), 1.0)  # one after the other, as where memory is short
    _warm_tensors()
    if half:
        _warm_half_precision()
    for codec in CODECS.usable().values():
        _code(codec, layout, node.pending, node.replica, 1)
    for codec in CODECS.usable().values():
        _warm_forms(codec)


def _train(
    policy: str,
    workers: int,
    *,
    rate_bps: float = 1e6,
    settings: ServerSettings | None = None,
    memory_mb: float | None = None,
    apart: bool = False,
    steps: int = STEPS,
) -> None:
    """Let a team train in virtual time; ``apart``: each worker another part of the model."""
    scripts = [
        ScriptedWorker(f"robot-{index}", _gradient(index, workers if apart else 1), steps, rate_bps=rate_bps)
        for index in range(workers)
    ]
    worker = WorkerSettings(memory_mb=memory_mb)
    VirtualTeam(LAYOUT, policy, scripts, server_settings=settings, worker_settings=worker).run()


def _recover() -> None:
    """Let a worker train that is killed, and goes on from what was kept of it."""
    script = ScriptedWorker("robot-0", _gradient(0, 1), STEPS, pictures=lambda iteration: iteration == 1)
    team = VirtualTeam(LAYOUT, "rog:4", [script])

    def die() -> None:
        team.kill(script.name)
        team.restart(script.name)

    team.at(0.8, die)
    team.run()


def _gradient(index: int, parts: int) -> Callable[[int, Vector], Vector]:
    """Random numbers for one of so many parts of the model, zeros elsewhere."""
    chance = np.random.default_rng(index)

    def gradient(step: int, replica: Vector) -> Vector:
        made = np.zeros_like(replica)
        mine = np.array_split(made, parts)[index % parts]  # a view
        mine[:] = 1e-3 * chance.standard_normal(len(mine), dtype=np.float32)
        return made

    return gradient


def _code(codec: Codec, layout: Layout, pending: Vector, replica: Vector, count: int) -> None:
    rows = np.arange(count, dtype=np.int64)
    payload = codec.encode(layout, pending, rows)
    codec.check(layout, payload, rows)
    codec.add(layout, payload, rows, replica, 1.0)


def _warm_forms(codec: Codec) -> None:
    """The forms of a code that are fitted to what is to be sent, and to the room for it."""
    layout, chance = LAYOUT, np.random.default_rng(0)
    room = float(layout.zeros().nbytes // 8)
    values = 1e-3 * chance.standard_normal(len(layout.zeros()), dtype=np.float32)
    forms, code = [codec], fitting(codec)
    if code is not None:
        forms.append(code.fit(layout, values, room))
    if isinstance(codec, Thresholded):
        forms.append(codec.above(layout, values, Above(room, np.arange(layout.rows), 8, lambda lowest: lowest)))
    for form in forms:
        _code(form, layout, values.copy(), layout.zeros(), layout.rows)


def _warm_tensors() -> None:
    """Tensors that lie apart, as those of a model do; a small layout will do, it is compiled once."""
    layout = LAYOUT
    apart, flat = [layout.zeros()[spec.start : spec.stop] for spec in layout.tensors], layout.zeros()
    scattered, places = Scattered(layout.tensors), addresses_of(apart, layout.tensors)
    scattered.nonfinite(places)
    scattered.differing(places, flat)
    scattered.spread(places, layout.zeros(), flat)
    times = np.ones(layout.rows, dtype=np.float32)
    scattered.spread_less(places, layout.zeros(), flat, layout.zeros(), times, layout.offsets)


def _warm_half_precision() -> None:
    layout = Layout.from_shapes([("warm-up", (2, 2))], small_tensor=1)
    residual, rows = HalfResidual(layout, np.zeros(layout.rows)), np.arange(layout.rows, dtype=np.int64)
    ones, apart = layout.zeros() + 1, layout.zeros()
    residual.accumulate_all(ones, [layout.zeros()], np.ones(layout.rows, dtype=np.float32), np.zeros(layout.rows))
    residual.measure()
    residual.take(rows, codec_by_name("onebit"), 1)
    places = addresses_of([apart], layout.tensors)
    Scattered(layout.tensors).spread_less(places, layout.zeros(), ones, residual.stored, ones[:2], layout.offsets)
