"""nats-server with JetStream on this machine for benchmarks and tests: alone, or three as one cluster.

Each is a process of its own, on free ports of the loopback, and is ended by its number.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from brokers import START_S, Broker

__all__ = ["NatsServer", "nats_cluster", "nats_program"]


def nats_program() -> str | None:
    """Where nats-server is: ``ROWCAST_NATS_SERVER``, or where Debian installs it."""
    return (
        os.environ.get("ROWCAST_NATS_SERVER")
        or shutil.which("nats-server")
        or shutil.which("nats-server", path="/usr/sbin:/usr/local/sbin")
    )


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


class NatsServer(Broker):
    """A nats-server that keeps its streams in ``folder``; it can be killed and started again on the same port.

    Args:
        folder: for its files.
        port: where it listens; ``None``: on a free one.
        more: further lines of its configuration.
        jetstream: what stands in the block of JetStream; ``None``: it has none.
    """

    def __init__(self, folder: Path, *, port: int | None = None, more: str = "", jetstream: str | None = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_ports(1)[0] if port is None else port
        self.address = f"127.0.0.1:{self.port}"
        self._folder = folder
        streams = "" if jetstream is None else f"jetstream {{ store_dir: {folder / 'streams'}\n{jetstream}\n}}\n"
        (folder / "nats.conf").write_text(f"listen: {self.address}\n{streams}{more}\n")
        self.start()

    def start(self) -> None:
        """Start it; returns once it takes connections."""
        program = nats_program()
        if program is None:
            raise RuntimeError("nats-server is not installed")
        with (self._folder / "nats.log").open("a") as log:
            self.process = subprocess.Popen([program, "-c", str(self._folder / "nats.conf")], stdout=log, stderr=log)
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"nats-server has not started: {(self._folder / 'nats.log').read_text()}")


def nats_cluster(folder: Path, count: int = 3) -> list[NatsServer]:
    """So many servers as one cluster; JetStream has a leader a few seconds later."""
    ports = free_ports(2 * count)
    routes = ", ".join(f"nats-route://127.0.0.1:{port}" for port in ports[count:])
    servers: list[NatsServer] = []
    try:
        for place in range(count):
            more = (
                f"server_name: n{place}\n"
                f"cluster {{ name: rowcast-test, listen: 127.0.0.1:{ports[count + place]}, routes: [{routes}] }}\n"
            )
            servers.append(NatsServer(folder / f"n{place}", port=ports[place], more=more))
    except BaseException:
        for server in servers:
            server.kill()
        raise
    return servers
