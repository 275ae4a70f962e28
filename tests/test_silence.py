"""A peer that accepts a connection and never says a word, and interrupts at the lines where they would hurt."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from live import IMPATIENT, LAYOUT, LIMIT_S, LiveServer, eventually, propose
from rowcast.config import WorkerSettings
from rowcast.drivers.sockets import Endpoint, Security, Team
from rowcast.errors import AuthenticationFailed, ServerUnavailable

#: Gives up within a second or two.
BRIEF = WorkerSettings(
    join_limit_s=1.0, reconnect_limit_s=0.5, silence_limit_s=0.5, reconnect_first_s=0.02, reconnect_cap_s=0.1
)


def ended(call):
    """What ``call()`` raised, in a thread of its own: it must end."""
    raised = []

    def run():
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    assert not thread.is_alive(), "it waits for ever"
    return raised[0] if raised else None


@pytest.mark.parametrize(
    ("secret", "error", "text"),
    [
        (None, ServerUnavailable, "expected a Rowcast server at .* within 1 s, got: nothing came from the server"),
        (b"s" * 32, AuthenticationFailed, "no proof came for 0.5 s"),
    ],
)
def test_a_listener_that_never_speaks_is_given_up(secret, error, text):
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel accepts, nobody answers
        team = Team(
            Endpoint("127.0.0.1", listener.getsockname()[1], security=Security(secret)), name="me", settings=BRIEF
        )
        begun = time.monotonic()
        with pytest.raises(error, match=text):
            raise ended(lambda: team.start(LAYOUT, LAYOUT.zeros()))
        assert time.monotonic() - begun < 1.0 + 0.5 + 2.0


@pytest.mark.parametrize("policy", ["bsp", "rog:4", "rowcast"])
def test_a_server_that_stands_still_is_given_up(policy):
    with LiveServer(policy, expected_workers=2) as server:
        stopped, go_on = threading.Event(), threading.Event()
        others = [Team(Endpoint("127.0.0.1", server.port), name=name, settings=BRIEF) for name in ("me", "other")]
        threads = [threading.Thread(target=team.start, args=(LAYOUT, LAYOUT.zeros())) for team in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        server._loop.call_soon_threadsafe(lambda: (stopped.set(), go_on.wait(2 * LIMIT_S)))
        try:
            assert stopped.wait(LIMIT_S)

            def train():
                while True:
                    propose(others[0], 1)
                    others[0].exchange()

            with pytest.raises(ServerUnavailable, match=r"within 0\.5 s"):
                raise ended(train)
        finally:
            go_on.set()
            for team in others:
                team.leave()
            for _ in range(5):  # it takes the connections that had piled up, and sees that they have ended
                server.call(asyncio.sleep(0))
            eventually(lambda: not server.server._connections)


def team_threads(name):
    return [thread for thread in threading.enumerate() if thread.name == f"rowcast-{name}"]


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["lend_threads", "WorkerNode", "thread begun", "_wait", "leave", "_forget"])
def test_an_interrupt_anywhere_in_the_start_leaves_nothing_behind(place, monkeypatch):
    with LiveServer(expected_workers=1) as server:
        team = Team(Endpoint("127.0.0.1", server.port), name="me", settings=IMPATIENT)
        with monkeypatch.context() as patch:
            if place in ("lend_threads", "WorkerNode"):
                patch.setattr(f"rowcast.drivers.sockets.team.{place}", interrupt)
            elif place == "thread begun":
                really = threading._start_new_thread
                held = threading.Event()

                def start(function, args):
                    really(lambda *given: (held.wait(LIMIT_S), function(*given)), args)
                    raise KeyboardInterrupt  # while the thread waits for the processor

                patch.setattr(threading, "_start_new_thread", start)
            else:
                patch.setattr(team, "_wait", interrupt)
                if place != "_wait":
                    patch.setattr(team, place, interrupt)
            with pytest.raises(KeyboardInterrupt):
                team.start(LAYOUT, LAYOUT.zeros())
        assert ended(lambda: team.start(LAYOUT, LAYOUT.zeros())) is None
        if place == "thread begun":
            held.set()
        eventually(lambda: len(team_threads("me")) == 1)
        team.finish()
        assert not team_threads("me")


@pytest.mark.parametrize("what", ["still", "hold"])
def test_an_interrupt_that_comes_as_the_network_is_held_lets_it_go_on(what):
    with LiveServer() as server:
        team = Team(Endpoint("127.0.0.1", server.port), name="me", settings=IMPATIENT)
        team.start(LAYOUT, LAYOUT.zeros())
        lock = team._network._ending

        @contextlib.contextmanager
        def interrupted():
            with lock:
                yield
            raise KeyboardInterrupt  # all was queued

        class Once:
            def __enter__(self):
                team._network._ending = lock
                self.inner = interrupted()
                return self.inner.__enter__()

            def __exit__(self, *error):
                return self.inner.__exit__(*error)

        team._network._ending = Once()
        with pytest.raises(KeyboardInterrupt), getattr(team, what)():
            pass
        propose(team, 1)
        assert ended(team.exchange) is None
        eventually(lambda: not team.node._replica._held)
        assert ended(team.finish) is None
