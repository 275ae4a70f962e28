"""The page in headless Chromium while a team trains: it draws, follows, outlives a restart, and fits a phone."""

from __future__ import annotations

import re
import shutil
import signal

import pytest

from live import LIMIT_S, Robot
from rowcast.drivers.sockets import Endpoint, Security
from rowcast.page import Live, PageAddress, page_server
from standby_processes import ServerProcess, free_port

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]
#: A browser on a machine that has much else to do (ms).
SLOW_MS = 60_000


@pytest.fixture
def browser():
    with playwright.sync_playwright() as all_kinds:
        found = all_kinds.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Tab:
    """A page in the browser, and what went wrong in it."""

    def __init__(self, browser, url, width=1280, height=900, scheme="light"):
        self.complaints, self.asked = [], []
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page = context.new_page()
        self.page.set_default_timeout(SLOW_MS)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def see(self, selector):
        self.page.wait_for_selector(selector)

    def step(self, robot):
        """The step in the table, as a number."""
        row = self.page.locator("#robots tbody tr", has_text=robot)
        text = row.locator("td").nth(1).inner_text()
        return int(text) if text.isdecimal() else -1

    def steps_beyond(self, robot, step):
        row = self.page.locator("#robots tbody tr", has_text=robot)
        beyond = re.compile(f"^(?!(?:{'|'.join(map(str, range(step + 1)))})$)[0-9]+$")
        playwright.expect(row.locator("td").nth(1)).to_have_text(beyond, timeout=SLOW_MS)

    @property
    def too_wide(self):
        return self.page.evaluate("document.documentElement.scrollWidth > innerWidth")


class PageServer(ServerProcess):
    """``rowcast serve --page`` with a state, on ports that stay."""

    def __init__(self, folder):
        super().__init__(folder, "server", "rog:4", 2)
        self.page_port = free_port()
        self.options += ["--page", self.page_port, "--watch-every-s", "0.3"]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.page_port}/"


@pytest.fixture
def server(tmp_path):
    found = PageServer(tmp_path)
    try:
        yield found.start()
    finally:
        found.end()


def test_a_team_is_watched_while_it_trains(server, browser):
    robots = [
        Robot(Endpoint("127.0.0.1", server.port, Security(None)), name, steps=100_000, link=rate, wait=False)
        for name, rate in (("robot-1", 2e6), ("robot-2", 1e6))
    ]
    try:
        tab = Tab(browser, server.url)
        # It draws: the table, curves of both, the map of rows, and the log with words for what is shown in colour.
        tab.see("#robots tbody tr:nth-child(2)")
        tab.see("#chart-rate[data-points]:not([data-points='0']) canvas")
        tab.see("#map[data-cells='4']")
        assert "joined" in tab.page.locator("#log").inner_text()
        assert "mean age" in tab.page.locator("#map").get_attribute("aria-label")
        # It follows.
        tab.steps_beyond("robot-1", max(tab.step("robot-1"), 0))
        tab.page.locator("#connection", has_text="up to date").wait_for()
        # By keyboard: a cell of the map is read out.
        tab.page.locator("#map").focus()
        tab.page.keyboard.press("ArrowDown")
        tab.page.keyboard.press("ArrowRight")
        playwright.expect(tab.page.locator("#map-detail")).to_have_text(
            re.compile("robot-2, 2: bias, 1 rows: mean age")
        )
        # The past: the beginning, where nobody had done a step, and back.
        tab.page.locator("#slider").focus()
        tab.page.keyboard.press("Home")
        tab.page.locator("#connection", has_text="replay").wait_for()
        playwright.expect(tab.page.locator("#summary")).to_have_text(re.compile("Nobody has joined yet"))
        tab.page.locator("#live").click()
        tab.page.locator("#connection", has_text="up to date").wait_for()
        assert tab.complaints == []

        # The server is killed and comes back: the page says so, and goes on by itself.
        server.end(signal.SIGKILL)
        tab.page.locator("#connection", has_text="connection lost").wait_for()
        server.start()
        tab.page.locator("#connection", has_text="up to date").wait_for()
        tab.see("#robots tbody tr:nth-child(2)")
        tab.steps_beyond("robot-2", max(tab.step("robot-2"), 0))
        assert all("ERR_" in text for text in tab.complaints)  # the browser's own lines about the time without a server
        assert all(url.startswith((server.url, "data:")) for url in tab.asked)

        phone = Tab(browser, server.url, 390, 844, "dark")
        phone.see("#robots tbody tr:nth-child(2)")
        phone.see("#chart-stall[data-points]")
        assert not phone.too_wide and not tab.too_wide
        assert phone.complaints == []
    finally:
        for robot in robots:
            robot.team.abandon()
        for robot in robots:
            robot.join(LIMIT_S)


def test_what_a_meter_and_a_battery_say_is_shown(browser, tmp_path):
    """Live, with units; and gone once the meter does not read any longer."""
    live = Live("a server")
    told = {"node": "server", "event": "told", "peer": "robot-1", "state": "computing", "iteration": 1}
    with page_server(live, PageAddress.of("0")) as url:
        tab = Tab(browser, url)
        for t, metrics, text in (
            (1.0, {"loss": 1.0}, "–"),
            (2.0, {"power_w": 7.523, "energy_j": 812.4, "battery_pct": 81.0}, "7.52 W, 812 J, battery 81 %"),
            (3.0, {"power_w": 9.104, "energy_j": 820.0}, "9.1 W, 820 J, battery 81 %"),
            (4.0, {"power_w": 0.0, "energy_j": 820.0}, "820 J, battery 81 %"),
        ):
            live.take({"t": t, **told, "metrics": metrics})
            row = tab.page.locator("#robots tbody tr", has_text="robot-1")
            playwright.expect(row.locator("td").last).to_have_text(text)
            assert row.locator("td").last.is_visible() == (text != "–")
        tab.page.screenshot(path=tmp_path / "energy.png")
        options = tab.page.locator("#metric option").all_inner_texts()
        assert options[0] == "loss" and "power_w" not in options
        assert tab.complaints == []
