"""What Rowcast uses of Ray, in this process: tasks run one after the other when somebody waits for them.

As of Ray: what is passed is pickled, a task whose process dies runs again up to ``max_retries`` times, and one that is
cancelled does not run.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """Base of what Ray raises."""


class WorkerCrashedError(RayError):
    """The process of a task died, once too often."""


class Ref:
    """What a call gives at once."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.state = "waits"
        self.value: Any = None


class FakeRay:
    """The module ``ray``.

    Attributes:
        started: the arguments of each ``init``; ``shutdowns``: how often it was ended.
        options: of each function and class that was made remote, by its name.
        tries: how often each cell was begun, by its name.
        deaths: how many times the process of a cell shall die before it is finished, by its name.
        interrupt_after: Ctrl-C is pressed when so many tasks have ended.
        refuses: what ``init`` raises.
    """

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.shutdowns = 0
        self.options: dict[str, dict[str, Any]] = {}
        self.tries: Counter[str] = Counter()
        self.deaths: dict[str, int] = {}
        self.interrupt_after: int | None = None
        self.refuses: Exception | None = None
        self.cancelled: list[Ref] = []
        self.killed: list[Any] = []
        self.most_waiting = 0
        self._running = False
        self._ended = 0

    def is_initialized(self) -> bool:
        return self._running

    def init(self, **options: Any) -> None:
        self.started.append(options)
        if self.refuses is not None:
            raise self.refuses
        self._running = True

    def shutdown(self) -> None:
        self.shutdowns += 1
        self._running = False

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        def decorate(kind: Any) -> Any:
            self.options[kind.__name__] = options
            if isinstance(kind, type):
                return SimpleNamespace(remote=lambda: Actor(kind()))
            return SimpleNamespace(remote=lambda *given: Ref(lambda: self._task(kind, given, options["max_retries"])))

        return decorate

    def wait(self, refs: Sequence[Ref], num_returns: int, timeout: float) -> tuple[list[Ref], list[Ref]]:
        assert refs and num_returns <= len(refs) and timeout >= 0
        self.most_waiting = max(self.most_waiting, len(refs))
        if timeout == 0:
            return [ref for ref in refs if ref.state != "waits"], [ref for ref in refs if ref.state == "waits"]
        if self.interrupt_after is not None and self._ended >= self.interrupt_after and not self.cancelled:
            raise KeyboardInterrupt
        for ref in refs[:num_returns]:
            if ref.state == "waits":
                self._ended += 1
                ref.state = "ended"
                try:
                    ref.value = ref.call()
                except RayError as error:
                    ref.value = error
        ready = [ref for ref in refs if ref.state != "waits"][:num_returns]
        return ready, [ref for ref in refs if ref not in ready]

    def get(self, ref: Ref) -> Any:
        value = ref.call() if ref.state == "waits" else ref.value
        if isinstance(value, Exception):
            raise value
        return _sent(value)

    def cancel(self, ref: Ref, *, force: bool) -> None:
        self.cancelled.append(ref)
        ref.state = "cancelled"

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)

    def _task(self, function: Callable[..., Any], given: tuple[Any, ...], max_retries: int) -> Any:
        order, *others = given
        name = order.cell.name
        for _ in range(1 + max_retries):
            self.tries[name] += 1
            if self.tries[name] <= self.deaths.get(name, 0):
                continue
            return function(_sent(order), *others)
        raise WorkerCrashedError("the worker died")


class Actor:
    """An actor; its calls take place when somebody asks for what they give, or at once where nobody can."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._own, name)

        def call(*given: Any) -> Ref:
            ref = Ref(lambda: None)
            ref.value, ref.state = method(*given), "ended"
            return ref

        return SimpleNamespace(remote=call)


def _sent(value: Any) -> Any:
    """What arrives of a value elsewhere."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own, a moment ago
