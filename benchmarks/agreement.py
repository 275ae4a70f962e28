"""The same runs in virtual time and on real sockets: do simulator and emulation agree?

Trace, task, devices, seed and settings of the links are the same for both. The simulator carries packets of TCP
(``--transport tcp``): heads, acknowledgements, messages in the order in which they were handed over, a queue of the
length that the emulation's has, and what CUBIC does about packets that it drops. Real sockets add what it does not
know, above all processors that are shared; docs/simulator.md says what is known.

A part is a link with all policies, and ``steps``, which is ``rowcast`` at the pace of the demo. What is finished in
``--out`` is not run again. Each run takes its minutes; nothing else should use the processors meanwhile.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agreement_alone import steps_alone
from common import Figure, arguments, finish
from rowcast.drivers.netns.rights import why_not
from rowcast.experiment.compare import run_comparison
from rowcast.experiment.devices import parse_devices
from rowcast.experiment.emulation_settings import EmulationSettings
from rowcast.experiment.medium_settings import MediumSettings
from rowcast.report import RunSummary, read_experiment, summarise

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces_wifi_robot"
#: Of a part, the link and how long its runs last (min): recorded traces last three.
LINKS = {
    "outdoor": ("outdoor", 4.0),
    "n-2.4ghz": (str(TRACES / "n_20mhz_2.4ghz_run1_loc2.csv"), 3.0),
    "ax-5ghz": (str(TRACES / "ax_20mhz_5ghz_run1_loc3.csv"), 3.0),
}
POLICIES = ("bsp", "ssp:4", "rog:4", "rowcast")
#: Steps and bytes may differ by so much, the share of stall by so many points.
WITHIN, POINTS = 0.10, 5.0
#: Of ``rowcast``: steps of those that its robots make without a team, and the share of a step that it takes on the
#: training thread.
STEPS, SOFTWARE = 0.95, 0.03
#: As ``rowcast demo`` has them.
DEMO_PACE_S, DEMO_RATIO = 0.15, 0.67
DEMO_MINUTES = 3.0
#: For so long robots compute without a team (min).
ALONE_MINUTES = 1.0


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where runs are kept; without it they are not")
    parser.add_argument("--parts", default=",".join((*LINKS, "steps")), help="of: %(default)s")
    parser.add_argument(
        "--congestion-control", metavar="NAME", help="of all hosts; the simulator has cubic; without it the system's"
    )
    options = parser.parse_args()
    medium = MediumSettings(congestion_control=options.congestion_control)
    title = "Agreement of virtual time and real sockets"
    if (reason := why_not()) is not None:
        print(f"agreement: skipped: {reason}")
        finish(title, [Figure("networks can be made here", 0, "", note=reason)], options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        figures: list[Figure] = []
        for part in ("steps",) if options.tiny else options.parts.split(","):
            if part == "steps":
                figures += at_demo_pace(medium, out / part, tiny=options.tiny)
            elif Path(LINKS[part][0]).is_absolute() and not TRACES.is_dir():
                print(f"{part}: left out: no traces in the folder {TRACES.name}")
            else:
                figures += agreement(part, *LINKS[part], medium, out / part)
    finish(title, figures, options)


def agreement(part: str, link: str, minutes: float, medium: MediumSettings, out: Path) -> Iterator[Figure]:
    """Both kinds of runs over a link, policy by policy."""
    emulated = EmulationSettings(policies=POLICIES, links=(link,), minutes=minutes, medium=medium)
    real, virtual = both(emulated, out)
    for policy in POLICIES:
        yield from compared(f"{part}, {policy}", real[policy], virtual[policy])


def both(settings: EmulationSettings, out: Path) -> tuple[dict[str, RunSummary], dict[str, RunSummary]]:
    """What came of each policy, on real sockets and in virtual time."""
    out.mkdir(parents=True, exist_ok=True)
    run_comparison(settings, out / "real")
    run_comparison(settings.comparison, out / "virtual", jobs=0)
    return summaries(out / "real"), summaries(out / "virtual")


def summaries(folder: Path) -> dict[str, RunSummary]:
    return {run.policy: summarise(run) for run in read_experiment(folder).runs}


def compared(name: str, real: RunSummary, simulated: RunSummary) -> Iterator[Figure]:
    """By how much real sockets differ from virtual time."""
    for what, one, other, unit in (
        ("steps", real.steps, simulated.steps, "steps"),
        ("bytes", real.push_bytes + real.pull_bytes, simulated.push_bytes + simulated.pull_bytes, "B"),
    ):
        yield Figure(
            f"{name}: {what} apart",
            abs(one / other - 1.0),
            "share",
            bound=WITHIN,
            note=f"{one:g} and in virtual time {other:g} {unit}",
        )
    shares = [100 * summary.stall_s / summary.step_s for summary in (real, simulated)]
    yield Figure(
        f"{name}: stall apart",
        abs(shares[0] - shares[1]),
        "points",
        bound=POINTS,
        note=f"{shares[0]:.1f} and in virtual time {shares[1]:.1f} % of a step",
    )


def at_demo_pace(medium: MediumSettings, out: Path, *, tiny: bool) -> Iterator[Figure]:
    """``rowcast`` on real sockets with the demo's model, pace and links, against robots that have no team."""
    settings = EmulationSettings(
        policies=("rowcast",), devices=str(DEMO_PACE_S), ratio=DEMO_RATIO, minutes=DEMO_MINUTES, medium=medium
    )
    if tiny:
        settings = replace(settings, workers=2, minutes=0.05)
    run_comparison(settings, out)
    found = summaries(out)["rowcast"]
    pace_s = parse_devices(settings.devices).times[0].seconds[0]
    seconds, alone_s = 60.0 * settings.minutes, 60.0 * min(settings.minutes, ALONE_MINUTES)
    alone = steps_alone(settings.task, settings.workers, pace_s, alone_s) * seconds / alone_s
    yield Figure(
        "rowcast: steps of the compute-bound",
        found.steps / alone,
        "share",
        bound=STEPS,
        at_least=True,
        note=f"{found.steps:g}, and {alone:g} of robots that compute without a team, outdoor",
    )
    yield Figure(
        "rowcast: steps of those of its gradients alone",
        found.steps * pace_s / seconds,
        "share",
        note=f"{seconds / pace_s:g} at {pace_s:g} s each, if the inner optimizer took no time",
    )
    assert found.own_s is not None
    beyond_s = found.compute_s - pace_s
    yield Figure(
        "rowcast: software time of a step",
        found.own_s / found.step_s,
        "share",
        bound=SOFTWARE,
        note=f"{1e3 * found.own_s:.2f} ms on the training thread; with the inner optimizer's step, and what else it "
        f"takes beyond its pace, {1e3 * beyond_s:.2f} ms",
    )


if __name__ == "__main__":
    main()
