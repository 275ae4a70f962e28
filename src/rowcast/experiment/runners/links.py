"""The links of a run: the trace of each robot in each direction, the delays, and what of them is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from rowcast.errors import ConfigError
from rowcast.experiment.cell import Cell, batch_size
from rowcast.experiment.devices import parse_devices, place_in_recording
from rowcast.links import PROFILES, Trace, load_team, named_trace, parse_wide_area, save_csv
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.tasks import Task

__all__ = ["delays_of", "model_bytes", "save_links", "traces_of", "with_best"]

#: Length of a synthetic trace (s); it starts again when it is over.
_TRACE_S = 3600.0


def traces_of(cell: Cell, task: Task, model: nn.Module) -> list[tuple[Trace, Trace]]:
    """The trace of each robot, up and down, scaled to the model: by its bytes, or to the ratio of the cell.

    A transfer is to take as long as the robots saw with whom the links were recorded, whatever is trained.

    Raises:
        ConfigError: a trace without any capacity is to have a best rate.
    """
    shapes = [(name, tuple(value.shape)) for name, value in model.named_parameters() if value.requires_grad]
    size = model_bytes(Layout.from_shapes(shapes))
    pairs = [(_link(cell, index, 0), _link(cell, index, 1)) for index in range(cell.workers)]
    if cell.ratio is None:
        scale = size / task.reference_bytes
        return [(up.scaled(scale), down.scaled(scale)) for up, down in pairs]
    times = parse_devices(cell.devices)
    batch = batch_size(type(task), cell.options(), cell.devices) if times.by_samples else None
    devices = times.team(cell.workers, cell.seed, batch=batch)
    best = [8 * size / (cell.ratio * device.median_s) for device in devices]
    return [(with_best(up, bps), with_best(down, bps)) for (up, down), bps in zip(pairs, best, strict=True)]


def with_best(trace: Trace, best_bps: float) -> Trace:
    """A trace scaled so that its best rate is this.

    Raises:
        ConfigError: it has no capacity at all.
    """
    best = float(trace.rates_bps.max())
    if best <= 0:
        raise ConfigError(f"link {trace.name!r}: a trace without any capacity cannot be scaled to a best rate")
    return trace.scaled(best_bps / best)


def delays_of(cell: Cell) -> dict[str, float]:
    """One way (s), by the name of the robot; nothing where links have no delay."""
    wide = parse_wide_area(cell.links)
    return {} if wide is None else {f"robot-{index}": wide.delay_s(index) for index in range(cell.workers)}


def model_bytes(layout: Layout) -> int:
    """Encoded bytes of a model in the code of the published policies."""
    return int(parse_policy("bsp").row_codec.row_bytes(layout).sum())


def save_links(traces: Sequence[tuple[Trace, Trace]], delays: Mapping[str, float], folder: Path) -> None:
    """Write the traces that are in force, and whose they are; of links with a delay also that."""
    names: dict[str, dict[str, str | float]] = {}
    for index, pair in enumerate(traces):
        names[f"robot-{index}"] = {}
        if f"robot-{index}" in delays:
            names[f"robot-{index}"]["delay_s"] = delays[f"robot-{index}"]
        for way, trace in zip(("up", "down"), pair, strict=True):
            if trace.duration_s == float("inf"):
                trace = trace.cut(0, _TRACE_S)
            file = f"link-{index}-{way}.csv"
            save_csv(trace, folder / file)
            names[f"robot-{index}"][way] = file
    try:
        (folder / "links.json").write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error


def _link(cell: Cell, index: int, way: int) -> Trace:
    """The trace of one robot in one direction (0 up, 1 down).

    A profile gives each its own. A recorded trace is one for all, so each enters it at another moment: evenly apart,
    and further on with each seed. Traces of a folder were recorded together and stay so: all are entered at the same
    moment, which is their start for seed 0; both directions have the same. Robots that share one of them enter it
    evenly apart. Links between cities are the same in both directions.
    """
    if (wide := parse_wide_area(cell.links)) is not None:
        return wide.trace(index)
    if Path(cell.links).is_dir():
        team = load_team(cell.links)
        trace = team[index % len(team)]
        turns = -(-cell.workers // len(team))  # robots that share a trace
        place = place_in_recording(index // len(team), turns, cell.seed)
        return trace.shifted(place * trace.duration_s) if trace.loop else trace
    trace = named_trace(cell.links, (cell.seed, index, way), _TRACE_S)
    if cell.links in PROFILES or not trace.loop:
        return trace
    return trace.shifted(place_in_recording(2 * index + way, 2 * cell.workers, cell.seed) * trace.duration_s)
