"""What distance costs a team: Tc and X/Y from Boston to Shanghai, and what links of half a second each way carry.

The unchanged nodes in virtual time, on the timing of the reference layout: real frames and acknowledgements over links
with a delay, gradients that take as long as those of the ROG paper. X/Y and Tc are read from the journals, by the
functions of the report. The limit is the link: its bytes, and its round trip where a policy waits for an answer.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from common import Figure, arguments, finish, reference_layout
from rowcast.drivers.virtual import Device
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import open_journal
from rowcast.links import WideArea, parse_wide_area
from rowcast.report import read_run
from rowcast.report.scalability import scalability, tc_s
from rowcast.report.values import Run
from rowcast.rows import Layout

#: One gradient of ConvMLP-M on a robot of the ROG paper (s).
COMPUTE_S = 2.18
#: Policy -> what is asked of X/Y, and whether it is to be at least so much.
POLICIES: dict[str, tuple[float, bool] | None] = {
    "bsp?codec=raw": (0.06, False),
    "bsp?codec=onebit": None,
    "rog:4": None,
    "rowcast": (0.95, True),
}
NEAR, FAR = "wide:boston/shanghai?mbit=20", "wide:boston/shanghai?mbit=20&rtt_ms=1000"


def train(policy: str, layout: Layout, links: WideArea, robots: int, seconds: float) -> Run:
    """What the journals of a team say that trained for so many virtual seconds."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = [folder / f"robot-{index}.jsonl" for index in range(robots)]
        with contextlib.ExitStack() as journals:
            books = [journals.enter_context(open_journal(path.stem, path)) for path in files]
            timing_team(policy, layout, [Device(COMPUTE_S)] * robots, links, books).run(seconds)
        return read_run(policy, files)


def goodput(layout: Layout, links: WideArea, seconds: float) -> float:
    """Share of the link that row frames fill while a robot pushes, from its second push on."""
    with tempfile.TemporaryDirectory() as folder, open_journal("robot-0", Path(folder) / "robot-0.jsonl") as book:
        team = timing_team("bsp?codec=raw", layout, [Device(COMPUTE_S)], links, [book])
        robot = team.robots["robot-0"]
        filled: list[float] = []
        begun: tuple[float, int] | None = None

        def look() -> None:
            nonlocal begun
            pushing = robot.rounds > 1 and robot.node.outbox.in_flight > 0
            if pushing and begun is None:
                begun = team.now, robot.bytes_up
            elif not pushing and begun is not None:
                since, before = begun
                filled.append(8 * (robot.bytes_up - before) / (team.now - since) / links.mbps[0] / 1e6)
                begun = None
            team.clock.at(team.clock.now + 0.01, look, priority=3)

        look()
        team.run(seconds)
        return min(filled)


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    layout, note = reference_layout(tiny=options.tiny)
    near, far = parse_wide_area(NEAR), parse_wide_area(FAR)
    assert near is not None and far is not None
    robots, seconds = (1, 30.0) if options.tiny else (4, 300.0)
    figures = [
        Figure("distance", near.distance_km(0), "km", note="11 725 in the source"),
        Figure("round trip", 1e3 * near.round_trip_s(0), "ms", note="2 d / c"),
    ]
    for links, where, asked in ((near, "78 ms", POLICIES), (far, "1000 ms", dict.fromkeys(POLICIES))):
        for policy in POLICIES:
            run = train(policy, layout, links, robots, seconds)
            bound, at_least = asked[policy] or (None, False)
            figures.append(Figure(f"{where}, {policy}: Tc, not hidden", tc_s(run), "s a step"))
            share = scalability(run)
            assert share is not None
            figures.append(Figure(f"{where}, {policy}: X/Y", share, "", bound, at_least))
    # A push takes its bytes and a round trip until the last of them is acknowledged.
    share = goodput(layout, far, 30.0 if options.tiny else 200.0)
    figures.append(Figure("1000 ms: row bytes while pushing", 100 * share, "% of rate", 90.0, at_least=True))
    finish(f"{robots} robots, 20 Mbit/s, {COMPUTE_S} s a gradient, {note}", figures, options)


if __name__ == "__main__":
    main()
