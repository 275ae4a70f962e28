"""One stream of rows for all workers: the policy ``rowcast:S?pulls=common``."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rowcast.codecs import REGISTRY
from rowcast.config import LinkSettings, ServerSettings, WorkerSettings
from rowcast.delivery.cursor import Cursor
from rowcast.errors import ConfigError
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.testing import VirtualTeam
from rowcast.training.rules.streamed import StreamedRule
from rowcast.wire import Rows
from teams import COMMON, LAYOUT, Books, events, finished, names_of, noise, outages, replicas_agree, worker

SMALL_FRAMES = LinkSettings(frame_min_bytes=64, window_min_bytes=256, frame_s=0.001)
#: More rows, so that the log is longer than the few frames that it always keeps.
WIDE = Layout.from_shapes([("weight", (240, 16)), ("bias", (64,))], small_tensor=1)
#: Several frames for its 16 kB, or for the 1 kB that it is in one bit an element.
FRAMES = LinkSettings(frame_min_bytes=256, window_min_bytes=1024, frame_s=0.002)


def team_of(rates, policy="rowcast:4?pulls=common", *, layout=LAYOUT, iterations=30, compute_s=0.1, **more):
    scripts = [
        worker(f"robot{i}", iterations=iterations, rate_bps=rate, compute_s=compute_s, layout=layout)
        for i, rate in enumerate(rates)
    ]
    more.setdefault("link_settings", FRAMES if layout is WIDE else SMALL_FRAMES)
    # A silent link is not given up in these tests, unless they say so.
    more.setdefault("server_settings", ServerSettings(expected_workers=len(rates), silence_limit_s=100.0))
    more.setdefault("worker_settings", WorkerSettings(silence_limit_s=100.0))
    return VirtualTeam(layout, policy, scripts, **more)


def readers(team):
    sources = {name: member.owed.source for name, member in team.server.members.items()}
    return {name: source for name, source in sources.items() if isinstance(source, Cursor)}


def watch(team, until_s, every_s=0.02):
    """Look at the arrears of everybody now and then: (time, names of those who have some)."""
    seen = []

    def look():
        seen.append((team.now, sorted(name for name, reader in readers(team).items() if len(reader.own.vector))))
        if team.now < until_s:
            team.at(team.now + every_s, look)

    team.at(0.0, look)
    return seen


def silence(begin_s, end_s, rate_bps=1e6):
    """A link that carries nothing for a while; nobody is told."""
    return Trace(
        np.array([0.0, begin_s, end_s]), np.array([rate_bps, 0.0, rate_bps]), "silence", loop=False, duration_s=np.inf
    )


# -- the option ------------------------------------------------------------------------------------------------


def test_the_option_is_off_by_default_and_goes_with_streaming_only():
    assert parse_policy("rowcast:4").pulls == "own"
    assert parse_policy("rowcast:4?pulls=common").pulls == "common"
    with pytest.raises(ConfigError, match="'rowcast' only"):
        parse_policy("rog:4?pulls=common")
    with pytest.raises(ConfigError, match="did you mean"):
        parse_policy("rowcast:4?pulls=comon")


# -- once for all ----------------------------------------------------------------------------------------------


def encodings(monkeypatch, rates, policy):
    """Row frames that the server encoded with a content, and that workers received."""
    team = team_of(rates, policy, iterations=20)
    owed = {}
    counted = 0
    for codec in REGISTRY.values():
        encode = codec.encode

        def count(layout, vector, rows, *, consume=True, encode=encode):
            nonlocal counted
            counted += consume and any(vector is one for one in owed.values())
            return encode(layout, vector, rows, consume=consume)

        monkeypatch.setattr(codec, "encode", count, raising=True)

    def look():
        server = team.server
        if isinstance(server.rule, StreamedRule) and server.rule.stream is not None:
            owed["common"] = server.rule.stream.residual.vector
        for name, member in server.members.items():
            owed[name] = member.owed.source.own.vector
        if team.now < 3.0:
            team.at(team.now + 0.005, look)

    team.at(0.0, look)
    finished(team)
    return counted, sum(one.node.inbox.received for one in team.workers.values())


def test_frames_are_encoded_once_for_all_readers(monkeypatch):
    rates = [1e5] * 6
    with monkeypatch.context() as patch:
        own, received = encodings(patch, rates, "rowcast:4?codec=raw&refine=off")
    assert own == pytest.approx(received, rel=0.1)  # the parameters of the start are among what was received
    with monkeypatch.context() as patch:
        common, received = encodings(patch, rates, "rowcast:4?codec=raw&refine=off&pulls=common")
    assert common == pytest.approx(received / len(rates), rel=0.1)


def test_rows_payload_and_index_of_a_frame_are_shared():
    frame = Rows(0, 7, 2, False, False, np.array([1, 4, 5]), np.zeros(9, dtype=np.uint8))
    one, other = frame.numbered(3), frame.numbered(8)
    assert (one.number, other.number, one.iteration) == (3, 8, 7)
    assert one.rows is other.rows and one.payload is other.payload and one.index is other.index
    assert one.content_bytes == frame.content_bytes


def test_no_worker_costs_a_vector():
    """Everybody on a link of the same kind: nobody is left behind, and the server holds two vectors."""
    team = team_of([1e6] * 8, layout=WIDE, link_settings=LinkSettings())
    seen = watch(team, 3.0)
    team.run(3.0)
    assert len(readers(team)) == 8
    assert not any(names for _, names in seen)
    finished(team)
    assert not any(names for _, names in seen)
    replicas_agree(team)


def test_the_log_is_short_and_frames_go_when_all_have_them():
    team = team_of([1e6, 1e6, 3e4], layout=WIDE, link_settings=LinkSettings(frame_min_bytes=64, window_min_bytes=256))
    stream_bytes = []

    def look():
        stream = team.server.rule.stream if isinstance(team.server.rule, StreamedRule) else None
        if stream is not None:
            stream_bytes.append(stream._bytes)
            assert stream._bytes == sum(entry.size for entry in stream.frames(stream.first))
        if team.now < 2.5:
            team.at(team.now + 0.01, look)

    team.at(0.0, look)
    team.run(2.5)
    model = int(parse_policy("rowcast:4").row_codec.row_bytes(WIDE).sum())
    assert 0 < max(stream_bytes) < 2.5 * model
    finished(team)
    replicas_agree(team)


# -- who is left behind ----------------------------------------------------------------------------------------


def test_who_was_left_behind_gets_arrears_and_catches_up_and_they_are_freed():
    team = team_of([1e6, 1e6, silence(3.0, 7.0)], layout=WIDE, iterations=110, compute_s=0.1)
    books = Books(team)
    books.check_at(2.9, 4.0, 6.0, 6.9, 7.1, 7.2, 7.3, 7.5, 8.0, 9.0)
    seen = watch(team, 10.5)
    finished(team)
    books.check()
    replicas_agree(team)
    assert not any(names for time, names in seen if time < 3.0)
    assert all(names == ["robot2"] for time, names in seen if 6.0 < time < 7.0)
    assert not any(names for time, names in seen[-10:])
    assert max(team.gaps) <= 4 and max(team.pull_ages) <= 4


def test_a_slow_link_gets_its_own_rows_and_holds_nobody_beyond_the_slack():
    team = team_of([1e6, 1e6, 8e4], "rowcast:4?pulls=common&elastic=off", layout=WIDE, iterations=25)
    books = Books(team)
    books.check_at(*np.arange(0.5, 8.0, 0.5))
    finished(team)
    books.check()
    replicas_agree(team)
    assert max(team.gaps) <= 4 and max(team.pull_ages) <= 4


# -- cuts ------------------------------------------------------------------------------------------------------


def test_a_short_cut_takes_the_reader_back_in_the_log_and_costs_no_vector():
    team = team_of([1e6] * 3, layout=WIDE, iterations=25)
    books = Books(team)
    before = {}

    def cut():
        reader = readers(team)["robot1"]
        arrived = team.workers["robot1"].node.inbox.received
        if (
            reader.needs == reader.place or team.server.members["robot1"].owed.sent_frames == arrived
        ):  # no frame of the log is on its way
            team.at(team.now + 0.0005, cut)
            return
        before.update(place=reader.place, needs=reader.needs)
        team.cut("robot1", 0.0)
        team.at(team.now + 0.001, look)

    def look():
        reader = readers(team)["robot1"]
        assert before["needs"] <= reader.place and not len(reader.own.vector)

    team.at(1.503, cut)
    books.check_at(1.5, 1.5035, 1.51, 1.6, 2.0)
    finished(team)
    books.check()
    replicas_agree(team)
    assert before["needs"] < before["place"]
    resumed = events(team, "server", "resume")
    assert [record["peer"] for record in resumed] == ["robot1"] and resumed[0]["restored"] > 0


#: 4 rows of 3 elements: few bytes, so that every one of them can be the last.
TINY = Layout.from_shapes([("weight", (3, 3)), ("bias", (3,))], small_tensor=1)


def cut_anywhere(policy, direction, byte):
    scripts = [
        worker(
            f"robot{i}", iterations=2, gradient=noise(i, TINY), weight=0.5, compute_s=0.02, delay_s=0.002, layout=TINY
        )
        for i in range(2)
    ]
    team = VirtualTeam(TINY, policy, scripts, link_settings=SMALL_FRAMES)
    books = Books(team)
    if byte is not None:
        team.cut_after("robot0", direction, byte, 0.2)
        books.check_at(0.05, 0.21)
    finished(team)
    books.check()
    replicas_agree(team, atol=1e-5)
    return team


@pytest.mark.parametrize("direction", ["up", "down"])
def test_cutting_at_a_byte_keeps_the_books(direction):
    calm = cut_anywhere("rowcast:2?pulls=common", direction, None)
    for byte in range(0, calm.workers["robot0"].carried[direction], 3):
        team = cut_anywhere("rowcast:2?pulls=common", direction, byte)
        # The updates do not depend on the parameters: after draining, the sum is the same whatever happened.
        np.testing.assert_allclose(team.server.parameters, calm.server.parameters, rtol=0, atol=1e-5, err_msg=f"{byte}")


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],
)
@given(st.data())
def test_the_books_of_a_wider_model_in_any_weather(data):
    """Of several frames each: the log is read, trimmed and folded."""
    rates = data.draw(st.lists(st.sampled_from([1e5, 4e5, 2e6]), min_size=2, max_size=4))
    team = team_of(rates, data.draw(st.sampled_from(COMMON)), layout=WIDE, iterations=data.draw(st.integers(1, 10)))
    books = Books(team)
    for time, name, down_s in data.draw(outages([f"robot{i}" for i in range(len(rates))])):
        team.at(time, lambda name=name, down_s=down_s: team.cut(name, down_s))
    joins = data.draw(st.booleans())
    if joins:
        late = worker("robot9", iterations=data.draw(st.integers(1, 4)), seed=5, layout=WIDE)
        team.at(data.draw(st.floats(0.3, 3.0)), lambda: team.start(late))
    books.check_at(*data.draw(st.lists(st.floats(0.0, 8.0), max_size=8)))
    finished(team)
    books.check()
    if not joins:  # others may have gone before a newcomer contributes
        replicas_agree(team)


# -- joining and leaving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_bps", [2e5, 2e6])
def test_a_newcomer_gets_the_parameters_as_the_log_has_them(rate_bps):
    team = team_of([1e6] * 3, layout=WIDE, iterations=40)
    books = Books(team)
    late = worker("robot9", iterations=5, seed=5, layout=WIDE, rate_bps=rate_bps)
    team.at(1.505, lambda: team.start(late))
    books.check_at(*np.arange(1.5, 4.0, 0.05))
    finished(team)
    books.check()
    replicas_agree(team)
    joined = [record for record in events(team, "server", "join") if record["peer"] == "robot9"]
    assert joined[0]["how"] == "receive"


def test_at_the_start_nothing_is_private():
    team = team_of([1e6] * 4, layout=WIDE)
    team.run(0.5)
    assert team.server.gate.opened
    assert not any(len(reader.own.vector) for reader in readers(team).values())


def test_who_leaves_early_takes_what_it_is_owed_and_the_stream_goes_on():
    team = team_of([1e6, 1e7, 1e6], layout=WIDE, iterations=40)
    team.workers["robot1"].script.iterations = 10
    node = team.workers["robot1"].node
    finish = node.finish
    node.finish = lambda now: finish(now, wait=False)
    books = Books(team)
    seen = {}

    def look():
        member = team.server.members.get("robot1")
        if member is not None and not member.owed.follows:
            seen.setdefault("owed", len(member.owed.source.own.vector))

    for time in np.arange(0.5, 4.0, 0.005):
        team.at(time, look)
    books.check_at(*np.arange(1.0, 3.0, 0.05))
    finished(team)
    assert seen["owed"] == WIDE.elements
    assert "robot1" in [record["peer"] for record in events(team, "server", "drained")]
    drained = next(record["t"] for record in events(team, "server", "drained") if record["peer"] == "robot1")
    assert drained < 3.0  # it did not wait for the others
    for name in ("robot0", "robot2"):
        np.testing.assert_allclose(team.workers[name].node.replica, team.server.parameters, rtol=0, atol=2e-4)


def test_who_waits_for_the_others_stays_in_the_stream_until_the_end():
    team = team_of([1e6] * 3, layout=WIDE, iterations=20)
    team.workers["robot1"].script.iterations = 5
    seen = watch(team, 5.0)
    finished(team)
    replicas_agree(team)
    assert not any(names for _, names in seen)


def test_the_same_script_gives_the_same_journal():
    texts = []
    for _ in range(2):
        team = team_of([1e6, 3e5, 2e5], layout=WIDE, iterations=10, seed=3)
        team.at(0.7, lambda team=team: team.cut("robot1", 0.3))
        finished(team)
        texts.append([journal.records for journal in team.journals.values()])
    assert texts[0] == texts[1]


def test_nothing_that_a_contribution_costs_grows_with_the_team():
    """What is added, is added to the parameters and to one vector."""
    team = team_of([1e6] * 5, layout=WIDE)
    team.run(0.5)
    assert not team.server.rule.owing()
    assert team.server.ledger.common is team.server.rule.stream.residual
    assert names_of([one.script for one in team.workers.values()]) == list(team.server.members)
