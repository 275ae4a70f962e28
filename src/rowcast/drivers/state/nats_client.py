"""A connection to NATS JetStream on a thread of its own, for callers that wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from rowcast.drivers.state.address import JetStreamAddress
from rowcast.errors import ConfigError, visible

__all__ = ["ANSWER_S", "NatsThread", "as_oserror"]

log = logging.getLogger("rowcast")
T = TypeVar("T")

#: JetStream answers within so long (s), or the request has failed.
ANSWER_S = 4.0
#: At the start somebody must answer within so long (s).
CONNECT_S = 8.0
#: A connection on which nothing comes back twice in so long (s) each is given up: the next host is tried.
PING_S = 2
#: After a connection was lost the next host is tried so much later (s).
AGAIN_S = 0.2


def _nats() -> Any:
    try:
        import nats
        import nats.js
    except ImportError as error:
        raise ConfigError(
            f"a log in JetStream needs a library ({error}); install it: pip install 'rowcast[jetstream]'"
        ) from error
    return nats


@contextlib.contextmanager
def as_oserror(doing: str) -> Iterator[None]:
    """What goes wrong within with NATS is an OSError that says so.

    Raises:
        OSError: JetStream refuses, does not answer in time, or is not there.
    """
    import nats.errors
    import nats.js.errors

    try:
        yield
    except nats.js.errors.APIError as error:
        raise OSError(f"JetStream refuses to {doing}: {visible(error.description or str(error))}") from error
    except (nats.js.errors.NoStreamResponseError, nats.errors.NoRespondersError) as error:
        raise OSError(f"nobody answers for the log in JetStream: it has no leader, or is gone (to {doing})") from error
    except (nats.errors.TimeoutError, asyncio.TimeoutError) as error:
        raise OSError(f"JetStream has not answered in time (to {doing})") from error
    except nats.errors.Error as error:
        raise OSError(f"JetStream cannot be reached (to {doing}): {visible(str(error))}") from error


class NatsThread:
    """A connection that is made again by itself when it is lost.

    Args:
        address: whom to connect to.

    Attributes:
        js: the client's interface to JetStream, for coroutines that run in :meth:`call`.
        library: the package ``nats``.

    Raises:
        ConfigError: the library is missing, a file cannot be read, nobody answers there, or this client is refused.
    """

    js: Any

    def __init__(self, address: JetStreamAddress) -> None:
        self.library = _nats()
        self._address = address
        self._client: Any = None
        self._said = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rowcast-nats", daemon=True)
        self._thread.start()
        try:
            self.call(self._connect())
        except BaseException:
            self.close()
            raise

    def check_connected(self) -> None:
        """Without a connection nothing is sent: the library would keep it and send it later.

        Raises:
            OSError: there is none now.
        """
        if not self._client.is_connected:
            raise OSError(f"no connection to NATS at {self._address}: {self._said or 'it was lost'}")

    @property
    def max_payload(self) -> int:
        """Largest message that the server takes (bytes)."""
        return int(self._client.max_payload)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the thread, and wait for its end. What it asks of NATS has limits of its own.

        Raises:
            OSError: the connection was closed for good.
        """
        if not self._thread.is_alive():
            coroutine.close()
            raise OSError("the connection to NATS was closed")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def now(self) -> float:
        """The time (s) of the thread's loop."""
        return self._loop.time()

    async def _connect(self) -> None:
        address = self._address
        errors = self.library.errors
        refused = False

        async def failed(error: Exception) -> None:
            # A server that refuses a client closes the connection at once, so that the client reads the refusal or only
            # a reset, by chance: until there is a connection, a refusal is not displaced by a broken attempt.
            nonlocal refused
            broken = isinstance(error, (OSError, asyncio.TimeoutError, errors.StaleConnectionError))
            log.debug("NATS at %s: %s", address, error)
            if not (broken and refused and self._client is None):
                self._said, refused = visible(str(error) or type(error).__name__), not broken

        options = self._options()
        client = self.library.NATS()
        try:
            await asyncio.wait_for(
                client.connect(
                    [f"nats://{host}" for host in address.hosts],
                    error_cb=failed,
                    name=f"rowcast {address.name}",
                    connect_timeout=2,
                    reconnect_time_wait=AGAIN_S,
                    max_reconnect_attempts=-1,
                    ping_interval=PING_S,
                    **options,
                ),
                CONNECT_S,
            )
        except (errors.Error, OSError, asyncio.TimeoutError) as error:
            await client.close()
            why = self._said or visible(str(error)) or "no answer"
            raise ConfigError(
                f"state {address}: expected NATS with JetStream there within {CONNECT_S:g} s, got {why}; start "
                "nats-server -js, or correct --state"
            ) from error
        self._client, self.js, self._said = client, client.jetstream(timeout=ANSWER_S), ""

    def _options(self) -> dict[str, Any]:
        address = self._address
        options: dict[str, Any] = {}
        try:
            if address.tls:
                options["tls"] = ssl.create_default_context(cafile=address.ca)
            if address.password_file is not None:
                options |= {"user": address.user, "password": address.password_file.read_text("utf-8").strip()}
        except (OSError, ValueError) as error:
            name = address.ca if address.tls and "tls" not in options else address.password_file
            raise ConfigError(f"--state: {name} cannot be used: {getattr(error, 'strerror', None) or error}") from error
        return options

    def close(self) -> None:
        """End the connection and the thread."""
        self.call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        if self._client is not None:
            await self._client.close()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
