"""What keeps networks of namespaces from being made is said in one line; user namespaces for those who are not root."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from namespaces import needs_namespaces, source_environment
from rowcast.drivers.netns import rights
from rowcast.drivers.netns.network import Network
from rowcast.drivers.netns.places import PRIVATE, names_folder, records_folder
from rowcast.drivers.netns.rights import enter_user_namespace, why_no_user_namespace, why_not
from rowcast.errors import ConfigError

_REASON = why_no_user_namespace()
needs_user_namespaces = pytest.mark.skipif(_REASON is not None, reason=str(_REASON))

#: Enters a user namespace, makes a network there, and ends when its input does.
_COMMAND = """
import os, sys
from rowcast.drivers.netns.network import Network
from rowcast.drivers.netns.places import PRIVATE
from rowcast.drivers.netns.rights import enter_user_namespace, why_not
if not os.environ.get(PRIVATE):
    enter_user_namespace([sys.executable, "-c", sys.argv[1], *sys.argv[1:]])
import subprocess
with Network(["server", "robot-0"]) as network:
    inside = subprocess.Popen(network.command("robot-0", ["cat"]), stdin=subprocess.PIPE)
    print("ready", why_not(), os.geteuid(), network.path("air"), flush=True)
    sys.stdin.read()
sys.exit(7)
"""


def test_a_missing_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert why_not() == "the program 'nsenter' is not on the PATH; install the system package util-linux"
    assert why_no_user_namespace() == "the program 'unshare' is not on the PATH; install the system package util-linux"
    with pytest.raises(ConfigError, match="the program 'nsenter' is not on the PATH"):
        Network(["server", "robot-0"]).__enter__()


def test_pyroute2_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    assert why_not() == (
        "networks of namespaces need pyroute2, which is not installed; run pip install 'rowcast[emulate]'"
    )


def test_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert why_not() == "networks of namespaces need Linux, got darwin; run it on a Linux machine"


@needs_namespaces
@pytest.mark.system
@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="needs setpriv, and root to drop from")
def test_missing_capabilities_are_named() -> None:
    ask = [sys.executable, "-c", "from rowcast.drivers.netns.rights import why_not; print(why_not())"]
    for dropped, named in (("-all", "CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW"), ("-net_raw", "CAP_NET_RAW")):
        drop = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]
        said = subprocess.run(
            [*drop, *ask], capture_output=True, text=True, env=source_environment(), check=True
        ).stdout
        assert said == (
            f"networks of namespaces need {named}, which this process does not have; run it as root in a container with"
            " --privileged\n"
        )


@needs_namespaces
def test_a_kernel_without_pairs_of_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyroute2

    class Refusing(pyroute2.IPRoute):  # type: ignore[misc]
        def link(self, *_: object, **__: object) -> None:
            raise pyroute2.NetlinkError(95)

    monkeypatch.setattr(pyroute2, "IPRoute", Refusing)
    assert why_not() == (
        "the kernel refuses a pair of interfaces (kernel option CONFIG_VETH): Operation not supported; run it as root"
        " on a kernel that has it"
    )


@needs_namespaces
def test_a_security_module_that_refuses_to_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(rights, "make_namespace", refuses)
    assert why_not() == (
        "the kernel refuses to mount the name of a namespace: Operation not permitted; run it as root, in a container"
        " with --privileged"
    )


def test_user_namespaces_that_are_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = tmp_path / "max_user_namespaces"
    switch.write_text("0\n", encoding="ascii")
    monkeypatch.setattr(rights, "_SWITCHES", ((str(switch), "0", "user.max_user_namespaces=10000"),))
    monkeypatch.setattr(rights, "_missing", lambda _: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert why_no_user_namespace() == (
        f"user namespaces are switched off ({switch} is 0); run it with sudo, or sysctl -w"
        " user.max_user_namespaces=10000"
    )


def test_user_namespaces_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(rights, "_missing", lambda _: None)
    monkeypatch.setattr(rights, "_UNSHARE", ("sh", "-c", "echo unshare: write failed: no >&2; exit 1"))
    monkeypatch.delenv(PRIVATE, raising=False)
    with pytest.raises(ConfigError, match=r"its security module \(unshare: write failed: no\); run it with sudo"):
        enter_user_namespace(["true"])


def test_a_user_namespace_is_entered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRIVATE, "/somewhere")
    with pytest.raises(ConfigError, match=f"inside a user namespace of rowcast already \\({PRIVATE} is set\\)"):
        enter_user_namespace(["true"])
    assert names_folder() == Path("/somewhere/names")
    assert records_folder() == Path("/somewhere/records")


def test_a_private_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PRIVATE, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(rights, "why_no_user_namespace", lambda: None)
    (tmp_path / "rowcast").symlink_to("/")
    with pytest.raises(ConfigError, match="expected a folder of this user, it is somebody else's"):
        enter_user_namespace(["true"])


def as_nobody() -> list[str]:
    """What runs this Python as a user without rights; skips the test where there is no way."""
    source = source_environment()["PYTHONPATH"]
    if os.geteuid() != 0:
        return ["env", f"PYTHONPATH={source}", sys.executable]
    site = sysconfig.get_path("purelib")
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [*drop, "env", "-u", "XDG_RUNTIME_DIR", f"PYTHONPATH={source}:{site}", python, "-B"]
        probe = [*command, "-c", "import pyroute2, rowcast.drivers.netns.network"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return command
    pytest.skip("no Python here that a user without rights may run")


@pytest.fixture
def entered(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A user without rights who has a network, that nobody else sees."""
    process = subprocess.Popen(
        [*as_nobody(), "-c", _COMMAND, _COMMAND, f"marked-{tmp_path.name}-{os.getpid()}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    try:
        assert process.stdout is not None
        ready, why, user, name = process.stdout.readline().split()
        assert (ready, why, user) == ("ready", "None", "0")
        assert Path(name).parent != Path("/run/netns")
        assert not Path(name).exists()
        yield process
    finally:
        process.kill()
        process.communicate()


def marked(process: subprocess.Popen[str]) -> list[int]:
    """Processes of the command, inside and outside of the user namespace."""
    assert isinstance(process.args, list)
    mark = process.args[-1].encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@needs_user_namespaces
@pytest.mark.system
def test_a_user_without_rights_makes_a_network(entered: subprocess.Popen[str]) -> None:
    entered.communicate(timeout=30)
    assert entered.returncode == 7
    assert marked(entered) == []


@needs_user_namespaces
@pytest.mark.system
@pytest.mark.parametrize(
    ("number", "codes"), [(signal.SIGINT, (1, 130)), (signal.SIGTERM, (143,)), (signal.SIGKILL, (-9,))]
)
def test_a_signal_ends_everything(
    entered: subprocess.Popen[str], number: signal.Signals, codes: tuple[int, ...]
) -> None:
    handles = [os.pidfd_open(pid) for pid in marked(entered)]
    try:
        assert len(handles) >= 4  # this one, unshare, a shell, the command
        entered.send_signal(number)
        assert entered.wait(20) in codes
        deadline = time.monotonic() + 10
        for handle in handles:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            assert poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        for handle in handles:
            os.close(handle)
