"""Memory beyond model and gradients, in model-sized vectors: worker and server of a team of four.

Counted twice: the model-sized arrays that the nodes hold, and the peak that tracemalloc sees (numpy reports its
buffers to it) while four workers train over virtual links.
"""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np

from common import TINY, Figure, arguments, finish
from rowcast.rows import Layout
from rowcast.testing import ScriptedWorker, VirtualTeam

WORKERS = 4


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
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
    finish(f"Memory, {layout.elements} elements a vector", figures, options)


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
