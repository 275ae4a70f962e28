"""Methods of splitting an inference, one after the other over the same link: what each comes to is in its journal."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils import _pytree as pytree

from rowcast.energy import PowerStates
from rowcast.errors import ConfigError, ServerUnavailable
from rowcast.experiment.inference.camera import Inputs, Tally, run_camera
from rowcast.experiment.inference.settings import MEANINGS, CameraSettings
from rowcast.links import Trace
from rowcast.split import Answer, Captured, Remote, RemoteOptions
from rowcast.version import __version__

__all__ = ["SUMMARY", "Comparer", "Exactness", "Link", "MethodObserver", "MethodRun", "Summary", "empty_folder"]

#: Inferences before the clock runs: code of parts is made, memory allocated, the rate measured.
WARM_UP = 6
#: A robot waits so long for the server (s).
CONNECT_S = 20.0
#: Answers equal those of the undivided model to this (relative and absolute).
TOLERANCE = 1e-5
SUMMARY, FORMAT = "split.json", "rowcast split 1"


@dataclass
class Exactness:
    """Answers compared with those of the undivided model.

    Attributes:
        compared: how many.
        equal: those within :data:`TOLERANCE`.
        worst: the largest difference of an element, in units of 1 + its size.
    """

    compared: int = 0
    equal: int = 0
    worst: float = 0.0

    def add(self, value: Any, expected: Sequence[torch.Tensor]) -> None:
        """One answer."""
        found = _tensors(value)
        self.compared += 1
        same = len(found) == len(expected)
        for one, other in zip(found, expected, strict=False):
            same = same and torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
            difference = (one.double() - other.double()).abs() / (1 + other.double().abs())
            if difference.numel():
                self.worst = max(self.worst, float(difference.nan_to_num().max()))
        self.equal += same


@dataclass(frozen=True)
class MethodRun:
    """What a method's run left behind.

    Attributes:
        method: its name.
        journal: of the robot.
        begun_s: when the clock began, on that of the journal (s).
        seconds: how long it ran (s).
        exactness: of its answers.
        local_ms: what the robot alone takes by the profile that plans were made with.
    """

    method: str
    journal: Path
    begun_s: float
    seconds: float
    exactness: Exactness
    local_ms: float


class Link(Protocol):
    """The link between robot and server, where it is made here."""

    def prepare(self) -> None:
        """Carry what goes before a run."""

    def begin(self) -> None:
        """A run begins: the trace's time 0 is now."""

    def lift(self) -> None:
        """A run is over."""


class MethodObserver(Protocol):
    """Shows how it goes."""

    def says(self, text: str) -> None: ...

    def shows(self, method: str, tally: Tally, left_s: float, rate_bps: float) -> None: ...


@dataclass(frozen=True, eq=False)
class Comparer:
    """Runs methods, one after the other, with the same inputs at the same rate.

    Answers of the baselines are waited for however late they come; the robot computes all itself only where that is the
    method. Only rowcast codes tensors.

    Attributes:
        address: of the server.
        model: that the server has, too.
        inputs: one after the other, and again from the first.
        camera: all else.
        out: folder for ``METHOD.jsonl``, the journals of the robot.
        observer: told how it goes.
        link: begun with each run; ``None``: it is as it is.
    """

    address: str
    model: Captured
    inputs: Inputs
    camera: CameraSettings
    out: Path
    observer: MethodObserver
    link: Link | None = None

    def run_all(self, methods: Sequence[str]) -> list[MethodRun]:
        """Run methods.

        Raises:
            ServerUnavailable: no server there.
            ConfigError: settings or the folder cannot be used.
        """
        with torch.no_grad():
            expected = [tuple(one.clone() for one in _tensors(self.model(*given))) for given in self.inputs]
        return [self._run(method, expected) for method in methods]

    def _run(self, method: str, expected: Sequence[Sequence[torch.Tensor]]) -> MethodRun:
        self.observer.says(f"{method}: {self.camera.seconds:g} s")
        if self.link is not None:
            self.link.prepare()
        journal = self.out / f"{method}.jsonl"
        values: list[tuple[int, Any]] = []
        with self._remote(method, journal) as remote:
            if not remote.wait(CONNECT_S):
                raise ServerUnavailable(
                    f"{self.address}: nobody answers there; start 'rowcast split serve' with the same model"
                )
            for number in range(WARM_UP):
                remote(*self.inputs[number % len(self.inputs)])
            begun_s = time.monotonic()
            self._film(method, remote, lambda number, answer: values.append((number, answer.value)))
            local_ms = 1e3 * remote.profile.local_s
        exactness = Exactness()
        for number, value in values:
            exactness.add(value, expected[number % len(self.inputs)])
        return MethodRun(method, journal, begun_s, self.camera.seconds, exactness, local_ms)

    def _remote(self, method: str, journal: Path) -> Remote:
        camera, ours = self.camera, method == "rowcast"
        fallback = "model" if method == "local" or (ours and camera.fallback == "model") else None
        options = RemoteOptions(
            profile=camera.profile,
            method=method,
            slower=camera.slower,
            codecs=camera.codecs if ours else (),
            journal_file=journal,
            insecure=camera.insecure,
        )
        return Remote(
            self.address,
            self.model,
            # A certificate is for one name.
            name=f"{camera.name}-{method}" if camera.team is None else camera.name,
            secret_file=camera.secret_file,
            team=camera.team,
            deadline_s=camera.deadline_s if ours else None,
            objective=camera.objective,
            fallback=fallback,
            options=options,
        )

    def _film(self, method: str, remote: Remote, keep: Callable[[int, Answer], None]) -> None:
        camera = self.camera
        if self.link is not None:
            self.link.begin()
        try:
            run_camera(
                remote,
                self.inputs,
                rate_hz=camera.rate_hz,
                seconds=camera.seconds,
                deadline_s=camera.deadline_s,
                look=lambda tally, left_s: self.observer.shows(method, tally, left_s, remote.rate_bps),
                keep=keep,
            )
        finally:
            if self.link is not None:
                self.link.lift()


def _tensors(answer: Any) -> list[torch.Tensor]:
    return [one.cpu() for one in pytree.tree_leaves(answer) if isinstance(one, torch.Tensor)]


def empty_folder(out: Path) -> None:
    """Make a folder, and remove what an earlier comparison has left in it.

    Raises:
        ConfigError: it cannot be used.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        for stale in [*out.glob("*.jsonl"), *out.glob(SUMMARY)]:
            stale.unlink()
    except OSError as error:
        raise ConfigError(f"out {out}: cannot be used: {error.strerror}") from error


@dataclass(frozen=True, eq=False)
class Summary:
    """What is needed to read the journals of a comparison.

    Attributes:
        title: for the headline.
        runs: one for each method.
        settings: shown with the tables.
        deadline_s: what answers are judged by, or ``None``.
        power: what energy was counted with.
        trace: of the link, from each run's begin on; ``None`` where it is not known.
        server_journal: of the server, whose clock is that of the robot; ``None`` where it is on another machine.
    """

    title: str
    runs: Sequence[MethodRun]
    settings: dict[str, Any]
    deadline_s: float | None
    power: PowerStates = field(default_factory=PowerStates)
    trace: Trace | None = None
    server_journal: Path | None = None

    def save(self, out: Path) -> Path:
        """Write ``OUT/split.json``.

        Raises:
            ConfigError: it cannot be written.
        """
        trace, server = self.trace, self.server_journal
        rates = None
        if trace is not None:
            rates = {name: getattr(trace, name).tolist() for name in ("times_s", "rates_bps")}
            rates["duration_s"] = trace.duration_s
        content = {
            "format": FORMAT,
            "title": self.title,
            "settings": self.settings,
            "deadline_s": self.deadline_s,
            "power": asdict(self.power),
            "methods": [
                {**asdict(run), "journal": run.journal.name, "meaning": MEANINGS[run.method]} for run in self.runs
            ],
            "server_journal": None if server is None else server.name,
            "link": rates,
            "versions": {"rowcast": __version__, "python": platform.python_version(), "torch": version("torch")},
        }
        path = out / SUMMARY
        try:
            path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
        return path
