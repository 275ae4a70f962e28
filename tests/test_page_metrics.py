"""Metrics for Prometheus: what they say, that totals only grow, and who may read them."""

from __future__ import annotations

import re
import socket
import sys
from collections import defaultdict

import pytest
from hypothesis import given, settings

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'rowcast[metrics]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'rowcast[metrics]'")
pytest.importorskip("prometheus_client", reason="prometheus-client is not installed: pip install 'rowcast[metrics]'")

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from commands import running
from live import IMPATIENT, LAYOUT, LIMIT_S, LiveServer, Robot, eventually
from rowcast.cli import ExitCode
from rowcast.drivers.sockets import Endpoint, Security, Team
from rowcast.errors import ConfigError
from rowcast.journal import EVENTS, Journal, write_to
from rowcast.page import Live, PageAddress, Totals, Watch, page_server
from rowcast.page.metrics import STATES, Exposition
from rowcast.page.model import MOST_ROBOTS
from rowcast.training.watching import TeamWatch
from standby_processes import ServerProcess
from test_journal_hashes import LAYOUT as VIRTUAL
from test_page_app import TOKEN, get
from test_page_model import records
from test_page_watching import run


def live():
    return Live("a server", totals=Totals())


def samples(text):
    """Value of each series, by name and labels, and the type of each family."""
    found, kinds = {}, {}
    for family in parser.text_string_to_metric_families(text):
        kinds[family.name] = family.type
        for sample in family.samples:
            key = (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found, kinds


def told(source):
    """The same without HTTP, once all that waits was taken in."""
    exposition = Exposition(source, source.totals)
    with source.lock:
        while getattr(source, "_waiting", None):
            source.pump()
    return samples(exposition.answer("")[0].decode())[0]


def counters(found):
    return {key: value for key, value in found.items() if key[0].endswith("_total") and key[0].startswith("rowcast_")}


def event(t, what, peer="r-1", node="server", **fields):
    return {"t": t, "node": node, "event": what, **({} if peer is None else {"peer": peer}), **fields}


# -- what they say -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["rog:4", "rowcast:4", "bsp", "flown:3"])
def test_they_agree_with_the_journals(policy):
    """By the server's journal alone, they say what the robots' own journals say."""
    journals, _ = run(policy, 1.0)
    source = live()
    for record in journals["server"].records:
        source.take(record)
    found = told(source)
    sums = defaultdict(float)
    for record in journals["server"].records:
        if record["event"] == "push":
            sums["up", record["peer"]] += record["bytes"]
        elif record["event"] == "gate":
            sums["gate", record["peer"]] += record["held_s"]
        elif record["event"] == "link_down":
            sums["down", record["peer"]] += 1
    for name in ("robot-0", "robot-1", "robot-2"):
        worker = f"worker={name}"
        steps = [record for record in journals[name].records if record["event"] == "step"]
        assert found["rowcast_worker_row_bytes_total", "direction=up", worker] == sums["up", name] > 0
        assert found.get(("rowcast_worker_stall_seconds_total", "cause=gate", worker), 0.0) == pytest.approx(
            sums["gate", name]
        )
        assert found["rowcast_worker_link_losses_total", worker] == sums["down", name]
        # What is under way when the run is cut off is in one of the two.
        assert found["rowcast_worker_steps_total", worker] == pytest.approx(len(steps), abs=3)
        pulled = sum(step["pull_bytes"] for step in steps)
        # Beside what it has pulled: the parameters at its joining, what was lost with a link, and what is under way.
        sent = found["rowcast_worker_row_bytes_total", "direction=down", worker]
        assert 0.85 * pulled <= sent <= 1.25 * pulled + 4.4 * VIRTUAL.elements
        assert found["rowcast_worker_in_flight_bytes", worker] >= 0
        assert found["rowcast_worker_delivery_rate_bytes_per_second", "direction=up", worker] > 0
        states = [value for key, value in found.items() if key[0] == "rowcast_worker_state" and worker in key]
        assert len(states) == len(STATES) and sum(states) == 1.0
    assert found["rowcast_worker_link_losses_total", "worker=robot-0"] >= 1
    assert found["rowcast_team_members",] == [r["members"] for r in journals["server"].records if "members" in r][-1]
    assert found["rowcast_events_total", "event=push"] == source.totals.events["push"]
    rows = [value for key, value in found.items() if key[0] == "rowcast_worker_pending_rows"]
    assert len(rows) == 3 and all(0 <= each <= 61 for each in rows)


def test_a_robots_own_journal_beside_the_servers_counts_nothing_twice():
    journals, _ = run("rowcast:4", 1.0)
    alone, both = live(), live()
    for record in journals["server"].records:
        alone.take(record)
    for record in sorted((record for each in journals.values() for record in each.records), key=lambda r: r["t"]):
        both.take(record)
    one, two = told(alone), told(both)
    for key, value in counters(one).items():
        if key[0] not in ("rowcast_events_total", "rowcast_worker_resent_frames_total"):
            assert two[key] == pytest.approx(value), key
    assert two["rowcast_worker_step_seconds_total", "part=compute", "worker=robot-1"] > 0


def test_a_robots_journal_alone(tmp_path):
    journals, _ = run("rog:4", 0.0)
    path = tmp_path / "robot-0.jsonl"
    with path.open("w") as file:
        sink = write_to(file)
        for record in journals["robot-0"].records:
            sink(record)
    steps = [record for record in journals["robot-0"].records if record["event"] == "step"]
    found = told(Watch(path, totals=Totals()))
    for name, field in (("up", "push_bytes"), ("down", "pull_bytes")):
        key = ("rowcast_worker_row_bytes_total", f"direction={name}", "worker=robot-0")
        assert found[key] == sum(step[field] for step in steps)
    key = ("rowcast_worker_stall_seconds_total", "cause=team", "worker=robot-0")
    assert found[key] == pytest.approx(sum(step["stall_s"] for step in steps))
    assert found["rowcast_worker_steps_total", "worker=robot-0"] == len(steps)


def test_energy_and_what_was_reported():
    source = live()
    for t, power_w, energy_j in ((1.0, 7.0, 10.0), (2.0, 7.5, 17.0), (3.0, 7.5, 17.0)):
        metrics = {"accuracy": 60 + t, "power_w": power_w, "energy_j": energy_j}
        source.take(event(t, "told", state="computing", iteration=int(t), metrics=metrics, waited_s=t))
    found = told(source)
    assert found["rowcast_worker_power_watts", "worker=r-1"] == 7.5
    assert found["rowcast_worker_energy_joules_total", "worker=r-1"] == 17.0
    assert found["rowcast_worker_metric", "name=accuracy", "worker=r-1"] == 63.0
    assert found["rowcast_worker_waiting_seconds", "worker=r-1"] == 3.0
    assert not any("name=power_w" in key or "name=energy_j" in key for key in found)
    source.take(event(4.0, "told", metrics={"power_w": 0.0, "energy_j": 17.0}))
    found = told(source)
    assert ("rowcast_worker_power_watts", "worker=r-1") not in found
    # The program is started again: its energy begins anew, and the total goes on.
    source.take(event(5.0, "told", metrics={"power_w": 8.0, "energy_j": 3.0}))
    source.take(event(6.0, "metric", peer=None, node="r-1", name="energy_j", value=5.0))
    source.take(event(6.1, "told", metrics={"power_w": 8.0, "energy_j": 4.0}))  # behind what its own journal says
    assert told(source)["rowcast_worker_energy_joules_total", "worker=r-1"] == 22.0


def test_names_and_types_are_those_of_prometheus():
    journals, _ = run("rowcast:4", 1.0)
    source = live()
    for record in journals["server"].records:
        source.take(record)
    with page_server(source, PageAddress.of("0")) as url:
        status, headers, text = get(url + "metrics")
        assert status == 200 and headers["content-type"].startswith("text/plain; version=")
        _, opened, strict = get(url + "metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert opened["content-type"].startswith("application/openmetrics-text")
    found, kinds = samples(text)
    assert list(openmetrics.text_string_to_metric_families(strict))
    assert {name.partition("_")[0] for name in kinds} <= {"rowcast", "process"}
    for (name, *labels), value in found.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        kind = kinds[name.removesuffix("_total")] if name.removesuffix("_total") in kinds else kinds[name]
        assert (kind == "counter") == name.endswith("_total")
        assert not re.search(r"_(s|ms|mb|bps|pct|percent|kb)(_total)?$", name)
        assert {label.partition("=")[0] for label in labels} <= {
            *("worker", "event", "direction", "cause", "part", "state", "name", "version", "policy")
        }
        assert value >= 0 or kind == "gauge"
    assert found["rowcast_team_info", "policy="] == 1.0  # a simulated server tells of none


# -- totals only grow --------------------------------------------------------------------------------------------------


def grows(before, now):
    """No series of ``before`` is smaller ``now``, and none is gone."""
    for key, value in counters(before).items():
        assert now[key] >= value, key
    return now


@settings(max_examples=60, deadline=None)
@given(records())
def test_whatever_a_record_holds_totals_only_grow(found):
    source, before = live(), {}
    for record in found:
        source.take(record)
        before = grows(before, told(source))


def test_totals_outlive_a_server_that_is_started_again_in_its_process():
    """Two servers, one after the other, with one page: as where a standby takes the lead."""
    source, journal = live(), Journal("server")
    journal.watch(source.take)
    before = {}
    with page_server(source, PageAddress.of("0")) as url:
        for life in range(2):
            with LiveServer("rog:4?codec=raw", journal=journal, expected_workers=1) as server:
                watch = TeamWatch(server.node.team, 0.01)
                team = Team(Endpoint("127.0.0.1", server.port, Security()), name="robot-1", settings=IMPATIENT)
                parameters = LAYOUT.zeros()
                team.start(LAYOUT, parameters)
                for _ in range(5):
                    update = [parameters[spec.start : spec.stop] - 1 for spec in LAYOUT.tensors]
                    team.accumulate(update, 1.0)
                    team.exchange()
                    server.call(_look(watch, journal.records))
                    before = grows(before, samples(get(url + "metrics")[2])[0])
                team.leave()
                eventually(lambda many=life + 1: source.totals.events["leave"] == many)
        before = grows(before, told(source))
    assert before["rowcast_worker_steps_total", "worker=robot-1"] >= 9
    assert before["rowcast_worker_row_bytes_total", "direction=up", "worker=robot-1"] > 0
    assert before["rowcast_worker_row_bytes_total", "direction=down", "worker=robot-1"] > 0


async def _look(watch, records):
    watch.look(records[-1]["t"])


def test_totals_only_grow_where_records_are_dropped(monkeypatch):
    monkeypatch.setattr("rowcast.page.watching.MOST_WAITING", 50)
    source, before = live(), {}
    for t in range(400):
        source.take(event(float(t), "push", iteration=t, rows=1, bytes=100))
        if t % 150 == 149:
            before = grows(before, told(source))
    assert before["rowcast_records_left_out_total",] == 200
    assert before["rowcast_worker_pushes_total", "worker=r-1"] == 100


def test_series_are_bounded_however_many_robots_there_were():
    source = live()
    for number in range(3 * MOST_ROBOTS):
        name = f"robot-{number}"
        source.take(event(float(number), "join", peer=name, how="seed", members=1, iteration=0))
        source.take(
            event(float(number), "told", peer=name, state=f"state {number}", metrics={f"m-{k}": k for k in range(20)})
        )
        source.take(event(float(number), "leave", peer=name, cause="left", members=0))
    found = told(source)
    workers = {label for key in found for label in key if label.startswith("worker=")}
    assert len(workers) == MOST_ROBOTS and len(source.totals.robots) <= 2 * MOST_ROBOTS
    for label, most in (("state=", len(STATES)), ("event=", len(EVENTS))):
        assert len({part for key in found for part in key[1:] if part.startswith(label)}) <= most
    assert sum(key[0] == "rowcast_worker_metric" for key in found) == 8 * MOST_ROBOTS


def test_a_robot_that_comes_back_goes_on_with_its_totals():
    source = live()
    source.take(event(0.0, "join", how="seed", members=1, iteration=0))
    for n in (1, 2, 3):
        source.take(event(float(n), "push", iteration=n, rows=1, bytes=10))
    source.take(event(4.0, "link_down", cause="lost"))
    source.take(event(5.0, "resume", delivered=1, restored=4))
    source.take(event(5.0, "join", how="resume", members=1, iteration=2))
    source.take(event(6.0, "push", iteration=4, rows=1, bytes=10))
    source.take(event(7.0, "resume", peer="server", node="r-1", delivered=0, restored=2))
    source.take(event(8.0, "absent", silent_s=3.0, members=0))
    source.take(event(9.0, "return", members=1, iteration=40))
    source.take(event(10.0, "push", iteration=41, rows=1, bytes=10))
    found = told(source)
    worker = "worker=r-1"
    assert found["rowcast_worker_steps_total", worker] == 5  # 1 to 4, and 41
    assert found["rowcast_worker_iteration", worker] == 41
    assert found["rowcast_worker_resent_frames_total", "direction=down", worker] == 4
    assert found["rowcast_worker_resent_frames_total", "direction=up", worker] == 2
    assert found["rowcast_worker_link_losses_total", worker] == found["rowcast_worker_absences_total", worker] == 1


# -- who may read them -------------------------------------------------------------------------------------------------


def test_beyond_loopback_the_token_is_needed(tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)
    with page_server(live(), PageAddress.of("0.0.0.0:0", tmp_path / "token")) as url:
        base = f"http://127.0.0.1:{url.rpartition(':')[2].partition('/')[0]}/metrics"
        for query, headers in (
            ("", {}),
            ("?token=wrong", {}),
            ("", {"Authorization": "Bearer wrong"}),
            ("", {"Authorization": f"Basic {TOKEN}"}),
            ("", {"Authorization": TOKEN}),
            ("", {"Authorization": "Bearer \u00e9"}),
        ):
            status, _, text = get(base + query, **headers)
            assert status == 403 and len(text.splitlines()) == 1 and TOKEN not in text
        for query, headers in ((f"?token={TOKEN}", {}), ("", {"Authorization": f"Bearer {TOKEN}"})):
            status, answered, text = get(base + query, **headers)
            assert status == 200 and "rowcast_build_info" in text and "set-cookie" not in answered
        assert get(base, Cookie=f"rowcast-page={TOKEN}")[0] == 200


def test_on_loopback_only_a_name_of_it_is_answered():
    with page_server(live(), PageAddress.of("0")) as url:
        assert get(url + "metrics", Host="elsewhere.example")[0] == 421
        assert get(url + "metrics")[0] == 200


def test_a_page_without_metrics_says_so():
    with page_server(Live("a server"), PageAddress.of("0")) as url:
        status, _, text = get(url + "metrics")
    assert status == 404 and text == "there are no metrics; start it with --metrics\n"


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "rowcast.page.metrics")
    with pytest.raises(ConfigError, match=r"--metrics needs a library .*pip install 'rowcast\[metrics\]'") as refused:
        page_server(live(), PageAddress.of("0")).__enter__()
    assert "\n" not in str(refused.value)
    with page_server(Live("a server"), PageAddress.of("0")) as url:  # the page alone does not need it
        assert get(url)[0] == 200


def test_commands_that_cannot_be_are_one_line(monkeypatch, capsys, tmp_path):
    (tmp_path / "server.jsonl").write_text('{"t":0,"node":"server","event":"start","role":"server"}\n')
    with running(monkeypatch, capsys) as rowcast:
        code, _, err = rowcast("serve", "--metrics", "--port", 0, "--seconds", 0)
        assert code == ExitCode.USAGE and len(err.strip().splitlines()) == 1
        assert "--metrics: expected a page as well, got none; give --page PORT" in err
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            for words in (("serve", "--port", 0), ("watch", tmp_path)):
                code, _, err = rowcast(*words, "--page", port, "--metrics", "--seconds", 0)
                assert code == ExitCode.USAGE and len(err.strip().splitlines()) == 1
                assert f"--page 127.0.0.1:{port}: cannot listen there" in err
        code, out, _ = rowcast("watch", tmp_path, "--page", 0, "--metrics", "--seconds", 0)
        assert code == ExitCode.FINE and "page: http://127.0.0.1:" in out


@pytest.mark.system
def test_a_server_is_scraped_while_its_team_trains(tmp_path):
    """``rowcast serve --page 0.0.0.0:0 --metrics``, and what a Prometheus would do with the token that it prints."""
    server = ServerProcess(tmp_path, "server", "rog:4", 2, "--page", "0.0.0.0:0", "--metrics", "--watch-every-s", "0.2")
    try:
        server.start(until="")
        port, token = re.search(r":(\d+)/\?token=(\S+)", server.says("page: ")).groups()
        url = f"http://127.0.0.1:{port}/metrics"
        assert get(url)[0] == 403
        server.says("listening")
        endpoint = Endpoint("127.0.0.1", server.port, Security(None))
        robots = [Robot(endpoint, name, steps=100_000, link=2e6, wait=False) for name in ("robot-1", "robot-2")]
        try:

            def scraped():
                found, _ = samples(get(url, Authorization=f"Bearer {token}")[2])
                return found if found.get(("rowcast_worker_steps_total", "worker=robot-2"), 0) >= 3 else None

            before = eventually(scraped)
            now = grows(before, eventually(lambda: (again := scraped()) != before and again))
        finally:
            for robot in robots:
                robot.team.abandon()
            for robot in robots:
                robot.join(LIMIT_S)
        assert now["rowcast_worker_row_bytes_total", "direction=up", "worker=robot-1"] > 0
        assert now["rowcast_team_info", "policy=rog:4"] == 1.0
        assert now["process_resident_memory_bytes",] > 0
    finally:
        server.end()
