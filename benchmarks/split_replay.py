"""Replays of split inference over recorded links: what plans by the measured rate come to, and what they are against.

An inference every 0.1 s. The plan is chosen by the rate that transfers before had; the oracle knows the rate at the
start of each. Transfers follow the trace, also where its rate changes on the way.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import Figure, best_s
from lopinfer import ENVIRONMENTS, measured, read_model, read_trace, value_bytes
from rowcast.codecs.tensors import TensorType, tensor_codec_by_name
from rowcast.graphs import Graph, Identity, Op, Profile
from rowcast.links import Trace
from rowcast.planning import (
    LATENCY,
    PIECES,
    Always,
    Answers,
    ByRate,
    Chooser,
    CostModel,
    Decision,
    LateStart,
    LinkCosts,
    Plan,
    PlanTable,
    RateEstimator,
    TensorCosts,
    local,
    offload,
    pipeline,
    plan_table,
    replay,
    replay_newest,
)
from tensor_codecs import synthetic_image

EVERY_S = 0.1
#: Mean latency asked for (ms), indoors and outdoors; the image has one byte a value, kapao's a lossless code as well.
ASKED = {
    "VGG19_BN": (36.0, 50.0),
    "ResNet152": (43.0, 51.0),
    "DenseNet121": (39.0, 45.0),
    "kapao": (200.0, 260.0),
}
#: Models whose deadline is given (s); others get so many times what the robot alone takes (99th percentile).
DEADLINES_S = {"VGG19_BN": 0.120, "kapao": 0.600}
USUAL_DEADLINE = 1.4
#: The rates between which plans are made (bit/s).
LOW_BPS, HIGH_BPS = 0.5e6, 500e6
#: Outages: seconds from the end of one to the next, and of each.
BETWEEN_S, OUTAGE_S = (12.5, 37.5), (0.5, 4.0)
FRAMES_HZ = (10, 30)
#: What the age of the newest answer may be (s): asked of models that the robot alone answers in that time.
AGE_S = 0.250
#: How many times as slow as this machine a robot's processor may code.
SLOWER = 3.0


@dataclass(frozen=True, eq=False)
class Case:
    """A model as it is planned for, its plans by rate, and the late start."""

    model: str
    costs: CostModel
    table: PlanTable
    late: LateStart

    @staticmethod
    def of(model: str, graph: Graph, profile: Profile, tensors: tuple[TensorCosts, ...] = ()) -> Case:
        costs = CostModel(graph, profile, LinkCosts.symmetric(80e6), tensors=tensors)
        deadline_s = DEADLINES_S.get(model, USUAL_DEADLINE * profile.sustained_s)
        return Case(model, costs, plan_table(pipeline, costs, LOW_BPS, HIGH_BPS), LateStart.of(profile, deadline_s))

    def by_rate(self, late: LateStart | None = None) -> ByRate:
        """Plans chosen by the measured rate, of which nothing is known at first."""
        return ByRate(self.table, RateEstimator(), late, self.costs.link.goodput)

    def oracle(self, trace: Trace, late: LateStart | None = None) -> Oracle:
        return Oracle(self.table, trace, late)

    def run(self, trace: Trace, chooser: Chooser) -> Answers:
        return replay(self.costs, trace, chooser, np.arange(0.0, trace.duration_s - 1.0, EVERY_S).tolist())


@dataclass(frozen=True)
class Oracle:
    """Knows the rate at the start of each inference."""

    table: PlanTable
    trace: Trace
    late: LateStart | None

    def decide(self, now: float) -> Decision:
        return Decision.of(self.table.at(self.trace.rate(now)), self.late)

    def delivered(self, now: float, size: float, seconds: float) -> None:
        """Changes nothing."""


def lossless(images: Path, *, tiny: bool = False) -> tuple[TensorCosts, str]:
    """``deflate`` on images of a camera, in as many slabs as it travels in, measured here; and a word on it."""
    if images.exists():
        tensors, kind = list(np.load(images)["color"][:: 50 if tiny else 10]), "images of a camera"
    else:
        tensors, kind = [synthetic_image(32 if tiny else 224)], "a synthetic image"
    codec = tensor_codec_by_name("deflate")
    sent = encode_s = decode_s = raw = 0.0
    for tensor in tensors:
        whole = TensorType(tensor.dtype, tensor.shape, row_axis=0, channel_axis=2)
        bounds = [whole.rows * k // PIECES for k in range(PIECES + 1)]
        slabs = [(tensor[a:b], whole.slab(a, b)) for a, b in itertools.pairwise(bounds)]
        coded = [(codec.encode(slab, its), its) for slab, its in slabs]
        raw += tensor.nbytes
        sent += sum(len(payload) for payload, _ in coded)
        encode_s += best_s(lambda slabs=slabs: [codec.encode(slab, its) for slab, its in slabs], 3)
        decode_s += best_s(lambda coded=coded: [codec.decode(payload, its) for payload, its in coded], 3)
    costs = TensorCosts("deflate", sent / raw, encode_s / raw, decode_s / raw, ops=frozenset({0}))
    return costs, f"{kind}: {sent / raw:.3f} of the bytes, {1e9 * encode_s / raw:.1f} + {1e9 * decode_s / raw:.1f} ns/B"


def cases(artifact: Path, model: str, code: TensorCosts) -> tuple[Case, Case, Case]:
    """A model with the artifact's input, with one byte a value, and with the lossless code on top."""
    path = artifact / "profiles" / f"{model}.csv"
    graph, profile = read_model(path)
    alone = measured(artifact, model, ENVIRONMENTS[0]).get("local")
    profile = dataclasses.replace(profile, local_p99_s=alone.p99_ms / 1e3 if alone else 0.0)
    image, _ = read_model(path, graph.ops[0].bytes // value_bytes(path))
    return Case.of(model, graph, profile), Case.of(model, image, profile), Case.of(model, image, profile, (code,))


def without_deadline(artifact: Path, model: str, code: TensorCosts) -> list[Figure]:
    """Number 3: mean latencies over the traces, against the oracle; and whose part the gain is."""
    figures = []
    plain, image, coded = cases(artifact, model, code)
    already = plain.costs.bytes[0] == image.costs.bytes[0]
    for place, environment in enumerate(ENVIRONMENTS):
        trace = read_trace(artifact, environment)
        best = coded if already else image
        mine, knowing = best.run(trace, best.by_rate()), best.run(trace, best.oracle(trace))
        mean_ms = 1e3 * mine.mean_s
        name = f"{model} {environment}"
        asked = ASKED[model][place] if model in ASKED else None
        note = f"oracle {1e3 * knowing.mean_s:.2f}; {mine.probes} of {len(mine.latency_s)} were probes"
        figures.append(Figure(f"{name}, replay", mean_ms, "ms, mean", asked, note=note))
        figures.append(Figure(f"{name}, over the oracle", mine.mean_s / knowing.mean_s, "times", 1.05))
        if already:
            slow = dataclasses.replace(
                code,
                encode_s_per_byte=code.encode_s_per_byte * SLOWER,
                decode_s_per_byte=code.decode_s_per_byte * SLOWER,
                server_speed=SLOWER,
            )
            other = Case.of(model, best.costs.graph, best.costs.profile, (slow,))
            slower_ms = 1e3 * other.run(trace, other.by_rate()).mean_s
            words = f"robot codes {SLOWER:g} times as slowly"
            figures.append(Figure(f"{name}, {words}", slower_ms, "ms, mean", asked))
        else:
            coded_ms = 1e3 * coded.run(trace, coded.by_rate()).mean_s
            figures.append(Figure(f"{name}, lossless code on top", coded_ms, "ms, mean"))
        figures += _whose_gain(artifact, plain, trace, mean_ms)
    return figures


def _whose_gain(artifact: Path, plain: Case, trace: Trace, mean_ms: float) -> list[Figure]:
    """The artifact's ``flex`` takes the faster of robot and server: replayed without its software, with its input."""
    runs = measured(artifact, plain.model, trace.name)
    if "flex" not in runs:
        return []
    flex = runs["flex"]
    same = dataclasses.replace(plain, table=plan_table(either_end, plain.costs, LOW_BPS, HIGH_BPS))
    same_ms = 1e3 * same.run(trace, same.by_rate()).mean_s
    software, gain = flex.latency_ms - same_ms, flex.latency_ms - mean_ms
    own = runs["local"].latency_ms - 1e3 * plain.costs.profile.local_s
    note = (
        f"of a gain of {gain:.1f} ms over flex; measured flex {flex.latency_ms:.1f}, mixed2 "
        f"{runs['mixed2'].latency_ms:.1f}; flex replayed {same_ms:.1f}. Its robot alone is {own:.1f} ms above its "
        f"profile; what it does between two answers ({flex.between_ms:.1f} ms) is in none of these"
    )
    return [Figure(f"{plain.model} {trace.name}, part of its software", software, "ms", note=note)]


def either_end(costs: CostModel) -> Plan:
    """All on the robot or all on the server."""
    return min(local(costs), offload(costs), key=LATENCY.of)


def with_outages(trace: Trace, seed: int = 0) -> Trace:
    """The same, with nothing passing now and then."""
    random = np.random.default_rng(seed)
    starts, ends = [], []
    at = random.uniform(*BETWEEN_S)
    while (end := at + random.uniform(*OUTAGE_S)) < trace.duration_s:
        starts.append(at)
        ends.append(end)
        at = end + random.uniform(*BETWEEN_S)
    times = np.unique(np.concatenate([trace.times_s, starts, ends]))
    last = np.searchsorted(starts, times, side="right") - 1
    dead = (last >= 0) & (times < np.array(ends)[last])
    rates = np.where(dead, 0.0, [trace.rate(time) for time in times.tolist()])
    return Trace(times, rates, trace.name, duration_s=trace.duration_s)


def with_deadline(artifact: Path, model: str, code: TensorCosts) -> list[Figure]:
    """Number 4: a deadline and outages; late answers, latency against the oracle, energy against doing both."""
    figures = []
    plain, image, coded = cases(artifact, model, code)
    case = coded if plain.costs.bytes[0] == image.costs.bytes[0] else image
    deadline_s = case.late.deadline_s
    for environment in ENVIRONMENTS:
        trace = with_outages(read_trace(artifact, environment))
        remote = offload(case.costs.at_rate(HIGH_BPS))
        runs = {
            "mine": case.run(trace, case.by_rate(case.late)),
            "oracle": case.run(trace, case.oracle(trace, case.late)),
            "no late start": case.run(trace, case.by_rate()),
            "local": case.run(trace, Always(Decision.of(local(case.costs)))),
            "offload": case.run(trace, Always(Decision.of(remote))),
            "both at once": case.run(trace, Always(Decision(remote, 0.0))),
        }
        mine = runs.pop("mine")
        others = "; ".join(
            f"{name} {1e3 * run.mean_s:.1f} ms, {run.late(deadline_s)} late, {run.mean_j:.3f} J"
            for name, run in runs.items()
        )
        name = f"{model} {environment}, outages, {1e3 * deadline_s:.0f} ms"
        worst = f"worst {1e3 * mine.latency_s.max():.1f} ms of {len(mine.latency_s)} answers"
        figures += [
            Figure(f"{name}: late answers", mine.late(deadline_s), "", 0, note=worst),
            Figure(f"{name}: mean", 1e3 * mine.mean_s, "ms", 1.05e3 * runs["oracle"].mean_s, note=others),
            Figure(f"{name}: energy", mine.mean_j, "J", runs["both at once"].mean_j),
        ]
    return figures


def newest_only(artifact: Path, model: str, code: TensorCosts) -> list[Figure]:
    """Number 6: frames of a camera with outages, always the newest next."""
    figures = []
    _, case, _ = cases(artifact, model, code)
    for environment in ENVIRONMENTS:
        trace = with_outages(read_trace(artifact, environment))
        until_s = trace.duration_s - 1.0
        for rate in FRAMES_HZ:
            frames = np.arange(0.0, until_s, 1 / rate).tolist()
            ages = {}
            for name, late in (("late start", case.late), ("without", None)):
                run = replay_newest(case.costs, trace, case.by_rate(late), frames)
                ages[name] = 1e3 * run.mean_age_s(until_s)
                assert math.isfinite(run.latency_s.max())
            note = f"without late start {ages['without']:.0f}"
            name = f"{model} {environment}, outages, {rate} Hz: age of the newest answer"
            asked = 1e3 * AGE_S if case.late.deadline_s <= AGE_S else None
            figures.append(Figure(name, ages["late start"], "ms, mean", asked, note=note))
    return figures


def made_up() -> list[Figure]:
    """Where nothing was measured: an image of 100 kB, 50 ms on the robot, and a link that changes and fails."""
    graph = Graph([Op((), 100_000, Identity(100)), Op((0,), 100)], [1])
    case = Case.of("made-up", graph, Profile(np.array([0, 0.05]), np.array([0, 0.005]), local_p99_s=0.055))
    steps = np.random.default_rng(0).normal(0, 0.25, 120).cumsum()
    rates = np.clip(20e6 * np.exp(steps), 1e6, 60e6)
    trace = with_outages(Trace(np.arange(120) / 2, rates, "made-up", duration_s=60.0))
    mine, knowing = (case.run(trace, choose) for choose in (case.by_rate(case.late), case.oracle(trace, case.late)))
    return [
        Figure("made-up link, outages: late answers", mine.late(case.late.deadline_s), "", 0),
        Figure("made-up link, outages: mean", 1e3 * mine.mean_s, "ms", note=f"oracle {1e3 * knowing.mean_s:.2f}"),
    ]
