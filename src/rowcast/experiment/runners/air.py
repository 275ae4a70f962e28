"""What carries the packets of an emulated run: a process of ours, or the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rowcast.drivers.netns.forward_spec import ForwardSettings, ForwardSpec, Port, Station, save_spec
from rowcast.drivers.netns.kernel_shaper import KernelShaper
from rowcast.drivers.netns.medium import MediumLink
from rowcast.drivers.netns.network import AIR, Network
from rowcast.errors import ConfigError
from rowcast.experiment.medium_settings import MediumSettings
from rowcast.experiment.processes import ProcessGroup
from rowcast.links import Trace

__all__ = ["Air", "AirPlan", "opened_air"]

READY_LIMIT_S, END_LIMIT_S = 30.0, 30.0


@dataclass(frozen=True)
class AirPlan:
    """What the medium is to do.

    Attributes:
        network: whose hosts it joins; the first is the access point.
        medium: how well it carries.
        traces: of each station, up and down.
        delays_s: one way, of each station, beyond that of ``medium``.
        channel: how stations share it.
        seed: of loss and jitter.
        folder: for its files.
    """

    network: Network
    medium: MediumSettings
    traces: Sequence[tuple[Trace, Trace]]
    delays_s: Sequence[float]
    channel: str
    seed: int
    folder: Path


class Air(ABC):
    """A medium that is there; before it begins, and once it is lifted, packets pass unhindered."""

    @abstractmethod
    def begin(self) -> float:
        """The traces begin now; returns when that is (s, monotonic clock)."""

    @abstractmethod
    def lift(self) -> None:
        """From now on packets pass unhindered."""

    @abstractmethod
    async def failed(self) -> None:
        """Wait until it fails, if ever.

        Raises:
            RowcastError: it did.
        """

    @abstractmethod
    async def end(self) -> Mapping[str, Any]:
        """End it; returns what it says of itself.

        Raises:
            RowcastError: it has failed.
        """


@contextlib.asynccontextmanager
async def opened_air(plan: AirPlan) -> AsyncIterator[Air]:
    """The medium of a run, ready.

    Raises:
        RowcastError: it cannot be had.
    """
    if plan.medium.shaper == "kernel":
        up, down = (dict(zip(plan.network.hosts[1:], ways, strict=True)) for ways in zip(*plan.traces, strict=True))
        with KernelShaper(plan.network, down, up, queue_s=plan.medium.queue_ms / 1e3) as shaper:
            yield _Kernel(shaper)
        return
    async with ProcessGroup() as group:
        spec, summary = plan.folder / "medium.spec.json", (plan.folder / "medium.json").resolve()
        save_spec(_spec(plan, summary), spec)
        words = [sys.executable, "-m", "rowcast.drivers.netns.forward", str(spec.resolve())]
        await group.start("medium", plan.network.command(AIR, words), plan.folder / "medium.log")
        await group.wait_ready(READY_LIMIT_S)
        yield _Program(group, summary)


class _Program(Air):
    """The process of :mod:`rowcast.drivers.netns.forward`."""

    def __init__(self, group: ProcessGroup, summary: Path) -> None:
        self._group = group
        self._summary = summary

    def begin(self) -> float:
        now = time.monotonic()
        self._group.go([f"start {now!r}"])
        return now

    def lift(self) -> None:
        self._group.go(["lift"])

    async def failed(self) -> None:
        await self._group.wait_failed()

    async def end(self) -> Mapping[str, Any]:
        await self._group.wait_ended(END_LIMIT_S)
        try:
            return dict(json.loads(self._summary.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self._summary}: cannot be read: {error}") from error


def _spec(plan: AirPlan, summary: Path) -> ForwardSpec:
    network, medium = plan.network, plan.medium
    access_point, *stations = (Port(network.end(host), network.mac(host)) for host in network.hosts)

    def link(trace: Trace, delay_s: float) -> MediumLink:
        return MediumLink(
            trace,
            delay_s=delay_s + medium.delay_ms / 1e3,
            jitter_s=medium.jitter_ms / 1e3,
            loss=medium.loss,
            queue_s=medium.queue_ms / 1e3,
        )

    log = (plan.folder / "packets.pcap").resolve() if medium.packet_log else None
    return ForwardSpec(
        access_point,
        tuple(
            Station(port, link(up, delay_s), link(down, delay_s))
            for port, (up, down), delay_s in zip(stations, plan.traces, plan.delays_s, strict=True)
        ),
        ForwardSettings(channel=plan.channel, seed=plan.seed, summary=summary, packet_log=log),
    )


class _Kernel(Air):
    """The kernel's traffic control."""

    def __init__(self, shaper: KernelShaper) -> None:
        self._shaper = shaper

    def begin(self) -> float:
        now = time.monotonic()
        self._shaper.start(now)
        return now

    def lift(self) -> None:
        self._shaper.lift()

    async def failed(self) -> None:
        await asyncio.to_thread(self._shaper.wait_failed)
        await asyncio.Event().wait()

    async def end(self) -> Mapping[str, Any]:
        self._shaper.stop()
        return {"changes": self._shaper.changes, "lateness": {"max_s": self._shaper.lateness_s}}
