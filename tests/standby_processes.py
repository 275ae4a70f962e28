"""``rowcast serve`` in processes: a server and its standby, each on a port of its own."""

from __future__ import annotations

import json
import queue
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager

from live import LIMIT_S, python

START_S = 3 * LIMIT_S  # a process imports what it needs first


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


class ServerProcess:
    """``rowcast serve`` with a state, again and again on one port.

    Args:
        folder, name: where its state and journal lie.
        policy, workers: of the team.
        options: more of them.

    Attributes:
        lines: what it has printed, over all of its lives.
    """

    def __init__(self, folder, name, policy, workers, *options):
        self.port = free_port()
        self.name, self.journal = name, folder / f"{name}.jsonl"
        self._arguments = ["-m", "rowcast", "serve", "--port", self.port, "--policy", policy, "--workers", workers]
        self._arguments += ["--state", folder / name, "--journal", self.journal, "--quiet", "--set", "gather_s=0"]
        self._arguments += ["--set", "lease_s=2"]
        self.options = list(options)
        self.process = None
        self.lines = []
        self._printed = queue.SimpleQueue()

    def start(self, until="listening"):
        self.process = python(*self._arguments, *self.options, stderr=subprocess.STDOUT)
        self._printed = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self.process, self._printed), daemon=True)
        self._reader.start()
        if until:
            self.says(until)
        return self

    def _read(self, process, printed):
        with process.stdout as lines:
            for line in lines:
                printed.put(line.rstrip())
        printed.put(None)

    def says(self, text, limit_s=START_S):
        """Wait for a line with this text in it; returns it."""
        while True:
            try:
                line = self._printed.get(timeout=limit_s)
            except queue.Empty:
                raise AssertionError(f"{self.name} has not said {text!r}: {self.lines}") from None
            assert line is not None, f"{self.name} ended with {self.process.wait()}: {self.lines}"
            self.lines.append(line)
            if text in line:
                return line

    def send(self, number):
        self.process.send_signal(number)

    def end(self, number=signal.SIGKILL):
        """End it, and wait; returns its exit code."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        return self.code()

    def code(self):
        """Its exit code, once it has ended."""
        if self.process is None:
            return None
        code = self.process.wait(START_S)
        self._reader.join(START_S)
        return code

    def events(self, what):
        """Its events about the standby, over all of its lives."""
        records = map(json.loads, self.journal.read_text("utf-8").splitlines())
        return [record for record in records if record["event"] == "standby" and record["what"] == what]


@contextmanager
def pair(tmp_path, policy, workers, *options):
    """A server, and a standby that has all that it has."""
    first = ServerProcess(tmp_path, "first", policy, workers, *options)
    second = ServerProcess(tmp_path, "second", policy, workers, *options)
    second.options += ["--standby-of", f"127.0.0.1:{first.port}"]
    try:
        first.start()
        second.start("has all that")
        yield first, second
    finally:
        first.end()
        second.end()
