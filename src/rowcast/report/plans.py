"""Tables of plans: what each method is predicted to take at which rate, and why it wins or loses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from rowcast.links import Trace
from rowcast.planning import (
    LATENCY,
    PLANNERS,
    Answers,
    ByRate,
    CostModel,
    LateStart,
    Objective,
    Plan,
    PlanTable,
    RateEstimator,
    local,
    overlap_bound_s,
    plan_table,
    replay,
)
from rowcast.report.table import Table, shown, table_of

__all__ = ["BOUND", "changes_table", "rates_table", "replay_table", "table_lines", "why", "why_table"]

#: The line of a figure that is no method.
BOUND = "bound"
#: Inferences of a replay: one so often (s).
EVERY_S = 0.1

Planner = Callable[[CostModel, Objective], Plan]


def rates_table(
    costs: CostModel,
    rates_bps: Iterable[float],
    objective: Objective = LATENCY,
    planners: Mapping[str, Planner] = PLANNERS,
) -> Table:
    """What each method is predicted to take at each rate of the link up, and what none can be faster than.

    Columns: method (:data:`BOUND` among them, without energy), mbps, latency_ms, energy_j, interval_ms, up_kb, down_kb.
    """
    rows: list[tuple[str | float | None, ...]] = []
    for rate in rates_bps:
        here = costs.at_rate(rate)
        for name, planner in planners.items():
            plan = planner(here, objective)
            sizes = plan.up_bytes / 1e3, plan.down_bytes / 1e3
            rows.append(
                (name, rate / 1e6, 1e3 * plan.latency_s, plan.energy_j, 1e3 * plan.interval_s, sizes[0], sizes[1])
            )
        rows.append((BOUND, rate / 1e6, 1e3 * overlap_bound_s(here), None, None, None, None))
    return table_of(("method", "mbps", "latency_ms", "energy_j", "interval_ms", "up_kb", "down_kb"), rows)


def why_table(costs: CostModel, objective: Objective = LATENCY, planners: Mapping[str, Planner] = PLANNERS) -> Table:
    """All methods at the rate of the model, best first, and why each is where it is.

    Columns: method, latency_ms, energy_j, robot_ms, link_ms and server_ms (how long each works), up_kb, down_kb,
    messages (tensors that travel), why.
    """
    plans = [planner(costs, objective) for planner in planners.values()]
    alone = local(costs, objective)
    rows = [
        (
            plan.method,
            1e3 * plan.latency_s,
            plan.energy_j,
            1e3 * plan.robot_s,
            1e3 * (plan.up_s + plan.down_s),
            1e3 * plan.server_s,
            plan.up_bytes / 1e3,
            plan.down_bytes / 1e3,
            float(messages(plan)),
            why(costs, plan, alone),
        )
        for plan in sorted(plans, key=objective.of)
    ]
    columns = "method latency_ms energy_j robot_ms link_ms server_ms up_kb down_kb messages why"
    return table_of(columns.split(), rows)


def messages(plan: Plan) -> int:
    """Tensors that travel; an all-reduce sends each twice, but for the inputs."""
    once = len(plan.up) + len(plan.down)
    return once + 2 * len(plan.down) if plan.method == "tensor" else once


def why(costs: CostModel, plan: Plan, alone: Plan) -> str:
    """Where a plan's latency comes from, in words.

    Args:
        costs: what it was made with.
        plan: a plan of one input.
        alone: the one that has all on the robot.
    """
    if plan.method == "tensor":
        saved_s = alone.robot_s - (plan.robot_s - plan.coding_s)
        return (
            f"every operator's tensor is exchanged: {_ms(plan.latency_s - plan.robot_s)} of link "
            f"to save {_ms(saved_s)} of computation"
        )
    if plan.method == "data" and plan.inputs == 1:
        return f"one input cannot be shared: all on the {plan.where}"
    words = [_place(costs, plan), *_travels(costs, plan)]
    if plan.slabs > 1:
        hidden_s = plan.robot_s + plan.up_s + plan.server_s + plan.down_s - plan.latency_s
        words.append(f"{plan.slabs} slabs of rows: {_ms(hidden_s)} overlap")
    elif plan.method == "streamed":
        words.append("cutting it into slabs would lose")
    if plan.method == "heavy load":
        words.append(f"an answer every {_ms(plan.interval_s)} where inputs never run out")
    return "; ".join(words)


def _place(costs: CostModel, plan: Plan) -> str:
    if plan.where == "robot":
        return "all on the robot, nothing travels"
    if plan.where == "server":
        return "all on the server"
    words = f"the robot computes {_ms(plan.robot_s - plan.coding_s)}, cut behind {_labels(costs, plan.up)}"
    if not set(plan.down) <= set(costs.graph.outputs):
        words += f"; it goes on with {_labels(costs, plan.down)}"
    return words


def _labels(costs: CostModel, ops: Sequence[int]) -> str:
    """The first few operators by name."""
    more = f" and {len(ops) - 3} more" if len(ops) > 3 else ""
    return ", ".join(map(costs.graph.label, ops[:3])) + more


def _travels(costs: CostModel, plan: Plan) -> list[str]:
    """What the link takes, how its bytes compare to those of the input, and how they are coded."""
    if not plan.up:
        return []
    link_s = plan.up_s + plan.down_s
    words = [f"the link is {100 * link_s / plan.latency_s:.0f} % of it" if plan.slabs == 1 else f"link {_ms(link_s)}"]
    whole = float(costs.bytes[list(costs.graph.inputs)].sum())
    if whole and round(plan.up_bytes / whole, 2) != 1.0:
        words.append(f"{plan.up_bytes / whole:.2f} of the input's bytes go up")
    coded = sorted({*plan.up_codecs, *plan.down_codecs} - {"raw"})
    if coded:
        words.append(f"coded with {', '.join(coded)}{'' if plan.exact else ' (not exact)'}")
    return words


def changes_table(table: PlanTable, costs: CostModel) -> Table:
    """Which plan from which rate on. Columns: from_mbps, where, cut, slabs, codecs, latency_ms."""
    rows = [
        (
            rate / 1e6,
            plan.where,
            _labels(costs, plan.up),
            float(plan.slabs),
            ", ".join(sorted({*plan.up_codecs, *plan.down_codecs} - {"raw"})),
            1e3 * plan.latency_s,
        )
        for rate, plan in zip(table.from_bps, table.plans, strict=True)
    ]
    return table_of(("from_mbps", "where", "cut", "slabs", "codecs", "latency_ms"), rows)


def replay_table(
    costs: CostModel,
    trace: Trace,
    objective: Objective = LATENCY,
    methods: Sequence[str] = ("local", "offload", "pipeline", "streamed"),
    deadline_s: float | None = None,
) -> Table:
    """What methods come to over one pass of a trace, an inference every 0.1 s, the rate measured on the way.

    Columns: method, mean_ms, p99_ms, worst_ms, energy_j, by_server (share of the answers), and with a deadline late
    (answers after it). The last line is ``late start``: streamed plans, and the robot's own answer at the deadline, or
    without one after twice what it takes.

    Raises:
        ConfigError: a deadline that the robot alone cannot keep.
        LocalProtocolError: a trace without end.
    """
    best_bps = trace.stats().best_bps
    inputs = [EVERY_S * k for k in range(max(1, int(trace.duration_s / EVERY_S)))]
    lines: list[tuple[str, Answers]] = []

    def run(name: str, method: str, late: LateStart | None) -> None:
        plans = plan_table(lambda at: PLANNERS[method](at, objective), costs, best_bps / 1000, best_bps)
        choose = ByRate(plans, RateEstimator(), late, costs.link.goodput)
        lines.append((name, replay(costs, trace, choose, inputs)))

    for method in methods:
        run(method, method, None)
    profile = costs.profile
    late_start = LateStart.without_deadline(profile) if deadline_s is None else LateStart.of(profile, deadline_s)
    run("late start", "streamed", late_start)
    rows = []
    for name, found in lines:
        latency_ms = sorted((1e3 * found.latency_s).tolist())
        p99 = latency_ms[int(0.99 * (len(latency_ms) - 1))]
        late = [] if deadline_s is None else [float(found.late(deadline_s))]
        shares = float(found.by_server.mean())
        rows.append((name, 1e3 * found.mean_s, p99, latency_ms[-1], found.mean_j, shares, *late))
    columns = ["method", "mean_ms", "p99_ms", "worst_ms", "energy_j", "by_server"]
    return table_of(columns if deadline_s is None else [*columns, "late"], rows)


def table_lines(table: Table, below: str | None = None) -> list[str]:
    """A table as lines of text, numbers at the right.

    Args:
        below: a column that is too wide for a terminal: it stands in a line of its own below each row.
    """
    kept = [place for place, name in enumerate(table.columns) if name != below]
    right = [all(not isinstance(row[place], str) for row in table.rows) for place in kept]
    texts = [list(table.columns), *([shown(value) for value in row] for row in table.rows)]
    widths = [max(len(row[place]) for row in texts) for place in kept]
    notes = ["", *(map(shown, table.values(below)) if below else [""] * len(table.rows))]
    lines = []
    for row, note in zip(texts, notes, strict=True):
        parts = (
            row[place].rjust(width) if at_right else row[place].ljust(width)
            for place, width, at_right in zip(kept, widths, right, strict=True)
        )
        lines.append("  ".join(parts).rstrip())
        if note:
            lines.append(f"    {note}")
    return lines


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"
