"""Synchronisation: who may go on, which rows travel, for how long."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.errors import ConfigError
from rowcast.rows import Layout, Selection
from rowcast.sync import (
    REGISTRY,
    Family,
    MtaTime,
    Policy,
    VersionTable,
    minimum_share,
    parse_policy,
    policy_forms,
    register,
)
from rowcast.sync.mta import T_LOW_S
from rowcast.sync.order import RowsToSend

quick = settings(deadline=None, derandomize=True, max_examples=150)

LAYOUT = Layout.from_shapes([("wide", (7, 300)), ("bias", (9,)), ("conv", (20, 3, 3, 7))])

# -- minimum share -------------------------------------------------------------------------------------------

#: algorithms.md 1.8: roots of (1 - P)**(S - 1) = P for S = 2 .. 40.
ROOTS = """
.500000 .381966 .317672 .275508 .245122 .221910 .203456 .188348 .175699 .164921 .155602 .147449 .140243
.133819 .128049 .122833 .118090 .113755 .109774 .106105 .102708 .099555 .096617 .093873 .091303 .088889
.086618 .084477 .082454 .080539 .078723 .076998 .075358 .073796 .072306 .070883 .069522 .068220 .066972
"""


def test_the_minimum_share_is_the_root_of_the_inequality() -> None:
    roots = [float(text) for text in ROOTS.split()]
    assert [round(minimum_share(threshold), 6) for threshold in range(2, 41)] == roots


def test_the_minimum_share_is_table_one_of_the_paper() -> None:
    assert minimum_share(0) == minimum_share(1) == 1.0
    shares = [minimum_share(threshold) for threshold in range(2, 9)]
    assert [round(share, 2) for share in shares] == [0.5, 0.38, 0.32, 0.28, 0.25, 0.22, 0.2]


@quick
@given(st.integers(2, 10_000))
def test_the_minimum_share_holds_the_inequality_and_is_never_below_one_in_s(threshold: int) -> None:
    share = minimum_share(threshold)
    assert (1 - share) ** (threshold - 1) <= share
    assert 1 / threshold <= share < minimum_share(threshold - 1)


# -- names of policies ---------------------------------------------------------------------------------------


def settings_of(text: str) -> tuple[int | None, float, str, bool, str]:
    policy = parse_policy(text)
    assert policy.name == text.strip()
    return policy.slack, policy.share, policy.granularity, policy.speculative, policy.codec


def test_the_families_and_what_they_stand_for() -> None:
    assert settings_of("bsp") == settings_of("bsp:0") == (0, 1.0, "model", False, "onebit")
    assert settings_of("ssp:4") == (4, 1.0, "model", False, "onebit")
    assert settings_of("ssp:0") == (0, 1.0, "model", False, "onebit")
    assert settings_of("asp") == settings_of("flown:3") == (None, 1.0, "model", False, "onebit")
    flown = parse_policy("flown:3")
    assert (flown.scheduled, flown.lag, parse_policy("asp").scheduled) == (True, 3, False)
    assert settings_of(" rog:4 ") == (4, minimum_share(4), "row", True, "onebit")
    assert settings_of("rog:0") == (0, 1.0, "row", True, "onebit")
    assert settings_of("rog:10000")[0] == 10_000
    assert settings_of("localsgd:8") == settings_of("diloco:8") == settings_of("bsp")
    assert settings_of("powersgd:4") == (0, 1.0, "model", False, "raw")
    assert (parse_policy("powersgd:4").rank, parse_policy("bsp").rank) == (4, 0)
    for text, rank in (("bsp", 1), ("powersgd:4", 0), ("powersgd:4", -1)):
        with pytest.raises(ConfigError, match="expected a rank of 1 or more with the rule 'factored'"):
            dataclasses.replace(parse_policy(text), rank=rank)


def outer_of(text: str) -> tuple[int, float, float]:
    policy = parse_policy(text)
    return policy.local_steps, policy.outer_lr, policy.outer_momentum


def test_local_steps_and_the_outer_step() -> None:
    assert outer_of("bsp") == outer_of("rog:4") == outer_of("localsgd:1") == (1, 1.0, 0.0)
    assert outer_of("localsgd:8") == (8, 1.0, 0.0)
    assert outer_of("diloco:30") == (30, 0.7, 0.9)
    assert outer_of("diloco:30?outer_lr=0.5&outer_momentum=0") == (30, 0.5, 0.0)
    assert outer_of("ssp:4?outer_momentum=0.5") == (1, 1.0, 0.5)
    assert parse_policy("localsgd:8").may_start(3, 3) and not parse_policy("localsgd:8").may_start(4, 3)
    with pytest.raises(ConfigError, match="expected 1 local step or more, got 0"):
        dataclasses.replace(parse_policy("bsp"), local_steps=0)


def test_every_option_is_read() -> None:
    policy = parse_policy("rog:4?codec=raw&granularity=tensor&share=0.5&f1=0.25&f2=2")
    assert policy == Policy(
        "rog:4?codec=raw&granularity=tensor&share=0.5&f1=0.25&f2=2", 4, 0.5, "tensor", True, "raw", 0.25, 2.0
    )
    assert policy.row_codec.name == "raw"
    assert parse_policy("asp?").share == parse_policy("asp?&").share == 1.0
    assert settings_of("bsp?codec=half")[4] == "half"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "known: asp, bsp, demo, diloco:8, flown:4, localsgd:8, powersgd:2, rog:4, rowcast:4, sparseloco:8, sparta,",
        ),
        ("rgo:4", "unknown policy 'rgo:4'; did you mean 'rog:4'"),
        ("bps", "unknown policy 'bps'; did you mean 'bsp'"),
        ("ROG:4", "unknown policy"),
        ("rog", "expected a slack behind a colon, for example 'rog:4'"),
        ("ssp", "expected a slack behind a colon, for example 'ssp:4'"),
        *(
            (f"rog:{number}", "whole number in 0 .. 10000")
            for number in ("", "-1", "1.5", "x", "10001", " 4", "٤", "²")
        ),
        ("bsp:2", "write 'bsp', or 'ssp:2' for slack 2"),
        ("asp:1", "asp takes no number"),
        ("flown", "expected a slack behind a colon, for example 'flown:4'"),
        ("flwon:4", "did you mean 'flown:4'"),
        ("localsdg:4", "did you mean 'localsgd:8'"),
        ("dilico:4", "did you mean 'diloco:8'"),
        *(
            (text, "local steps, 1 or more, behind a colon, for example 'localsgd:8'")
            for text in ("localsgd", "localsgd:0")
        ),
        ("powersgd", "expected a rank, 1 or more, behind a colon, for example 'powersgd:2'"),
        ("powersgd:0", "expected a rank, 1 or more, behind a colon, for example 'powersgd:2'"),
        ("powersgd:2?share=0.5&granularity=row", "factors are those of a whole sum; take slack 0 and share=1"),
        ("powersgd:2?codec=zero", "the codec 'zero' sends nothing"),
        *((text, "for example 'diloco:8'") for text in ("diloco", "diloco:0", "diloco?outer_lr=1")),
        *((f"diloco:4?outer_lr={value}", "expected outer_lr > 0") for value in ("0", "-1", "nan", "inf")),
        *((f"diloco:4?outer_momentum={value}", "in 0 .. below 1") for value in ("1", "-0.1", "nan", "inf")),
        ("diloco:4?outer_momentun=0.5", "did you mean 'outer_momentum'"),
        ("diloco:4?local_steps=5", "unknown option 'local_steps=5'"),
        ("rog:4?codc=raw", "unknown option 'codc=raw'; did you mean 'codec'"),
        ("rog:4?codec", "unknown option 'codec'"),
        ("rog:4?slack=3", "unknown option 'slack=3'"),
        ("rog:4?name=x", "unknown option 'name=x'"),
        ("rog:4?codec=onebt", "did you mean 'onebit'"),
        ("rog:4?codec=zero", "sends nothing"),
        ("rog:4?granularity=tensr", "did you mean 'tensor'"),
        ("rog:4?order=importanse", "unknown order 'importanse'; did you mean 'importance'"),
        ("rog:4?order=age&compat=artifact", "the order of the artifact is its own"),
        ("rog:4?counts=groups", "counts and race go with compat=artifact only"),
        ("rog:4?race=0.5", "counts and race go with compat=artifact only"),
        ("rog:4?compat=artifact&counts=group", "did you mean 'groups'"),
        ("rog:4?compat=artifact&race=1.5", "expected race in 0 .. 1"),
        ("rog:4?share=much", "share: expected a number, got 'much'"),
        *(
            (text, "granularity=model sends all rows together; take share=1")
            for text in ("bsp?share=0.5", "ssp:4?pull_share=0.5", "rog:4?granularity=model", "diloco:8?share=0.9")
        ),
        *((f"rog:4?share={value}", "expected a share in") for value in ("0", "-1", "1.01", "nan", "inf", "1e-320")),
        *((f"rog:4?f1={value}", "expected f1 >= 0") for value in ("-0.1", "nan", "inf")),
        ("rog:4?f2=-1", "expected f2 >= 0"),
        ("rog:4?elastic=on", "the option elastic goes with 'rowcast' only"),
        ("rowcast?compat=artifact", "the option compat goes with 'rog' only"),
        ("rog:4?f2=", "f2: expected a number"),
    ],
)
def test_a_name_that_cannot_be_read_is_answered_with_help(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text)
    assert message in str(caught.value)


def test_a_family_of_ones_own_is_written_like_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REGISTRY, "_entries", dict(REGISTRY._entries))
    register(Family("half:S", "Half of the bytes.", lambda name, slack: Policy(name, slack, 0.5)))
    assert settings_of("half:3?codec=raw") == (3, 0.5, "row", False, "raw")
    assert "half:S" in policy_forms()
    with pytest.raises(ConfigError, match="this name is taken"):
        register(Family("half", "", lambda name, slack: Policy(name, slack, 0.5)))
    with pytest.raises(ConfigError, match="unknown option 'rowz'"):
        register(Family("other", "", lambda name, slack: Policy(name, slack, 0.5), options=("rowz",)))
    with pytest.raises(ConfigError, match=r"expected a rowcast\.sync\.Family"):
        REGISTRY.register("odd", lambda name, slack: Policy(name, slack, 0.5))


@quick
@given(st.text(st.sampled_from("rogspba:?=&.4-0 codecshref12"), max_size=30))
def test_any_text_is_a_policy_or_a_config_error(text: str) -> None:
    try:
        policy = parse_policy(text)
    except ConfigError:
        return
    assert 0 < policy.share <= 1 <= policy.pull_bound


# -- the gate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "gaps_that_pass"),
    [
        ("bsp", range(1)),
        ("ssp:0", range(1)),
        ("ssp:3", range(4)),
        ("rog:0", range(1)),
        ("rog:4", range(5)),
        ("asp", range(50)),
    ],
)
def test_the_gate_opens_up_to_the_slack(text: str, gaps_that_pass: range) -> None:
    policy = parse_policy(text)
    for oldest in (0, 7):
        assert [gap for gap in range(50) if policy.may_start(oldest + gap, oldest)] == list(gaps_that_pass)
    assert policy.may_start(5, 9)


def test_the_gate_is_open_when_nobody_counts_and_at_the_start() -> None:
    for text in ("bsp", "ssp:4", "asp", "rog:4"):
        assert parse_policy(text).may_start(1000, None) and parse_policy(text).may_start(0, 0)


def test_versions_advance_row_by_row_and_the_oldest_counts() -> None:
    table = VersionTable(5)
    assert table.oldest() is None and len(table) == 0 and "a" not in table
    table.admit("a", 0)
    table.admit("b", 3)
    assert table.oldest() == 0 and table.oldest_of("b") == 3 and "a" in table and len(table) == 2
    table.advance("a", np.array([0, 1, 2, 3]), 4)
    assert table.oldest_of("a") == 0 and table.of("a").tolist() == [4, 4, 4, 4, 0]
    assert table.behind(1) == ["a"] and table.behind(4) == ["a", "b"] and table.behind(0) == []
    table.advance("a", np.array([4]), 2)
    assert table.oldest_of("a") == table.oldest() == 2
    table.remove("a")
    assert table.oldest() == 3
    table.advance("a", np.array([0]), 9)  # of one who left: nobody counts it
    assert "a" not in table and len(table) == 1


def test_a_worker_that_returns_starts_with_new_versions() -> None:
    table = VersionTable(3)
    table.admit("a", 2)
    table.advance("a", np.array([0]), 5)
    table.admit("a", 7)
    assert table.of("a").tolist() == [7, 7, 7] and table.oldest() == 7
    table.of("a")[:] = 0  # a copy
    assert table.oldest_of("a") == 7


@quick
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 50_000)), max_size=40))
def test_versions_of_16_bits_are_those_of_a_plain_table_whatever_their_distance(
    steps: list[tuple[int, int, int]],
) -> None:
    """Workers far apart, rows far apart, bases that move and a table that becomes one of 32 bits."""
    table, plain, names = VersionTable(5), {}, [f"robot-{k}" for k in range(4)]
    for k, name in enumerate(names):
        plain[name] = np.full(5, 40_000 * k)
        table.admit(name, 40_000 * k)
    levels, holders = table.floor()
    for worker, row, ahead in steps:
        name, rows = names[worker], np.array([row])
        iteration = int(plain[name].min()) - 1 + ahead
        plain[name][row] = iteration
        table.raise_floor(name, rows, iteration, levels, holders)
        whole = np.array(list(plain.values()))
        assert levels.tolist() == whole.min(axis=0).tolist()
        assert holders.tolist() == (whole == levels).sum(axis=0).tolist()
        assert table.oldest_of(name) == plain[name].min() and table.oldest() == whole.min()
    for name in names:
        assert table.of(name).tolist() == plain[name].tolist() and table.of(name).dtype == np.int32
    again = table.floor()
    assert again[0].tolist() == levels.tolist() and again[1].tolist() == holders.tolist()


def test_versions_take_two_bytes_a_row_while_a_worker_goes_on_and_four_where_a_row_stays_behind() -> None:
    table, everything = VersionTable(1000), slice(None)
    for worker in ("a", "b"):
        table.admit(worker, 0)
    assert table.worker_bytes <= 2 * 1000 + 8
    for iteration in range(0, 300_000, 60_000):  # further than 16 bits reach, but no row is left behind
        table.advance("a", everything, iteration)
    assert table.worker_bytes <= 2 * 1000 + 8 and table.oldest_of("a") == 240_000 and table.oldest_of("b") == 0
    table.advance("b", np.array([7]), 65_535)
    assert table.worker_bytes == 4 * 1000 + 8
    assert table.of("b")[7] == 65_535 and table.oldest_of("b") == 0 and table.oldest_of("a") == 240_000


def test_versions_of_a_worker_that_left_are_those_of_who_takes_its_place() -> None:
    table = VersionTable(2)
    for k, worker in enumerate("abc"):
        table.admit(worker, 100_000 * k)
    table.remove("a")  # the last one moves there, base and all
    assert table.of("c").tolist() == [200_000, 200_000] and table.of("b").tolist() == [100_000, 100_000]
    assert table.floor()[0].tolist() == [100_000, 100_000]
    table.admit("d", 5, np.array([5, 90_000], dtype=np.int32))
    assert table.of("d").tolist() == [5, 90_000] and table.oldest() == 5


# -- MTA time ------------------------------------------------------------------------------------------------


def mta(*reports: tuple[str, int, float, float | None]) -> MtaTime:
    time = MtaTime()
    for report in reports:
        time.report(*report)
    return time


def test_the_mta_time_is_what_the_slowest_needs() -> None:
    time = mta(("a", 5, 0.3, 2.0), ("b", 5, 0.7, 2.0), ("c", 4, 0.5, 2.0))
    assert time.value_s(5) == 0.7
    time.report("c", 5, 0.5, 4.0)
    assert time.compute_s("c") == pytest.approx(0.8 * 2.0 + 0.2 * 4.0)  # an average
    time.remove("b")
    assert time.value_s(5) == 0.5
    assert time.compute_s("b") is None and time.compute_s("a") == 2.0


def test_a_worker_in_outage_is_left_out_and_does_not_stretch_the_time() -> None:
    assert mta(("a", 5, 0.3, 2.0), ("b", 5, 30.0, 2.0)).value_s(5) == 0.3
    assert mta(("a", 5, 30.0, 2.0)).value_s(5) == 2.0


def test_measurements_more_than_two_iterations_old_are_ignored() -> None:
    time = mta(("a", 9, 0.3, 2.0), ("b", 7, 0.8, 2.0))
    assert [time.value_s(newest) for newest in (9, 10, 11, 12)] == [0.8, 0.3, 0.3, 2.0]


def test_the_mta_time_is_clipped_low_and_high() -> None:
    assert mta(("a", 1, 0.0001, 2.0)).value_s(1) == T_LOW_S
    assert mta(("a", 1, 0.04, 0.05)).value_s(1) == T_LOW_S
    assert mta(("a", 1, 2.0, 2.0)).value_s(1) == 2.0
    # High is the median computation: one slow computer does not stretch it.
    assert mta(("a", 1, 3.0, 1.0), ("b", 1, 0.5, 1.2), ("c", 1, 0.5, 90.0)).value_s(1) == 0.5


def test_before_any_measurement_the_time_is_one_computation_or_the_least() -> None:
    assert MtaTime().value_s(0) == T_LOW_S
    assert mta(("a", 1, 0.7, None)).value_s(1) == T_LOW_S
    assert mta(("a", 1, 0.7, 2.0)).value_s(4) == 2.0


# -- which rows ----------------------------------------------------------------------------------------------


def view(layout: Layout = LAYOUT, *, travelled: int = 0, iteration: int = 9, **changes: object) -> RowsToSend:
    random = np.random.default_rng(7)
    row_bytes = np.asarray(changes.get("row_bytes", layout.lengths * 4))
    fields = {
        "eligible": np.arange(layout.rows),
        "stamps": np.full(layout.rows, iteration - 1, dtype=np.int32),
        "abs_sums": random.random(layout.rows).astype(np.float32),
        "row_bytes": row_bytes,
        "total_bytes": int(row_bytes.sum()),
        "largest_bytes": int(row_bytes.max()),
        **changes,
    }
    return RowsToSend(**fields, iteration=iteration, travelled_bytes=travelled)


def quota_bytes(chosen: Selection, seen: RowsToSend) -> int:
    return int(seen.row_bytes[chosen.order[: chosen.quota]].sum())


@pytest.mark.parametrize("text", ["rog:4", "rog:2", "rog:4?share=0.05", "rog:20?codec=raw"])
def test_the_quota_is_the_share_of_the_bytes_and_one_largest_row(text: str) -> None:
    policy, seen = parse_policy(text), view()
    wanted = policy.share * seen.row_bytes.sum() + seen.row_bytes.max()
    for chosen in (policy.choose_push(LAYOUT, seen), policy.choose_pull(LAYOUT, seen)):
        assert sorted(chosen.order) == list(range(LAYOUT.rows))
        assert wanted <= quota_bytes(chosen, seen) < wanted + seen.row_bytes.max()
        assert chosen.order[: chosen.quota].tolist() == list(range(chosen.quota))


def test_what_travelled_before_a_cut_counts_for_the_quota() -> None:
    policy, seen = parse_policy("rog:4"), view()
    first = policy.choose_push(LAYOUT, seen)
    done = first.order[: first.quota - 1]
    again = view(eligible=np.setdiff1d(seen.eligible, done), travelled=int(seen.row_bytes[done].sum()))
    assert policy.choose_push(LAYOUT, again).quota == 1
    everything = view(travelled=int(seen.row_bytes.sum()))
    assert policy.choose_push(LAYOUT, everything).quota == 0


def test_overdue_rows_are_forced_into_the_quota() -> None:
    policy = parse_policy("rog:4?share=0.001&codec=raw")
    stamps = np.full(LAYOUT.rows, 8, dtype=np.int32)
    stamps[[3, 11, 20]] = 4  # the push of 9: a row of version 4 would hold this worker at the gate
    stamps[[5, 6]] = 5
    chosen = policy.choose_push(LAYOUT, view(stamps=stamps))
    assert chosen.order[: chosen.quota].tolist() == [3, 11, 20]
    assert policy.may_start(9, 5) and not policy.may_start(9, 4)
    open_gate = parse_policy("asp?granularity=row&share=0.001")
    assert open_gate.choose_push(LAYOUT, view(stamps=stamps)).quota < 3


def test_a_pull_forces_what_waited_for_the_pull_bound() -> None:
    policy = parse_policy("rog:4?share=0.25")
    assert policy.pull_bound == 4
    assert [parse_policy(f"rog:4?share={share}").pull_bound for share in (1, 0.5, 0.34, 0.3)] == [1, 2, 3, 4]
    stamps = np.full(LAYOUT.rows, 8, dtype=np.int32)
    stamps[10:] = 5  # stamped 5: not in the pulls of 6, 7 and 8; the fourth is that of 9
    chosen = policy.choose_pull(LAYOUT, view(stamps=stamps))
    assert set(range(10, LAYOUT.rows)) <= set(chosen.order[: chosen.quota].tolist())


def test_rows_beyond_the_quota_may_stay_oldest_first() -> None:
    seen = view(stamps=np.arange(LAYOUT.rows, dtype=np.int32)[::-1] % 7 + 2)
    oldest = np.argsort(seen.stamps, kind="stable").tolist()
    for text in ("rog:4?order=age", "rowcast:4", "rowcast:4?order=importance"):
        assert parse_policy(text).choose_push(LAYOUT, seen).order.tolist() == oldest
    by_importance = parse_policy("rog:4").choose_push(LAYOUT, seen)
    assert by_importance.order.tolist() != oldest
    assert by_importance.order[: by_importance.quota].tolist() == oldest[: by_importance.quota]


def test_rows_beyond_the_quota_go_by_magnitude_and_staleness() -> None:
    stamps = np.full(LAYOUT.rows, 8, dtype=np.int32)
    stamps[15] = 6
    sums = (LAYOUT.lengths * 1.0).astype(np.float32)
    sums[[12, 17]] *= 9
    seen = view(stamps=stamps, abs_sums=sums)

    def rest(text: str) -> list[int]:
        chosen = parse_policy(text).choose_push(LAYOUT, seen)
        return chosen.order[chosen.quota :].tolist()

    base = "rog:8?share=0.0001"
    assert rest(base)[:2] == [12, 17]
    assert rest(base + "&f1=0")[0] == 1  # row 15 is the oldest, so it is the quota; then by index
    least = dataclasses.replace(parse_policy(base), speculative=False).choose_push(LAYOUT, seen)
    assert least.order[least.quota :].tolist() == sorted(least.order[least.quota :].tolist())


def test_a_row_that_is_not_finite_goes_first_beyond_the_quota() -> None:
    sums = np.ones(LAYOUT.rows, dtype=np.float32)
    sums[25] = math.nan
    chosen = parse_policy("rog:4").choose_push(LAYOUT, view(abs_sums=sums))
    assert chosen.order[chosen.quota] == 25


@st.composite
def views(draw: st.DrawFn) -> RowsToSend:
    iteration = draw(st.integers(0, 12))
    return view(
        eligible=np.array(sorted(draw(st.sets(st.integers(0, LAYOUT.rows - 1)))), dtype=np.int64),
        stamps=np.array(draw(st.lists(st.integers(0, 12), min_size=LAYOUT.rows, max_size=LAYOUT.rows)), dtype=np.int32),
        row_bytes=parse_policy(f"asp?codec={draw(st.sampled_from(['raw', 'half', 'onebit']))}").row_codec.row_bytes(
            LAYOUT
        ),
        travelled=draw(st.sampled_from([0, 100, 10**6])),
        iteration=iteration,
    )


@quick
@given(views(), st.integers(0, 6))
def test_ssp_is_rog_with_one_row_per_model(seen: RowsToSend, slack: int) -> None:
    ssp, rog = parse_policy(f"ssp:{slack}"), parse_policy(f"rog:{slack}?granularity=model&share=1")
    for one, other in (
        (ssp.choose_push(LAYOUT, seen), rog.choose_push(LAYOUT, seen)),
        (ssp.choose_pull(LAYOUT, seen), rog.choose_pull(LAYOUT, seen)),
    ):
        assert one.order.tolist() == other.order.tolist() == seen.eligible.tolist()
        assert one.quota == other.quota


@quick
@given(views(), st.sampled_from(["bsp", "ssp:3", "asp", "rog:0", "rog:4", "rog:4?granularity=tensor", "rog:9?f1=0"]))
def test_a_choice_is_a_permutation_of_what_may_travel(seen: RowsToSend, text: str) -> None:
    policy = parse_policy(text)
    for chosen in (policy.choose_push(LAYOUT, seen), policy.choose_pull(LAYOUT, seen)):
        assert sorted(chosen.order.tolist()) == seen.eligible.tolist()
        assert 0 <= chosen.quota <= len(chosen.order)
        assert chosen.quota == len(chosen.order) or quota_bytes(chosen, seen) + seen.travelled_bytes >= min(
            policy.share * seen.row_bytes.sum(), seen.row_bytes.sum()
        )
