"""The page over real HTTP on loopback: who may look, what is sent, and that nothing comes from elsewhere."""

from __future__ import annotations

import json
import re
import socket
import sys
import urllib.error
import urllib.request
from importlib.resources import files
from typing import ClassVar

import pytest

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'rowcast[page]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'rowcast[page]'")

from rowcast.errors import ConfigError
from rowcast.page import Live, PageAddress, Watch, page_server
from rowcast.page.app import ASSETS, HEADERS

TOKEN = "a-token-of-24-characters"


def join(live, name, t=1.0):
    live.take({"t": t, "node": "server", "event": "join", "peer": name, "how": "seed", "members": 1, "iteration": 0})


def get(url, **headers):
    """Status, headers and text; redirections are followed with what cookies they set."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


class Stream:
    """The events that the server sends, one after the other."""

    opened: ClassVar[list] = []

    def __init__(self, url):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.answer = opener.open(url + "events", timeout=20)
        self.opened.append(self.answer)

    def next(self):
        for line in self.answer:
            if line.startswith(b"data: "):
                return json.loads(line[6:])
        return None


@pytest.fixture(autouse=True)
def no_stream_stays_open():
    yield
    while Stream.opened:
        Stream.opened.pop().close()


@pytest.fixture
def live():
    return Live("a server")


@pytest.fixture
def page(live):
    with page_server(live, PageAddress.of("0")) as url:
        yield url


def test_every_file_comes_with_the_policy_and_names_no_other_place(page):
    for name in ("", *(f"assets/{name}" for name in ASSETS)):
        status, headers, text = get(page + name)
        assert status == 200 and text
        for header, value in HEADERS.items():
            assert headers[header] == value
        if not name.endswith(("LICENSE.txt", "uPlot.iife.min.js")):
            assert not re.search(r"(https?:)?//[a-z]", text.replace("http://www.w3.org/2000/svg", "")), name
    assert "script-src 'self'" in HEADERS["content-security-policy"] and "unsafe" not in str(HEADERS)
    packaged = {each.name for each in files("rowcast.page").joinpath("assets").iterdir()}
    assert packaged == set(ASSETS)
    assert get(page + "assets/../app.py")[0] == get(page + "assets/nothing.js")[0] == 404


def test_all_of_it_first_and_then_what_has_changed(page, live):
    join(live, "r-1")
    stream = Stream(page)
    whole = stream.next()
    assert whole["kind"] == "whole" and [robot["name"] for robot in whole["robots"]] == ["r-1"]
    for t in (2.0, 3.0):
        live.take({"t": t, "node": "server", "event": "push", "peer": "r-2", "iteration": 1, "bytes": 500})
    seen = []
    while not any(changes["points"] for changes in seen):
        seen.append(stream.next())
    assert {robot["name"] for changes in seen for robot in changes["robots"]} == {"r-2"}
    assert seen[-1]["points"]["r-2"]["up"] == [0, [3.0], [4000.0]]
    assert json.loads(get(page + "curves?curve=up&robot=r-2")[2]) == {"r-2": [1, [3.0], [4000.0]]}
    assert json.loads(get(page + "curves?curve=up&robot=r-2&span=whole")[2])["r-2"][2] == [4000.0]


def test_a_second_viewer_takes_nothing_from_the_first(page, live):
    first = Stream(page)
    assert first.next()["robots"] == []
    join(live, "r-1")
    second = Stream(page)
    assert [robot["name"] for robot in second.next()["robots"]] == ["r-1"]
    assert [robot["name"] for robot in first.next()["robots"]] == ["r-1"]


def test_without_a_journal_the_past_cannot_be_asked_for(page):
    assert json.loads(get(page + "at?t=1")[2]) == {"kind": "none"}
    for wrong in ("at", "at?t=soon", "at?t=nan"):
        status, _, text = get(page + wrong)
        assert status == 400 and len(text.splitlines()) == 1


def test_a_moment_of_a_journal(tmp_path):
    path = tmp_path / "server.jsonl"
    lines = [{"t": t, "node": "server", "event": "join", "peer": f"r-{t}"} for t in range(5)]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    with page_server(Watch(path), PageAddress.of("0")) as url:
        assert Stream(url).next()["replays"]
        assert len(json.loads(get(url + "at?t=2.5")[2])["robots"]) == 3


@pytest.mark.parametrize("host", ["elsewhere.example", "10.0.0.1", "localhost.example"])
def test_another_name_for_this_machine_is_refused(page, host):
    status, _, text = get(page, Host=host)
    assert status == 421 and len(text.splitlines()) == 1
    assert get(page, Host="localhost:8080")[0] == 200


def test_beyond_loopback_nothing_is_shown_without_the_token(live, tmp_path):
    address = PageAddress.of("0.0.0.0:0")
    assert len(address.token) >= 24 and address.token != PageAddress.of("0.0.0.0:0").token
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)
    with page_server(live, PageAddress.of("0.0.0.0:0", tmp_path / "token")) as url:
        assert url.endswith(f"?token={TOKEN}")
        base = f"http://127.0.0.1:{url.rpartition(':')[2].partition('/')[0]}/"
        for name in ("", "events", "at?t=1", "curves", "assets/app.js", "?token=wrong", "?token=%C3%A9"):
            status, headers, text = get(base + name)
            assert status == 403 and len(text.splitlines()) == 1 and TOKEN not in text
            assert headers["content-security-policy"]
        assert get(base, Cookie="rowcast-page=wrong")[0] == 403
        assert get(f"{base}?token={TOKEN}")[0] == 200
        assert get(base + "at?t=1", Cookie=f"rowcast-page={TOKEN}")[0] == 200


def test_the_page_is_only_read(page):
    request = urllib.request.Request(page, data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20)
    with refused.value as answer:
        assert answer.code == 405


def test_a_port_in_use_is_one_line(live):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--page 127\.0\.0\.1:{port}: cannot listen there: .*in use") as refused:
            page_server(live, PageAddress.of(str(port))).__enter__()
    assert "\n" not in str(refused.value)


def test_a_missing_extra_is_one_line(live, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"pip install 'rowcast\[page\]'"):
        page_server(live, PageAddress.of("0")).__enter__()


def test_a_page_ends_while_somebody_looks(live):
    with page_server(live, PageAddress.of("0")) as url:
        stream = Stream(url)
        assert stream.next()["kind"] == "whole"
    assert stream.next() is None


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("8080", "127.0.0.1", 8080), ("localhost:1", "localhost", 1), ("[::1]:80", "::1", 80), (":9", "127.0.0.1", 9)],
)
def test_addresses(text, host, port):
    assert PageAddress.of(text) == PageAddress(host, port)


@pytest.mark.parametrize("text", ["", "http", "1.2.3.4:", "70000", "a:b", "-1"])
def test_what_is_no_address(text):
    with pytest.raises(ConfigError, match="expected PORT or HOST:PORT"):
        PageAddress.of(text)
