"""What a task may do beside training: a clock, links of its own size, events, exhibits, a pace."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import torch
import typer
from rich.console import Console

from commands import Run, running
from live import LIMIT_S, LiveServer, python
from rowcast.cli.display import plain, team_table
from rowcast.cli.options import TaskCommand, options_from
from rowcast.config import Checked, setting
from rowcast.drivers.virtual import VirtualWorker
from rowcast.errors import ConfigError
from rowcast.exhibits import Picture, Plan, load_exhibits
from rowcast.experiment import Comparison, DemoSettings, RobotSettings, run_comparison, run_demo, run_robot
from rowcast.experiment.runners.links import model_bytes
from rowcast.experiment.starting import CACHE_VARIABLE
from rowcast.journal import read_journal
from rowcast.links import load_trace, named_trace
from rowcast.rows import Layout
from rowcast.tasks import TaskWorker, build_task, load_task
from rowcast.testing import check_task
from rowcast.training.member import MemberStatus
from showing_task import HEIGHT, WIDTH

SHOWING = f"{Path(__file__).parent / 'showing_task.py'}:Showing"
SMALL = Comparison(
    task=SHOWING, policies=("bsp",), seeds=1, hours=30 / 3600, eval_every_s=10.0, workers=(2,), devices=("1.5",)
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sums in the same order each time, and no cache of whoever runs the tests."""
    monkeypatch.setenv(CACHE_VARIABLE, "off")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compared(out: Path, **changes: Any) -> Path:
    """The folder of the only run of a comparison."""
    (cell,) = run_comparison(Comparison(**{**vars(SMALL), **changes}), out, jobs=0)
    return out / "cells" / cell.name


def test_the_task_conforms() -> None:
    check_task(load_task(SHOWING), steps=20)


# -- the clock ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[float]]:
    """What the clock of each worker says when it computes."""
    found: dict[int, list[float]] = {}
    compute_on = TaskWorker.compute_on

    def watched(worker: TaskWorker, batch: Any) -> float:
        found.setdefault(worker.index, []).append(worker.clock())
        return compute_on(worker, batch)

    monkeypatch.setattr(TaskWorker, "compute_on", watched)
    return found


def test_in_virtual_time_the_clock_is_that_of_the_worker(tmp_path: Path, seen: dict[int, list[float]]) -> None:
    folder = compared(tmp_path)
    for index, times in seen.items():
        records = [json.loads(line) for line in (folder / f"robot-{index}.jsonl").read_text().splitlines()]
        ends = [record["t"] for record in records if record["event"] == "step"]
        # A gradient is computed where the step before has ended; the run goes on for a moment after its last.
        assert times[0] == 0.0 and times[1 : len(ends) + 1] == pytest.approx(ends, abs=1e-5)
    assert set(seen) == {0, 1} and len(seen[0]) > 5


def test_a_robot_has_real_seconds_since_its_first_step(seen: dict[int, list[float]]) -> None:
    with LiveServer("bsp", expected_workers=1) as server:
        told: list[float] = []
        settings = RobotSettings(server=f"127.0.0.1:{server.port}", task=SHOWING, steps=3, pace_s=0.05, eval_every=0)
        run_robot(settings, progress=lambda progress: told.append(progress.passed_s))
    began, *later = seen[0]
    assert 0.0 <= began < told[0] <= later[0] < told[1] <= later[1] < told[2]


# -- links -------------------------------------------------------------------------------------------------------------


def test_links_are_scaled_by_what_the_task_says_they_were_recorded_with(tmp_path: Path) -> None:
    folder = compared(tmp_path, hours=5 / 3600)
    assert build_task(SHOWING).reference_bytes == 1_000
    scale = model_bytes(Layout.from_shapes([("weight", (HEIGHT, WIDTH))])) / 1_000
    expected = named_trace("outdoor", (0, 0, 0), 3600.0).scaled(scale)
    found = load_trace(folder / "link-0-up.csv")
    assert [found.rate(time) for time in (0.0, 7.0, 99.0)] == pytest.approx(
        [expected.rate(time) for time in (0.0, 7.0, 99.0)], rel=1e-3
    )


# -- events ------------------------------------------------------------------------------------------------------------


def events(journal: Path, name: str = "task") -> list[dict[str, Any]]:
    return [record for record in read_journal(journal) if record["event"] == name]


def test_what_happened_is_in_the_journal_at_its_time(tmp_path: Path) -> None:
    """A frame each 4 s, told after the first step that ends behind it; what is left at the end is told there."""
    folder = compared(tmp_path)
    for index in (0, 1):
        journal = folder / f"robot-{index}.jsonl"
        ends = [step["t"] for step in events(journal, "step")]
        found = events(journal)
        assert [event["detail"] for event in found] == [f"number {k}, due at {4 * k:.2f} s" for k in range(1, 8)]
        assert {event["what"] for event in found} == {"frame"}
        for k, event in enumerate(found, start=1):
            assert event["t"] == pytest.approx(min([end for end in ends if end >= 4 * k], default=30.0), abs=1e-5)
            assert event["iteration"] == sum(end <= event["t"] for end in ends)


def test_a_robot_tells_events_too(tmp_path: Path) -> None:
    with LiveServer("bsp", expected_workers=1) as server:
        settings = RobotSettings(
            server=f"127.0.0.1:{server.port}",
            task=SHOWING,
            task_options={"frame_every_s": 0.1},
            steps=4,
            pace_s=0.1,
            journal=tmp_path / "robot.jsonl",
        )
        run_robot(settings)
    found = events(tmp_path / "robot.jsonl")
    assert [event["detail"].partition(",")[0] for event in found][:3] == ["number 1", "number 2", "number 3"]
    assert [event["iteration"] for event in found] == sorted(event["iteration"] for event in found)


@pytest.mark.parametrize("wrong", ["[('lost',)]", "['lost']", "[('lost', 3)]"])
def test_what_is_no_event_is_refused(tmp_path: Path, wrong: str) -> None:
    path = changed(tmp_path, "        return told", f"        return {wrong}")
    with pytest.raises(ConfigError, match="task Showing: happened: expected pairs of texts, what and a detail"):
        compared(tmp_path / "out", task=str(path))


def changed(folder: Path, old: str, new: str) -> str:
    """The task with a text replaced, in a file of its own."""
    text = Path(SHOWING.rpartition(":")[0]).read_text()
    assert text.count(old) == 1
    path = folder / "changed.py"
    path.write_text(text.replace(old, new))
    return f"{path}:Showing"


# -- exhibits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["bsp", "rog:4", "rowcast", "localsgd:3"])
def test_at_the_end_a_worker_shows_its_replica(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    """Not what the model holds in the middle of the step in which the time is over."""
    replicas: dict[str, Any] = {}
    stop = VirtualWorker.stop

    def watched(worker: VirtualWorker) -> None:
        replicas[worker.name] = worker.replica.copy().reshape(HEIGHT, WIDTH)
        stop(worker)

    monkeypatch.setattr(VirtualWorker, "stop", watched)
    folder = compared(tmp_path, policies=(policy,))
    local = policy.startswith("localsgd")  # then a replica has own steps of the round that is under way
    for name, replica in replicas.items():
        true, found, colours, plan = load_exhibits(folder / f"{name}.exhibits.npz")
        assert isinstance(true, Picture) and isinstance(found, Picture) and isinstance(plan, Plan)
        assert true.reference and not found.reference and isinstance(colours, Picture) and colours.row == 1
        assert np.isfinite(found.pixels).mean() > 0.9 and np.abs(replica).max() > 0.5
        np.testing.assert_allclose(np.nan_to_num(found.pixels), replica, atol=0.1 if local else 1e-6, rtol=0.0)
        assert plan.cells is not None and len(plan.cells.corners) == HEIGHT * WIDTH / 2
    assert set(replicas) == {"robot-0", "robot-1"}


def test_the_same_run_shows_the_same(tmp_path: Path) -> None:
    first, again = (compared(tmp_path / name, hours=10 / 3600) for name in ("first", "again"))
    for name in ("robot-0.exhibits.npz", "robot-1.exhibits.npz", "robot-0.jsonl", "server.jsonl"):
        assert (first / name).read_bytes() == (again / name).read_bytes(), name


def test_a_robot_shows_what_it_has_at_the_end(tmp_path: Path) -> None:
    """Beside its journal; what a run before has left there goes where there is nothing to show."""
    journal, path = tmp_path / "mine.jsonl", tmp_path / "mine.exhibits.npz"
    silent = changed(tmp_path, "    def exhibits(", "    def not_exhibits(")
    for task, shows in ((SHOWING, True), (silent, False)):
        with LiveServer("rowcast", expected_workers=1) as server:
            run_robot(RobotSettings(server=f"127.0.0.1:{server.port}", task=task, steps=20, journal=journal))
            shared = server.node.parameters.reshape(HEIGHT, WIDTH)
        assert path.exists() == shows
        if shows:
            found = load_exhibits(path)[1]
            assert isinstance(found, Picture)
            np.testing.assert_allclose(np.nan_to_num(found.pixels), shared, atol=2e-6)


def test_a_run_that_is_interrupted_shows_nothing_of_the_one_before(tmp_path: Path) -> None:
    journal = tmp_path / "mine.jsonl"
    (tmp_path / "mine.exhibits.npz").write_bytes(b"of a run before")

    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    with LiveServer("bsp", expected_workers=1) as server, pytest.raises(KeyboardInterrupt):
        settings = RobotSettings(server=f"127.0.0.1:{server.port}", task=SHOWING, steps=5, journal=journal)
        run_robot(settings, progress=interrupted)
    assert events(journal, "step") and not (tmp_path / "mine.exhibits.npz").exists()


def test_what_no_report_could_show_is_refused_with_the_name_of_the_task(tmp_path: Path) -> None:
    task = changed(tmp_path, '"Its colours", colours,', '"Its colours", colours / 2,')
    with pytest.raises(ConfigError, match=r"task Showing: exhibits: colours: pixels: expected float32 .* got float64"):
        compared(tmp_path / "out", task=task, hours=5 / 3600)


# -- the demo ----------------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_a_demo_tells_and_shows_what_the_task_does(tmp_path: Path) -> None:
    task = changed(tmp_path, "NEAR = (0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.025)", "NEAR = ()")
    words = ("--task", task, "--policies=bsp", "--workers=1", "--seconds=1", "--pace=0.1", "--trace=constant:10")
    more = ("--set", "lr=0.25", "--set", "ratio=0.02")  # the model is small beside what is around it
    process = python("-m", "rowcast", "demo", *words, *more, "--out", tmp_path)
    printed, err = process.communicate(timeout=6 * LIMIT_S)
    assert process.returncode == 0, printed + err
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["task_options"] == {"lr": 0.25, "frame_every_s": 0.4}
    assert summary["settings"]["task_options"] == {"lr": 0.25}
    found = events(tmp_path / "bsp" / "robot-0.jsonl")
    assert found[0]["detail"] == "number 1, due at 0.40 s"
    assert re.search(r"bsp: the task told \d+ x frame; the first: robot-\d at \d s, frame: number 1", printed)
    pictures = [tmp_path / f"exhibits-{name}.png" for name in ("pictures", "top")]
    assert f"what the replicas show at the end: {pictures[0]}, {pictures[1]}" in printed
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    shown = load_exhibits(tmp_path / "bsp" / "robot-0.exhibits.npz")
    assert [item.name for item in shown] == ["grid", "grid", "colours", "top"]


@pytest.mark.parametrize(("given", "every_s"), [({}, 0.6), ({"frame_every_s": 0.25}, 0.25)], ids=["pace", "own"])
def test_a_demo_keeps_pace_with_the_clock_of_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], every_s: float
) -> None:
    """Four steps of the pace a frame, unless the user says when."""
    told: list[tuple[DemoSettings, Any]] = []
    monkeypatch.setattr(
        "rowcast.experiment.demo._run_all", lambda settings, out, observer, task, code: told.append((settings, task))
    )
    run_demo(DemoSettings(task=SHOWING, task_options={"lr": 0.25, **given}), tmp_path, None)  # type: ignore[arg-type]
    ((settings, task),) = told
    assert settings.task_options == {"lr": 0.25, "frame_every_s": every_s}
    assert (task.settings.lr, task.settings.frame_every_s) == (0.25, every_s)
    with pytest.raises(ConfigError, match="task Showing: unknown option 'frame_every'; did you mean 'frame_every_s'"):
        run_demo(DemoSettings(task=SHOWING, task_options={"frame_every": 1.0}), tmp_path, None)  # type: ignore[arg-type]


# -- the live display --------------------------------------------------------------------------------------------------

LIVE = {"localisation_error": 0.0291234, "trajectory_error": 0.123456, "share": 1.0, "rate_bps": 27.8e6}


def lines_of(streams: bool) -> list[MemberStatus]:
    fed = {"samples": 1024.0, "queued": 12345.0} if streams else {}
    return [
        MemberStatus("robot-10", "waiting", 1000, 10, 12.0, {**LIVE, **fed}),
        MemberStatus("robot-11", "computing", 0, 0, 0.0, {}),
    ]


@pytest.mark.parametrize("streams", [False, True])
def test_the_display_has_a_column_for_each_metric_that_is_shown(streams: bool) -> None:
    metrics = load_task(SHOWING).shown_metrics()
    table = team_table("rowcast", lines_of(streams), metrics)
    cells = {str(column.header).replace("-\n", "").replace("\n", "_"): list(column.cells) for column in table.columns}
    assert list(map(str, cells["localisation_error"])) == ["0.02912 m", "-"]
    assert list(map(str, cells["trajectory_error"])) == ["0.1235 m", "-"]
    assert ("queue" in cells) is ("batch" in cells) is streams
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text and "waiting 12 s" in text and "0.02912 m" in text
    assert ("localisation\n" in str(table.columns[2].header)) is not streams


def test_the_plain_line_names_the_metrics_where_there_are_several() -> None:
    metrics = load_task(SHOWING).shown_metrics()
    text = plain("rowcast", lines_of(False), metrics)
    assert "robot-10: step 1000, localisation_error 0.02912 m, trajectory_error 0.1235 m, 27.8 Mbit/s" in text
    assert "robot-11: step 0, localisation_error -, trajectory_error -, - Mbit/s" in text
    assert "robot-10: step 1000, 0.02912 m, 27.8 Mbit/s" in plain("rowcast", lines_of(False), metrics[:1])


def test_without_a_choice_the_primary_metric_is_shown(tmp_path: Path) -> None:
    task = changed(tmp_path, '    shown = ("localisation_error", "trajectory_error")\n', "")
    assert [metric.name for metric in load_task(task).shown_metrics()] == ["localisation_error"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"trajectory_error")', '"trajectory_eror")', "shown: 'trajectory_eror' is none of its metrics; did you mean"),
        ('("localisation_error", "trajectory_error")', '"ate"', "shown: expected names of metrics, as in"),
        ('("localisation_error", "trajectory_error")', "(3,)", "shown: 3 is none of its metrics"),
        ("reference_bytes = 1_000", "reference_bytes = 0", "reference_bytes: expected a whole number above 0, got 0"),
        ("reference_bytes = 1_000", "reference_bytes = 1e3", "reference_bytes: expected a whole number above 0"),
    ],
)
def test_a_task_that_names_what_it_has_not_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        load_task(changed(tmp_path, old, new))


# -- options on the command line ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Own(Checked):
    """Settings that are found when the command runs."""

    shift: float = setting(0.0, "A number.", low=-10.0, high=10.0)
    shuffle: bool = setting(True, "A switch.")
    quick_start: bool = setting(False, "Another one.")
    name: str = setting("", "A text.")


@dataclass(frozen=True)
class Fixed(Checked):
    """Settings that are known."""

    seconds: float = setting(1.0, "Time.", low=0.0, high=9.0, flag="--seconds")
    loud: bool = setting(False, "A switch.", flag="--loud")


def given(*words: str) -> tuple[Own, Fixed]:
    """What a command makes of its words."""
    found = []
    app = typer.Typer()

    @options_from(own=lambda _: Own, fixed=Fixed)
    def command(own: Own, fixed: Fixed, places: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        found.append((own, fixed, places))

    app.command(cls=TaskCommand)(command)
    app(list(words), standalone_mode=False)
    ((own, fixed, places),) = found
    assert places in (None, []) or places == list(words)[-len(places) :]
    return own, fixed


@pytest.mark.parametrize(
    ("words", "own", "fixed"),
    [
        ((), Own(), Fixed()),
        (("--shift", "-2.5", "--seconds", "3"), Own(shift=-2.5), Fixed(seconds=3.0)),
        (("--shift=-0.5", "--seconds=3", "--loud"), Own(shift=-0.5), Fixed(seconds=3.0, loud=True)),
        (("--no-shuffle", "--quick-start", "--no-loud"), Own(shuffle=False, quick_start=True), Fixed()),
        (("--quick-start", "--seconds", "3"), Own(quick_start=True), Fixed(seconds=3.0)),
        (("--set", "shift=1", "--shift", "2"), Own(shift=2.0), Fixed()),
        (("--name", "a=b", "--", "--shift", "x"), Own(name="a=b"), Fixed()),
        (("--name=--shift", "place"), Own(name="--shift"), Fixed()),
    ],
)
def test_a_setting_that_is_found_later_is_an_option(words: tuple[str, ...], own: Own, fixed: Fixed) -> None:
    assert given(*words) == (own, fixed)


def test_a_slip_in_an_option_is_told_apart() -> None:
    with pytest.raises(Exception, match=r"No such option: --second") as caught:
        given("--second", "3")
    assert hasattr(caught.value, "format_message")  # of the parser: wrong usage
    with pytest.raises(ConfigError, match="unknown setting 'shifft'; did you mean 'shift'"):
        given("--shifft", "3")


@pytest.fixture
def rowcast(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with running(monkeypatch, capsys) as run:
        yield run


def test_commands_take_the_options_of_a_task(rowcast: Run, tmp_path: Path) -> None:
    words = ("compare", "--task", SHOWING, "--policies", "bsp", "--seeds=1", "--workers=2", "--hours=0.002", "--jobs=0")
    code, _, err = rowcast(*words, "--lr", "0.25", "--frame-every-s=0.6", "--out", tmp_path)
    assert code == 0, err
    (done,) = tmp_path.glob("cells/*/done.json")
    assert json.loads(done.read_text())["cell"]["task_options"] == "frame_every_s=0.6; lr=0.25"
    for command in ("compare", "demo", "train"):
        code, _, err = rowcast(command, "--task", SHOWING, "--lrr", "0.25")
        assert code == 2 and "unknown setting 'lrr'; did you mean 'lr'" in err
        code, shown, _ = rowcast(command, "--help")
        assert "--lr 0.1 is" in " ".join(shown.split())
