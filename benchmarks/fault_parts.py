"""Parts of ``faults.py``: fault scripts on real sockets, by chance and as written, and a robot that returns."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common import Figure
from rowcast.errors import WorkerFailed
from rowcast.experiment.faults import Report, Verdict, load_script, play_sockets, play_virtual
from rowcast.experiment.faults.relay import Link
from rowcast.rows import Layout

__all__ = ["returning", "schedules_on_sockets", "scripts"]

TESTS = Path(__file__).resolve().parents[1] / "tests"
#: The link of the robot that returns, and how long it is gone (Mbit/s, s).
RETURN_MBPS, ABSENT_S = 20.0, 60.0
#: Of a link before it counts: that a team begins is no part of it (bit/s).
UNHINDERED_BPS = 1e10
#: A robot is let so long to compute again before that counts as a hang (s).
RETURN_LIMIT_S = 300.0


def _schedule(number: int) -> dict[str, Any]:
    """What came of a schedule on real sockets."""
    sys.path.insert(0, str(TESTS))
    from fault_schedules import CrashSchedule

    schedule, begun = CrashSchedule(number), time.monotonic()
    try:
        schedule.run()
        error = ""
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
    report = schedule.report
    return {
        "number": number,
        "policy": schedule.policy,
        "lost": 0 if report is None else report.lost,
        "doubled": 0 if report is None else report.doubled,
        "hang": error if report is None else report.hang,
        "error": error,
        "struck": schedule.struck,
        "took_s": round(time.monotonic() - begun, 1),
    }


def _known(path: Path | None) -> dict[int, dict[str, Any]]:
    """What was found before, by number."""
    if path is None or not path.exists():
        return {}
    return {found["number"]: found for found in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def _ran(numbers: Iterable[int], kept: Path | None) -> Iterator[dict[str, Any]]:
    """What came of each, of those that ran before as it was then."""
    known = _known(kept)
    for number in numbers:
        if number not in known:
            known[number] = _schedule(number)
            if known[number]["error"]:
                print(f"schedule {number} ({known[number]['policy']}): {known[number]['error']}", flush=True)
            if kept is not None:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(known[number]) + "\n")
        yield known[number]


def schedules_on_sockets(count: int, first: int, kept: Path | None) -> list[Figure]:
    """Random schedules in which the server dies; those that stand in the file ``kept`` are not run again."""
    found = list(_ran(range(first, first + count), kept))
    deaths = sum(times for one in found for kind, times in one["struck"].items() if kind.endswith("of the server"))
    others = sum(sum(one["struck"].values()) for one in found) - deaths
    note = f"{count} schedules, seeds {first} .. {first + count - 1}, {deaths} deaths of the server, {others} others"
    rest = [one for one in found if one["error"] and not (one["lost"] or one["doubled"] or one["hang"])]
    return [
        Figure("sockets: contributions lost", sum(one["lost"] for one in found), "", 0.0, note=note),
        Figure("sockets: contributions doubled", sum(one["doubled"] for one in found), "", 0.0),
        Figure("sockets: schedules that hang", sum(bool(one["hang"]) for one in found), "", 0.0),
        Figure(
            "sockets: schedules with a longer wait, or another fault",
            len(rest),
            "",
            0.0,
            note=", ".join(str(one["number"]) for one in rest),
        ),
    ]


class _Printed:
    """Prints what happens."""

    def says(self, text: str) -> None:
        """See :class:`~rowcast.experiment.demo.DemoObserver`."""
        print(f"  {text}", flush=True)

    def shows(self, run: str, left_s: float, total_s: float, lines: list[Any]) -> None:
        """See :class:`~rowcast.experiment.demo.DemoObserver`."""


def scripts(lasting_s: float | None, only: str) -> list[Figure]:
    """Every script of ``tests/faults`` whose name has ``only`` in it, on both players.

    Args:
        lasting_s: real sockets are played faster so that they last no longer (s); ``None``: full length.
        only: part of the name.
    """
    played: dict[str, list[Report]] = {"sockets": [], "virtual": []}
    longest_s = 0.0
    for path in sorted((TESTS / "faults").glob("*.toml")):
        if only not in path.stem:
            continue
        script = load_script(path)
        played["virtual"].append(play_virtual(script))
        short = script if lasting_s is None else script.lasting(lasting_s)
        longest_s = max(longest_s, short.length_s)
        with tempfile.TemporaryDirectory(prefix="rowcast-faults-") as folder:
            try:
                played["sockets"].append(play_sockets(short, Path(folder) / "out", _Printed()))
            except WorkerFailed as error:
                played["sockets"].append(Report(short, "sockets", (Verdict("a team that begins", False, str(error)),)))
        for report in (played["virtual"][-1], played["sockets"][-1]):
            said = report.not_played or "; ".join(report.broken) or "everything held"
            print(f"{script.name} ({report.player}): {said}", flush=True)
    figures = []
    for player, reports in played.items():
        done = [report for report in reports if not report.not_played]
        wrong = [report for report in done if not report.held]
        note = f"of {len(done)} played, {len(reports) - len(done)} have no meaning there"
        if player == "sockets":
            note += f"; the longest lasts {longest_s:.0f} s"
        named = ", ".join(report.script.name for report in wrong)
        figures.append(Figure(f"scripts that do not hold, {player}", len(wrong), "", 0.0, note=named or note))
    return figures


def returning(layout: Layout, policy: str, *, gradient_s: float, absent_s: float, mbps: float) -> Figure:
    """From the moment at which a robot's link is back until it computes on what it has received (s).

    Args:
        layout: of the model.
        policy: of the team.
        gradient_s: what a gradient takes each of the two robots (s).
        absent_s: how long nothing passes on its link, without FIN or RST (s).
        mbps: rate of each link, each direction (Mbit/s).
    """
    from faults import Process, Trainer

    server = Process(None, policy=policy)
    with Link(server.port, UNHINDERED_BPS) as first, Link(server.port, UNHINDERED_BPS) as second:
        trainers = [Trainer(link.port, f"robot-{k}", layout, gradient_s) for k, link in enumerate((first, second))]
        _reach(trainers, [1, 1])
        for link in (first, second):
            link.set_rate(mbps * 1e6)
        _reach(trainers, [trainer.steps + 2 for trainer in trainers])
        first.stall()
        time.sleep(absent_s)
        other = trainers[1].steps
        first.go_on()
        back, before = time.monotonic(), trainers[0].steps
        _reach(trainers[:1], [before + 1])
        took_s = trainers[0].ended_at[before] - back
        for trainer in trainers:
            trainer.ending = True
        for trainer in trainers:
            trainer.join(RETURN_LIMIT_S)
            if trainer.is_alive() or trainer.error is not None:
                raise SystemExit(f"{trainer.name}: {trainer.error or 'hangs'}")
    server.stop()
    note = f"absent {absent_s:g} s, {mbps:g} Mbit/s, a gradient of {gradient_s:g} s; the other made {other} iterations"
    return Figure(f"{policy}: a robot whose link is back computes again", took_s, "s", 5.0, note=note)


def _reach(trainers: list[Any], steps: list[int]) -> None:
    """Wait until each has made so many."""
    ends = time.monotonic() + RETURN_LIMIT_S
    while any(trainer.steps < count for trainer, count in zip(trainers, steps, strict=True)):
        if time.monotonic() > ends or any(trainer.error for trainer in trainers):
            raise SystemExit(f"a robot hangs: {[trainer.error or trainer.steps for trainer in trainers]}")
        time.sleep(0.005)
