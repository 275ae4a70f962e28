"""Memory beyond model and gradients, in model-sized vectors: worker and server of a team of four.

Counted three times: the model-sized arrays that the nodes hold; the peak that tracemalloc sees (numpy reports its
buffers to it) while four workers train over virtual links; and the resident memory of processes, as Linux tells it. Of
the last, only what a process has gained is comparable: its base depends on the libraries of the machine.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common import TINY, Figure, arguments, finish, reference_layout
from rowcast.config import WorkerSettings
from rowcast.drivers.sockets import Endpoint, Team
from rowcast.rows import Layout
from rowcast.rows.scattered import Scattered, addresses_of
from rowcast.sync import parse_policy
from rowcast.testing import ScriptedWorker, VirtualTeam
from rowcast.training.memory import Loop, plan

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 4
#: Steps of a worker whose resident memory is looked at, and of each in a team of whose server it is.
STEPS = 6
#: What a server without numba takes that nobody has joined (MB).
ALONE_MB = 120.0


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--worker", nargs=3, metavar=("PORT", "ROWS", "MB"), help="be one, and print what it has gained"
    )
    options = parser.parse_args()
    if options.worker:
        port, rows, limit = options.worker
        print(gained_by_worker(int(port), int(rows), float(limit) or None))
        return
    layout = TINY if options.tiny else Layout.from_shapes([(f"block{i}", (400, 500)) for i in range(10)])
    vector_bytes = 4 * layout.elements

    def gradient(step: int, replica: np.ndarray) -> np.ndarray:
        return np.full_like(replica, 1e-3)

    # The script's own arrays (what it computes, its books) are no part of the nodes: counted before, and left out.
    scripts = [ScriptedWorker(f"robot-{i}", gradient, 3, rate_bps=(i + 1) * 50e6) for i in range(WORKERS)]
    team = VirtualTeam(layout, "rog:4", scripts)
    team.run()
    figures = []
    replica = team.workers["robot-0"].node
    own = model_sized(replica, layout)
    figures.append(
        Figure(
            "worker: model-sized arrays",
            own,
            "vectors",
            bound=2.0,
            note="pending and replica; the model's own not counted",
        )
    )
    server = model_sized(team.server, layout)
    figures.append(
        Figure("server: model-sized arrays, all workers gone", server, "vectors", bound=2.0, note="the parameters")
    )
    team = VirtualTeam(layout, "rowcast", scripts)
    team.run()
    own = model_sized(team.workers["robot-0"].node, layout)
    figures.append(
        Figure("worker: model-sized arrays, rowcast", own, "vectors", bound=3.0, note="own rows on their way")
    )
    at_work: list[float] = []
    team = VirtualTeam(layout, "bsp", scripts)
    for tenth in range(1, 200):
        team.at(tenth / 10, lambda: at_work.append(model_sized(team.server, layout)))
    team.run()
    figures.append(Figure("server: most model-sized arrays, bsp", max(at_work), "vectors", bound=2.0 + WORKERS))
    gc.collect()
    tracemalloc.start()
    team = VirtualTeam(layout, "rog:4", scripts)
    at_work = []
    for tenth in range(1, 200):
        team.at(tenth / 10, lambda: at_work.append(model_sized(team.server, layout)))
    team.run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    figures.append(Figure("server: most model-sized arrays, rog:4", max(at_work), "vectors", bound=2.0 + WORKERS))
    books = WORKERS * 2  # VirtualTeam.computed is float64
    # One worker proposes at a time: update, proposal, their difference in float64, and weights, for the books.
    transient = 1 + 1 + 2 + 1
    figures.append(
        Figure(
            "whole team: peak beyond the script's own",
            peak / vector_bytes - books - transient,
            "vectors",
            bound=2.0 * WORKERS + 2 + WORKERS,
            note="4 workers x 2, server 2 + 4; frames on their way included",
        )
    )
    figures += workers_resident(tiny=options.tiny)
    figures += servers_resident(tiny=options.tiny)
    finish(f"Memory, {layout.elements} elements a vector", figures, options)


# -- resident memory of workers --------------------------------------------------------------------------------------


def workers_resident(*, tiny: bool) -> list[Figure]:
    """What a worker process has gained since it had its model and gradients, with and without a limit."""
    rows = 50 if tiny else 2000
    figures = []
    for policy in ("rowcast",) if tiny else ("rowcast", "rowcast?refine=off", "bsp"):
        layout = Layout.from_shapes([(f"{k}.{name}", shape) for k in range(4) for name, shape in tensors_of(rows)])
        whole = plan(layout, parse_policy(policy), Loop(1, spares=True), limit_mb=None, keeps_state=False)
        small = plan(
            layout, parse_policy(policy), Loop(1, spares=True), limit_mb=whole.size / 1e6 - 0.01, keeps_state=False
        )
        limits = {"memory_mb": whole.size / 1e6 - 0.01, "half precision": small.size / 1e6 - 0.01}
        limits |= {} if tiny else {"no limit": 0.0}
        gained = {name: gained_in_process(policy, rows, limit) for name, limit in limits.items()}
        for name, value in gained.items():
            vectors = value / (4 * layout.elements)
            figures.append(Figure(f"worker: resident beyond model and gradients, {policy}, {name}", vectors, "vectors"))
        if tiny:
            continue
        figures.append(
            Figure(
                f"worker: with memory_mb over without, {policy}",
                gained["memory_mb"] / gained["no limit"],
                "times",
                bound=0.85,
                note=f"{layout.elements} elements a vector",
            )
        )
        figures.append(
            Figure(
                f"worker: pending in half precision over memory_mb alone, {policy}",
                gained["half precision"] / gained["memory_mb"],
                "times",
                bound=0.95,
                note=f"planned: {halved_size(layout, policy) / small.size:.2f}",
            )
        )
    return figures


def halved_size(layout: Layout, policy: str) -> int:
    """Bytes of a worker with a vector less and pending in half precision."""
    loop, parsed = Loop(1, spares=True), parse_policy(policy)
    whole = plan(layout, parsed, loop, limit_mb=None, keeps_state=False)
    small = plan(layout, parsed, loop, limit_mb=whole.size / 1e6 - 1e-3, keeps_state=False)
    return plan(layout, parsed, loop, limit_mb=small.size / 1e6 - 1e-3, keeps_state=False).size


def tensors_of(rows: int) -> list[tuple[str, tuple[int, ...]]]:
    """Of one of the four layers of :func:`gained_by_worker`."""
    return [("weight", (rows, 1000)), ("bias", (rows,))]


def gained_in_process(policy: str, rows: int, limit_mb: float) -> int:
    """Bytes that a worker process has gained, in a team of one."""
    with serving(policy) as (_, port):
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", str(port), str(rows), repr(limit_mb)]
        # Otherwise malloc keeps what was freed, up to the largest piece, and shows what was held once.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 18)}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=ROOT)
    return int(done.stdout)


def gained_by_worker(port: int, rows: int, limit_mb: float | None) -> int:
    """Most resident memory behind a step, less that before joining, when model and gradients were there (bytes)."""
    import torch
    from torch import nn

    import rowcast

    model = nn.ModuleList([nn.Linear(1000, rows) for _ in range(4)])

    def compute() -> None:
        model.zero_grad(set_to_none=False)
        sum(layer(torch.ones(1, 1000)).square().mean() for layer in model).backward()  # type: ignore[union-attr]

    inner = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):  # what comes with the first use of PyTorch is no part of it
        compute()
        inner.step()
    settings = rowcast.WorkerSettings(memory_mb=limit_mb)
    warm_up()
    before, behind = resident_bytes(os.getpid(), "VmRSS"), 0
    team = rowcast.join(f"127.0.0.1:{port}", name="robot", settings=settings)
    with rowcast.Optimizer(inner, model, team) as optimizer:
        for _ in range(STEPS):
            compute()
            optimizer.step()
            behind = max(behind, resident_bytes(os.getpid(), "VmRSS"))
    return behind - before


def warm_up() -> None:
    """Load and compile what a worker uses, with small teams in this process, and with pending in half precision."""
    script = ScriptedWorker("warm-up", lambda step, replica: np.ones_like(replica), 3, rate_bps=1e6)
    for policy in ("rowcast", "bsp"):
        whole = plan(TINY, parse_policy(policy), Loop(), limit_mb=None, keeps_state=False)
        vector_mb = 4 * TINY.elements / 1e6
        for limit in (None, whole.size / 1e6 - (1.2 if policy == "rowcast" else 0.3) * vector_mb):
            team = VirtualTeam(TINY, policy, [script], worker_settings=WorkerSettings(memory_mb=limit))
            team.run()
        vectors = [TINY.zeros() for _ in range(3)]
        places = addresses_of([vectors[0][spec.start : spec.stop] for spec in TINY.tensors], TINY.tensors)
        times = np.ones(TINY.rows, dtype=np.float32)
        stored = team.workers["warm-up"].node.residual.stored
        Scattered(TINY.tensors).spread_less(places, vectors[1], vectors[2], stored, times, TINY.offsets)


# -- resident memory of servers --------------------------------------------------------------------------------------


def servers_resident(*, tiny: bool) -> list[Figure]:
    """What ``rowcast serve`` takes alone, and at most with a team that trains; with numba and without."""
    layout, what = reference_layout(tiny=tiny)
    vector_bytes = 4 * layout.elements
    figures = []
    for numba in (False,) if tiny else (True, False):
        alone, most = server_resident(layout, numba=numba)
        name = "numba" if numba else "without numba"
        figures.append(
            Figure(f"server: resident alone, {name}", alone / 1e6, "MB", bound=None if numba else ALONE_MB, note=what)
        )
        figures.append(
            Figure(
                f"server: most with a team of {WORKERS}, {name}",
                most / 1e6,
                "MB",
                note=f"{(most - alone) / vector_bytes:.1f} vectors of {vector_bytes / 1e6:.1f} MB more",
            )
        )
        figures.append(
            Figure(
                f"server: beyond alone, {name}",
                (most - alone) / vector_bytes,
                "vectors",
                bound=None if tiny else 2.0 + WORKERS,
            )
        )
    return figures


def server_resident(layout: Layout, *, numba: bool) -> tuple[int, int]:
    """Resident memory before anybody joins, and the most while four workers train and until they are gone (bytes)."""
    with serving("rowcast", ROWCAST_NUMBA=str(int(numba))) as (process, port):
        alone = resident_bytes(process, "VmRSS")
        threads = [threading.Thread(target=train, args=(layout, port, k)) for k in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return alone, resident_bytes(process, "VmHWM")


def train(layout: Layout, port: int, number: int) -> None:
    """A worker that proposes the same small step a few times."""
    team = Team(Endpoint("127.0.0.1", port), name=f"robot-{number}")
    team.start(layout, layout.zeros())
    for _ in range(STEPS):
        with team.hold():
            proposed = team.replica - np.float32(1e-3)
            team.accumulate([proposed[spec.start : spec.stop] for spec in layout.tensors], 1.0)
        team.exchange()
    team.finish()


@contextlib.contextmanager
def serving(policy: str, **environment: str) -> Iterator[tuple[int, int]]:
    """A server process: its number and its port; ended behind the block."""
    words = ["serve", "--port", "0", "--host", "127.0.0.1", "--policy", policy, "--set", "gather_s=0"]
    with subprocess.Popen(
        [sys.executable, "-m", "rowcast", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    ) as server:
        try:
            assert server.stdout is not None
            lines = []
            for line in server.stdout:
                lines.append(line)
                if found := re.search(r"127\.0\.0\.1:(\d+)", line):
                    yield server.pid, int(found[1])
                    return
            raise RuntimeError(f"rowcast serve: expected its address, got {''.join(lines)!r}")
        finally:
            server.terminate()


def resident_bytes(process: int, key: str) -> int:
    """``VmRSS``, what a process holds now, or ``VmHWM``, the most that it held."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def model_sized(root: object, layout: Layout) -> float:
    """How many distinct arrays of at least half a model hang on an object (walked through its attributes)."""
    seen: set[int] = set()
    found: set[int] = set()
    stack: list[object] = [root]
    size = 0
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            base = item
            while isinstance(base.base, np.ndarray):
                base = base.base
            if base.nbytes >= 2 * layout.elements and id(base) not in found:
                found.add(id(base))
                size += base.nbytes
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set) or type(item).__name__ == "deque":
            stack.extend(item)
        elif type(item).__module__.startswith("rowcast"):
            stack.extend(vars(item).values() if hasattr(item, "__dict__") else [])
    return size / (4 * layout.elements)


if __name__ == "__main__":
    main()
