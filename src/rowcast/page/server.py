"""Shows a page, on a thread and an event loop of its own: the server of a team goes on beside it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rowcast.errors import ConfigError
from rowcast.libraries import needing
from rowcast.page.address import PageAddress
from rowcast.page.watching import Source

if TYPE_CHECKING:
    from rowcast.page.metrics import Exposition

__all__ = ["page_server"]

INSTALL = "the page needs starlette and uvicorn, which are not installed: pip install 'rowcast[page]'"
#: So long a page may take to come up, and to end (s).
LIMIT_S = 30.0


@contextlib.contextmanager
def page_server(source: Source, address: PageAddress, updates_per_s: float | None = None) -> Iterator[str]:
    """Show a page while entered; gives its address, to be opened in a browser.

    Args:
        source: the team. Where it counts, there are metrics for Prometheus at ``/metrics`` as well.
        address: where.
        updates_per_s: how often changes are sent, where it shall be otherwise.

    Raises:
        ConfigError: what it needs is not installed, or the port cannot be used.
    """
    try:
        import uvicorn

        from rowcast.page.app import UPDATES_PER_S, page_app
    except ImportError as error:
        raise ConfigError(INSTALL) from error
    metrics = _metrics_of(source)
    listener = address.bind()
    try:
        app = page_app(source, address.token, updates_per_s or UPDATES_PER_S, metrics)
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="rowcast-page", daemon=True)
        thread.start()
        try:
            yield address.url(listener.getsockname()[1])
        finally:
            server.should_exit = True
            app.state.viewers.stop()
            thread.join(LIMIT_S)
    finally:
        listener.close()


def _metrics_of(source: Source) -> Exposition | None:
    """What answers who asks for metrics; ``None``: nobody counts, and there are none.

    Raises:
        ConfigError: the library for it is not installed.
    """
    if source.totals is None:
        return None
    with needing("--metrics", "metrics"):
        from rowcast.page.metrics import Exposition
    return Exposition(source, source.totals)
