"""A meter beside a training: figures of its power and energy, and what becomes of one that fails."""

from __future__ import annotations

import logging
import queue
from pathlib import Path
from types import SimpleNamespace

import pytest

from jetson_trees import BOARDS, write_tree
from live import LAYOUT, LIMIT_S, LiveServer, eventually
from rowcast.cli.display import plain
from rowcast.cli.train import _Talk
from rowcast.drivers.metering import metered
from rowcast.drivers.sockets import Endpoint, Security, Team
from rowcast.energy import CounterMeter, Ina3221, PowerMeter, register
from rowcast.energy.live import LiveEnergy, Told
from rowcast.energy.opening import REGISTRY
from rowcast.errors import ConfigError, LinkLost, MeterError
from rowcast.experiment import Progress, RobotSettings, run_robot
from rowcast.journal import Journal, read_journal
from rowcast.metric import Metric
from rowcast.page import Team as PageTeam
from rowcast.training.member import MemberStatus

AGX_ORIN = BOARDS[1]


class Listed(PowerMeter):
    """Gives the Watts of a list, then climbs from the last; an error in it is raised."""

    name = "listed"
    source = "a list"

    def __init__(self, *watts: float | MeterError) -> None:
        super().__init__()
        self._coming = list(watts)
        self.reads = 0
        self.closed = False

    def watts(self) -> float:
        self.reads += 1
        if len(self._coming) > 1:
            found = self._coming.pop(0)
        else:
            found = self._coming[0]
            assert not isinstance(found, MeterError)
            found += 0.001 * self.reads
        if isinstance(found, MeterError):
            raise found
        return found

    def close(self) -> None:
        self.closed = True


class Counted(CounterMeter):
    name = "counted"
    source = "a counter"

    def __init__(self) -> None:
        super().__init__()
        self.joules = 100.0

    def count_j(self) -> float:
        return self.joules


def test_power_is_the_mean_between_two_figures() -> None:
    live = LiveEnergy(Listed(10.0, 20.0, 30.0, 30.0, 10.0, 10.0), every_s=1.0)
    assert live.sample(5.0) == Told({}, "a list")
    assert live.sample(5.5) is None
    assert live.sample(6.0) == Told({"power_w": 20.0, "energy_j": 20.0})  # 15 W and 25 W, for half a second each
    assert live.sample(6.9) is None
    assert live.sample(7.0) == Told({"power_w": pytest.approx(29.0), "energy_j": pytest.approx(49.0)})


def test_a_counter_gives_power_as_well() -> None:
    meter = Counted()
    live = LiveEnergy(meter)
    assert live.sample(0.0) == Told({}, "a counter")
    meter.joules = 115.0
    assert live.sample(2.0) == Told({"power_w": 7.5, "energy_j": 15.0})


def test_a_meter_that_fails_is_told_once_and_read_on() -> None:
    broken = MeterError("meter listed: no more")
    live = LiveEnergy(Listed(10.0, 10.1, broken, broken, 10.0, 10.1, broken, 12.0, 12.1, 20.0))
    live.sample(0.0)
    assert live.sample(1.0) == Told({"power_w": pytest.approx(10.05), "energy_j": pytest.approx(10.05)})
    assert live.sample(2.0) == Told({"power_w": 0.0}, "meter listed: no more", trouble=True)
    assert live.sample(3.0) is None
    told = live.sample(4.0)
    assert told is not None and told.happened.startswith("meter listed reads again") and not told.trouble
    told = live.sample(5.0)
    # What was taken from 1 s to 4 s is in no figure.
    assert told is not None and told.figures == pytest.approx({"power_w": 10.05, "energy_j": 20.1})
    assert live.sample(6.0) == Told({"power_w": 0.0})  # the second time in silence
    assert live.sample(7.0) is None
    told = live.sample(8.0)
    assert told is not None and told.figures == pytest.approx({"power_w": 12.05, "energy_j": 32.15})


def test_a_rail_that_vanishes_while_it_trains(tmp_path: Path) -> None:
    rails = write_tree(tmp_path, AGX_ORIN, (1, 2))
    folder, k = rails["VDD_CPU_CV"]
    current = folder / f"curr{k}_input"
    live = LiveEnergy(Ina3221(tmp_path))
    live.sample(0.0)
    current.write_text("48\n")
    told = live.sample(1.0)
    assert told is not None and told.figures["power_w"] == pytest.approx(AGX_ORIN.watts + 12.008 * 0.004)
    current.unlink()
    told = live.sample(2.0)
    assert told is not None and told.trouble and "curr2_input" in told.happened and told.figures == {"power_w": 0.0}
    assert [live.sample(now) for now in (3.0, 4.0, 5.0)] == [None, None, None]
    current.write_text("40\n")
    told = live.sample(6.0)
    assert told is not None and "reads again" in told.happened


class Heard:
    """What of a team is needed; what it is told goes into a queue."""

    name = "robot-1"

    def __init__(self, gone: bool = False) -> None:
        self.told: queue.Queue[object] = queue.Queue()
        self._gone = gone

    def report(self, **metrics: float) -> None:
        if self._gone:
            raise LinkLost("the server is gone")
        self.told.put(metrics)

    def note(self, what: str, detail: str) -> None:
        self.told.put((what, detail))


def test_a_thread_reads_and_tells(caplog: pytest.LogCaptureFixture) -> None:
    team = Heard()
    broken = MeterError("meter listed: the bus is gone")
    with metered(team, Listed(5.0, 5.1, 5.2, broken, 5.0), read_every_s=0.001, tell_every_s=0.0):
        told = [team.told.get(timeout=LIMIT_S) for _ in range(5)]
    assert told[0] == ("energy", "a list")
    assert all(set(figures) == {"power_w", "energy_j"} for figures in told[1:3])  # type: ignore[arg-type]
    assert told[3] == ("energy", "meter listed: the bus is gone") and told[4] == {"power_w": 0.0}
    assert [record.getMessage() for record in caplog.records] == ["robot-1: meter listed: the bus is gone"]


def test_a_team_that_is_gone_ends_the_reading(caplog: pytest.LogCaptureFixture) -> None:
    meter = Listed(5.0)
    with metered(Heard(gone=True), meter, read_every_s=0.001, tell_every_s=0.0):
        eventually(lambda: caplog.records)
    assert "its energy is not told any longer: the server is gone" in caplog.text and meter.reads == 2


def test_figures_are_in_the_journal_at_the_server_and_on_the_page(caplog: pytest.LogCaptureFixture) -> None:
    """A worker's meter, real sockets: its own journal, the server's display, and what the page makes of either."""
    caplog.set_level(logging.ERROR)
    with LiveServer(expected_workers=1) as server:
        journal = Journal("robot-1")
        team = Team(Endpoint("127.0.0.1", server.port, Security()), name="robot-1", journal=journal)
        team.start(LAYOUT, LAYOUT.zeros())
        with metered(team, Listed(7.5), read_every_s=0.01, tell_every_s=0.02):
            members = server.node.members
            seen = eventually(lambda: members["robot-1"].metrics.get("energy_j"))
        team.leave()
    assert seen > 0
    page = PageTeam()
    for record in journal.records:
        page.take(record)
    assert page.robots["robot-1"].metrics["power_w"] == pytest.approx(7.5, rel=0.2)
    assert page.robots["robot-1"].metrics["energy_j"] > 0
    assert any(line.text == "energy: a list" for line in page.log)


def test_the_page_shows_no_power_of_a_meter_that_fails() -> None:
    page = PageTeam()
    for t, value in ((1.0, 7.5), (2.0, 0.0)):
        page.take({"t": t, "node": "server", "event": "told", "peer": "r-1", "metrics": {"power_w": value, "loss": 1}})
        assert page.robots["r-1"].metrics == ({"power_w": 7.5, "loss": 1.0} if value else {"loss": 1.0})
    assert page.robots["r-1"].curves["metric/power_w"].total == 1


@pytest.fixture
def own_meter():
    made: list[Listed] = []

    def make(sys_root: Path) -> Listed:
        made.append(Listed(7.5))
        return made[-1]

    register("bench", make)
    yield made
    del REGISTRY._entries["bench"]


def test_a_robot_with_a_meter(own_meter: list[Listed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rowcast.experiment.robot._warm_up", lambda robot, settings: None)
    monkeypatch.setattr("rowcast.drivers.metering.READ_EVERY_S", 0.01)
    path = tmp_path / "robot.jsonl"
    with LiveServer(expected_workers=1) as server:
        address = f"127.0.0.1:{server.port}"
        options = {"pretrain_epochs": 0}
        run_robot(
            RobotSettings(
                address, steps=3, pace_s=0.8, test_items=20, journal=path, meter="bench", task_options=options
            )
        )
    records = list(read_journal(path))
    (noted,) = (record for record in records if record["event"] == "task")
    assert (noted["what"], noted["detail"]) == ("energy", "a list")
    watts = [record["value"] for record in records if record["event"] == "metric" and record["name"] == "power_w"]
    assert watts and all(7.0 < each < 10.0 for each in watts)
    (meter,) = own_meter
    assert meter.closed


def test_a_meter_that_is_none_is_said_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rowcast.experiment.robot.load_robot", lambda settings: None)
    for kind, error, says in (
        ("model", ConfigError, "expected a sensor, got 'model'"),
        ("rappl", ConfigError, "did you mean 'rapl'"),
        ("ina3221", MeterError, "is this a Jetson.*; or leave --meter out"),
        ("jetson", MeterError, "no power sensor works here.*; or leave --meter out"),
    ):
        with pytest.raises(error, match=says) as refused:
            run_robot(RobotSettings(meter=kind))
        assert "\n" not in str(refused.value)


def test_the_terminal_shows_the_power(capsys: pytest.CaptureFixture[str]) -> None:
    """In the lines of a robot; in the table of a server it is no metric of the task."""
    figures = {"power_w": 7.52, "energy_j": 90.0, "accuracy": 61.0}
    robot = SimpleNamespace(name="robot-1", address="a server", node=SimpleNamespace(metrics=figures))
    for power_w, shown in ((7.52, True), (0.0, False)):
        figures["power_w"] = power_w
        talk = _Talk(quiet=False)
        talk.joined(robot)  # type: ignore[arg-type]
        talk.progress(Progress(12, 0.5, (Metric("accuracy", unit="%"),), {"accuracy": 61.0}, 3.0))
        assert (", 7.5 W, rows sent" in capsys.readouterr().out) == shown
    line = MemberStatus("robot-1", "computing", 12, 0, 0.0, figures)
    assert "step 12, 61" in plain("team", [line])
    assert "90" not in plain("team", [line])
