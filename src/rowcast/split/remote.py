"""A model as a robot calls it: computed on the robot, on a server, or on both."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rowcast.config import AskerSettings, LinkSettings
from rowcast.drivers.sockets import Endpoint, InferenceThread, Security
from rowcast.drivers.sockets.tcp import check_congestion_control, split_address
from rowcast.energy import PowerStates
from rowcast.errors import ConfigError
from rowcast.graphs import Profile
from rowcast.inference import AskerNode, Engine, Outcome
from rowcast.inference.work import PART, WHOLE
from rowcast.journal import Journal, forget
from rowcast.planning import Objective
from rowcast.session import record_start
from rowcast.session.proof import check_name
from rowcast.split.captured import Captured
from rowcast.split.engine import TorchEngine, spec_of
from rowcast.split.inputs import check_finite
from rowcast.split.plans import PlanMaker, check_method, coding_costs, profile_from
from rowcast.split.profiling import measure
from rowcast.split.slower import SlowerEngine, slowed
from rowcast.split.warming import warm_codecs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rowcast.drivers.sockets.endpoint import SecurityWords

__all__ = ["Answer", "Remote", "RemoteOptions"]

log = logging.getLogger("rowcast")

#: The model is measured for so long at the start (s), where no profile is given.
MEASURE_S = 1.0


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model gives for an input.

    Attributes:
        value: in the structure that ``forward`` gives.
        by: ``"robot"``, ``"server"`` or ``"both"`` computed it.
        exact: whether it is that of the undivided model, but for the order of floating-point sums.
        plan: how it was begun: ``"local"``, ``"offload"``, ``"pipeline"`` (a cut inside the model) or ``"streamed"``.
        latency_s: from the input to the answer (s).
        missed: whether it came after its deadline.
        version: of the server's parameters; 0 where the robot has computed it alone, and where they are fixed.
        joules: what the robot has spent by the table of power states (J); the server's energy is excluded.
        outcome: all that is known of it.
    """

    value: Any
    by: str
    exact: bool
    plan: str
    latency_s: float
    missed: bool
    version: int
    joules: float
    outcome: Outcome = field(repr=False)

    @property
    def age_s(self) -> float:
        """How old the input is now (s)."""
        return time.monotonic() - self.outcome.asked_at

    @staticmethod
    def of(outcome: Outcome) -> Answer:
        plan = outcome.plan
        return Answer(
            outcome.value,
            outcome.by,
            outcome.exact,
            "" if plan is None else plan.kind,
            outcome.latency_s,
            outcome.missed,
            outcome.version,
            outcome.joules,
            outcome,
        )


@dataclass(frozen=True)
class RemoteOptions:
    """What a :class:`Remote` can be told beside what it must.

    Attributes:
        profile: the model's times: a file of ``rowcast split profile``, or a :class:`rowcast.graphs.Profile`; ``None``
            measures the model here for a second, and takes the server to be faster in proportion.
        method: how plans are made. ``"rowcast"`` takes what is best at the rate of the moment, rows streamed or not.
            The others are there to compare with: ``"local"``, ``"offload"`` (all on the server), ``"pipeline"`` (the
            best cut) and ``"chain"`` (the best cut of a chain), each tensor sent whole. With all of them the robot's
            own late start is the business of ``fallback``, and coded tensors that of ``codecs``.
        slower: above 1, operators take what the profile says, by waiting where this machine is faster: a slower
            robot, for demonstrations. Without a profile that is so many times what is measured here.
        codecs: tensor codecs that may be used for inputs, where they make an inference faster. What they leave of the
            first input is measured.
        settings, link_settings: see ``docs/settings.md``; of the settings, what :class:`Remote` is told itself goes
            before.
        power: what the robot draws in each state; by default the published table.
        journal_file: where to write what happens, as JSON lines.
        insecure: connect beyond loopback without a secret or a certificate, in the clear.
    """

    profile: str | Path | Profile | None = None
    method: str = "rowcast"
    slower: float = 1.0
    codecs: tuple[str, ...] = ("deflate",)
    settings: AskerSettings = field(default_factory=AskerSettings)
    link_settings: LinkSettings = field(default_factory=LinkSettings)
    power: PowerStates = field(default_factory=PowerStates)
    journal_file: str | Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        check_method(self.method)
        if not 1 <= self.slower < math.inf:
            raise ConfigError(f"slower: expected 1 or more, got {self.slower!r}")


class Remote:
    """A model whose inferences a robot shares with a server.

    Args:
        address: ``host:port`` of the server.
        model: the captured model; the server has captured the same.
        name: stable name of this robot, unique among those of the server.
        deadline_s: an answer is wanted so long after the input (s); ``None``: whenever it comes.
        objective: what is made small: ``"latency"``, ``"energy"`` or both, as ``"latency+0.05*energy"``.
        fallback: ``"model"``: the robot computes the whole model itself, as late as the deadline allows, where the
            server's answer is not there. ``None``: there is no answer then.
        options: all else.
        security: how both ends know each other; beyond loopback one of these is needed, and all but the last of them
            are inside TLS. ``secret_file``: file with the shared secret. ``team``: this robot's file of ``rowcast team
            add``. ``insecure``: true to do without either, in the clear.

    Raises:
        ConfigError: a bad address, an unreadable file, no secret where one is needed; or the robot cannot keep the
            deadline by itself, and is to.

    Example::

        with rowcast.split.Remote("10.0.0.1:7118", model, name="robot-1", deadline_s=0.12) as remote:
            answer = remote(image)
    """

    def __init__(
        self,
        address: str,
        model: Captured,
        *,
        name: str,
        deadline_s: float | None = None,
        objective: str = "latency",
        fallback: str | None = "model",
        options: RemoteOptions | None = None,
        **security: Unpack[SecurityWords],
    ) -> None:
        options = options or RemoteOptions()
        host, port = split_address(address, 7118)
        check_name(name)
        words: SecurityWords = {"insecure": options.insecure, **security}
        secured = Security.of(**words)
        secured.check_join(host)
        secured.guest(name)  # now, and not once the model is measured, the user hears of a file that cannot be used
        check_congestion_control(options.link_settings)
        settings = replace(options.settings, fallback=fallback or "none")
        if deadline_s is not None:
            settings = replace(settings, deadline_s=deadline_s)
        self.name = name
        self.model = model
        self._codecs = options.codecs
        warm_codecs(model)
        self._maker = PlanMaker(
            model,
            _profile(model, options),
            settings.deadline_s,
            settings.fallback == "model",
            Objective.named(objective),
            options.power,
            options.method,
        )
        self._journal = Journal(name, forget)
        if options.journal_file is not None:
            self._journal.keep_in(options.journal_file)
            record_start(self._journal, time.monotonic(), "robot", None, settings, options.link_settings)
        self._node = AskerNode(
            name,
            spec_of(model),
            self._maker.planning(),
            settings=settings,
            secret=secured.secret,
            journal=self._journal,
        )
        engines: dict[str, Engine] = {PART: TorchEngine(model), WHOLE: TorchEngine(model, interruptible=True)}
        if options.slower > 1:
            engines = {lane: SlowerEngine(engine, model, self.profile) for lane, engine in engines.items()}
        endpoint = Endpoint(host, port, secured)
        self._thread = InferenceThread(self._node, engines, endpoint, options.link_settings, self._on_welcome)
        self._planner = ThreadPoolExecutor(1, thread_name_prefix=f"rowcast-{name}-plans")
        self._changing = threading.Lock()
        self._sampled = not options.codecs
        self._forward_s = 0.0
        self._thread.start()

    # -- asking ------------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Any, deadline_s: float | None = None) -> Answer:
        """The answer to inputs, as ``forward`` takes them.

        Args:
            inputs: one input; a batch is asked for one by one.
            deadline_s: in place of the robot's.

        Raises:
            ConfigError: inputs of another size or type than the example, or NaN among them; or a deadline that the
                robot cannot keep by itself.
            DeadlineMissed: there is no fallback, and no answer in time.
            ServerBusy: there is no fallback, and the server computes for others.
            ServerUnavailable, AuthenticationFailed, ModelMismatch: there will be no answers from this server.
            CancelledError: another thread has asked meanwhile, and only the newest input is answered.
        """
        return self.submit(*inputs, deadline_s=deadline_s).result()

    def submit(self, *inputs: Any, deadline_s: float | None = None) -> Future[Answer]:
        """The same, without waiting.

        Of inputs that wait for their turn only the newest is kept: the futures of the others are cancelled (unless the
        settings say otherwise).

        Returns:
            A future with the answer, or one of the errors of :meth:`__call__`.

        Raises:
            ConfigError: inputs of another size or type than the example, or NaN among them.
        """
        tensors = tuple(tensor.detach().clone() for tensor in self.model.flat_inputs(*inputs))
        for tensor, kind in zip(tensors, self.model.inputs, strict=True):
            if tensor.shape != kind.shape:
                raise ConfigError(
                    f"input {kind.name!r}: expected one input, {list(kind.shape)}, got {list(tensor.shape)}; "
                    "ask for each by itself"
                )
        check_finite(self.model.inputs, tensors)
        self._sample(tensors)
        answer: Future[Answer] = Future()
        self._thread.submit(tensors, deadline_s).add_done_callback(lambda done: _pass_on(done, answer))
        return answer

    @property
    def rate_bps(self) -> float:
        """The rate up that was measured last (bit/s); 0 before the first time."""
        return self._node.uplink.rate_bps

    @property
    def connected(self) -> bool:
        """The server has let the robot in, on a connection that stands."""
        return self._node.served

    @property
    def profile(self) -> Profile:
        """The times that plans are made with now."""
        return self._maker.profile

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the server has let the robot in; False when ``timeout_s`` ran out.

        Raises:
            ServerUnavailable, AuthenticationFailed, ModelMismatch: there will be no answers from this server.
        """
        return self._thread.wait(lambda: self.connected, timeout_s)

    def close(self) -> None:
        """Say goodbye; what was not answered is not."""
        self._thread.leave()
        self._planner.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- plans -------------------------------------------------------------------------------------------------

    def _on_welcome(self, forward_s: float) -> None:
        """On the network thread: a server takes so long for the whole model."""
        self._forward_s = forward_s
        self._plan_anew(lambda: self._maker)

    def _sample(self, inputs: tuple[torch.Tensor, ...]) -> None:
        """See what codecs leave of the first inputs."""
        with self._changing:
            if self._sampled:
                return
            self._sampled = True
        self._plan_anew(lambda: replace(self._maker, codecs=coding_costs(self.model, inputs, self._codecs)))

    def _plan_anew(self, change: Callable[[], PlanMaker]) -> None:
        """Make plans on a thread of their own; what cannot be planned leaves the plans that there are."""

        def plan() -> None:
            self._maker = change()
            trip_s = self._node.uplink.round_trip_s or self._maker.round_trip_s
            maker = replace(self._maker, round_trip_s=trip_s, live=self._node.live).served_in(self._forward_s)
            self._thread.replan(maker.planning())

        self._planner.submit(plan).add_done_callback(_report)


def _report(planned: Future[None]) -> None:
    if not planned.cancelled() and (error := planned.exception()) is not None:
        log.error("making plans for a server failed", exc_info=error)


def _pass_on(done: Future[Outcome], answer: Future[Answer]) -> None:
    """What came of an inference, to who asked."""
    if done.cancelled():
        answer.cancel()
    if not answer.set_running_or_notify_cancel():
        return
    error = done.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(Answer.of(done.result()))


def _profile(model: Captured, options: RemoteOptions) -> Profile:
    given = options.profile
    if given is None:
        robot = slowed(measure(model, seconds=MEASURE_S), options.slower)
        # Nothing is known of the server until it says what it takes.
        return replace(robot, server_s=0 * robot.server_s, server_floor_s=0.0, server_step_s=0.0)
    if isinstance(given, Profile):
        given.check(model.graph)
        return given
    return profile_from(model, given)
