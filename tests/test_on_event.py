"""``team.on_event``: a logger of one's own is told what happens, and cannot stop a training."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest

import rowcast
from live import IMPATIENT, LAYOUT, LiveServer, eventually
from rowcast.drivers import subscribing
from rowcast.drivers.subscribing import Subscription
from rowcast.errors import LocalProtocolError
from rowcast.journal import EVENTS, Event, Journal, forget, read_journal


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger="rowcast")
    return caplog


def joined(server, journal_file=None, **words):
    return rowcast.join(f"127.0.0.1:{server.port}", name="r-1", settings=IMPATIENT, journal_file=journal_file, **words)


def train(team, steps=3):
    team.start(LAYOUT, np.zeros(LAYOUT.elements, np.float32))
    for _ in range(steps):
        team.exchange()
    team.report(loss=0.5)
    team.note("saved", "model.pt")


@pytest.mark.parametrize("written", [False, True])
def test_a_logger_is_told_what_the_journal_has(tmp_path, written):
    path = tmp_path / "r-1.jsonl" if written else None
    events, threads = [], set()

    def told(event):
        events.append(event)
        threads.add(threading.current_thread().name)

    with LiveServer() as server:
        team = joined(server, path)
        team.on_event(told)
        train(team)
        team.finish()
    names = [event.name for event in events]
    assert names[0] == "link_up" and names.count("step") == 3 and {"metric", "task", "drained"} <= set(names)
    assert threads == {"rowcast-events-r-1"}
    assert all(isinstance(event, Event) and event.node == "r-1" and event.name in EVENTS for event in events)
    metric = next(event for event in events if event.name == "metric")
    assert (metric.fields["name"], metric.fields["value"]) == ("loss", 0.5)
    assert [event.t for event in events] == sorted(event.t for event in events)
    if written:
        team.journal.close()
        kept = [record for record in read_journal(path) if record["event"] != "start"]  # recorded by join() itself
        assert [Event.of(record) for record in kept] == events


def test_a_callback_that_raises_stops_nothing_and_is_told_of_once(warnings):
    calls = []

    def clumsy(event):
        calls.append(event.name)
        raise (KeyError if event.name == "metric" else ValueError)("no such\npanel")

    with LiveServer() as server:
        team = joined(server)
        handle = team.on_event(clumsy)
        train(team)
        team.finish()
    assert calls.count("step") == 3 and handle.failures == len(calls)
    errors = [record for record in warnings.records if record.levelno == logging.ERROR]
    assert len(errors) == 2  # one for each class
    assert "clumsy has raised ValueError: no such\\npanel; training goes on" in errors[0].getMessage()
    assert errors[0].exc_info is not None and "\n" not in errors[0].getMessage()
    assert warnings.messages[-1].endswith(f"has raised {len(calls)} times")


def test_a_callback_that_hangs_does_not_keep_the_training(warnings):
    entered, release = threading.Event(), threading.Event()

    def slow(event):
        entered.set()
        release.wait()

    with LiveServer() as server:
        team = joined(server)
        handle = team.on_event(slow)
        try:
            train(team, steps=5)  # all of it while the callback is in its first event
            assert entered.wait(20) and team.iteration >= 5
            handle.close(limit_s=0.0)
        finally:
            release.set()
        team.finish()
    assert handle.dropped > 5
    assert "still at work after 0 s" in warnings.messages[-1] and f"{handle.dropped} events" in warnings.messages[-1]


def test_it_ends_with_its_handle():
    journal, first, second = Journal("r-1", forget), [], []
    with Subscription(journal, first.append):
        other = Subscription(journal, second.append)
        journal.record(1.0, "end", cause="one")
    journal.record(2.0, "end", cause="two")
    other.close()
    other.close()
    journal.record(3.0, "end", cause="three")
    assert [event.cause for event in first] == ["one"]
    assert [event.cause for event in second] == ["one", "two"]
    assert other.closed and not journal._watchers


def test_a_callback_may_end_it_itself():
    journal, told = Journal("r-1", forget), []

    def once(event):
        told.append(event.cause)
        handle.close()

    handle = Subscription(journal, once)
    journal.record(1.0, "end", cause="one")
    eventually(lambda: handle.closed)
    journal.record(2.0, "end", cause="two")
    handle.close()
    assert told == ["one"]


def test_what_is_too_much_is_dropped_from_its_old_end(monkeypatch, warnings):
    monkeypatch.setattr(subscribing, "MOST_WAITING", 3)
    journal, told = Journal("r-1", forget), []
    entered, release = threading.Event(), threading.Event()

    def slow(event):
        entered.set()
        release.wait()
        told.append(event.t)

    handle = Subscription(journal, slow)
    journal.record(0.0, "end", cause="")
    assert entered.wait(20)
    for t in range(1, 8):
        journal.record(t, "end", cause="")
    release.set()
    handle.close()
    assert told == [0, 5, 6, 7] and handle.dropped == 4
    assert len(warnings.messages) == 1 and "of more than 3 that wait the oldest are dropped" in warnings.messages[0]


def test_it_lives_through_a_start_that_failed():
    told = []
    with LiveServer() as server:
        team = joined(server, parameters="mine")
        team.on_event(told.append)
        team._endpoint, right = type(team._endpoint)("127.0.0.1", 1, team._endpoint.security), team._endpoint
        team._settings, before = type(IMPATIENT)(join_limit_s=0.1), team._settings
        with pytest.raises(rowcast.RowcastError):
            train(team)
        team._endpoint, team._settings = right, before
        train(team)
        team.finish()
    assert [event.name for event in told].count("step") == 3


def test_what_cannot_be_called_is_refused():
    with LiveServer() as server, pytest.raises(LocalProtocolError, match="expected a function that takes an event"):
        joined(server).on_event(None)
