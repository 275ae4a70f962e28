"""Tables and figures of plans, and ``rowcast split plan``: what they say is what the planners say."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from commands import Run, running
from rowcast.cli import ExitCode
from rowcast.errors import ConfigError, LocalProtocolError
from rowcast.graphs import Barrier, Graph, Identity, Op, Profile, RunningSum, Window, save_profile
from rowcast.links import Trace
from rowcast.planning import (
    LATENCY,
    PLANNERS,
    CostModel,
    LinkCosts,
    TensorCosts,
    heavy_load,
    local,
    offload,
    overlap_bound_s,
    pipeline,
    plan_table,
    streamed,
    tensor,
)
from rowcast.report.inference_figure import LaneSpan, draw_inference, plan_spans
from rowcast.report.plans import BOUND, changes_table, rates_table, replay_table, table_lines, why, why_table
from rowcast.report.rates_figure import draw_rates

PNG = b"\x89PNG\r\n\x1a\n"


def model() -> tuple[Graph, Profile]:
    """An image of 64 rows, four convolutions, a pool that leaves little, and a head."""
    ops = [Op((), 64_000, Identity(64), "image")]
    ops += [Op((index,), 640_000, Window(64, 3, padding=1), f"conv{index + 1}") for index in range(4)]
    ops += [Op((4,), 2_000, RunningSum(64), "mean"), Op((5,), 400, Barrier(1), "head")]
    server = np.array([0.0, 0.010, 0.010, 0.010, 0.010, 0.001, 0.001])
    return Graph(ops, [6]), Profile(server * 6, server, local_p99_s=0.26)


def costs_at(mbps: float, *tensors: TensorCosts) -> CostModel:
    return CostModel(*model(), LinkCosts(mbps * 1e6, mbps * 1e6, 0.0025, 1.0), tensors=tensors)


LINK = Trace([0, 10, 12], [20e6, 0, 40e6], "street", duration_s=20.0)


# -- tables --------------------------------------------------------------------------------------------------


def test_the_table_of_rates_says_what_the_planners_say() -> None:
    table = rates_table(costs_at(1.0), [2e6, 8e6])
    assert table.distinct("method") == [*PLANNERS, BOUND] and len(table.rows) == 2 * (len(PLANNERS) + 1)
    for mbps in (2.0, 8.0):
        costs = costs_at(mbps)
        for name, planner in PLANNERS.items():
            plan, row = planner(costs, LATENCY), table.where(method=name, mbps=mbps)
            assert row.numbers("latency_ms") == [pytest.approx(1e3 * plan.latency_s)]
            assert row.numbers("energy_j") == [pytest.approx(plan.energy_j)]
            assert row.numbers("up_kb") == [plan.up_bytes / 1e3]
        bound = table.where(method=BOUND, mbps=mbps).numbers("latency_ms")
        assert bound == [pytest.approx(1e3 * overlap_bound_s(costs))]


def test_the_methods_are_sorted_and_each_has_its_reason() -> None:
    table = why_table(costs_at(16.0))
    latencies = table.numbers("latency_ms")
    assert latencies == sorted(latencies)
    assert table.values("method")[0] == "streamed" and table.values("method")[-1] == "tensor"
    reasons = dict(zip(table.distinct("method"), map(str, table.values("why")), strict=True))
    assert reasons["local"] == "all on the robot, nothing travels"
    assert reasons["data"] == "one input cannot be shared: all on the server"
    assert reasons["streamed"].startswith("all on the server; link 37.") and "16 slabs of rows" in reasons["streamed"]
    # All-reduce: two messages an operator each way, 5 ms for each of six, and what the bytes take.
    (exchanges,) = (table.where(method="tensor").numbers(name)[0] for name in ("messages",))
    assert exchanges == 1 + 4 * 6
    assert "every operator's tensor is exchanged: 1.3" in reasons["tensor"]


def test_reasons_name_cuts_codecs_and_what_comes_back() -> None:
    graph, profile = model()
    slow_head = dataclasses.replace(profile, robot_s=np.array([0, 0.001, 0.06, 0.06, 0.06, 0.0, 0.0]))
    sizes = [{1: 2_000, 6: 5_000}.get(index, op.bytes) for index, op in enumerate(graph.ops)]
    narrow = Graph([dataclasses.replace(op, bytes=size) for op, size in zip(graph.ops, sizes, strict=True)], [6])
    costs = CostModel(narrow, slow_head, LinkCosts(8e6, 8e6, 0.001, 1.0))
    inner = pipeline(costs)
    assert inner.up == (1,) and inner.where == "both"
    reason = why(costs, inner, local(costs))
    assert "the robot computes 1 ms, cut behind 1 (conv1)" in reason
    assert "it goes on with 5 (mean)" in reason, "the head costs nothing there, and its answer is larger"
    assert "0.03 of the input's bytes go up" in reason
    coded = costs_at(8.0, TensorCosts("half", 0.5))
    assert "0.50 of the input's bytes go up; coded with half (not exact)" in why(coded, offload(coded), local(coded))
    exact = costs_at(8.0, TensorCosts("deflate", 0.6))
    assert "0.60 of the input's bytes go up; coded with deflate" in why(exact, offload(exact), local(exact))
    assert "an answer every" in why(exact, heavy_load(exact), local(exact))
    two = Graph([Op((), 64_000), Op((0,), 400)], [1])
    barrier = CostModel(two, Profile(np.array([0, 1.0]), np.array([0, 0.05])), costs.link)
    assert why(barrier, streamed(barrier), local(barrier)).endswith("cutting it into slabs would lose")


def test_the_table_of_changes_is_that_of_the_plans() -> None:
    costs = costs_at(8.0)
    plans = plan_table(streamed, costs, 0.1e6, 100e6)
    table = changes_table(plans, costs)
    assert table.numbers("from_mbps") == [pytest.approx(rate / 1e6) for rate in plans.from_bps]
    assert table.values("where")[0] == "robot" and table.values("cut")[-1] == "0 (image)"


def test_a_replay_measures_the_rate_and_keeps_a_deadline() -> None:
    table = replay_table(costs_at(1.0), LINK, deadline_s=0.3)
    assert table.distinct("method") == ["local", "offload", "pipeline", "streamed", "late start"]
    rows = {name: table.where(method=name) for name in table.distinct("method")}
    assert rows["local"].numbers("mean_ms") == [pytest.approx(252.0)] and rows["local"].numbers("by_server") == [0.0]
    assert rows["offload"].numbers("worst_ms")[0] > 2000 and rows["offload"].numbers("late")[0] > 10
    assert rows["late start"].numbers("late") == [0.0] and rows["late start"].numbers("worst_ms")[0] <= 300
    assert rows["late start"].numbers("mean_ms")[0] < rows["streamed"].numbers("mean_ms")[0]
    assert rows["streamed"].numbers("mean_ms")[0] < rows["pipeline"].numbers("mean_ms")[0] < 252
    plain = replay_table(costs_at(1.0), LINK, methods=("local",))
    assert "late" not in plain.columns and plain.distinct("method") == ["local", "late start"]
    # Without a deadline the robot waits for 260 ms, which is what it takes at the 99th percentile, and answers itself.
    assert plain.where(method="late start").numbers("worst_ms") == [pytest.approx(260 + 252)]
    with pytest.raises(ConfigError, match=r"expected at least 0\.26 s"):
        replay_table(costs_at(1.0), LINK, deadline_s=0.2)


def test_lines_of_a_table_are_aligned() -> None:
    table = why_table(costs_at(16.0))
    lines = table_lines(table, below="why")
    assert len(lines) == 1 + 2 * len(table.rows)
    assert {len(line) for line in lines[:2]} == {len(lines[0])}
    assert lines[2] == f"    {table.values('why')[0]}"
    head = lines[0]
    for line, value in zip(lines[1::2], table.numbers("latency_ms"), strict=True):
        assert line[: head.index("latency_ms") + len("latency_ms")].endswith(f" {value:.4g}")
    assert len(table_lines(table)) == 1 + len(table.rows)


# -- figures -------------------------------------------------------------------------------------------------


def test_the_bars_of_a_plan_end_with_its_latency() -> None:
    for tensors in ((), (TensorCosts("deflate", 0.6, 1e-8, 1e-8),)):
        costs = costs_at(16.0, *tensors)
        for planner in (local, offload, pipeline, streamed):
            plan = planner(costs)
            spans = plan_spans(costs, plan)
            assert max(span.end_s for span in spans) == pytest.approx(plan.latency_s)
            busy = sum(span.end_s - span.start_s for span in spans if span.lane == "server")
            assert busy == pytest.approx(plan.server_s)
    held_up = plan_spans(costs_at(16.0), offload(costs_at(16.0)), LINK, start_s=9.99)
    assert max(span.end_s for span in held_up) > 2.0
    with pytest.raises(LocalProtocolError, match="one input, got tensor"):
        plan_spans(costs_at(16.0), tensor(costs_at(16.0)))


def test_figures_are_written(tmp_path: Path) -> None:
    costs = costs_at(16.0)
    table = rates_table(costs, np.geomspace(1e6, 1e8, 5).tolist())
    draw_rates(table, tmp_path / "rates.png", "a model", LINK)
    draw_rates(table, tmp_path / "plain.png", "a model")
    draw_inference(
        {name: plan_spans(costs, PLANNERS[name](costs, LATENCY)) for name in ("local", "streamed")},
        tmp_path / "inference.png",
        "one inference",
    )
    for name in ("rates", "plain", "inference"):
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(PNG) and len(content) > 10_000


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    with pytest.raises(ConfigError, match="no rates to draw"):
        draw_rates(rates_table(costs_at(1.0), []), out, "nothing")
    with pytest.raises(ConfigError, match="no part of an inference"):
        draw_inference({"empty": []}, out, "nothing")
    with pytest.raises(ConfigError, match="expected a lane of robot, link up, server, link down, got 'moon'"):
        draw_inference({"a": [("moon", "compute", 0.0, 1.0)]}, out, "x")
    for start, end in ((0.0, math.inf), (1.0, 0.5), (-1.0, 0.0)):
        with pytest.raises(ConfigError, match="expected 0 <= start <= end"):
            draw_inference({"a": [LaneSpan("robot", "compute", start, end)]}, out, "x")
    assert not out.exists()


# -- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def rowcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with running(monkeypatch, capsys, "split") as run:
        yield run


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "model.json"
    save_profile(path, *model())
    return path


def test_the_command_prints_tables_and_writes_figures(rowcast: Run, profile: Path, tmp_path: Path) -> None:
    trace, out = tmp_path / "street.csv", tmp_path / "plans"
    trace.write_text("time_s,mbps\n0,20\n10,0\n12,40\n20,\n", encoding="utf-8")
    code, text, err = rowcast(
        *("plan", profile, "--trace", trace, "--codec", "deflate=0.6,10,6", "--deadline-ms", 300, "--out", out)
    )
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[0] == "model.json: 7 operators, 64 kB in, 0.4 kB out; robot 252 ms, server 42 ms"
    assert lines[1] == "street.csv: 26 Mbit/s on average, nothing passes 10 % of the time"
    assert [line.split(" (")[0] for line in lines if line.startswith("at ")] == ["at 20 Mbit/s", "at 40 Mbit/s"]
    assert "(50 % of the time the link is as slow or slower)" in text
    first = next(lines[at + 2 : at + 4] for at, line in enumerate(lines) if line.startswith("at 20"))
    assert first[0].startswith("streamed") and "; coded with deflate;" in first[1]
    assert lines[-2].startswith("late start") and lines[-2].endswith(" 0")
    assert lines[-1] == f"written to {out}: rates.png, rates.csv, inference.png, why.csv"
    assert all((out / name).read_bytes().startswith(PNG) for name in ("rates.png", "inference.png"))
    with (out / "why.csv").open(newline="") as stream:
        assert {row["method"] for row in csv.DictReader(stream)} == set(PLANNERS)


def test_the_command_takes_profiles_of_links_objectives_and_inner_codecs(rowcast: Run, profile: Path) -> None:
    code, text, err = rowcast(
        *("plan", profile, "--trace", "constant:1", "--objective", "energy", "--inner-codec", "half=0.5")
    )
    assert (code, err) == (0, "")
    assert "constant:1 [0,60]s: 1 Mbit/s on average, nothing passes 0 % of the time" in text
    assert "at 1 Mbit/s (5 % and 50 % and 95 % of the time" in text
    first = text.splitlines()[5:7]
    assert first[0].startswith(("streamed", "pipeline")) and "; coded with half (not exact);" in first[1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--codec", "deflate"], "--codec: expected NAME=RATIO or NAME=RATIO,ENCODE,DECODE"),
        (["--codec", "deflate=0.6,1"], "as in deflate=0.6, got 'deflate=0.6,1'"),
        (["--inner-codec", "half=much"], "--inner-codec: expected NAME=RATIO"),
        (["--codec", "deflat=0.6"], "deflat"),
        (["--codec", "deflate=0"], "ratio: expected a number above 0, got 0"),
        (["--objective", "speed"], "objective: expected 'latency', 'energy' or"),
        (["--trace", "constant:0"], "nothing ever passes"),
        (["--trace", "nowhere.csv"], "nowhere.csv"),
        (["--deadline-ms", "100"], "expected at least 0.26 s"),
    ],
)
def test_bad_input_is_one_line(rowcast: Run, profile: Path, words: list[str], complaint: str) -> None:
    code, _, err = rowcast("plan", profile, *words)
    assert code == ExitCode.USAGE and err.count("\n") == 1
    assert complaint in err


def test_a_file_that_is_no_profile_is_named(rowcast: Run, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}", encoding="utf-8")
    code, _, err = rowcast("plan", path)
    assert code == ExitCode.USAGE and "other.json: expected a file with" in err
