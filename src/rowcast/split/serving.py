"""A server for a captured model."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rowcast.config import AnswererSettings, LinkSettings
from rowcast.drivers.sockets import InferenceServer, Security
from rowcast.drivers.sockets.tcp import split_address
from rowcast.errors import ConfigError
from rowcast.inference import AnswererNode
from rowcast.journal import Journal, forget
from rowcast.session import record_start
from rowcast.split.captured import Captured
from rowcast.split.engine import TorchEngine, spec_of
from rowcast.split.versions import Versions
from rowcast.split.warming import warm_codecs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rowcast.drivers.sockets.endpoint import SecurityWords

__all__ = ["Serving", "ServingStatus", "serve"]

log = logging.getLogger("rowcast")

#: The whole model is measured for so long (s), or so many times.
MEASURE_S, MEASURE_TIMES = 1.0, 7


@dataclass(frozen=True)
class ServingStatus:
    """Where a server is.

    Attributes:
        robots: names of those that are connected.
        answered, turned_away: requests that were answered, and that were told to come later.
        waiting: requests that wait to be computed.
        batch: requests that were computed together, on average; 0 before the first.
    """

    robots: tuple[str, ...]
    answered: int
    turned_away: int
    waiting: int
    batch: float


class Serving:
    """Answers inferences of a model on threads of its own, from when it is made until :meth:`close`.

    Nothing is loaded from the network: each robot builds the same model, and where it has not, it is told the first
    difference. Computing waits for nobody: what a robot sends is computed when all of it is there, or slab by slab.

    Args:
        model: what is served.
        address: where to listen: ``host:port``; port 0 lets the system choose (:attr:`port` tells).
        live: parameters are given later, too, with :meth:`update`; only the operators of robots are compared.
        settings, link_settings: see ``docs/settings.md``.
        journal_file: where to write what happens, as JSON lines.
        security: how both ends know each other; beyond loopback one of these is needed, and all but the last of them
            are inside TLS. ``secret_file``: file with the shared secret. ``team``: folder of ``rowcast team init``.
            ``insecure``: true to do without either, in the clear.

    Attributes:
        node: the server's node.
        forward_s: what the whole model takes here, for one input (s).

    Raises:
        ConfigError: the address cannot be used, no secret where one is needed, or an unreadable file.
    """

    def __init__(
        self,
        model: Captured,
        address: str = "127.0.0.1:7118",
        *,
        live: bool = False,
        settings: AnswererSettings | None = None,
        link_settings: LinkSettings | None = None,
        journal_file: str | Path | None = None,
        **security: Unpack[SecurityWords],
    ) -> None:
        host, port = split_address(address, 7118)
        secured = Security.of(**security)
        warm_codecs(model)
        self._versions = Versions(model.net) if live else None
        self.forward_s = forward_seconds(model)
        journal, settings, link_settings = (
            Journal("server", forget),
            settings or AnswererSettings(),
            link_settings or LinkSettings(),
        )
        if journal_file is not None:
            journal.keep_in(journal_file)
            record_start(journal, time.monotonic(), "server", None, settings, link_settings)
        self.node = AnswererNode(
            spec_of(model),
            settings=settings,
            secret=secured.secret,
            live=live,
            forward_s=self.forward_s,
            journal=journal,
        )
        self._server = InferenceServer(
            self.node,
            TorchEngine(model, self._versions),
            host,
            port,
            link_settings=link_settings,
            security=secured,
        )
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._listening = threading.Event()
        # In place of joining the thread, which Ctrl-C may leave with a thread that is taken to have ended.
        self._ended = threading.Event()
        self._faults: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="rowcast-serving", daemon=True)
        self._thread.start()
        self._listening.wait()
        self._raise()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    def _raise(self) -> None:
        """What went wrong on the thread."""
        if self._faults:
            self._thread.join()
            raise self._faults[0]

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._faults.append(error)
        finally:
            self._listening.set()
            self._loop.close()
            self._ended.set()

    async def _serve(self) -> None:
        await self._server.start()
        self._listening.set()
        await self._over.wait()
        await self._server.close()

    def update(self, net: torch.nn.Module) -> None:
        """Answer with the parameters and buffers of ``net`` from the next request on; they are copied.

        Args:
            net: of the same kind as the module that is served; one that a team trains, between two of its steps.

        Raises:
            ConfigError: it is another kind of model, or the server was not made with ``live``.
        """
        if self._versions is None:
            raise ConfigError("update: the server's parameters are fixed; make it with live=True")
        self._versions.offer(net)

    def status(self) -> ServingStatus:
        """Where it is now."""
        found: Future[ServingStatus] = Future()

        def look() -> None:
            node = self.node
            batch = node.computed / node.computations if node.computations else 0.0
            status = ServingStatus(tuple(node.robots), node.answered, node.turned_away, node.waiting, batch)
            found.set_result(status)

        self._raise()
        self._loop.call_soon_threadsafe(look)
        return found.result()

    def close(self) -> None:
        """Tell every robot, and stop."""
        if not self._ended.is_set():
            self._loop.call_soon_threadsafe(self._over.set)
            self._ended.wait()
        self._thread.join()
        self._raise()

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until it is closed, until ``timeout_s`` are over, or Ctrl-C.

        Raises:
            RowcastError: it cannot go on.
        """
        if self._ended.wait(timeout_s):
            self._raise()

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(
    model: Captured,
    address: str = "127.0.0.1:7118",
    *,
    settings: AnswererSettings | None = None,
    journal_file: str | Path | None = None,
    **security: Unpack[SecurityWords],
) -> None:
    """Answer inferences of a model until Ctrl-C; see :class:`Serving` for arguments and errors."""
    with Serving(
        model,
        address,
        settings=settings,
        journal_file=journal_file,
        **security,
    ) as serving:
        log.info("answering inferences on port %d", serving.port)
        with contextlib.suppress(KeyboardInterrupt):
            serving.wait()


def forward_seconds(model: Captured) -> float:
    """How long the whole model takes here, for one input: the median of a few runs (s)."""
    inputs = [torch.zeros(each.shape, dtype=each.dtype, device=each.device) for each in model.inputs]
    times: list[float] = []
    until = time.perf_counter() + MEASURE_S
    while len(times) < 2 or (len(times) < MEASURE_TIMES and time.perf_counter() < until):
        begun = time.perf_counter()
        _arrived(model.whole(*inputs))
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


def _arrived(tensors: tuple[torch.Tensor, ...]) -> None:
    """Wait until they are computed, on whatever device."""
    for tensor in tensors:
        tensor.cpu()
