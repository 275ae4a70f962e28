"""Network namespaces one by one: make, enter, end what runs inside, remove.

A thread enters a namespace by itself, so that nothing is forked and the rest of the process stays where it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

__all__ = ["end_processes", "in_new_namespace", "inside", "make_namespace", "processes_in", "remove_namespace"]

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x00020000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000
_MNT_DETACH = 2
#: How long a process may take to end by itself (s), and then at the hands of the kernel.
_TERM_LIMIT_S = 2.0
_KILL_LIMIT_S = 5.0
#: What is just being started may be missed by one look.
_LOOKS = 3


def make_namespace(path: Path) -> None:
    """Make a namespace and give it a name.

    Raises:
        FileExistsError: the name is taken.
        OSError: the kernel refuses.
    """
    from pyroute2 import netns

    # attach() makes the folder and the name; it takes the id of a thread as well as that of a process.
    in_new_namespace(lambda: netns.attach(str(path), threading.get_native_id()))


def remove_namespace(path: Path) -> bool:
    """Take the name away; the namespace goes with the last process in it. Returns whether there was one.

    Raises:
        OSError: the kernel refuses.
    """
    if not path.exists():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), _MNT_DETACH) and (number := ctypes.get_errno()) != errno.EINVAL:
        raise OSError(number, os.strerror(number))  # EINVAL: killed before it was mounted, the name is a mere file
    path.unlink(missing_ok=True)
    return True


def inside(path: Path, function: Callable[[], T]) -> T:
    """What ``function`` returns, or raises, in a thread inside the namespace; sockets that it opens stay in there."""
    from pyroute2 import netns

    def enter() -> T:
        netns.setns(str(path), flags=0)
        return function()

    return _in_thread(enter)


def in_new_namespace(function: Callable[[], T], private: Path | None = None) -> T:
    """What ``function`` returns, or raises, in a thread in a namespace that is gone afterwards, unless it was named.

    Args:
        function: what to do in there.
        private: a folder that is empty for it; what it puts or mounts there nobody else sees, and is gone afterwards.
    """

    def enter() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        refused = libc.unshare(_CLONE_NEWNET | (0 if private is None else _CLONE_NEWNS))
        if not refused and private is not None:
            refused = libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) or libc.mount(
                b"rowcast", os.fsencode(private), b"tmpfs", 0, None
            )
        if refused:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return function()

    return _in_thread(enter)


def processes_in(paths: Iterable[Path]) -> list[int]:
    """Ids of the processes inside; never one of those that share the namespace of this process."""
    wanted = {place for path in paths if (place := _place(path)) is not None} - {_place(Path("/proc/self/ns/net"))}
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and wanted and _place(entry / "ns" / "net") in wanted
    ]


def end_processes(paths: Iterable[Path]) -> tuple[list[int], list[int]]:
    """End what runs inside: asked first, killed after 2 s.

    Returns:
        ids of those that ended, and of those that did not: the kernel waits for something itself.
    """
    folders = list(paths)
    ended: list[int] = []
    running: dict[int, int] = {}
    for _ in range(_LOOKS):
        with contextlib.ExitStack() as stack:
            running = _held(folders, stack)
            if not running:
                break
            found = set(running.values())
            for number, limit_s in ((signal.SIGTERM, _TERM_LIMIT_S), (signal.SIGKILL, _KILL_LIMIT_S)):
                _signal_and_wait(running, number, limit_s)
            ended += sorted(found - set(running.values()))
    return ended, sorted(running.values())


def _held(paths: list[Path], stack: contextlib.ExitStack) -> dict[int, int]:
    """Handle -> id of the processes inside: with a handle no signal reaches a later process of the same id."""
    running = {}
    for pid in processes_in(paths):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        stack.callback(os.close, handle)
        running[handle] = pid
    inside_still = set(processes_in(paths))
    return {handle: pid for handle, pid in running.items() if pid in inside_still}


def _signal_and_wait(running: dict[int, int], number: signal.Signals, limit_s: float) -> None:
    """Take out of ``running`` what ends in time."""
    poll = select.poll()
    for handle in running:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
        poll.register(handle, select.POLLIN)
    deadline = time.monotonic() + limit_s
    while running and (left_s := deadline - time.monotonic()) > 0:
        for handle, _ in poll.poll(left_s * 1000):
            poll.unregister(handle)
            del running[handle]


def _place(path: Path) -> tuple[int, int] | None:
    """What tells a namespace from another."""
    try:
        stat = path.stat()
    except OSError:  # ended meanwhile, or not ours to look at
        return None
    return stat.st_dev, stat.st_ino


def _in_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="rowcast-netns", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
