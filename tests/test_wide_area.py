"""Links between cities: their text and their delay; teams that are half a second apart; Tc and X/Y of reports."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from rowcast.drivers.virtual import Device, Simulation
from rowcast.errors import ConfigError
from rowcast.experiment.plan import plan_cells
from rowcast.experiment.settings import Comparison
from rowcast.experiment.timing_team import timing_team
from rowcast.journal import Journal
from rowcast.links import Trace, WideArea, named_trace, parse_wide_area, save_csv
from rowcast.links.wide_area import CITIES, great_circle_km
from rowcast.report import read_run
from rowcast.report.scalability import link_under, model_scalability, scalability, tc_s
from rowcast.rows import Layout
from rowcast.sync import RateMeter, parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training import ServerNode
from teams import LAYOUT, Books, events, finished, replicas_agree, worker
from test_report import journal, step

#: 1.6 million elements: a raw push takes a few seconds at 20 Mbit/s.
LARGE = Layout.from_shapes([(f"block{index}", (400, 500)) for index in range(8)])


# -- the text ----------------------------------------------------------------------------------------------------------


def test_shanghai_to_boston_is_as_the_source_counts_it():
    links = parse_wide_area("wide:boston/shanghai?mbit=20")
    assert links.distance_km(0) == pytest.approx(11_725, rel=0.002)
    assert 1e3 * links.round_trip_s(0) == pytest.approx(78.2, abs=0.2)
    assert links.delay_s(0) == links.round_trip_s(0) / 2
    fibre = parse_wide_area("wide:boston/shanghai?mbit=20&factor=3")
    assert fibre.round_trip_s(0) == pytest.approx(1.5 * links.round_trip_s(0))


def test_great_circles_by_hand():
    assert great_circle_km((0, 0), (0, 90)) == pytest.approx(np.pi / 2 * 6371.0088)
    assert great_circle_km((90, 0), (-90, 123)) == pytest.approx(np.pi * 6371.0088)
    assert great_circle_km(CITIES["paris"], CITIES["paris"]) == 0.0
    assert great_circle_km(CITIES["sydney"], CITIES["london"]) == great_circle_km(CITIES["london"], CITIES["sydney"])


@pytest.mark.parametrize("city", CITIES)
def test_every_city_is_on_the_earth(city):
    latitude, longitude = CITIES[city]
    assert -90 < latitude < 90 and -180 < longitude <= 180
    assert parse_wide_area(f"wide:{city}/{city}?mbit=1").server == city


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("wide:boston/shanghai?mbit=20", "wide:boston/shanghai?mbit=20"),
        ("wide:Boston/São Paulo/new_york?mbit=20.0", "wide:boston/sao-paulo/new-york?mbit=20"),
        ("wide:galway/dublin/delhi?mbit=0.5/8&factor=3", "wide:galway/dublin/delhi?mbit=0.5/8&factor=3"),
        ("wide:galway/dublin?mbit=2&factor=2", "wide:galway/dublin?mbit=2"),
        ("wide:galway/dublin?rtt_ms=1000&mbit=2", "wide:galway/dublin?mbit=2&rtt_ms=1000"),
    ],
)
def test_the_text_is_read_as_the_same_links(text, plain):
    links = parse_wide_area(text)
    assert str(links) == plain
    assert parse_wide_area(plain) == links


def test_robots_take_the_cities_in_turn():
    links = parse_wide_area("wide:boston/shanghai/delhi?mbit=20/5")
    assert [links.city(robot) for robot in range(4)] == ["shanghai", "delhi", "shanghai", "delhi"]
    assert [links.trace(robot).rate(7.0) for robot in range(3)] == [20e6, 5e6, 20e6]
    assert links.delay_s(2) == links.delay_s(0) != links.delay_s(1)
    assert parse_wide_area("wide:boston/shanghai/delhi?mbit=20").trace(1).rate(0.0) == 20e6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wide:boston/shangai?mbit=20", "unknown city 'shangai'; did you mean 'shanghai'"),
        ("wide:?mbit=20", "unknown city ''"),
        ("wide:boston?mbit=20", "expected a city for robots behind 'boston'"),
        ("wide:boston/shanghai", "expected the bandwidth, which does not follow from distance"),
        ("wide:boston/shanghai?mbit=fast", "mbit: expected a number, got 'fast'"),
        ("wide:boston/shanghai?mbit=0", r"mbit: expected 0.001 .. 1e\+09, got 0"),
        ("wide:boston/shanghai?mbit=nan", "mbit: expected"),
        ("wide:boston/shanghai?mbit=1/2", "one for each of 1 cities of robots, got 2"),
        ("wide:boston/shanghai?mbit=20&mbit=2", "mbit is there twice"),
        ("wide:boston/shanghai?mbit=20&speed=2", "'speed=2': expected mbit, factor or rtt_ms"),
        ("wide:boston/shanghai?mbit", "'mbit': expected mbit"),
        ("wide:boston/shanghai?mbit=20&factor=1.9", "factor: expected 2 .. 100, got 1.9"),
        ("wide:boston/shanghai?mbit=20&factor=50", "back takes 1957 ms with factor 50; expected at most 1000 ms"),
        ("wide:boston/shanghai?mbit=20&rtt_ms=1001", "rtt_ms: expected 0 .. 1000, got 1001"),
        ("wide:boston/shanghai?mbit=20&rtt_ms=5&factor=3", "leave one away"),
    ],
)
def test_what_is_no_link_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_wide_area(text)


def test_other_links_are_none_of_these():
    assert parse_wide_area("outdoor") is None
    with pytest.raises(ConfigError, match=r"has a delay, which a trace cannot say; .* write 'constant:20'"):
        named_trace("wide:boston/shanghai?mbit=20")


def test_a_comparison_takes_them_as_links():
    settings = Comparison(task="cruda-digits", links=("wide:Boston/Shanghai?mbit=20", "constant:20"), workers=(2,))
    assert {cell.links for cell in plan_cells(settings)} == {"wide:boston/shanghai?mbit=20", "constant:20"}
    with pytest.raises(ConfigError, match="unknown city 'bosten'; did you mean 'boston'"):
        plan_cells(replace(settings, links=("wide:bosten/shanghai?mbit=20",)))
    with pytest.raises(ConfigError, match="names the same links twice"):
        plan_cells(replace(settings, links=("wide:boston/paris?mbit=20", "wide:Boston/Paris?mbit=20.0")))


# -- the delay ---------------------------------------------------------------------------------------------------------


def steps(records):
    return [record for record in records if record["event"] == "step"]


def team_of_cities(policy, links, seconds, *, robots=1, layout=LAYOUT, compute_s=1.0):
    """A team of which only the time matters, and the steps of each robot."""
    records = [[] for _ in range(robots)]
    books = [Journal(f"robot-{index}", own.append) for index, own in enumerate(records)]
    simulation = timing_team(policy, layout, [Device(compute_s)] * robots, links, books)
    simulation.run(seconds)
    return simulation, [steps(own) for own in records]


def test_a_step_takes_a_round_trip_more_for_each_wait():
    near = parse_wide_area("wide:boston/boston?mbit=100")
    far = parse_wide_area("wide:boston/boston?mbit=100&rtt_ms=400")
    (_, (without,)), (_, (with_delay,)) = (team_of_cities("bsp?codec=raw", links, 30.0) for links in (near, far))
    more = with_delay[-1]["communicate_s"] - without[-1]["communicate_s"]
    # The push is on its way for half of a round trip, and so is what the server answers with.
    assert more == pytest.approx(0.4, abs=0.01)


def test_each_robot_has_the_delay_of_its_city():
    links = parse_wide_area("wide:boston/boston/sydney?mbit=100")
    _, (near, far) = team_of_cities("asp?codec=raw", links, 30.0, robots=2)
    assert far[-1]["communicate_s"] - near[-1]["communicate_s"] == pytest.approx(links.round_trip_s(1), abs=0.005)


@pytest.mark.parametrize("delay_s", [-0.1, float("nan"), float("inf")])
def test_a_delay_that_is_none_is_refused(delay_s):
    server = ServerNode(parse_policy("bsp"))
    for given in (delay_s, {"robot-0": delay_s}):
        with pytest.raises(ConfigError, match="delay of a link: expected a finite time of 0 s or more"):
            Simulation(server, delay_s=given)


# -- half a second each way --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["bsp", "rog:4", "rowcast:8"])
def test_a_team_half_a_second_apart_joins_trains_and_resumes(policy):
    scripts = [worker(f"robot{index}", iterations=30, compute_s=0.5, rate_bps=1e6, delay_s=0.5) for index in range(3)]
    team = VirtualTeam(LAYOUT, f"{policy}?codec=raw", scripts)
    books = Books(team)
    books.check_at(3.0, 8.0, 12.2, 13.0, 20.0)
    team.at(12.0, lambda: team.cut("robot1", 2.0))
    finished(team)
    books.check()
    replicas_agree(team)
    # Nobody is taken for lost but the one that was cut, and it resumes: what it holds is not sent anew.
    lost = [record["cause"] for script in scripts for record in events(team, script.name, "link_down")]
    assert [cause for cause in lost if cause != "closed by the server" and "finish" not in cause] == ["cut"], lost
    assert not events(team, "server", "absent")
    joins = [(record["how"], record["t"]) for record in events(team, "server", "join") if record["peer"] == "robot1"]
    # A connection, a hello and the answer to it are half a second each; the first one waits for the parameters.
    assert [how for how, _ in joins] == ["equal", "resume"], joins
    assert joins[1][1] == pytest.approx(15.0, abs=0.1)
    assert max(team.gaps) <= team.server.policy.slack + 1


def test_a_silent_link_is_still_found_out_half_a_second_away():
    team = VirtualTeam(LAYOUT, "bsp", [worker(f"robot{n}", iterations=200, delay_s=0.5) for n in range(2)])
    team.at(10.0, lambda: team.freeze("robot0"))
    finished(team)
    # What came last was heard half a second after the link froze, or up to a heartbeat before.
    down = events(team, "server", "link_down")[0]
    assert down["peer"] == "robot0" and 19.0 <= down["t"] <= 20.5


@pytest.mark.parametrize("rtt_ms", [78, 300, 1000])
def test_the_window_does_not_limit_what_a_long_link_carries(rtt_ms):
    """Pushes and pulls of 27 s: from the second on at least 90 % of the link are row bytes, waits included."""
    layout = Layout.from_shapes([(f"block{index}", (512, 509)) for index in range(65)])
    links = parse_wide_area(f"wide:boston/boston?mbit=20&rtt_ms={rtt_ms}")
    _, (own,) = team_of_cities("bsp?codec=raw", links, 190.0, layout=layout)
    for one in own[1:]:
        carried = 8 * (one["push_bytes"] + one["pull_bytes"]) / 20e6
        assert carried / one["communicate_s"] >= 0.9
    assert len(own) >= 3


def test_short_pushes_over_a_long_link_take_their_bytes_and_a_round_trip():
    """The rate is remembered: a push of 1.3 s after a pause does not begin anew with a small window."""
    links = parse_wide_area("wide:boston/boston?mbit=40&rtt_ms=1000")
    _, (own,) = team_of_cities("bsp?codec=raw", links, 160.0, layout=LARGE, compute_s=2.0)
    late = own[len(own) // 2 :]
    bytes_s = np.mean([8 * (one["push_bytes"] + one["pull_bytes"]) / 40e6 for one in late])
    assert np.mean([one["communicate_s"] + one["stall_s"] for one in late]) <= 1.15 * (bytes_s + 1.0)


# -- the rate of a long path -------------------------------------------------------------------------------------------


def send_bursts(meter, path_s, rate_bps, bursts, frame=10_000, start=0.0):
    """Bursts of 20 frames, each behind a pause; acknowledgements come a round trip after a frame has passed."""
    now = start
    for _ in range(bursts):
        left = now
        sent, due = [], []
        for k in range(20):
            size = 1000 if k == 0 else frame
            left += 8 * size / rate_bps
            sent.append((now if k == 0 else left - 8 * size / rate_bps, size))
            due.append(left + path_s)
        changes = [(t, 0, k) for k, (t, _) in enumerate(sent)] + [(t, 1, k) for k, t in enumerate(due)]
        for t, kind, k in sorted(changes):
            if kind == 0:
                meter.sent(t, sent[k][1])
            else:
                meter.acknowledged(t, sent[k][1], sent[k][0])
        now = due[-1] + 3.0
    return now


def test_the_round_trip_is_no_part_of_the_rate_of_a_long_path():
    meter = RateMeter(1e6)
    now = send_bursts(meter, 1.0, 20e6, 8)
    assert meter.long_path_s(now) == pytest.approx(1.0, abs=0.01)
    meter.sent(now, 10_000)
    assert meter.rate_bps(now + 0.9) == pytest.approx(20e6, rel=0.1)  # nothing can have come back yet
    assert meter.rate_bps(now + 3.0) < 5e6  # that is silence


@pytest.mark.parametrize(("path_s", "rate_bps"), [(0.02, 20e6), (0.08, 20e6), (0.0, 1e5), (0.3, 1e5)])
def test_links_of_one_place_have_no_long_path(path_s, rate_bps):
    meter = RateMeter(1e6)
    now = send_bursts(meter, path_s, rate_bps, 8)
    assert meter.round_trip_s >= path_s
    assert meter.long_path_s(now) == 0.0


def test_a_long_path_is_probed_forty_round_trips_apart():
    long, short = RateMeter(1e6), RateMeter(1e6)
    probed = [send_bursts(meter, path_s, 20e6, 4) for meter, path_s in ((long, 1.0), (short, 0.02))]
    waits = []
    for meter, now in zip((long, short), probed, strict=True):
        times = [now + 0.5 * k for k in range(200)]
        wants = [meter.wants_probe(time) for time in times]
        assert all(one <= other for one, other in pairwise(wants))
        waits.append(next(time for time, want in zip(times, wants, strict=True) if want) - now)
    assert waits[0] > 30.0
    assert waits[1] < 41.0


# -- the report --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """Two robots: 2 s of computing and 6 s of the link, three times; 4 s of computing, 2 s hidden, twice."""
    first = [(8.0 * n, "step", step(n, 2.0, 5.0, 1.0, push_bytes=1_000_000, pull_bytes=500_000)) for n in (1, 2, 3)]
    second = [(4.0 * n, "step", step(n, 4.0, 0.0, 0.0, overlap_s=2.0)) for n in (1, 2)]
    files = [journal(tmp_path / f"robot-{k}.jsonl", own) for k, own in enumerate((first, second))]
    return read_run("bsp", files)


def test_tc_and_x_by_y_by_hand(run):
    assert tc_s(run) == pytest.approx(3 * 6.0 / 5)
    # Alone they had made 12 steps in 24 s, and 2 in 8 s.
    assert scalability(run) == pytest.approx(5 / 14)


def test_a_robot_without_a_step_counts_with_what_a_step_takes_the_others(run):
    idle = replace(
        run.robots[1], name="robot-2", ends_s=np.empty(0), steps={k: np.empty(0) for k in run.robots[0].steps}
    )
    three = replace(run, robots=(*run.robots, idle))
    assert scalability(three) == pytest.approx(5 / (14 + run.seconds / 3.0))
    assert scalability(replace(run, robots=(idle,))) is None


def test_the_model_by_hand(run, tmp_path):
    assert link_under(run, "robot-0") is None
    assert model_scalability(run) is None
    (tmp_path / "links.json").write_text('{"robot-0": {"up": "up.csv"}}')  # as older runs have it
    assert link_under(run, "robot-0") is None
    save_csv(Trace.constant(8e6).cut(0, 10), tmp_path / "up.csv")
    save_csv(Trace.constant(4e6).cut(0, 10), tmp_path / "down.csv")
    entry = {"up": "up.csv", "down": "down.csv"}
    (tmp_path / "links.json").write_text(json.dumps({"robot-0": {**entry, "delay_s": 0.5}, "robot-1": entry}))
    up, down, delay_s = link_under(run, "robot-0")
    assert (up.rate(0.0), down.rate(0.0), delay_s) == (8e6, 4e6, 0.5)
    # A second for the bytes up, one for those down, one for the delay; the other's few bytes take 0.18 ms.
    first, second = 1 / (1 + 3.0 / 2.0), 1 / (1 + (8 * 100 / 8e6 + 8 * 40 / 4e6) / 4.0)
    assert model_scalability(run) == pytest.approx((first + second) / 2)


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"robot-0": {"up": 5, "down": "b"}}', '{"robot-0": {"up": "a", "down": "b", "delay_s": -1}}', "?"],
)
def test_links_that_cannot_be_read_are_named(run, tmp_path, content):
    (tmp_path / "links.json").write_text(content)
    with pytest.raises(ConfigError, match=r"links\.json: expected .*run the comparison again"):
        link_under(run, "robot-0")


def test_wide_area_is_a_value():
    one = WideArea("boston", ("shanghai",), (20.0,))
    assert one == parse_wide_area(str(one)) and hash(one) == hash(parse_wide_area(str(one)))
