"""A network of namespaces: what is in it, what is not, and names that cannot be had."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from namespaces import Datagrams, names_with, needs_namespaces, runs
from rowcast.drivers.netns import network as network_module
from rowcast.drivers.netns.namespaces import in_new_namespace, make_namespace, remove_namespace
from rowcast.drivers.netns.network import AIR, INTERFACE, Network
from rowcast.drivers.netns.offloads import switch_off, switched_on
from rowcast.drivers.netns.places import names_folder, records_folder
from rowcast.errors import ConfigError

HOSTS = ("server", "robot-0", "robot-1")


def interfaces() -> list[str]:
    """Of the namespace in which the thread is."""
    return [name for _, name in socket.if_nameindex()]


def unused_label(text: str) -> str:
    return f"{text}-{os.getpid()}-{time.monotonic_ns() % 10**9}"


@needs_namespaces
@pytest.mark.system
def test_each_host_has_one_interface_whose_other_end_lies_in_the_air() -> None:
    before = interfaces()
    with Network(HOSTS, congestion_control="reno") as network:
        assert network.congestion_control == "reno"
        assert network.inside(AIR, interfaces) == ["lo", *(network.end(host) for host in HOSTS)]
        for host in HOSTS:
            assert network.inside(host, interfaces) == ["lo", INTERFACE]
            mac = network.inside(host, Path("/proc/thread-self/net/arp").read_text)
            for other in set(HOSTS) - {host}:
                assert re.search(rf"{network.address(other)} +0x1 +0x6 +{network.mac(other)}", mac)
            assert network.mac(host) not in mac
        assert interfaces() == before
        namespaces = names_with(network.token)
        assert sorted(namespaces) == sorted(network.namespace(host) for host in (*HOSTS, AIR))
    assert names_with(network.token) == []
    assert interfaces() == before


@needs_namespaces
@pytest.mark.system
def test_a_program_runs_inside_with_loopback_and_no_ipv6() -> None:
    with Network(HOSTS) as network:

        def loops() -> bytes:
            with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as a:
                b, _ = server.accept()
                with b:
                    a.sendall(b"inside")
                    return b.recv(10)

        assert network.inside("robot-0", loops) == b"inside"
        shown = subprocess.run(
            network.command("robot-1", ["cat", "/proc/self/net/dev", "/proc/self/net/if_inet6"]),
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        assert INTERFACE in shown
        assert "fe80" not in shown


@needs_namespaces
@pytest.mark.system
def test_offloads_are_off_on_both_ends() -> None:
    def pair() -> tuple[list[str], list[str]]:
        from pyroute2 import IPRoute

        with IPRoute() as ip:
            ip.link("add", kind="veth", ifname="probe", peer={"ifname": "peer"})
        fresh = switched_on("probe")
        switch_off("probe")
        return fresh, switched_on("probe")

    fresh, after = in_new_namespace(pair)
    assert {"tx-tcp-segmentation", "tx-generic-segmentation"} <= set(fresh)
    assert after == []
    with Network(HOSTS) as network:
        for host in HOSTS:
            assert network.inside(host, lambda: switched_on(INTERFACE)) == []
            assert network.inside(AIR, lambda host=host: switched_on(network.end(host))) == []


@needs_namespaces
@pytest.mark.system
def test_nothing_reaches_anybody_without_a_medium() -> None:
    with Network(HOSTS) as network:
        assert Datagrams(network, "server", "robot-0", 9000, seconds=0.3, rate_bps=1e6).arrived() == []

        def sent() -> tuple[int, int]:
            """Frames that the end in the air took in, and gave out."""
            text = Path("/proc/thread-self/net/dev").read_text(encoding="ascii")
            fields = next(line for line in text.splitlines() if line.strip().startswith("server:")).split()
            return int(fields[2]), int(fields[10])

        came_in, went_out = network.inside(AIR, sent)
        assert came_in >= 20  # the datagrams, and nothing that asks or announces
        assert came_in <= 0.3 * 1e6 / (1514 * 8) + 2
        assert went_out == 0


@needs_namespaces
@pytest.mark.system
def test_leaving_ends_what_still_runs_inside() -> None:
    with Network(HOSTS) as network:
        process = subprocess.Popen(network.command("robot-0", ["cat"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"here\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"here\n"  # it is inside by now
    assert process.poll() is not None or not runs(process.pid)
    process.communicate()
    assert names_with(network.token) == []


@needs_namespaces
@pytest.mark.system
def test_several_networks_run_side_by_side() -> None:
    with Network(HOSTS) as one, Network(HOSTS) as other:
        assert one.token != other.token
        assert len(names_with(one.token)) == len(names_with(other.token)) == 4


@needs_namespaces
@pytest.mark.system
def test_a_name_in_use_is_said_in_one_line_and_left_alone() -> None:
    label = unused_label("mine")
    with Network(HOSTS, label=label), pytest.raises(ConfigError) as caught:
        Network(HOSTS, label=label).__enter__()
    assert str(caught.value) == (
        f"network '{label}': the name is in use: process {os.getpid()} has it; choose another label, or wait for its"
        " end"
    )


@needs_namespaces
@pytest.mark.system
@pytest.mark.parametrize("seen", [True, False])
def test_a_namespace_of_somebody_else_is_left_alone(seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    label = unused_label("theirs")
    theirs = names_folder() / f"rowcast-{label}-robot-0"
    if seen:
        make_namespace(theirs)
    else:  # it appears between the look and the making

        def late(path: Path) -> None:
            if path == theirs:
                make_namespace(path)
            make_namespace(path)

        monkeypatch.setattr(network_module, "make_namespace", late)
    try:
        with pytest.raises(
            ConfigError, match="the name is in use, and not by rowcast; choose another label, or ip netns"
        ):
            Network(HOSTS, label=label).__enter__()
        assert names_with(label) == [theirs.name]
        assert not list(records_folder().glob(f"{label}*"))
    finally:
        remove_namespace(theirs)


@needs_namespaces
@pytest.mark.system
def test_a_congestion_control_that_is_not_to_be_had_leaves_nothing() -> None:
    label = unused_label("control")
    with pytest.raises(
        ConfigError, match=r"'carrier-pigeon': the kernel has none of this name; expected one of .*reno"
    ):
        Network(HOSTS, label=label, congestion_control="carrier-pigeon").__enter__()
    assert names_with(label) == []


@needs_namespaces
@pytest.mark.system
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_what_fails_half_way_leaves_nothing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    label = unused_label("half")

    def fails(path: Path) -> None:
        if path.name.endswith("robot-1"):
            raise error
        make_namespace(path)

    monkeypatch.setattr(network_module, "make_namespace", fails)
    with pytest.raises((ConfigError, KeyboardInterrupt)) as caught:
        Network(HOSTS, label=label).__enter__()
    if isinstance(error, OSError):
        assert str(caught.value) == f"namespace rowcast-{label}-robot-1: cannot be made: No space left on device"
    assert names_with(label) == []
    assert not list(records_folder().glob(f"{label}*"))


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (["server"], "expected 2 to 250 hosts, got 1"),
        (["server", "air"], "host 'air': expected up to 15 of a-z"),
        (["server", "Robot 0"], "host 'Robot 0': expected up to 15 of a-z"),
        (["server", "a-robot-of-a-long-name"], "expected up to 15"),
        (["server", "../../etc"], "expected up to 15"),
        (["server", "robot", "robot"], "expected hosts of different names, got server, robot, robot"),
    ],
)
def test_hosts_that_cannot_be(hosts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Network(hosts)


def test_a_label_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"label '../x': expected up to 40 of a-z"):
        Network(HOSTS, label="../x")


def test_no_such_host() -> None:
    with pytest.raises(ConfigError, match="no host 'robot-7'; expected one of server, robot-0, robot-1"):
        Network(HOSTS).address("robot-7")
    with pytest.raises(ConfigError, match="known once the network is made"):
        _ = Network(HOSTS).congestion_control
