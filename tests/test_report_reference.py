"""Policies against a reference: each number of the report equals what one computes by hand from the journals."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commands import running
from rowcast.errors import ConfigError
from rowcast.experiment import Cell, Comparison, plan_cells, run_comparison
from rowcast.journal import open_journal
from rowcast.metric import Metric, metrics_to_json
from rowcast.report import ACCURACY, Robot, Run, Series, read_experiment, read_run, write_report
from rowcast.report.inferences import SUMMARY
from rowcast.report.reference import (
    AtEqualSamples,
    Reading,
    at_equal_samples,
    behind_over,
    check_reference,
    reference_of,
    run_at_equal_samples,
    run_to_level,
    to_level,
)
from rowcast.report.reference_figure import draw_against, draw_behind
from rowcast.report.reference_sections import Against, against_parts
from rowcast.report.reference_tables import across_policies, behind_table, reference_table
from rowcast.report.samples import sample_unit, samples_at
from rowcast.report.sections import sections
from rowcast.report.table import BOUNDS, Table, table_of
from stub_cells import step_of

PNG = b"\x89PNG\r\n\x1a\n"
ERROR = Metric("error", "m", "lower")
METRICS = (ACCURACY, ERROR)
#: Quantile of Student's t for 95 % and three seeds, from a printed table.
T2 = 4.3027
#: Seconds between two looks, and how many there are after the one at the start.
LOOK_S, LOOKS = 20.0, 10
POLICIES = ("bsp", "rog:4", "rowcast", "localsgd:2")
SETTINGS = Comparison(
    policies=POLICIES,
    workers=(2,),
    batch=(16,),
    hours=LOOK_S * LOOKS / 3600,
    seeds=3,
    devices=("2",),
    eval_every_s=LOOK_S,
)
#: Seconds of an iteration.
STEP_S = {"bsp": 20.0, "rog:4": 10.0, "rowcast": 20.0, "localsgd:2": 40.0}
#: What rog gains from look to look, by seed; all others gain 2, and rowcast lags behind for a while.
ROG = (3.0, 4.0, 2.5)
LAG = (0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 0)
#: Joules of one robot in 20 s: 2 s of computation a step, under rog 4 s of communication, the rest as in a stall.
BSP_J = 2 * 13.35 + 18 * 4.04
ROG_J = 2 * (2 * 13.35 + 4 * 4.25 + 4 * 4.04)

#: Gives the accuracy at a look: cell, and how many looks there were before.
Value = Callable[[Cell, int], float]


def by_hand(cell: Cell, k: int) -> float:
    gain = ROG[cell.seed] if cell.policy == "rog:4" else 2.0
    return 50.0 + gain * k + cell.seed - (LAG[k] if cell.policy == "rowcast" else 0)


def run_looks(cell: Cell, folder: Path, progress: Callable[[float], None], value: Value = by_hand) -> None:
    """As ``run_virtual``: robot 0 is half a point above the team's accuracy, robot 1 below; errors are in eighths."""
    step_s = STEP_S[cell.policy]
    slack = int(cell.policy.partition(":")[2] or 0) if cell.policy.startswith("rog") else 0
    for index in range(cell.workers):
        events = [(step_s * n, n) for n in range(1, int(cell.seconds // step_s) + 1)]
        with open_journal(f"robot-{index}", folder / f"robot-{index}.jsonl") as journal:
            journal.record(0.0, "start", role="worker", policy=cell.policy)
            for k in range(int(cell.seconds // LOOK_S) + 1):
                while events and events[0][0] <= LOOK_S * k:
                    t, n = events.pop(0)
                    journal.record(t, "step", **step_of(cell, n, slack, 2.0))
                accuracy = value(cell, k) + 0.5 - index
                for name, found in ((ACCURACY.name, accuracy), (ERROR.name, (100 - accuracy) / 8)):
                    number = found if math.isfinite(found) else None
                    journal.record(LOOK_S * k, "metric", iteration=int(LOOK_S * k // step_s), name=name, value=number)
    progress(cell.seconds)


def compared(out: Path, settings: Comparison = SETTINGS, value: Value = by_hand) -> Path:
    """A finished comparison whose runs name their metrics."""
    run_comparison(settings, out, jobs=0, run=functools.partial(run_looks, value=value))
    for path in out.glob("cells/*/done.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "metrics": metrics_to_json(METRICS)}))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compared(tmp_path_factory.mktemp("against"))


@pytest.fixture(scope="module")
def groups(folder: Path) -> dict[str, list[Run]]:
    return groups_of(folder)


def groups_of(folder: Path) -> dict[str, list[Run]]:
    experiment = read_experiment(folder)
    return experiment.by_policy(experiment.conditions[0])


def tables_of(
    groups: Mapping[str, Sequence[Run]], metric: Metric = ACCURACY, reference: str = "bsp"
) -> tuple[Table, list[str]]:
    """The numbers of the figure, if there is one, and what was left out."""
    notes: list[str] = []
    against = Against(groups, reference, next(iter(groups.values()))[0].conditions)
    parts = list(against_parts(against, metric, "", "", notes))
    return (parts[0].numbers if parts else table_of(("policy",), ())), notes


def row(table: Table, policy: str, start: str) -> tuple[object, ...]:
    """What stands behind the measure that begins so: bound, samples, mean, low, high, seeds."""
    (found,) = [each for each in table.where(policy=policy).rows if str(each[1]).startswith(start)]
    return found[2:]


def spread(values: Sequence[float]) -> tuple[float, float, float, int]:
    """The mean of three seeds with its interval."""
    mean, half = sum(values) / 3, T2 * float(np.std(values, ddof=1)) / math.sqrt(3)
    return mean, mean - half, mean + half, 3


# -- to the level that the reference kept ------------------------------------------------------------------------------


def test_the_level_is_what_the_reference_kept_at_its_end(groups: dict[str, list[Run]]) -> None:
    """The moving average of bsp is 50 + 2 (k - 2) + seed from the fifth look on; the worst of the last three is 62."""
    table, notes = tables_of(groups)
    assert row(table, "bsp", "accuracy kept at the end (%)")[2:] == pytest.approx(spread([62, 63, 64]), rel=1e-4)
    assert row(table, "bsp", "time to the level (s)") == ("", None, 160.0, 160.0, 160.0, 3)
    assert [each[0] for each in table.rows[:3]] == ["bsp"] * 3
    assert notes == []


def test_time_to_it_by_hand(groups: dict[str, list[Run]]) -> None:
    """rog is at 50 + r (k - 2) + seed: with r = 3, 4, 2.5 at 62 + seed from k = 6, 5, 7 on."""
    table, _ = tables_of(groups)
    assert row(table, "rog:4", "time to the level (s)")[2:] == pytest.approx(spread([120, 100, 140]), rel=1e-4)
    share = row(table, "rog:4", "time to the level (%")
    assert share[:2] == ("", None) and share[2:] == pytest.approx(spread([75, 62.5, 87.5]), rel=1e-4)
    assert row(table, "localsgd:2", "time to the level (%") == ("", None, 100.0, 100.0, 100.0, 3)
    assert not [each for each in table.where(policy="bsp").rows if "% of the reference's" in str(each[1])]


def test_energy_to_it_by_hand(groups: dict[str, list[Run]]) -> None:
    table, _ = tables_of(groups)
    spent = [2 * ROG_J * looks for looks in (6, 5, 7)]
    kilojoules = spread([joules / 1e3 for joules in spent])
    assert row(table, "rog:4", "energy to the level (kJ)")[2:] == pytest.approx(kilojoules, rel=1e-4)
    shares = spread([100 * joules / (2 * BSP_J * 8) for joules in spent])
    assert row(table, "rog:4", "energy to the level (%")[2:] == pytest.approx(shares, rel=1e-4)


def test_what_was_not_reached_is_a_bound(groups: dict[str, list[Run]]) -> None:
    """rowcast is at 61 + seed after nine looks and at 64 + seed at the end, which it has not kept for three looks."""
    table, notes = tables_of(groups)
    assert row(table, "rowcast", "time to the level (s)") == (">", None, 180.0, None, None, 3)
    assert row(table, "rowcast", "time to the level (%") == (">", None, 112.5, None, None, 3)
    assert row(table, "rowcast", "energy to the level (%")[0] == ">"
    joules = 2 * BSP_J * 9 / 1e3
    assert row(table, "rowcast", "energy to the level (kJ)") == (">", None, pytest.approx(joules), None, None, 3)
    assert notes == []
    line = dict(
        zip(across_policies(table).columns, across_policies(table).where(policy="rowcast").rows[0], strict=True)
    )
    assert line["time to the level (% of the reference's)"] == "> 112.5"
    assert line["accuracy kept at the end (%)"] == ""
    assert line["furthest behind at equal samples (points)"] == "3.8 ± 0 at 224"


def test_one_bound_among_seeds_makes_the_mean_a_bound(tmp_path: Path) -> None:
    """With seed 1 rowcast does not lag, and is there when bsp is."""

    def value(cell: Cell, k: int) -> float:
        return by_hand(cell, k) + (LAG[k] if (cell.policy, cell.seed) == ("rowcast", 1) else 0)

    table, _ = tables_of(groups_of(compared(tmp_path, replace(SETTINGS, policies=("bsp", "rowcast")), value)))
    assert row(table, "rowcast", "time to the level (s)") == (">", None, pytest.approx(520 / 3), None, None, 3)
    assert row(table, "rowcast", "time to the level (%")[2] == pytest.approx((112.5 + 100 + 112.5) / 3)


# -- at equal samples --------------------------------------------------------------------------------------------------


def test_behind_at_equal_samples_by_hand(groups: dict[str, list[Run]]) -> None:
    """bsp trains on 32 samples from look to look, rog on 64: at the 32 k samples of look k it has gained r k / 2."""
    table, _ = tables_of(groups)
    assert table.columns == ("policy", "measure", "bound", "at_samples", *BOUNDS)
    # The average over the looks 6 to 10 is that of look 8: 8 (2 - r / 2).
    ends = row(table, "rog:4", "behind at equal samples, at the end (points)")
    assert ends[:2] == ("", 320.0) and ends[2:] == pytest.approx(spread([4, 0, 6]), rel=1e-4)
    assert row(table, "rog:4", "furthest behind at equal samples (points)")[1:] == pytest.approx(ends[1:])


def test_furthest_behind_is_where_the_mean_of_the_seeds_is(groups: dict[str, list[Run]]) -> None:
    """The average of what rowcast lags is 3.8 at the seventh look, and 2 at the end."""
    table, _ = tables_of(groups)
    assert row(table, "rowcast", "furthest") == pytest.approx(("", 224.0, 3.8, 3.8, 3.8, 3), nan_ok=True)
    assert row(table, "rowcast", "behind") == pytest.approx(("", 320.0, 2.0, 2.0, 2.0, 3))


def test_local_steps_are_samples_as_well(groups: dict[str, list[Run]]) -> None:
    """An iteration of localsgd:2 has two batches: it is as far as bsp at each sample."""
    table, _ = tables_of(groups)
    assert row(table, "localsgd:2", "furthest")[2:5] == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    run = groups["localsgd:2"][0]
    assert sample_unit(run) == "samples"
    assert samples_at(run, np.array([0.0, 40.0, 60.0, 200.0, 300.0])).tolist() == [0.0, 64.0, 96.0, 320.0, 320.0]


def test_lower_is_better_is_the_same_the_other_way_round(groups: dict[str, list[Run]]) -> None:
    """The error is an eighth of what the accuracy lacks."""
    of_accuracy, of_error = tables_of(groups)[0], tables_of(groups, ERROR)[0]
    kept = row(of_error, "bsp", "error kept at the end (m)")
    assert kept[2:] == pytest.approx(spread([38 / 8, 37 / 8, 36 / 8]), rel=1e-4)
    for policy in POLICIES[1:]:
        for measure in ("time to the level (s)", "time to the level (%", "energy to the level (%"):
            assert row(of_error, policy, measure) == row(of_accuracy, policy, measure)
        for measure in ("behind at equal samples, at the end", "furthest behind at equal samples"):
            bound, place, *numbers, seeds = row(of_error, policy, measure)
            accuracy = row(of_accuracy, policy, measure)
            assert (bound, place, seeds) == (accuracy[0], pytest.approx(accuracy[1]), 3)
            assert [8 * float(str(each)) for each in numbers] == pytest.approx(accuracy[2:5], abs=1e-9)
    assert str(of_error.where(policy="rog:4").values("measure")[-1]).endswith("(m)")


def test_another_reference_turns_it_round(groups: dict[str, list[Run]]) -> None:
    """Both are read where that run looked which has fewer samples, so bsp is as far ahead as rog is behind."""
    table, _ = tables_of(groups, reference="rog:4")
    assert row(table, "bsp", "behind")[2:] == pytest.approx(spread([-4, 0, -6]), rel=1e-4)
    # rog kept 50 + 6 r + seed. bsp ends at an average of 66 + seed, which is enough with seed 2 only, and too late.
    assert row(table, "rog:4", "accuracy")[2:] == pytest.approx(spread([68, 75, 67]), rel=1e-4)
    late = (200 + 200 + 180) / 3
    assert row(table, "bsp", "time to the level (s)") == (">", None, pytest.approx(late), None, None, 3)
    assert table.rows[0][0] == "rog:4"


def test_the_first_tenth_does_not_count() -> None:
    samples = np.linspace(0.0, 1000.0, 101)
    early = np.where(samples < 100, 9.0, np.where(samples == 600, 2.0, 1.0))
    behind = behind_over([AtEqualSamples(0, samples, samples, early)])
    assert behind is not None and behind.furthest is not None
    assert (behind.samples[behind.furthest], behind.by_seed[0, behind.furthest]) == (600.0, 2.0)
    assert behind.ends.tolist() == [1.0] and behind.end_samples == 1000.0


def test_seeds_are_compared_up_to_the_shortest(groups: dict[str, list[Run]]) -> None:
    """Each seed ends where its shorter run does; all of them are compared where all have been."""
    places = np.array([0.0, 100.0, 200.0])
    pairs = [AtEqualSamples(seed, places * (1 + seed), places, places / 100) for seed in (0, 1)]
    behind = behind_over(pairs)
    assert behind is not None and behind.samples[-1] == 200.0
    assert behind.by_seed[:, -1].tolist() == [2.0, 1.0] and behind.ends.tolist() == [2.0, 2.0]
    assert behind.end_samples == 300.0
    table = reference_table("bsp", {"bsp": [], "rog:4": []}, {"rog:4": behind}, ACCURACY, "samples")
    assert row(table, "rog:4", "behind") == ("", 300.0, 2.0, 2.0, 2.0, 2)
    assert row(table, "rog:4", "furthest")[1:3] == (200.0, 1.5)
    assert behind_over([]) is None
    assert (
        behind_over([AtEqualSamples(0, places, places, places), AtEqualSamples(1, places + 200, places, places)])
        is None
    )


def test_samples_of_streams_are_those_of_the_journal(tmp_path: Path) -> None:
    """Robot 0 has 10 samples in its first step and 30 in its second; robot 1 has 5 in each."""
    cell = plan_cells(SETTINGS)[0]
    for index, counts in enumerate(((10, 30), (5, 5))):
        with open_journal(f"robot-{index}", tmp_path / f"robot-{index}.jsonl") as journal:
            journal.record(0.0, "start", role="worker", policy="bsp")
            for n, count in enumerate(counts, 1):
                journal.record(20.0 * n, "step", **step_of(cell, n, 0, 2.0), samples=count)
    run = read_run("bsp", sorted(tmp_path.glob("*.jsonl")))
    assert sample_unit(run) == "samples"
    assert samples_at(run, np.array([0.0, 20.0, 30.0, 40.0])).tolist() == [0.0, 15.0, 32.5, 50.0]


def test_gradients_count_where_the_batch_is_the_tasks(groups: dict[str, list[Run]]) -> None:
    run = groups["localsgd:2"][0]
    own = replace(run, conditions=replace(run.conditions, batch=None))
    assert sample_unit(own) == "gradients"
    assert samples_at(own, np.array([40.0, 200.0])).tolist() == [4.0, 20.0]


def test_the_window_and_the_distance_of_looks_can_be_chosen(groups: dict[str, list[Run]]) -> None:
    """Without a moving average bsp keeps 66 + seed, which rog (r = 3) is at from the sixth look on."""
    found = to_level(groups["bsp"], groups["rog:4"], Reading(ACCURACY, LOOK_S, window=1))
    assert [(each.seed, each.level) for each in found] == [(0, 66.0), (1, 67.0), (2, 68.0)]
    assert (found[0].seconds.value, found[0].reference_s) == (120.0, 160.0)
    # Each second look: 0, 40, .. 200 s; the average of the last three ends with bsp at 64, 62 (of 54 to 66) and 58.
    wide = Reading(ACCURACY, 2 * LOOK_S, window=3)
    assert to_level(groups["bsp"], groups["bsp"], wide)[0].level == 58.0
    (pair, *_) = at_equal_samples(groups["bsp"], groups["rog:4"], wide)
    assert pair.samples.tolist() == [0.0, 64.0, 128.0, 192.0, 256.0, 320.0]


# -- what is left out --------------------------------------------------------------------------------------------------


def test_one_seed_has_no_interval(groups: dict[str, list[Run]]) -> None:
    one = {policy: runs[:1] for policy, runs in groups.items()}
    table, notes = tables_of(one)
    assert notes == [] and set(table.numbers("seeds")) == {1.0}
    assert row(table, "rog:4", "time to the level (%") == ("", None, 75.0, None, None, 1)
    assert row(table, "rog:4", "behind") == ("", 320.0, pytest.approx(4.0), None, None, 1)


def test_seeds_that_one_of_them_lacks(groups: dict[str, list[Run]]) -> None:
    """Only the seeds that both have are compared; a policy without one is named."""
    some = {**groups, "rog:4": groups["rog:4"][1:], "rowcast": [replace(groups["rowcast"][0], seed=7)]}
    table, notes = tables_of(some)
    share = row(table, "rog:4", "time to the level (%")
    assert share[2] == pytest.approx((62.5 + 87.5) / 2) and share[5] == 2
    assert row(table, "bsp", "time to the level (s)")[5] == 3
    assert "rowcast" not in table.distinct("policy")
    assert notes == [f"accuracy against bsp, {WHERE}: rowcast has no run with a seed of bsp"]


#: The conditions of the runs, in words.
WHERE = "outdoor, 2 robots, 2 s a gradient, batch 16"


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    """With seed 1 bsp ends without a number, with seed 2 rowcast has none in the middle."""

    def value(cell: Cell, k: int) -> float:
        lost = {("bsp", 1): k == LOOKS, ("rowcast", 2): k == 5}
        return math.nan if lost.get((cell.policy, cell.seed)) else by_hand(cell, k)

    table, notes = tables_of(groups_of(compared(tmp_path, replace(SETTINGS, policies=("bsp", "rowcast")), value)))
    about = f"accuracy against bsp, {WHERE}"
    assert notes == [
        f"{about}: bsp kept no level with seed 1: too few looks, or not a number at its end",
        f"{about}: rowcast has gaps at equal samples, where a value was not a number, with seed 1, 2",
    ]
    assert row(table, "bsp", "time to the level (s)")[5] == 2
    # The average of seed 2 is a number again at its end; that of seed 1 is not.
    assert row(table, "rowcast", "behind at equal samples, at the end")[2:] == (None, None, None, 2)
    assert row(table, "rowcast", "furthest") == ("", None, None, None, None, 1)


def test_too_few_looks(groups: dict[str, list[Run]]) -> None:
    """Two looks are no level, and nothing to average."""
    rare = Reading(ACCURACY, 150.0)
    bsp, rog = groups["bsp"][0], groups["rog:4"][0]
    assert rare.over_time(bsp) is None
    assert run_to_level(bsp, rog, rare) is None and run_at_equal_samples(bsp, rog, rare) is None
    sparse = {policy: [replace(run, settings={"eval_every_s": 150.0}) for run in groups[policy]] for policy in POLICIES}
    table, notes = tables_of(sparse)
    assert not table.rows
    about = f"accuracy against bsp, {WHERE}"
    assert notes == [f"{about}: bsp kept no level with seed 0, 1, 2: too few looks, or not a number at its end"]
    few = [replace(run, robots=tuple(looked_twice(robot) for robot in run.robots)) for run in groups["rog:4"]]
    _, notes = tables_of({"bsp": groups["bsp"], "rog:4": few})
    assert notes == [
        f"{about}: rog:4 has too few looks with seed 0, 1, 2",
        f"{about}: rog:4 has too few looks at equal samples with seed 0, 1, 2",
    ]


def looked_twice(robot: Robot) -> Robot:
    """The same robot, of which the journal has two looks only."""
    own = robot.measured[ACCURACY.name]
    return replace(robot, measured={ACCURACY.name: Series(own.times_s[:2], own.iterations[:2], own.values[:2])})


def test_a_level_that_was_there_from_the_start_has_no_share(tmp_path: Path) -> None:
    """A reference that gets worse keeps less than it began with: 0 s, of which nothing is a share."""

    def falling(cell: Cell, k: int) -> float:
        return 90.0 - k

    table, notes = tables_of(groups_of(compared(tmp_path, replace(SETTINGS, policies=("bsp", "rog:4")), falling)))
    assert row(table, "rog:4", "time to the level (s)")[2] == 0.0
    assert not [each for each in table.rows if "% of the reference's" in str(each[1])]
    assert notes[0].endswith("rog:4 has no share of a time or energy that is 0 with seed 0, 1, 2")


def test_a_policy_of_another_version(groups: dict[str, list[Run]]) -> None:
    """Nobody knows how many samples its iteration has; what else it came to is there."""
    own = {"bsp": groups["bsp"], "gone:3": [replace(run, policy="gone:3") for run in groups["rog:4"]]}
    table, notes = tables_of(own)
    assert row(table, "gone:3", "time to the level (s)")[2] == pytest.approx(120.0)
    assert not [each for each in table.rows if "equal samples" in str(each[1])]
    assert len(notes) == 1 and "gone:3 is not compared at equal samples: unknown policy 'gone:3'" in notes[0]


# -- the page ----------------------------------------------------------------------------------------------------------


def test_which_policy_is_the_reference(groups: dict[str, list[Run]]) -> None:
    turned = {policy: groups[policy] for policy in ("rog:4", "bsp")}
    assert reference_of(turned) == "bsp"
    assert reference_of({"rowcast": groups["rowcast"], **{"rog:4": groups["rog:4"]}}) == "rowcast"
    assert reference_of(turned, "rog:4") == "rog:4"
    assert reference_of(turned, "rowcast") is None


def test_a_reference_that_did_not_run_somewhere(tmp_path: Path) -> None:
    """The page says where there is nothing to compare with, and why."""
    settings = replace(SETTINGS, policies=("bsp", "rog:4"), links=("outdoor", "constant:20"), seeds=1)
    out = compared(tmp_path, settings)
    next(out.glob("cells/bsp_constant*/done.json")).unlink()
    experiment = read_experiment(out)
    found, notes = sections(experiment, "bsp")
    elsewhere = "constant:20, 2 robots, 2 s a gradient, batch 16"
    assert f"against bsp, {elsewhere}: bsp has no finished run" in notes
    names = {section.title: [part.name for part in section.parts] for section in found}
    assert "against-constant-20-2" not in names[elsewhere] and "paired-constant-20-2" not in names[elsewhere]
    assert any(name.startswith("against-") for name in names[WHERE])
    _, notes = sections(experiment, "rog:4")
    assert f"against rog:4, {elsewhere}: no other policy has a finished run" in notes
    _, notes = sections(experiment)  # nobody asked
    assert not [note for note in notes if note.startswith("against")]


def test_the_figures_against_a_policy(groups: dict[str, list[Run]], tmp_path: Path) -> None:
    """Also of a metric of which less is better, and with one other policy that has no interval."""
    notes: list[str] = []
    one = {policy: groups[policy][:1] for policy in ("bsp", "rowcast")}
    for place, (own, metric, reference) in enumerate(((groups, ERROR, "rog:4"), (one, ACCURACY, "bsp"))):
        against = Against(own, reference, groups["bsp"][0].conditions)
        parts = list(against_parts(against, metric, "-which", "-suffix", notes))
        assert [part.name for part in parts] == ["against-which-suffix", "behind-which-suffix"]
        for part in parts:
            assert part.draw is not None
            part.draw(tmp_path / f"{part.name}-{place}.png")
            assert (tmp_path / f"{part.name}-{place}.png").read_bytes().startswith(PNG)
            assert part.caption.endswith(("Lower is better.", "both have.", "95 % interval."))
    assert notes == []


def test_an_unknown_reference(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before anything is drawn or removed."""
    before = sorted((folder / "report").glob("*"))
    with running(monkeypatch, capsys) as rowcast:
        code, out, said = rowcast("report", folder, "--reference", "rog:5")
    assert (code, out) == (2, "")
    assert f"reference 'rog:5': expected a policy with a finished run in {folder}; did you mean 'rog:4'?" in said
    assert sorted((folder / "report").glob("*")) == before
    check_reference(read_experiment(folder), "rowcast")


def test_a_reference_of_split_inference(tmp_path: Path) -> None:
    (tmp_path / SUMMARY).write_text("{}")
    with pytest.raises(ConfigError, match="reference 'bsp': expected a folder in which policies of training"):
        write_report(tmp_path, "bsp")


def test_nothing_to_draw(tmp_path: Path) -> None:
    nothing = table_of(("policy", "measure", "bound", "at_samples", *BOUNDS), ())
    with pytest.raises(ConfigError, match="no policy to draw against bsp"):
        draw_against(nothing, ["bsp", "rog:4"], "bsp", ACCURACY, tmp_path / "against.png")
    with pytest.raises(ConfigError, match="no policy to draw against bsp"):
        draw_behind(behind_table({}, "samples"), ["bsp"], "bsp", ACCURACY, nothing, tmp_path / "behind.png")
