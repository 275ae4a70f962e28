"""Networks of namespaces in tests: whether they can be made here, what is there, datagrams between hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rowcast.drivers.netns.network import Network
from rowcast.drivers.netns.rights import why_not

_REASON = why_not()
#: On what needs a network of namespaces.
needs_namespaces = pytest.mark.skipif(_REASON is not None, reason=str(_REASON))

#: UDP and IPv4 headers, and Ethernet's.
HEADERS_BYTES = 8 + 20 + 14

_RECEIVER = """
import json, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
sock.bind(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
end, got = time.monotonic() + float(sys.argv[2]), []
while (left := end - time.monotonic()) > 0:
    sock.settimeout(left)
    try:
        size = len(sock.recv(2000))
    except TimeoutError:
        break
    got.append((time.monotonic(), size))
print(json.dumps(got))
"""

_SENDER = """
import select, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end, gap, due = time.monotonic() + float(sys.argv[3]), float(sys.argv[4]), time.monotonic()
while due < end:
    sock.sendto(bytes(1472), (sys.argv[1], int(sys.argv[2])))
    due += gap
    if (left := due - time.monotonic()) > 0:
        select.select([], [], [], left)
"""


class Datagrams:
    """A host that sends datagrams of 1,514 bytes as frames to another, at a steady rate.

    Args:
        network: with its context entered.
        source, target: hosts.
        port: of the target.
        seconds: how long it sends.
        rate_bps: how fast, frames counted whole.
    """

    def __init__(
        self, network: Network, source: str, target: str, port: int, *, seconds: float, rate_bps: float
    ) -> None:
        python = [sys.executable, "-I", "-S", "-c"]
        receive = [*python, _RECEIVER, str(port), str(seconds + 0.3)]
        self._receiver = subprocess.Popen(network.command(target, receive), stdout=subprocess.PIPE, text=True)
        assert self._receiver.stdout is not None
        assert self._receiver.stdout.readline() == "ready\n"
        send = [*python, _SENDER, network.address(target), str(port), str(seconds), str(1514 * 8 / rate_bps)]
        self._sender = subprocess.Popen(network.command(source, send))

    def arrived(self) -> list[tuple[float, int]]:
        """When (s, monotonic) which frame came, and its size in bytes; waits for the end."""
        said, _ = self._receiver.communicate(timeout=60)
        assert self._sender.wait(10) == 0
        return [(at, size + HEADERS_BYTES) for at, size in json.loads(said)]


def mbps(frames: list[tuple[float, int]], start: float, end: float) -> float:
    """What arrived in between, in Mbit/s."""
    return sum(size for at, size in frames if start <= at < end) * 8 / (end - start) / 1e6


def names_with(token: str) -> list[str]:
    """Namespaces that carry a token."""
    folder = Path("/run/netns")
    return [path.name for path in folder.iterdir() if token in path.name] if folder.exists() else []


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def source_environment() -> dict[str, str]:
    """For a Python process that imports the package under test."""
    import rowcast

    return {**os.environ, "PYTHONPATH": str(Path(rowcast.__file__).parent.parent)}
