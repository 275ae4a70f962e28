"""Worker processes of an experiment: started, watched, and ended by their ids."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rowcast.errors import ConfigError, WorkerFailed

__all__ = ["ProcessGroup", "WorkerProcess"]

#: How long a process may take to end after it was asked to (s).
END_LIMIT_S = 5.0
TAIL_LINES = 3

_Watch: TypeAlias = Callable[["WorkerProcess"], Coroutine[Any, Any, None]]


@dataclass(eq=False)
class WorkerProcess:
    """One process.

    Attributes:
        name: for messages.
        process: the process; its standard output and input are pipes to us.
        log: file that takes its standard error.
    """

    name: str
    process: asyncio.subprocess.Process
    log: Path

    def failure(self, what: str) -> WorkerFailed:
        """An error that ends with the tail of the log, on one line."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        tail = " | ".join(line.strip() for line in lines[-TAIL_LINES:] if line.strip())
        return WorkerFailed(f"{self.name} (process {self.process.pid}) {what}; {self.log} ends: {tail or 'empty'}")


class ProcessGroup:
    """The processes of one run; leaving the context ends what still runs, and reaps everything.

    Example::

        async with ProcessGroup() as group:
            await group.start("robot-0", [sys.executable, "-m", "rowcast", "train", "--await-start", ...], log)
            await group.wait_ready(60)
            for files in runs:  # of settings, one for each process
                group.go(files)
                await group.wait_finished(60)
            await group.wait_ended(10)
    """

    def __init__(self) -> None:
        self.workers: list[WorkerProcess] = []

    async def start(self, name: str, command: Sequence[str], log: Path) -> None:
        """Start a process in a session of its own, so that a Ctrl-C on our terminal reaches it through us only.

        Raises:
            ConfigError: the log cannot be written.
        """
        try:
            with log.open("wb") as stderr:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=stderr,
                    start_new_session=True,
                )
        except OSError as error:
            raise ConfigError(f"{name}: cannot be started with log {log}: {error.strerror}") from error
        self.workers.append(WorkerProcess(name, process, log))

    async def wait_ready(self, limit_s: float) -> None:
        """Wait until each process has written its first line.

        Raises:
            WorkerFailed: one ended, or took too long.
        """
        await self._each(self._line("before it was ready"), limit_s, f"was not ready after {limit_s:g} s")

    def go(self, orders: Iterable[str]) -> None:
        """Let all processes begin: a line for each, on its standard input."""
        for worker, order in zip(self.workers, orders, strict=True):
            assert worker.process.stdin is not None
            worker.process.stdin.write(f"{order}\n".encode())

    async def wait_joined(self, limit_s: float) -> None:
        """Wait until each process has written another line: its robot has joined the team.

        Raises:
            WorkerFailed: one ended, or took too long.
        """
        await self._each(self._line("before it had joined"), limit_s, f"has not joined after {limit_s:g} s")

    async def wait_finished(self, limit_s: float) -> None:
        """Wait until each process has written another line: it has done what it was told.

        Raises:
            WorkerFailed: one ended (noticed at once, not when the others have finished), or took too long.
        """
        await self._each(self._line("before it had finished"), limit_s, f"has not finished after {limit_s:g} s")

    async def wait_failed(self) -> None:
        """Wait until a process ends badly; for ever, if none does.

        Raises:
            WorkerFailed: one did.
        """
        await asyncio.gather(*(self._bad_end(worker) for worker in self.workers))
        await asyncio.Event().wait()

    async def wait_ended(self, limit_s: float) -> None:
        """Tell each process that nothing more comes, and wait until it has ended well.

        Raises:
            WorkerFailed: one ended badly (noticed at once, not when the others have ended), or took too long.
        """
        for worker in self.workers:
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        await self._each(self._good_end, limit_s, f"has not ended after {limit_s:g} s")

    async def __aenter__(self) -> ProcessGroup:
        return self

    async def __aexit__(self, *_: object) -> None:
        alive = [worker.process for worker in self.workers if worker.process.returncode is None]
        for process in alive:
            _signal(process, signal.SIGINT)
        ends = [asyncio.create_task(process.wait()) for process in alive]
        if ends:
            await asyncio.wait(ends, timeout=END_LIMIT_S)
            for process in alive:
                if process.returncode is None:
                    _signal(process, signal.SIGKILL)
            await asyncio.wait(ends)
        for worker in self.workers:
            # The pipe's transport stays open until its end was read.
            if worker.process.stdin is not None:
                worker.process.stdin.close()

    async def _each(self, watch: _Watch, limit_s: float, late: str) -> None:
        tasks = {asyncio.create_task(watch(worker)): worker for worker in self.workers}
        try:
            done, pending = await asyncio.wait(tasks, timeout=limit_s, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            if pending:
                raise tasks[min(pending, key=lambda task: tasks[task].name)].failure(late)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    def _line(when: str) -> _Watch:
        """Waits for a line of a process; ``when`` says what its end comes before."""

        async def wait(worker: WorkerProcess) -> None:
            assert worker.process.stdout is not None
            if not await worker.process.stdout.readline():
                raise worker.failure(f"ended with code {await worker.process.wait()} {when}")

        return wait

    async def _bad_end(self, worker: WorkerProcess) -> None:
        if code := await worker.process.wait():
            raise worker.failure(f"ended with code {code}")

    async def _good_end(self, worker: WorkerProcess) -> None:
        assert worker.process.stdout is not None
        await worker.process.stdout.read()
        code = await worker.process.wait()
        if code != 0:
            raise worker.failure(f"ended with code {code}")


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
