"""What a commit, a snapshot and a restart take, in each place where a log may lie: a folder, and NATS JetStream.

Groups of two sizes are committed one at a time, as when a single worker trains. JetStream is one nats-server, and three
of them as a cluster with three replicas, all on this machine; where nats-server or nats-py is missing that is left out,
and said so. A takeover is what it takes until another owner has read the log of one that was killed, its lease of 3 s
among it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from common import Figure, arguments, finish, reference_layout
from nats_processes import NatsServer, nats_cluster, nats_program
from rowcast.drivers.state import RealDisk, RowLog
from rowcast.drivers.state.folder import StateFolder, snapshot_bytes
from rowcast.durability.state import State
from rowcast.errors import ConfigError

#: Content of a group: some words about a connection, and the rows of a push.
SIZES = (200, 100_000)
LEASE_S = 3.0
#: A cluster that has just been started needs a while before it has a leader (s).
FORM_S = 60.0
TAKEOVER_LIMIT_S = 10.0


def opened(address: str) -> RowLog:
    """A log in JetStream, once there is a leader."""
    from rowcast.drivers.state.address import JetStreamAddress
    from rowcast.drivers.state.jetstream import JetStreamLog

    until = time.monotonic() + FORM_S
    while True:
        try:
            return JetStreamLog(JetStreamAddress.of(address), lease_s=LEASE_S)
        except ConfigError:
            if time.monotonic() > until:
                raise


@contextlib.contextmanager
def places(folder: Path) -> Iterator[dict[str, Callable[[], RowLog]]]:
    """What opens a log in each place."""
    found: dict[str, Callable[[], RowLog]] = {"folder": lambda: StateFolder(RealDisk(folder / "state"))}
    if nats_program() is None or importlib.util.find_spec("nats") is None:
        print("left out: JetStream, for nats-server or nats-py is not installed")
        yield found
        return
    with contextlib.ExitStack() as stack:
        alone = stack.enter_context(NatsServer(folder / "alone"))
        cluster = nats_cluster(folder / "cluster")
        for server in cluster:
            stack.callback(server.kill)
        found["JetStream"] = lambda: opened(f"nats://{alone.address}/log")
        hosts = ",".join(server.address for server in cluster)
        found["JetStream, 3 replicas"] = lambda: opened(f"nats://{hosts}/log?replicas=3")
        yield found


def killed(log: RowLog) -> None:
    """Its process is gone, and has not said so."""
    if isinstance(log, StateFolder):
        log.close()  # the system does that
    else:
        log.nats.close()  # type: ignore[attr-defined]


def measure(name: str, open_log: Callable[[], RowLog], data: bytes, count: int) -> list[Figure]:
    """Commits, a snapshot and a takeover in one place."""
    log = open_log()
    begun = time.perf_counter()
    log.write(0, data)
    figures = [Figure(f"{name}: snapshot", time.perf_counter() - begun, "s", note=f"{len(data) / 1e6:.1f} MB")]
    writer = log.writer(0, commit_s=0.0, committed=lambda: None)
    for size in SIZES:
        took_s = []
        for _ in range(count):
            begun = time.perf_counter()
            writer.append(b"x" * size)
            writer.flush()
            took_s.append(time.perf_counter() - begun)
        figures += [
            Figure(f"{name}: commit, {size} bytes, {share} %", 1e3 * float(np.percentile(took_s, share)), "ms")
            for share in (50, 99)
        ]
    writer.close()
    killed(log)
    begun = time.perf_counter()
    log = open_log()
    found = log.find()
    assert found is not None and sum(1 for _ in found.groups) == count * len(SIZES)
    took = time.perf_counter() - begun
    figures.append(Figure(f"{name}: takeover", took, "s", TAKEOVER_LIMIT_S, note=f"{count * len(SIZES)} groups"))
    log.close()
    return figures


def main() -> None:
    options = arguments(__doc__).parse_args()
    layout, _ = reference_layout(tiny=options.tiny)
    model = np.random.default_rng(0).normal(size=layout.elements).astype(np.float32)
    data = snapshot_bytes(State(b"a table", {"model": model}), {})
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder, places(Path(folder)) as found:
        for name, open_log in found.items():
            figures += measure(name, open_log, data, 3 if options.tiny else 500)
    finish("Where a log lies", figures, options)


if __name__ == "__main__":
    main()
