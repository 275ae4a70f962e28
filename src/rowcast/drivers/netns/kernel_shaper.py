"""Links shaped by the kernel instead of a medium of ours: a bridge between the hosts, and a token bucket a direction.

What it can do is a rate that changes, and a queue. It knows no delay, no jitter, no loss and no channel that stations
share; it counts whole frames, Ethernet header included. See "Where it runs" of docs/emulation.md.
"""

from __future__ import annotations

import heapq
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from rowcast.drivers.netns.namespaces import in_new_namespace
from rowcast.drivers.netns.network import AIR, MTU_BYTES, Network
from rowcast.drivers.netns.rights import why_not
from rowcast.errors import ConfigError, WorkerFailed
from rowcast.links import Trace

__all__ = ["KernelShaper", "why_not_kernel"]

_FRAME_BYTES = MTU_BYTES + 14
#: Two frames: one is on its way while the next waits for its turn.
_BURST_BYTES = 3100
#: Least length of a queue: fewer frames, and TCP would not notice a loss but by waiting.
_LEAST_FRAMES = 4
#: Below this rate a link is closed: what waits for its turn there would do so for many seconds.
_CLOSED_BPS = 1e3
#: From a lower rate, a link is made anew when it rises: a turn that was given at the old rate is served out otherwise.
_REMADE_BELOW_BPS = 5e4
#: The kernel has no rate 0, nor one at which the burst takes over 274 s. What was queued before waits.
_SLOWEST_BPS = 100
#: Of a link that is not shaped: faster than this machine.
_OPEN_BPS = 1e9
#: No host has a name with a dot.
_BRIDGE = "air.bridge"
_END_LIMIT_S = 5.0


def why_not_kernel() -> str | None:
    """What keeps the kernel's shaper from working here: one line with the remedy; ``None``: nothing."""
    if (reason := why_not()) is not None:
        return reason
    return in_new_namespace(_refused)


def _refused() -> str | None:
    """Try all of it on a pair of interfaces in a namespace that nobody sees."""
    from pyroute2 import IPRoute, NetlinkError

    kind = "veth"
    try:
        with IPRoute() as ip:
            ip.link("add", kind="veth", ifname="probe", peer={"ifname": "peer"})
            for kind in ("bridge", "ifb"):
                ip.link("add", kind=kind, ifname=kind)
    except NetlinkError as error:
        option = {"bridge": "CONFIG_BRIDGE", "ifb": "CONFIG_IFB"}.get(kind, "CONFIG_VETH")
        return f"shaper kernel: no {kind} here ({error}); take --shaper user, or a kernel with {option}"
    try:
        _tc([], _link_lines("probe", 1e6, "ifb", 1e6, 0.05))
    except ConfigError as error:
        return str(error)
    return None


@dataclass
class _Direction:
    """One link in one direction.

    Attributes:
        device: what it leaves by.
        trace: its rate over time.
        rate_bps: the rate that the kernel has been told.
    """

    device: str
    trace: Trace
    rate_bps: float = 0.0


class KernelShaper:
    """Joins the hosts of a network by a bridge, and shapes the link of each station as traces say.

    The link of a station is shaped where its packets come into the bridge (up) and where they leave it (down); two
    stations reach each other through both of their links. The access point's own interface is not limited. Until
    :meth:`start`, and after :meth:`lift`, nothing is shaped.

    Args:
        network: with its context entered.
        down: the rate of what each station receives; all but the first host.
        up: the rate of what each station sends.
        queue_s: length of the queue of a link, as time at its rate; never below 4 frames.

    Attributes:
        changes: rates that were told to the kernel.
        lateness_s: the longest that one was late.

    Entering the context raises ConfigError when the kernel refuses; leaving it stops, and raises what :meth:`stop`
    does.
    """

    def __init__(
        self, network: Network, down: Mapping[str, Trace], up: Mapping[str, Trace], *, queue_s: float = 0.05
    ) -> None:
        self.stations = network.hosts[1:]
        for what, traces in (("down", down), ("up", up)):
            if sorted(traces) != sorted(self.stations):
                raise ConfigError(
                    f"shaper kernel: expected a trace {what} for each of {', '.join(self.stations)}, got one for"
                    f" {', '.join(traces) or 'none'}"
                )
        if not 0 < queue_s < float("inf"):
            raise ConfigError(f"shaper kernel: queue_s: expected seconds above 0, got {queue_s}")
        self.changes = 0
        self.lateness_s = 0.0
        self._network, self._queue_s = network, queue_s
        self._links = [
            _Direction(device, trace)
            for index, station in enumerate(self.stations)
            for device, trace in ((network.end(station), down[station]), (f"up.{index + 1}", up[station]))
        ]
        self._tc: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._lifted = False
        self._failure: BaseException | None = None

    @property
    def failure(self) -> BaseException | None:
        """What ended the following of the traces before its time."""
        return self._failure

    def __enter__(self) -> KernelShaper:
        self._network.inside(AIR, self._join)
        lines = []
        for index, station in enumerate(self.stations):
            down, up = self._links[2 * index : 2 * index + 2]
            down.rate_bps = up.rate_bps = _OPEN_BPS
            lines += _link_lines(self._network.end(station), down.rate_bps, up.device, up.rate_bps, self._queue_s)
        _tc(self._network.command(AIR, []), lines)
        self._tc = subprocess.Popen(
            self._network.command(AIR, ["tc", "-batch", "-"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, at_monotonic: float) -> None:
        """Follow the traces in a thread; their time 0 is then (s, :func:`time.monotonic`)."""
        self._thread = threading.Thread(target=self._run, args=(at_monotonic,), name="rowcast-shaper", daemon=True)
        self._thread.start()

    def lift(self) -> None:
        """End the shaping: from now on packets pass as fast as the machine is."""
        self._lifted = True
        self._stopped.set()

    def wait_failed(self) -> None:
        """Wait until the traces are followed no longer.

        Raises:
            WorkerFailed: that was before its time.
        """
        thread = self._thread
        if thread is not None:
            thread.join()
        if self._failure is not None:
            raise WorkerFailed(f"shaper kernel: {self._failure}") from self._failure

    def stop(self) -> None:
        """Stop following the traces; the rates stay as they are.

        Raises:
            WorkerFailed: the following ended before its time; the message says what tc said.
        """
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._tc is not None:
            tc, self._tc = self._tc, None
            try:
                _, said = tc.communicate(timeout=_END_LIMIT_S)  # closes its input: it ends when it has done everything
            except subprocess.TimeoutExpired:
                tc.kill()
                _, said = tc.communicate()
            if tc.returncode:
                said = " ".join(said.split()) or f"code {tc.returncode}"
                raise WorkerFailed(f"shaper kernel: tc ended before its time: {said}") from self._failure
        if self._failure is not None:
            raise WorkerFailed(f"shaper kernel: {self._failure}") from self._failure

    # ------------------------------------------------------------------ ours

    def _join(self) -> None:
        """In ``air``: a bridge that knows who is where, so that it neither floods nor learns; an ``ifb`` a station."""
        from pyroute2 import IPRoute, NetlinkError
        from pyroute2.netlink.rtnl.ndmsg import NTF_MASTER, NUD_NOARP

        try:
            with IPRoute() as ip:
                ip.link("add", kind="bridge", ifname=_BRIDGE, br_stp_state=0, br_mcast_snooping=0)
                bridge = ip.link_lookup(ifname=_BRIDGE)[0]
                for host in self._network.hosts:
                    port = ip.link_lookup(ifname=self._network.end(host))[0]
                    ip.link("set", index=port, master=bridge)
                    ip.brport("set", index=port, learning=0, unicast_flood=0)
                    # In the bridge's own table, where this state stands for an entry that stays.
                    ip.fdb("add", ifindex=port, lladdr=self._network.mac(host), flags=NTF_MASTER, state=NUD_NOARP)
                ip.link("set", index=bridge, state="up")
                for link in self._links[1::2]:
                    ip.link("add", kind="ifb", ifname=link.device, txqlen=1000)
                    ip.link("set", index=ip.link_lookup(ifname=link.device)[0], state="up")
        except NetlinkError as error:
            raise ConfigError(f"shaper kernel: the kernel refuses a bridge: {error}; take --shaper user") from error

    def _run(self, at: float) -> None:
        try:
            self._follow(at)
        except BrokenPipeError as error:
            self._failure = error  # tc has ended; stop() asks it why
        except BaseException as error:
            self._failure = error

    def _follow(self, at: float) -> None:
        due = [(at, index) for index in range(len(self._links))]
        while due:
            wait_s = due[0][0] - time.monotonic()
            if self._stopped.wait(wait_s) if wait_s > 0 else self._stopped.is_set():
                break
            lines: list[str] = []
            now = time.monotonic()
            while due and due[0][0] <= now:
                planned, index = heapq.heappop(due)
                self.lateness_s = max(self.lateness_s, now - planned)
                link, into = self._links[index], now - at
                rate_bps = link.trace.rate(into)
                lines += _change_lines(link.device, link.rate_bps, rate_bps, self._queue_s)
                link.rate_bps = rate_bps
                change = at + link.trace.next_change(into)
                if change < float("inf"):
                    heapq.heappush(due, (change, index))
            if lines:
                self.changes += 1
                self._tell(lines)
        self._stopped.wait()  # rates that never change again
        if self._lifted:
            self._tell([line for link in self._links for line in self._opened(link)])

    def _opened(self, link: _Direction) -> list[str]:
        rate_bps, link.rate_bps = link.rate_bps, _OPEN_BPS
        return _change_lines(link.device, rate_bps, _OPEN_BPS, self._queue_s)

    def _tell(self, lines: Sequence[str]) -> None:
        assert self._tc is not None and self._tc.stdin is not None
        self._tc.stdin.write("".join(f"{line}\n" for line in lines))
        self._tc.stdin.flush()


def _link_lines(end: str, down_bps: float, up: str, up_bps: float, queue_s: float) -> list[str]:
    """``tc`` for a station's end: what leaves it is shaped; what comes in goes round by the device ``up``, shaped."""
    return [
        f"qdisc add dev {up} root handle 1: htb default 1",
        *_open_lines(up, up_bps, queue_s),
        f"qdisc add dev {end} root handle 1: htb default 1",
        *_open_lines(end, down_bps, queue_s),
        f"qdisc add dev {end} ingress",
        f"filter add dev {end} parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev {up}",
    ]


def _open_lines(device: str, rate_bps: float, queue_s: float) -> list[str]:
    return [
        f"class add dev {device} parent 1: classid 1:1 {_htb(rate_bps)}",
        f"qdisc add dev {device} parent 1:1 handle 10: bfifo limit {_limit_bytes(rate_bps, queue_s)}",
    ]


def _change_lines(device: str, old_bps: float, new_bps: float, queue_s: float) -> list[str]:
    """``tc`` for another rate."""
    if new_bps == old_bps:
        return []
    if old_bps < _REMADE_BELOW_BPS <= new_bps or old_bps < _CLOSED_BPS <= new_bps:
        return [f"class delete dev {device} classid 1:1", *_open_lines(device, new_bps, queue_s)]
    return [
        f"class change dev {device} parent 1: classid 1:1 {_htb(new_bps)}",
        f"qdisc change dev {device} parent 1:1 handle 10: bfifo limit {_limit_bytes(new_bps, queue_s)}",
    ]


def _htb(rate_bps: float) -> str:
    rate = _SLOWEST_BPS if rate_bps < _CLOSED_BPS else round(rate_bps)
    return f"htb rate {rate}bit burst {_BURST_BYTES} cburst {_BURST_BYTES} quantum {_FRAME_BYTES}"


def _limit_bytes(rate_bps: float, queue_s: float) -> int:
    """Of the queue; a closed link takes nothing in."""
    return 1 if rate_bps < _CLOSED_BPS else max(_LEAST_FRAMES * _FRAME_BYTES, round(rate_bps * queue_s / 8))


def _tc(prefix: Sequence[str], lines: Sequence[str]) -> None:
    """Have ``tc`` do all of that.

    Raises:
        ConfigError: it is not installed, or the kernel refuses a line.
    """
    try:
        done = subprocess.run(
            [*prefix, "tc", "-batch", "-"],
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError("shaper kernel: needs the program tc; install the system package iproute2") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"code {done.returncode}"
        raise ConfigError(f"shaper kernel: the kernel or tc refuses ({said}); take --shaper user")
