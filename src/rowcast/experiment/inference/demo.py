"""A robot and a server on this machine, a link that fades between them, and methods of splitting an inference."""

from __future__ import annotations

import contextlib
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from rowcast.drivers.claim import claimed
from rowcast.drivers.sockets import Shaper
from rowcast.errors import ConfigError, WorkerFailed
from rowcast.experiment.inference.methods import Comparer, MethodObserver, MethodRun, Summary, empty_folder
from rowcast.experiment.inference.scenes import scenes
from rowcast.experiment.inference.settings import CameraSettings, SplitDemoSettings
from rowcast.graphs import save_profile
from rowcast.links import Trace, named_trace
from rowcast.split import Captured, capture
from rowcast.split.profiling import measure
from rowcast.split.slower import slowed
from rowcast.testing.zoo import Model, camera, resnet

__all__ = ["build", "build_small", "demo_trace", "run_split_demo"]

#: This machine is measured for so long (s).
MEASURE_S = 2.0
#: The server may take so long to load PyTorch and the model (s), and to end.
READY_S, END_S = 120.0, 10.0
#: Threads of robot, camera and link share one machine: so much later, as a share, the robot's own answer may be.
ALLOWANCE = 0.1
#: Different images.
IMAGES = 24
#: Scripted outages: where they begin, as a share of a run, and how long they are, as a share and at most (s).
OUTAGES = ((0.32, 0.14, 2.0), (0.74, 0.07, 1.0))


def build() -> Model:
    """A small ResNet behind a camera: an uint8 image in, ten classes out."""
    return camera(resnet((2, 3, 3), width=24, size=(240, 320), classes=10))


def build_small() -> Model:
    """The same, for tests."""
    return camera(resnet((1, 1), width=8, size=(48, 64), classes=10))


def demo_trace(settings: SplitDemoSettings, image_bytes: int, seconds: float) -> Trace:
    """The link of each run.

    Its best rate carries an image as it is in ``ratio`` of what the robot takes for the model.

    Raises:
        ConfigError: no such link, or one on which nothing passes.
    """
    trace = named_trace(settings.trace, settings.seed, max(seconds, 10.0))
    trace = (trace if math.isinf(trace.duration_s) else trace.looped()).cut(0.0, seconds)
    best_bps = float(trace.rates_bps.max())
    if best_bps <= 0:
        raise ConfigError(f"--trace {settings.trace}: nothing passes on it; expected a link with a rate above 0")
    wanted_bps = 8 * image_bytes / (settings.ratio * settings.robot_ms / 1e3)
    trace = trace.scaled(wanted_bps / best_bps)
    return _with_outages(trace, seconds) if settings.outages else trace


def _with_outages(trace: Trace, seconds: float) -> Trace:
    outages = [(at * seconds, at * seconds + min(share * seconds, most)) for at, share, most in OUTAGES]
    times = np.unique([*trace.times_s, *(edge for outage in outages for edge in outage)])
    times = times[times < seconds]
    rates = [0.0 if any(begin <= t < end for begin, end in outages) else trace.rate(float(t)) for t in times]
    return Trace(times, np.array(rates), f"{trace.name}, two outages", duration_s=seconds)


class ShapedLink:
    """A trace under the connection of the robot, from each run's begin on."""

    def __init__(self, shaper: Shaper, trace: Trace) -> None:
        self._shaper = shaper
        self._trace = trace
        self._usual = Trace.constant(max(trace.stats().p50_bps, trace.stats().mean_bps))

    def prepare(self) -> None:
        """One rate, the usual one."""
        self._shaper.change(up=self._usual, down=self._usual)

    def begin(self) -> None:
        """The trace."""
        self._shaper.change(up=self._trace, down=self._trace)

    def lift(self) -> None:
        """All passes unhindered."""
        self._shaper.lift()


def run_split_demo(settings: SplitDemoSettings, out: Path, observer: MethodObserver) -> list[MethodRun]:
    """Start a server, and run each method over the same link with the same images.

    Writes the journals, ``profile.json`` and ``split.json`` to ``OUT``.

    Raises:
        ConfigError: settings or the folder cannot be used, or the deadline cannot be kept by the robot alone.
        WorkerFailed: the server did not start, or ended badly.
    """
    torch.set_num_threads(1)
    empty_folder(out)
    with contextlib.ExitStack() as stack:
        busy = f"out {out}: another demo runs in this folder; choose another --out"
        stack.enter_context(claimed(out / ".lock", busy))
        function = build_small if settings.small else build
        net, example = function()
        observer.says("a server starts, in a process of its own")
        server = stack.enter_context(_server(function.__name__, out))
        model = capture(net, example)
        port = _port(server, out)
        profile, slower = _robot(model, settings, out, observer)
        seconds = settings.seconds / len(settings.methods)
        height, width = example[0].shape[1:3]
        images = [(image,) for image in scenes(IMAGES, height, width, settings.seed)]
        trace = demo_trace(settings, images[0][0].numel(), seconds)
        shaper = stack.enter_context(Shaper("127.0.0.1", port, up=trace, down=trace))
        asked = CameraSettings(
            rate_hz=settings.rate_hz,
            seconds=seconds,
            deadline_ms=settings.deadline_ms,
            profile=profile,
            slower=slower,
        )
        address = f"127.0.0.1:{shaper.address[1]}"
        runs = Comparer(address, model, images, asked, out, observer, ShapedLink(shaper, trace)).run_all(
            settings.methods
        )
    title = (
        f"A ResNet of {len(model.graph)} operators, images of {images[0][0].numel() / 1e3:.3g} kB, "
        f"robot {settings.robot_ms:g} ms (by waiting), server {settings.robot_ms / slower:.3g} ms"
    )
    shown = {**asdict(settings), "robot is slower than this machine, by waiting, times": round(slower, 2)}
    Summary(title, runs, shown, asked.deadline_s, trace=trace, server_journal=out / "server.jsonl").save(out)
    return runs


def _robot(model: Captured, settings: SplitDemoSettings, out: Path, observer: MethodObserver) -> tuple[Path, float]:
    """The profile of robot and server, and how many times slower than this machine the robot is."""
    here = measure(model, seconds=MEASURE_S if not settings.small else MEASURE_S / 10)
    slower = settings.robot_ms / (1e3 * here.local_s)
    if slower < 1:
        raise ConfigError(
            f"--robot-ms {settings.robot_ms:g}: expected at least {1e3 * here.local_s:.3g} ms, which this machine takes"
        )
    robot = slowed(here, slower)
    sustained_s = robot.sustained_s + ALLOWANCE * robot.local_s
    save_profile(out / "profile.json", model.graph, replace(robot, local_p99_s=sustained_s))
    observer.says(
        f"the robot takes {settings.robot_ms:g} ms for the model: it computes operators {slower:.1f} times slower than "
        f"this machine ({1e3 * here.local_s:.3g} ms), by waiting; the server computes as fast as this machine"
    )
    return out / "profile.json", slower


@contextlib.contextmanager
def _server(function: str, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``rowcast split serve`` in a process of its own, ended at the end."""
    options = ["--port", "0", "--log", str(out), "--quiet"]
    command = [sys.executable, "-m", "rowcast", "split", "serve", f"{__name__}:{function}", *options]
    with (out / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _port(server: subprocess.Popen[bytes], out: Path) -> int:
    """Where it listens; one of its first lines says so.

    Raises:
        WorkerFailed: it has ended, or takes too long.
    """
    assert server.stdout is not None
    limit = threading.Timer(READY_S, server.kill)
    limit.start()
    try:
        for line in server.stdout:
            address = line.decode().partition("listening on ")[2].partition(",")[0]
            if address:
                return int(address.rpartition(":")[2])
    finally:
        limit.cancel()
    log = out / "server.log"
    tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    raise WorkerFailed(f"the server has ended before it listened: {''.join(tail) or 'it said nothing'}; see {log}")
