"""The page: its files, the team as events that the server sends, curves, and moments of the past."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import math
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from rowcast.errors import RowcastError
from rowcast.page.address import is_loopback
from rowcast.page.model import Team
from rowcast.page.state import Changes, curves_of, team_state
from rowcast.page.watching import Source

__all__ = ["UPDATES_PER_S", "Viewers", "page_app"]

#: Changes are sent so often.
UPDATES_PER_S = 5.0
#: Changes that wait for one viewer at most; one who is slower begins anew. Viewers at once at most.
MOST_WAITING, MOST_VIEWERS = 50, 64
#: Somebody is told so often (s) that nothing has happened, or a connection that is dead would never be noticed.
BEAT_S = 10.0
MOST_ROBOTS = 64

ASSETS = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "charts.js": "text/javascript; charset=utf-8",
    "map.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "uPlot.iife.min.js": "text/javascript; charset=utf-8",
    "uPlot.min.css": "text/css; charset=utf-8",
    "uPlot.LICENSE.txt": "text/plain; charset=utf-8",
}
#: Nothing comes from anywhere else, nothing is sent anywhere else, and no text becomes a script.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
COOKIE = "rowcast-page"
METRICS = "/metrics"

_encode = msgspec.json.Encoder().encode


class Viewers:
    """Tells all who look at the page what has changed, made once for all of them.

    Args:
        source: the team.
        updates_per_s: how often.
    """

    def __init__(self, source: Source, updates_per_s: float = UPDATES_PER_S) -> None:
        self.source = source
        self.closing = asyncio.Event()
        self._every_s = 1.0 / updates_per_s
        self._changes = Changes()
        self._queues: set[asyncio.Queue[bytes | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """From any thread: the page ends, and so does what everybody is sent."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(self.closing.set)

    async def run(self) -> None:
        """Until the page ends: take in what is new, and tell it."""
        self._loop = asyncio.get_running_loop()
        while not self.closing.is_set():
            self.tell()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.closing.wait(), self._every_s)
        for queue in self._queues:
            queue.put_nowait(None)

    def tell(self) -> None:
        """Take in what is new, and put it into the queues of all who look."""
        source = self.source
        with source.lock:
            source.pump()
            if not self._queues:
                return
            told = self._changes.since_last(source.team, source.generation)
            extra = {"loaded": source.loaded, "replays": source.replays, "title": source.title}
        if told is None:
            return
        message = _event(told | extra)
        for queue in list(self._queues):
            if queue.qsize() >= MOST_WAITING:
                self._queues.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(message)

    async def stream(self) -> AsyncIterator[bytes]:
        """What one viewer is sent: all of it, then the changes."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        source = self.source
        with source.lock:
            source.pump()
            # Whoever looks already is told what has changed up to here, and this one gets all of it.
            told = self._changes.since_last(source.team, source.generation)
            whole = team_state(source.team, source.generation)
            extra = {"loaded": source.loaded, "replays": source.replays, "title": source.title}
        if told is not None:
            for other in self._queues:
                other.put_nowait(_event(told | extra))
        self._queues.add(queue)
        try:
            yield b"retry: 1000\n\n" + _event(whole | extra)
            while not self.closing.is_set():
                try:
                    message = await asyncio.wait_for(queue.get(), BEAT_S)
                except asyncio.TimeoutError:
                    message = b": nothing new\n\n"
                if message is None:
                    return
                yield message
        finally:
            self._queues.discard(queue)

    @property
    def count(self) -> int:
        """How many look."""
        return len(self._queues)


def _event(told: dict[str, Any]) -> bytes:
    return b"data: " + _encode(told) + b"\n\n"


class Metrics(Protocol):
    """See :class:`rowcast.page.metrics.Exposition`."""

    def answer(self, accept: str) -> tuple[bytes, str]: ...


def page_app(
    source: Source, token: str = "", updates_per_s: float = UPDATES_PER_S, metrics: Metrics | None = None
) -> Starlette:
    """The page as an ASGI application.

    Args:
        source: the team.
        token: without it, in the address at first and in a cookie then, or as a bearer, nothing is shown. Empty: the
            page is on loopback, and whoever asks under a name of loopback is shown it.
        updates_per_s: how often changes are sent.
        metrics: what answers at ``/metrics``, if anything does.
    """
    viewers = Viewers(source, updates_per_s)
    answers = _Answers(source, viewers, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(viewers.run())
        try:
            yield
        finally:
            viewers.closing.set()
            await running

    app = Starlette(
        routes=[
            Route("/", answers.asset),
            Route("/assets/{name}", answers.asset),
            Route("/events", answers.events),
            Route("/curves", answers.curves),
            Route("/at", answers.at),
            Route(METRICS, answers.metrics),
        ],
        lifespan=lifespan,
    )
    app.add_middleware(_Guard, token=token)
    app.state.viewers = viewers
    return app


class _Answers:
    """What is answered to whom the guard has let in."""

    def __init__(self, source: Source, viewers: Viewers, metrics: Metrics | None) -> None:
        self._source = source
        self._viewers = viewers
        self._metrics = metrics

    async def asset(self, request: Request) -> Response:
        """A file of the page."""
        name = request.path_params.get("name", "index.html")
        if name not in ASSETS:
            return PlainTextResponse("there is no such file\n", 404)
        data = files("rowcast.page").joinpath("assets", name).read_bytes()
        return Response(data, media_type=ASSETS[name])

    async def events(self, request: Request) -> Response:
        """The team, and then what changes in it, as server-sent events."""
        if self._viewers.count >= MOST_VIEWERS:
            return PlainTextResponse(f"expected at most {MOST_VIEWERS} viewers at once; close a page\n", 503)
        return StreamingResponse(self._viewers.stream(), media_type="text/event-stream")

    async def curves(self, request: Request) -> Response:
        """A curve of some robots, now or at ``t``."""
        robots = request.query_params.getlist("robot")[:MOST_ROBOTS]
        name, whole = request.query_params.get("curve", ""), request.query_params.get("span") == "whole"
        t, source = _time(request), self._source

        def look(team: Team) -> bytes:
            return _encode(curves_of(team, name, robots, whole=whole))

        def find() -> bytes:
            if t is not None and source.replays:
                return source.at(t, look)
            with source.lock:
                return look(source.team)

        return await _json(find)

    async def at(self, request: Request) -> Response:
        """The team at ``t``."""
        t, source = _time(request), self._source
        if t is None:
            return PlainTextResponse("expected t, a time in seconds, as in /at?t=12.5\n", 400)

        def find() -> bytes:
            if not source.replays:
                return _encode({"kind": "none"})
            return source.at(t, lambda team: _encode(team_state(team, 0)))

        return await _json(find)

    async def metrics(self, request: Request) -> Response:
        """The team for Prometheus, in the form that it asks for."""
        if self._metrics is None:
            return PlainTextResponse("there are no metrics; start it with --metrics\n", 404)
        text, kind = await run_in_threadpool(self._metrics.answer, request.headers.get("accept", ""))
        return Response(text, headers={"content-type": kind})


async def _json(find: Callable[[], bytes]) -> Response:
    try:
        return Response(await run_in_threadpool(find), media_type="application/json")
    except RowcastError as error:
        return PlainTextResponse(f"{error}\n", 500)


def _time(request: Request) -> float | None:
    try:
        t = float(request.query_params.get("t", ""))
    except ValueError:
        return None
    return t if math.isfinite(t) else None


class _Guard:
    """Lets those in who have the token, or on loopback those who ask under a name of loopback; sets the headers.

    The name: a page elsewhere, whose name was made to lead to this machine, could otherwise read this one.
    """

    def __init__(self, app: Any, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *headers]}
            await send(message)

        request = Request(scope)
        await (self._refusal(request) or self._app)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("this page is only read\n", 405)
        if not self._token:
            host = request.headers.get("host", "")
            name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
            if is_loopback(name.strip("[]")):
                return None
            return PlainTextResponse("expected a name of this machine's loopback, such as localhost\n", 421)
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(bearer.strip().encode(), self._token):
            return None
        given = request.query_params.get("token", "")
        if given and hmac.compare_digest(given.encode(), self._token):
            if request.url.path == METRICS:  # who asks there keeps no cookie
                return None
            answer = RedirectResponse("/", 303)
            answer.set_cookie(COOKIE, given, httponly=True, samesite="strict", path="/")
            return answer
        if hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), self._token):
            return None
        return PlainTextResponse("expected the token of this page, as in /?token=...; the server has printed it\n", 403)
