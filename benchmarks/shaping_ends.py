"""The two ends of a link for :mod:`shaping`: UDP packets that are sent as fast as is asked, and when they arrived.

``python -c "import shaping_ends; shaping_ends.main()" send|receive ...``: these run in the namespaces of their hosts.
Times are of the clock of the day, which all namespaces have in common; those of arrival come from the kernel, so that
it does not matter when the process that reads them runs.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time
from pathlib import Path

import numpy as np

__all__ = ["PACKET", "UDP_HEADERS", "main"]

#: Of IPv4 and UDP.
UDP_HEADERS = 28
PORT = 7200
#: In front of each payload: serial number, when it was sent (ns).
_HEAD = struct.Struct("=qq")
#: A packet as it is noted: serial number, sent and arrived (s), bytes of the IP packet.
PACKET = np.dtype([("serial", "i8"), ("sent_s", "f8"), ("arrived_s", "f8"), ("size_bytes", "i4")])

_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_TIME = struct.Struct("=qq")
TICK_S = 0.001
#: What a sender makes up for when it was not allowed to run (s).
MOST_BEHIND_S = 0.03


def send(flow: int, address: str, size_bytes: int, schedule: str) -> None:
    """Send packets; when to begin, when the traces do, and when to end (s, clock of the day) is read from a line.

    Args:
        flow: its number; each has its own port.
        address: to whom.
        size_bytes: of each IP packet.
        schedule: file with an array [n, 2]: from when on (s after the traces begin), how many bit/s.
    """
    table = np.load(schedule)
    # What is measured is the medium: a sender that may not run would leave its queue empty. The medium goes first.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print("ready", flush=True)
    begin, zero, until = (float(word) for word in input().split())
    starts, rates = table[:, 0] + zero, table[:, 1]
    payload = bytearray(size_bytes - UDP_HEADERS)
    serial, credit = 0, 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, PORT + flow))
        time.sleep(max(0.0, begin - time.time()))
        before = time.time()
        while (now := time.time()) < until:
            rate = float(rates[max(0, int(np.searchsorted(starts, now, side="right")) - 1)])
            credit = min(credit + rate / 8 * (now - before), max(rate / 8 * MOST_BEHIND_S, size_bytes))
            before = now
            while credit >= size_bytes:
                _HEAD.pack_into(payload, 0, serial, time.time_ns())
                with contextlib.suppress(ConnectionRefusedError, BlockingIOError):
                    sock.send(payload)
                serial += 1
                credit -= size_bytes
            time.sleep(TICK_S)
    print(serial, flush=True)


def receive(flow: int, file: str) -> None:
    """Note every packet that arrives, and write them as an array of PACKET; until when (s) is read from a line."""
    found: list[tuple[int, float, float, int]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        sock.bind(("", PORT + flow))
        sock.setblocking(False)
        print("ready", flush=True)
        until = float(input())
        while (left_s := until - time.time()) > 0:
            select.select([sock], (), (), left_s)
            while True:
                try:
                    data, ancillary, _, _ = sock.recvmsg(65535, 64)
                except BlockingIOError:
                    break
                seconds, nanoseconds = _TIME.unpack(ancillary[0][2][:16])
                serial, sent_ns = _HEAD.unpack_from(data)
                found.append((serial, sent_ns * 1e-9, seconds + nanoseconds * 1e-9, len(data) + UDP_HEADERS))
    np.save(Path(file), np.array(found, dtype=PACKET))


def main() -> None:
    """What the command line asks for."""
    words = sys.argv[1:]
    if words[0] == "send":
        send(int(words[1]), words[2], int(words[3]), words[4])
    else:
        receive(int(words[1]), words[2])
