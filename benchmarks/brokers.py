"""Brokers on this machine for benchmarks and tests: librdkafka's mock of Kafka, and mosquitto.

Each is a process of its own, on a free port of the loopback, and is ended by its number.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Broker", "KafkaMock", "Mosquitto", "mosquitto_program"]

START_S = 20.0
MOCK = """
import sys
from confluent_kafka import Producer

# A cluster of mock brokers lives inside the client that is made so; others reach it over TCP.
client = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": int(sys.argv[1]), "log_level": 0})
brokers = client.list_topics(timeout=15).brokers.values()
print(",".join(f"{broker.host}:{broker.port}" for broker in brokers), flush=True)
sys.stdin.read()  # until its parent is gone
"""


class Broker:
    """A process that is ended with the block."""

    process: subprocess.Popen[Any]
    #: HOST:PORT
    address: str

    def hang(self) -> None:
        """It stops to answer; connections stay."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """It answers again."""
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """It is gone."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class KafkaMock(Broker):
    """Mock brokers of Kafka; needs confluent-kafka. Topics are made by their first message, with 4 partitions.

    It keeps 5 MB a partition, and does not answer a request for samples that are not there before its time is over:
    clients that are to see samples soon set ``fetch.wait.max.ms``.
    """

    def __init__(self, brokers: int = 1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MOCK, str(brokers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            self.kill()
            raise RuntimeError("the mock brokers of Kafka have not started")


def mosquitto_program() -> str | None:
    """Where mosquitto is: Debian installs it where a user's PATH may not lead."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Mosquitto(Broker):
    """A mosquitto that keeps its sessions in ``folder``; it can be stopped and started again.

    Args:
        folder: for its files.
        lines: further ones of its configuration.
    """

    def __init__(self, folder: Path, lines: str = "allow_anonymous true\n") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._folder = folder
        user = "user root\n" if os.geteuid() == 0 else ""
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\n{lines}{user}persistence true\npersistence_location {folder}/\n"
            "max_queued_messages 0\nset_tcp_nodelay true\n"
        )
        self.start()

    def start(self) -> None:
        """Start it; returns once it answers."""
        program = mosquitto_program()
        if program is None:
            raise RuntimeError("mosquitto is not installed")
        with (self._folder / "mosquitto.log").open("a") as log:
            self.process = subprocess.Popen(
                [program, "-c", str(self._folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"mosquitto has not started: {(self._folder / 'mosquitto.log').read_text()}")

    def stop(self) -> None:
        """Stop it as a service manager does: it saves its sessions."""
        self.process.terminate()
        self.process.wait()
