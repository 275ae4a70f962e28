"""What a page costs, and how soon a long journal is shown.

Three figures, each with its bound:

- ``step``: a server with four robots that step at ``STEPS_PER_S`` and a page that somebody looks at, 5 updates a
  second. What the server's own thread does for it (handing records over, and writing ``told`` and ``rows``) as a share
  of a step; and the whole of it, the page's thread included.
- ``crowd``: 100 robots and 2 updates a second, share of a core that the page takes.
- ``day``: a journal of five million events: how soon it is shown, how long it takes to be read in full, and how long a
  move of the slider takes then.

``.venv/bin/python benchmarks/page.py --check`` ends with an error where a bound is not met.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

from common import Figure, arguments, finish, reference_layout
from rowcast.config import ServerSettings
from rowcast.drivers.virtual import Device, Simulation
from rowcast.journal import Journal
from rowcast.journal.sinks import forget
from rowcast.links import Trace
from rowcast.page import Live, PageAddress, Watch, page_server
from rowcast.sync import parse_policy
from rowcast.training import ServerNode, WorkerNode
from rowcast.training.watching import TeamWatch

#: Steps of a robot in a second (a step of 0.5 s), and fields of the event ``step`` as a worker writes them.
STEPS_PER_S = 2.0
STEP = {
    "compute_s": 0.31, "overlap_s": 0.31, "communicate_s": 0.12, "stall_s": 0.07, "push_rows": 311,
    "push_bytes": 48211, "push_share": 0.7312, "pull_rows": 301, "pull_bytes": 47011, "quota_s": 0.0731,
    "mta_time_s": 0.0712, "rate_bps": 5512345, "staleness": 1, "skipped": False, "own_s": 0.004861,
}  # fmt: skip
LAYERS = 48
#: Bounds: shares of a step and of a core, and seconds.
MOST_OF_A_STEP, MOST_OF_A_CORE, OPENS_WITHIN_S = 0.01, 0.10, 3.0


def step(t: float, robot: int, iteration: int) -> dict[str, object]:
    return {"t": t, "node": f"robot-{robot}", "event": "step", "iteration": iteration, **STEP}


def told(t: float, robots: int) -> list[dict[str, object]]:
    """What a watched server writes of each robot, and of its rows."""
    found: list[dict[str, object]] = []
    for robot in range(robots):
        of = {"t": t, "node": "server", "peer": f"robot-{robot}"}
        metrics = {"rate_bps": 5e6, "loss": 0.4, "accuracy": 81.0, "share": 0.7, "staleness": 1.0}
        state = {"state": "computing", "iteration": 9, "staleness": 1, "waited_s": 0.0, "down_bps": 4e6}
        state |= {"down_bytes": 48211 * 311, "in_flight_bytes": 8192}
        found.append({**of, "event": "told", **state, "metrics": metrics})
        rows = {"mean_age": [1.25] * LAYERS, "oldest_age": [3] * LAYERS, "pending": [0.125] * LAYERS}
        found.append({**of, "event": "rows", "iteration": 9, **rows})
    return found


def server_records(t: float, robot: int, iteration: int) -> list[dict[str, object]]:
    """What a server writes at a step of a robot."""
    of = {"t": t, "node": "server", "peer": f"robot-{robot}", "iteration": iteration}
    push = {"rows": 311, "zero_rows": 12, "bytes": 48211, "quota_s": 0.0731}
    gate = {"oldest": iteration - 1, "held_s": 0.02, "mta_time_s": 0.0712, "staleness": 1}
    return [{**of, "event": "push", **push}, {**of, "event": "gate", **gate}]


def page_share(robots: int, updates_per_s: float, seconds: float) -> float:
    """Processor time of the page's thread as a share of a core, while a team trains and somebody looks."""
    live = Live("a server")
    with page_server(live, PageAddress.of("0"), updates_per_s) as url:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        answer = opener.open(url + "events", timeout=60)

        def look() -> None:
            # The server ends first: what it was sending then is cut off.
            with contextlib.suppress(OSError, http.client.HTTPException):
                while answer.readline():
                    pass

        viewer = threading.Thread(target=look, daemon=True)
        viewer.start()
        thread = next(each for each in threading.enumerate() if each.name == "rowcast-page")
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        slot_s = 1 / (robots * STEPS_PER_S)
        begun, before, count, next_told = time.monotonic(), time.clock_gettime(clock), 0, 0.0
        while (t := time.monotonic() - begun) < seconds:
            for record in server_records(t, count % robots, count // robots):
                live.take(record)
            if t >= next_told:
                next_told += 1.0
                for record in told(t, robots):
                    live.take(record)
            count += 1
            time.sleep(max(count * slot_s - (time.monotonic() - begun), 0.0))
        used_s, took_s = time.clock_gettime(clock) - before, time.monotonic() - begun
    viewer.join()
    answer.close()
    return used_s / took_s


def server_share(robots: int, tiny: bool) -> float:
    """Processor time of the server's thread for a page, as a share of a core: what it writes besides, and hands on."""
    layout, _ = reference_layout(tiny=tiny)
    journal = Journal("server", forget)
    live = Live("a server")
    journal.watch(live.take)
    node = ServerNode(parse_policy("rog:4"), settings=ServerSettings(expected_workers=robots, gather_s=0.0),
                      journal=journal)  # fmt: skip
    simulation = Simulation(node)
    timing = layout.timing_only()
    for robot in range(robots):
        worker = WorkerNode(f"robot-{robot}", timing, timing.zeros(), journal=Journal("worker", forget))
        trace = Trace.constant(1e10)
        amounts = np.ones(timing.rows, dtype=np.float32)
        # Nobody finishes a step: what is looked at costs the same whatever the versions are.
        simulation.add_timing_only(worker, Device(60.0, seed=robot), trace, trace, amounts=amounts)
    simulation.run(20.0)
    assert len(node.versions) == robots, "the team has not begun"
    watch, now = TeamWatch(node.team, 1e-9), simulation.clock.now
    looks = 4 if tiny else 40
    begun = time.process_time()
    for _ in range(looks):
        watch.look(now := now + 1.0)
    look_s = (time.process_time() - begun) / looks
    records = server_records(1.0, 0, 1) * 1000
    begun = time.process_time()
    for record in records:
        live.take(record)
    return look_s + 2 * STEPS_PER_S * robots * (time.process_time() - begun) / len(records)


def write_day(path: Path, events: int) -> None:
    """A journal of one robot after the other, as four of them and their server would have written it in a day."""
    with path.open("w", encoding="utf-8") as file:
        start = {"t": 0.0, "node": "server", "event": "start", "role": "server", "policy": "rowcast"}
        file.write(json.dumps(start, separators=(",", ":")) + "\n")
        every_s, written, place = 86_400 / events, 1, 0
        while written < events:
            t, robot, iteration = round(written * every_s, 6), place % 4, place // 4
            records = [step(t, robot, iteration), *server_records(t, robot, iteration)]
            if place % 20 == 0:
                metric = {"t": t, "node": f"robot-{robot}", "event": "metric", "iteration": iteration, "name": "loss"}
                records.append({**metric, "value": 1 / (1 + iteration)})
            if place % 5000 == 0:
                cut = {"t": t, "node": "server", "event": "link_down", "peer": f"robot-{robot}", "cause": "silent"}
                records.append(cut)
            file.writelines(json.dumps(each, separators=(",", ":")) + "\n" for each in records)
            written += len(records)
            place += 1


def day(events: int, tiny: bool) -> list[Figure]:
    """A long journal: shown, read in full, and gone through."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.jsonl"
        write_day(path, events)
        size_mb = path.stat().st_size / 1e6
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        begun = time.perf_counter()
        watch = Watch(path)
        with page_server(watch, PageAddress.of("0")) as url:
            watch.start()
            with opener.open(url + "events", timeout=60) as answer:
                while not answer.readline().startswith(b"data: "):
                    pass
            with opener.open(url + "curves?curve=stall&span=whole&robot=robot-1", timeout=60) as answer:
                curve = json.loads(answer.read())
            opened_s = time.perf_counter() - begun
            points = len(curve["robot-1"][1])
            note = f"{events:,} events, {size_mb:.0f} MB, curve of {points} bins; from samples"
            figures.append(Figure("day: shown, with a curve", opened_s, "s", OPENS_WITHIN_S, note=note))
            while watch.loaded < 1.0:
                time.sleep(0.05)
            figures.append(Figure("day: read in full", time.perf_counter() - begun, "s", note="behind the page"))
            moves = []
            for part in (0.31, 0.77, 0.05, 0.5):
                begun = time.perf_counter()
                with opener.open(url + f"at?t={86_400 * part}", timeout=60) as answer:
                    answer.read()
                moves.append(time.perf_counter() - begun)
            figures.append(Figure("day: a move of the slider, at most", max(moves), "s"))
        watch.close()
    return figures


def main() -> None:
    options = arguments(__doc__.partition("\n")[0])
    options.add_argument("--events", type=int, default=5_000_000, help="of the long journal")
    options = options.parse_args()
    seconds, events = (0.5, 3000) if options.tiny else (20.0, options.events)
    server, page = server_share(4, options.tiny), page_share(4, 5.0, seconds)
    crowd = page_share(100, 2.0, seconds)
    finish(
        "the page",
        [
            Figure("step: the server's own thread", server, "of a step", None, note="four robots, a map each 2 s"),
            Figure("step: with the page's thread", server + page, "of a step", MOST_OF_A_STEP, note="5 updates/s"),
            Figure("crowd: the page's thread", crowd, "of a core", MOST_OF_A_CORE, note="100 robots, 2 a second"),
            *day(events, options.tiny),
        ],
        options,
    )  # fmt: skip


if __name__ == "__main__":
    main()
