"""Whether networks can be made here, and a namespace of users for those who are not root.

Nothing is concluded from names or versions: the kernel is asked to do it, in namespaces that are gone a moment later.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rowcast.drivers.netns.namespaces import in_new_namespace, make_namespace, remove_namespace
from rowcast.drivers.netns.places import PRIVATE, records_folder
from rowcast.errors import ConfigError

__all__ = ["enter_user_namespace", "why_no_user_namespace", "why_not", "why_not_here"]

_CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
_PROGRAMS = {"nsenter": "util-linux"}
_USER_PROGRAMS = {"unshare": "util-linux", "setpriv": "util-linux", "mount": "mount", "sh": "dash"}
#: A user namespace with all that lives in it; ends with the process that asked for it.
_UNSHARE = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
#: Switches of distributions: file, value that says no, how to say yes.
_SWITCHES = (
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
)
_PROBE_LIMIT_S = 10.0


def why_not() -> str | None:
    """What keeps this process from making networks of namespaces: one line with the remedy; ``None``: nothing."""
    if sys.platform != "linux":
        return f"networks of namespaces need Linux, got {sys.platform}; run it on a Linux machine"
    if importlib.util.find_spec("pyroute2") is None:
        return "networks of namespaces need pyroute2, which is not installed; run pip install 'rowcast[emulate]'"
    if (missing := _missing(_PROGRAMS)) is not None:
        return missing
    held = _capabilities()
    lacking = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if lacking:
        return (
            f"networks of namespaces need {', '.join(lacking)}, which this process does not have; run it as root"
            f"{' in a container with --privileged' if os.geteuid() == 0 else ', or as a user in a user namespace'}"
        )
    return _refused()


def why_not_here() -> str | None:
    """What keeps networks from being made here, by this process or in a user namespace of it; ``None``: nothing."""
    reason = why_not()
    if reason is None or os.geteuid() == 0 or importlib.util.find_spec("pyroute2") is None:
        return reason
    return why_no_user_namespace()


def why_no_user_namespace() -> str | None:
    """What keeps this process from a user namespace in which it may make networks; ``None``: nothing."""
    if (missing := _missing(_USER_PROGRAMS)) is not None:
        return missing
    for file, refuses, remedy in _SWITCHES:
        path = Path(file)
        if path.exists() and path.read_text(encoding="ascii").strip() == refuses and os.geteuid() != 0:
            return f"user namespaces are switched off ({file} is {refuses}); run it with sudo, or sysctl -w {remedy}"
    try:
        mount = ["mount", "-t", "tmpfs", "rowcast", str(_private_folder())]
        probe = subprocess.run([*_UNSHARE, *mount], capture_output=True, text=True, timeout=_PROBE_LIMIT_S, check=False)
    except ConfigError as error:
        return str(error)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"user namespaces cannot be tried: {error}; run it with sudo"
    if probe.returncode:
        said = " ".join(probe.stderr.split()) or f"code {probe.returncode}"
        return f"a user namespace is refused by the kernel or its security module ({said}); run it with sudo"
    return None


def enter_user_namespace(argv: Sequence[str]) -> NoReturn:
    """Run a command as root of a user namespace of its own, instead of what this process was going to do.

    In there are a network and process ids of its own and a private folder for names and records: whatever ends the
    command, or this process, the kernel removes all of it. Ctrl-C and SIGTERM reach the command; this process ends as
    it does. Call it from the main thread.

    Args:
        argv: the command, as for ``subprocess``; it finds :data:`~rowcast.drivers.netns.places.PRIVATE` set.

    Raises:
        ConfigError: this process is in one already, or none can be had; the message says why.
        SystemExit: the command has ended.
    """
    if os.environ.get(PRIVATE):
        raise ConfigError(f"inside a user namespace of rowcast already ({PRIVATE} is set), and rights are missing here")
    if (reason := why_no_user_namespace()) is not None:
        raise ConfigError(reason)
    folder = str(_private_folder())
    code = _supervise([*_UNSHARE, *_mounted(folder, argv)], {**os.environ, PRIVATE: folder})
    raise SystemExit(code if code >= 0 else 128 - code)


def _private_folder() -> Path:
    """A folder of this user, always the same: each user namespace mounts something of its own there."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime, "rowcast") if runtime else Path(tempfile.gettempdir(), f"rowcast-emulate-{os.geteuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            raise ConfigError(f"{folder}: expected a folder of this user, it is somebody else's; set XDG_RUNTIME_DIR")
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}; set XDG_RUNTIME_DIR to a folder") from error
    return folder


def _mounted(folder: str, argv: Sequence[str]) -> list[str]:
    """The command, with memory of its own mounted at the folder, below a shell: process 1 would not obey SIGTERM."""
    return ["sh", "-c", 'mount -t tmpfs -o mode=700 rowcast "$0" || exit 1; "$@"; exit $?', folder, *argv]


def _supervise(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run ``unshare``, that runs a shell, that runs the command; what ends programs is passed on to the command."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)

    def pass_on(number: int, _: FrameType | None) -> None:
        below = [command for shell in _children(process.pid) for command in _children(shell)]
        for pid in below:
            os.kill(pid, number)
        if not below:
            process.kill()

    numbers = (signal.SIGINT, signal.SIGTERM)
    earlier = [signal.signal(number, pass_on) for number in numbers]
    try:
        return process.wait()
    finally:
        for number, handler in zip(numbers, earlier, strict=True):
            signal.signal(number, handler)


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
        return []
    return [int(child) for child in text.split()]


def _missing(programs: dict[str, str]) -> str | None:
    for program, package in programs.items():
        if shutil.which(program) is None:
            return f"the program {program!r} is not on the PATH; install the system package {package}"
    return None


def _capabilities() -> int:
    for line in Path("/proc/thread-self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _refused() -> str | None:
    """Give a namespace a name, make a pair of interfaces in it and open a raw end, where nobody sees it."""
    from pyroute2 import IPRoute, NetlinkError

    what = "to mount the name of a namespace"

    def probe(name: Path) -> None:
        nonlocal what
        make_namespace(name)
        try:
            what = "a pair of interfaces (kernel option CONFIG_VETH)"
            with IPRoute() as ip:
                ip.link("add", kind="veth", ifname="probe", peer={"ifname": "peer"})
            what = "a raw end of an interface (kernel option CONFIG_PACKET)"
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
        finally:
            remove_namespace(name)

    folder = records_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        in_new_namespace(lambda: probe(folder / "names" / "probe"), private=folder)
    except NetlinkError as error:
        return f"the kernel refuses {what}: {os.strerror(error.code)}; run it as root on a kernel that has it"
    except OSError as error:
        reason = error.strerror or error
        return f"the kernel refuses {what}: {reason}; run it as root, in a container with --privileged"
    return None
