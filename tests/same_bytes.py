"""Digests of what kernels compute, as JSON: this runs with numba and without it, and the digests have to agree.

Under the name ``plain``, where there is no numba: which plain versions were called.
"""

from __future__ import annotations

import hashlib
import json
import sys
from types import FrameType

import numpy as np

from rowcast.codecs import REGISTRY, codec_by_name, element_loops, timing_only
from rowcast.codecs.lowrank import Factors, LowRank
from rowcast.codecs.tensors import REGISTRY as TENSOR_CODECS
from rowcast.codecs.tensors.base import TensorType
from rowcast.planning.flow import Arcs, minimum_cut
from rowcast.rows import Layout, kernels, lanes, select
from rowcast.rows.compiling import HAS_NUMBA, PLAIN
from rowcast.rows.half_rows import HalfRows
from rowcast.rows.scaling import scale_rows
from rowcast.rows.scattered import Scattered, accumulate_all, addresses_of
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.training.guard import loops
from rowcast.training.kept import replay
from rowcast.training.proposal.outer import Outer
from rowcast.training.proposal.row_weights import _multiply
from teams import LAYOUT as TEAM_LAYOUT
from teams import POLICIES, quadratic, start_of

#: Rows of many lengths: whole groups of 64, 32 and 8, none of them, one element, more than a chunk.
LAYOUT = Layout.from_shapes(
    [("wide", (6, 576)), ("odd", (40, 27)), ("bias", (77,)), ("long", (2, 4500)), ("scale", ()), ("even", (50, 64))],
    small_tensor=1,
)

TEAMS = [*POLICIES, "bsp?codec=onebit", "rog:4?codec=topk16", "rowcast:3?codec=elements", "sparseloco:2", "demo"]


def vectors() -> dict[str, np.ndarray]:
    """Flat vectors that codes find hard: many sizes, equal sizes, zeros of both signs, the ends of float32."""
    random = np.random.default_rng(5)
    usual = random.standard_normal(LAYOUT.elements).astype(np.float32)
    spread = usual * (np.float32(10.0) ** random.integers(-38, 30, LAYOUT.elements).astype(np.float32))
    sparse = np.where(random.random(LAYOUT.elements) < 0.02, usual, np.float32(-0.0))
    return {
        "usual": usual,
        "tiny": usual * np.float32(1e-41),
        "spread": spread.astype(np.float32),
        "whole": random.integers(-3, 4, LAYOUT.elements).astype(np.float32),
        "sparse": sparse.astype(np.float32),
        "zeros": np.zeros(LAYOUT.elements, dtype=np.float32),
    }


def digest(*arrays: object) -> str:
    sums = hashlib.sha256()
    for array in arrays:
        sums.update(np.ascontiguousarray(array).tobytes())
    return sums.hexdigest()[:16]


def rows_of(which: str) -> np.ndarray:
    every = np.arange(LAYOUT.rows, dtype=np.int64)
    return every if which == "all" else np.sort(np.random.default_rng(1).permutation(every)[: LAYOUT.rows // 3])


def coded(found: dict[str, str]) -> None:
    factors = Factors(LAYOUT, 2)
    basis = np.random.default_rng(2).standard_normal(factors.basis_elements).astype(np.float32)
    low = LowRank(2, codec_by_name("raw"), factors, basis)
    for name in [*REGISTRY, "lowrank"]:
        codec = low if name == "lowrank" else codec_by_name(name)
        for kind, vector in vectors().items():
            for which in ("all", "some"):
                pending, target, rows = vector.copy(), vectors()["usual"], rows_of(which)
                payload = codec.encode(LAYOUT, pending, rows)
                codec.check(LAYOUT, payload, rows)
                codec.add(LAYOUT, payload, rows, target, -1.0)
                found[f"{name} {kind} {which}"] = digest(payload, pending, target)


def sizes(found: dict[str, str]) -> None:
    """Layouts without content, what decides how much of ``elements`` fits, and the sizes of rows alone."""
    for kind, vector in vectors().items():
        bins = np.zeros(element_loops.BINS, dtype=np.int64)
        element_loops.histogram(vector.view(np.uint32), bins)
        found[f"histogram {kind}"] = digest(bins, [np.float32(lanes.size_of(vector[:n])) for n in range(80)])
    ages = np.ones(LAYOUT.rows, dtype=np.float32)
    found["timing"] = digest([timing_only._taken(ages, LAYOUT.lengths, rows_of("some"), True)], ages)
    found["timing sum"] = digest([timing_only._sum_of(LAYOUT.lengths, rows_of("some"))])


def tensors(found: dict[str, str]) -> None:
    random = np.random.default_rng(3)
    for shape, row, channel in (((2, 3, 20, 17), 2, 1), ((1, 20, 17, 3), 1, 3), ((40, 9), 0, None), ((6, 5), 0, 1)):
        for dtype in ("float32", "uint8"):
            slab = (random.standard_normal(shape) * (50 if dtype == "float32" else 0.6) + 100).astype(dtype)
            tensor = TensorType(slab.dtype, shape, row, channel)
            for name, codec in TENSOR_CODECS.items():
                if dtype in codec.dtypes:
                    payload = codec.encode(slab, tensor)
                    found[f"{name} {shape} {dtype}"] = digest(payload, codec.decode(payload, tensor))


def rows(found: dict[str, str]) -> None:
    vector, other = vectors()["usual"], vectors()["spread"]
    sums, computed = np.empty(LAYOUT.rows, np.float32), np.zeros(LAYOUT.rows)
    weights = np.linspace(0, 1, LAYOUT.rows, dtype=np.float32)
    for name, add in (("plain", kernels.accumulate), ("outer", Outer(LAYOUT, lr=0.7, momentum=0.5))):
        call = add
        if isinstance(add, Outer):
            add.begin(first=True)
            call = add.accumulate
        pending = LAYOUT.zeros()
        call(pending, vector, vector * vector, weights, 0, LAYOUT.offsets, sums, computed)
        found[f"accumulate {name}"] = digest(pending, sums)
    apart = [np.ascontiguousarray(vector[spec.start : spec.stop] * 3) for spec in LAYOUT.tensors]
    pending = vector.copy()
    accumulate_all(LAYOUT, pending, vector, apart, weights, sums, computed)
    found["accumulate_all"] = digest(pending, sums)
    scattered, places = Scattered(LAYOUT.tensors), addresses_of(apart, LAYOUT.tensors)
    image = LAYOUT.zeros()
    found["nonfinite"] = digest(scattered.nonfinite(places), [kernels.nonfinite(vector)])
    found["differing"] = digest(scattered.differing(places, vector))
    scattered.spread_less(places, image, vector, other, weights, LAYOUT.offsets)
    found["spread_less"] = digest(image, *apart)
    scattered.spread(places, image, vector)
    found["spread"] = digest(image, *apart)
    some = rows_of("some")
    kernels.row_abs_sums(vector, LAYOUT.offsets, sums)
    found["row_abs_sums"] = digest(sums)
    kernels.some_row_abs_sums(other, LAYOUT.offsets, some, sums)
    values = kernels.gather_rows(vector, LAYOUT.offsets, some)
    kernels.scatter_rows(values, image, LAYOUT.offsets, some)
    kernels.copy_rows(other, image, LAYOUT.offsets, some)
    replay._shrink(image, LAYOUT.offsets, some, sums[some] * 2, sums[some] * weights[some])
    scale_rows(image, LAYOUT.offsets, 0.3, np.zeros(LAYOUT.rows))
    found["moved"] = digest(sums, values, image, kernels.count_elements(LAYOUT.offsets, some))
    found["lowest"] = digest(kernels.lowest(np.array([4, -2, 7], dtype=np.int32)))
    found["lanes"] = digest(*(np.float32(lanes.dot_of(vector[:n], vector[1 : n + 1])) for n in range(100)))


def halved(found: dict[str, str]) -> None:
    """Rows in half precision: stored, expanded, added to, subtracted."""
    every, some, vector = rows_of("all"), rows_of("some"), vectors()["usual"]
    weights = np.linspace(0, 1, LAYOUT.rows, dtype=np.float32)
    books, sums = np.zeros(LAYOUT.rows), np.empty(LAYOUT.rows, np.float32)
    for kind, values in vectors().items():
        half = HalfRows(LAYOUT)
        found[f"half {kind}"] = digest(half.store(every, values.copy(), books), half[:], half.sizes(some))
        apart = [np.ascontiguousarray(values[spec.start : spec.stop] * 3) for spec in LAYOUT.tensors]
        half.accumulate(vector, apart, weights, sums, books)
        half.accumulate_tensor(1, vector, apart[1], weights, sums, books)
        found[f"half sum {kind}"] = digest(half._numbers, half._scales, sums)
        image = LAYOUT.zeros()
        Scattered(LAYOUT.tensors).spread_less(
            addresses_of(apart, LAYOUT.tensors), image, vector, half, weights, LAYOUT.offsets
        )
        found[f"half less {kind}"] = digest(image, *apart, half.expand(some))
    odd = vector.copy()
    odd[::7], odd[1::7], odd[2::7] = np.nan, np.inf, np.float32(-3.4e38)
    half.store(every, odd, books)
    found["half without measure"] = digest(half[:], half.sizes(every))


def chosen(found: dict[str, str]) -> None:
    random = np.random.default_rng(4)
    for spread in (5, 5000):
        stamps = random.integers(0, spread, LAYOUT.rows).astype(np.int32)
        values = np.abs(random.standard_normal(LAYOUT.rows)).astype(np.float32)
        values[:3] = np.inf, np.nan, 0
        picked = select(rows_of("all"), stamps, values, LAYOUT.lengths, quota_bytes=3000, overdue_before=spread // 9)
        found[f"select {spread}"] = digest(picked.order, picked.quota)
    tails, heads = random.integers(0, 30, (2, 200))
    capacity, side = minimum_cut(Arcs(30, tails, heads), random.integers(0, 50, 200))
    found["cut"] = digest(capacity, side)


def guarded(found: dict[str, str]) -> None:
    places = LAYOUT.offsets
    values, others = vectors()["usual"], vectors()["whole"]
    values[5] = np.inf
    sums, squares = np.zeros(LAYOUT.rows), np.zeros(LAYOUT.rows)
    loops.measure(values, places, sums, squares)
    found["measure"] = digest(values, sums, squares)
    loops.scale(values, places, np.linspace(0, 2, LAYOUT.rows, dtype=np.float32))
    loops.sums(values, places, sums)
    cosines, weights = np.zeros(LAYOUT.rows), np.zeros(LAYOUT.rows)
    loops.compare(values, others, places, np.arange(LAYOUT.rows) // 9, cosines, weights)
    found["compare"] = digest(values, sums, cosines, weights)
    found["sketch"] = digest(loops.sketch(values, places, places[:-1] + 3, 256))
    _multiply(values, places, np.linspace(0, 2, LAYOUT.rows, dtype=np.float32), sums)
    found["multiply"] = digest(values)


def teams(found: dict[str, str]) -> None:
    for policy in [
        *POLICIES,
        "bsp?codec=onebit",
        "rog:4?codec=topk16",
        "rowcast:3?codec=elements",
        "sparseloco:2",
        "demo",
    ]:
        scripts = [
            ScriptedWorker(f"robot{i}", quadratic(i), 6, rate_bps=2e4 * (i + 1), initial=start_of()) for i in range(3)
        ]
        team = VirtualTeam(TEAM_LAYOUT, policy, scripts)
        team.run()
        found[f"team {policy}"] = digest(*(team.workers[script.name].node.replica for script in scripts))


def main() -> None:
    called: set[object] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            called.add(frame.f_code)

    if not HAS_NUMBA:
        sys.setprofile(note)
    found: dict[str, str] = {}
    for part in (coded, sizes, tensors, rows, halved, chosen, guarded, teams):
        part(found)
    sys.setprofile(None)
    plain = sorted(name for name, function in PLAIN.items() if function.__code__ in called)
    json.dump({"numba": HAS_NUMBA, "plain": plain, "every": sorted(PLAIN), "digests": found}, sys.stdout)


if __name__ == "__main__":
    main()
