"""What the socket driver gets through: over bare loopback, under a shaper, and when the link collapses in a push.

A server in a process of its own, one worker here, real TCP. The limits: loopback and the CPU (unshaped), the shaped
rate (shaped), the deadline (collapse).
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import numpy as np

from common import Figure, arguments, finish, reference_layout
from rowcast.config import LinkSettings, ServerSettings
from rowcast.drivers.sockets import Endpoint, Server, Shaper, Team
from rowcast.links import Trace
from rowcast.rows import Layout
from rowcast.sync import parse_policy
from rowcast.training import ServerNode

#: What a gradient takes before the push whose link collapses, and when, behind the beginning of the push, it does (s).
COMPUTE_S, COLLAPSE_AT_S = 3.0, 2.4


def serve(policy: str, pipe: Connection) -> None:
    """Run a server until the pipe says so."""

    async def run() -> None:
        server = Server(ServerNode(parse_policy(policy), settings=ServerSettings(gather_s=0.0)), port=0)
        await server.start()
        pipe.send(server.port)
        while not pipe.poll():
            await asyncio.sleep(0.05)
        await server.close()

    asyncio.run(run())


@contextlib.contextmanager
def server_process(policy: str) -> Iterator[int]:
    """A server in a process of its own; gives its port."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(policy, theirs))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("stop")
        process.join(10)
        if process.is_alive():
            process.kill()


@dataclass
class Probe:
    """Watches the outbox of a worker: when frames were handed out, when bytes were acknowledged."""

    team: Team
    sent: list[tuple[float, int]] = field(default_factory=list)
    acknowledged: list[tuple[float, int]] = field(default_factory=list)
    in_flight: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        outbox = self.team.node.outbox
        real_next, real_acknowledged = outbox.next_frame, outbox.acknowledged

        def next_frame(now: float):
            message = real_next(now)
            if message is not None:
                self.sent.append((time.monotonic(), outbox.in_flight))
                self.in_flight.append((time.monotonic(), outbox.in_flight))
            return message

        def acknowledged(now: float, number: int, arrived: float | None = None) -> None:
            before = outbox.in_flight
            real_acknowledged(now, number, arrived)
            self.acknowledged.append((time.monotonic(), before - outbox.in_flight))
            self.in_flight.append((time.monotonic(), outbox.in_flight))

        outbox.next_frame, outbox.acknowledged = next_frame, acknowledged


def propose(team: Team, layout: Layout) -> None:
    """One update for the whole model."""
    with team.hold():
        proposed = team.replica - np.float32(1e-3)
        team.accumulate([proposed[spec.start : spec.stop] for spec in layout.tensors], 1.0)


def unshaped(layout: Layout, control: str | None) -> tuple[float, str]:
    """Payload bit/s of the best of three pushes over loopback, and the congestion control in force."""
    with server_process("bsp?codec=raw") as port:
        team = Team(Endpoint("127.0.0.1", port), name="robot-0", link_settings=LinkSettings(congestion_control=control))
        team.start(layout, layout.zeros())
        probe = Probe(team)
        best = 0.0
        for _ in range(3):
            propose(team, layout)
            probe.acknowledged.clear()
            begun = time.monotonic()
            team.exchange()
            took_s = probe.acknowledged[-1][0] - begun
            best = max(best, 8 * 4 * layout.elements / took_s)
        up = next(record for record in team.journal.records if record["event"] == "link_up")
        team.finish()
    return best, str(up["congestion_control"])


def shaped(layout: Layout, rate_bps: float, control: str | None) -> float:
    """Share of the shaped rate that was acknowledged as row frames during one push."""
    trace = Trace.constant(rate_bps)
    with server_process("bsp?codec=raw") as port, Shaper("127.0.0.1", port, up=trace, down=trace) as link:
        link.begin()
        team = Team(Endpoint(*link.address), name="robot-0", link_settings=LinkSettings(congestion_control=control))
        team.start(layout, layout.zeros())
        propose(team, layout)
        probe = Probe(team)
        begun = time.monotonic()
        team.exchange()
        link.lift()
        team.finish()
    push = [(at, size) for at, size in probe.acknowledged if size]
    return 8 * sum(size for _, size in push) / (push[-1][0] - begun) / rate_bps


def collapse(layout: Layout, control: str | None, faster: float = 1.0) -> tuple[float, int, float]:
    """The link falls from 20 to 0.1 Mbit/s in the middle of a push, behind the quota and before the deadline.

    Args:
        layout: what is pushed.
        control: TCP congestion control.
        faster: all happens so many times earlier.

    Returns:
        Seconds from the deadline to the last row frame handed out (0 when it stopped before), bytes that are
        unacknowledged at the deadline + 150 ms, and seconds for which it kept sending before the deadline.
    """
    steps = np.array([0.0, COLLAPSE_AT_S, COLLAPSE_AT_S + COMPUTE_S]) / faster
    joining = Trace.constant(20e6)
    trace = Trace(steps, np.array([20e6, 0.1e6, 50e6]), "collapse", loop=False, duration_s=float("inf"))
    with server_process("rog:40?codec=raw") as port, Shaper("127.0.0.1", port, up=joining, down=joining) as link:
        link.begin()
        team = Team(Endpoint(*link.address), name="robot-0", link_settings=LinkSettings(congestion_control=control))
        team.start(layout, layout.zeros())
        probe = Probe(team)
        # A second worker whose quota never comes: otherwise the server would say that waiting is pointless.
        idle = Team(Endpoint("127.0.0.1", port), name="robot-1")
        idle.start(layout, layout.zeros())
        # Before anything is measured the MTA time is the compute time.
        time.sleep(COMPUTE_S / faster)
        propose(team, layout)
        link.change(up=trace, down=trace)
        begun = time.monotonic()
        team.exchange()
        step = next(record for record in team.journal.records if record["event"] == "step")
        link.lift()
        idle.leave()
        team.finish()
    deadline = begun + step["mta_time_s"]
    push = [at for at, _ in probe.sent if at < begun + step["communicate_s"]]
    left = [size for at, size in probe.in_flight if at <= deadline + 0.15][-1]
    return max(push[-1] - deadline, 0.0), left, push[-1] - begun


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--control", help="TCP congestion control to pin, for example cubic; default: the system's")
    options = parser.parse_args()
    layout, _ = reference_layout(tiny=options.tiny)
    loopback_bps, control = unshaped(layout, options.control)
    # A quarter of it joins over the 20 Mbit/s link in seconds.
    if not options.tiny:
        layout = Layout.from_shapes([(f"block{i}", (512, 509)) for i in range(16)])
    share = shaped(layout, 20e6, options.control)
    late_s, left, sent_s = collapse(layout, options.control, 20.0 if options.tiny else 1.0)
    # What was handed out up to one window before the collapse fills the link until it.
    still_sending_s = COLLAPSE_AT_S - LinkSettings().window_s
    figures = [
        Figure("unshaped, raw: payload", loopback_bps / 1e9, "Gbit/s", bound=2.0, at_least=True),
        Figure("shaped to 20 Mbit/s: acknowledged", 100 * share, "% of rate", bound=95.0, at_least=True),
        Figure("collapse to 0.1 Mbit/s: last frame behind the deadline", late_s * 1e3, "ms", bound=150.0),
        Figure("collapse: unacknowledged 150 ms after the deadline", left / 1e3, "kB", bound=64.0),
        Figure("collapse: sent rows until", sent_s, "s", still_sending_s, at_least=True, note="it was in the push"),
    ]
    finish(f"Goodput over TCP, congestion control {control}", figures, options)


if __name__ == "__main__":
    main()
