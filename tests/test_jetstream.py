"""A log in NATS JetStream: what is stored comes back, one owner at a time, and what happens when JetStream is away."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import itertools
import signal
import socket
import struct
import threading

import msgspec
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from live import LIMIT_S, eventually
from nats_servers import NatsServer, free_ports, nats_cluster, needs_nats
from rowcast.config import LinkSettings, ServerSettings, StateSettings
from rowcast.drivers.state import (
    JetStreamAddress,
    RowLog,
    ServerKeeper,
    TeamSpec,
    nats_client,
    ownership,
    state_at,
    streams,
)
from rowcast.drivers.state.folder import snapshot_bytes
from rowcast.drivers.state.jetstream import JetStreamLog
from rowcast.drivers.state.stored import SnapshotRecord
from rowcast.durability.state import State
from rowcast.errors import ConfigError, LinkLost, StateDamaged, SteppedDown
from rowcast.journal import Journal

pytestmark = [pytest.mark.system, needs_nats]
LEASE_S = 0.6
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def nats(tmp_path_factory):
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def address(nats):
    """A log that nobody has had before."""
    return JetStreamAddress((nats.address,), f"log-{next(NUMBERS)}")


@pytest.fixture
def opening():
    """Opens logs, which are closed at the end of the test."""
    opened = []

    def open_log(address, **options):
        options = {"lease_s": LEASE_S, **options}
        opened.append(JetStreamLog(address, **options))
        return opened[-1]

    yield open_log
    for log in opened:
        if log.nats._thread.is_alive():
            log.close()


def snapshot(seed=0, size=1000):
    values = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    return snapshot_bytes(State(b"table", {"model": values}), {"seed": str(seed)})


def writer_of(log, first=0, committed=lambda: None):
    return log.writer(first, commit_s=0.0, committed=committed)


def commit(writer, *records):
    for record in records:
        writer.append(record)
        writer.flush()
    assert not writer.failure


def found_in(log):
    found = log.find()
    return [bytes(each) for each in found.groups], found


def kill(log):
    """Its process is gone: nothing is said of it, and its connection is cut."""
    log.nats.close()


def asked(log, coroutine):
    return log.nats.call(coroutine)


# -- what is stored ----------------------------------------------------------------------------------------------------


def test_a_log_comes_back_on_another_machine(address, opening, monkeypatch):
    """A group of many parts, a snapshot of many parts, and the groups behind it, are those that were stored."""
    monkeypatch.setattr(streams, "PART_BYTES", 3000)
    first = opening(address)
    assert isinstance(first, RowLog) and first.find() is None and not first.followable and first.promised() == 0
    first.write(0, snapshot(1, 50_000))
    writer = writer_of(first)
    commit(writer, b"a", b"long" * 5000, b"c")
    assert first.lost is None and writer.written > 20_000
    kill(first)
    second = opening(address)
    assert second.identity(bytes) == first.identity(bytes) and len(second.identity(bytes)) == 16
    kept, found = found_in(second)
    assert kept == [b"a", b"long" * 5000, b"c"] and found.groups.next == 3 and found.groups.cut == 0
    assert found.about["seed"] == "1"
    np.testing.assert_array_equal(
        found.state.arrays["model"], np.random.default_rng(1).normal(size=50_000).astype("f4")
    )


def test_a_snapshot_removes_what_is_before_it_and_nothing_else(address, opening):
    log = opening(address)
    writer = writer_of(log)
    for seed in range(4):
        first = writer.rotate()
        if seed % 2:
            commit(writer, b"early")  # the log goes on while the snapshot is written
        log.write(first, snapshot(seed))
        commit(writer, b"late", b"later")
    kept, found = found_in(log)
    assert kept == [b"early", b"late", b"later"] and found.about["seed"] == "3"
    assert asked(log, log.nats.js.stream_info(log.streams.log)).state.messages <= 3 + 1 + 2  # and a beat or two
    assert asked(log, log.nats.js.stream_info(log.streams.shelf)).state.messages == 1
    kill(log)
    assert found_in(opening(address))[0] == kept


def test_a_log_without_its_snapshot_is_refused(address, opening):
    log = opening(address)
    commit(writer_of(log), b"a")
    with pytest.raises(StateDamaged, match="expected a snapshot before group 0, got none"):
        log.find()


def test_a_snapshot_that_is_not_as_it_was_is_refused(address, opening):
    log = opening(address)
    log.write(0, snapshot())
    subject = f"{log.streams._parts}.other"
    data = snapshot(5)
    other = asked(log, log.nats.js.publish(subject, data, headers={"Rowcast-Part": "0"}))
    about = SnapshotRecord(0, subject, other.seq, other.seq, len(data), "00" * 32)

    async def tell():
        async with log.ownership.lock:
            await log.ownership.store("snapshot", {}, msgspec.json.encode(about))

    asked(log, tell())
    with pytest.raises(StateDamaged, match="expected a snapshot as it was written"):
        log.find()


def test_parts_of_a_snapshot_that_were_stored_in_another_order_are_put_in_theirs(address, opening, monkeypatch):
    monkeypatch.setattr(streams, "PART_BYTES", 1000)
    log = opening(address)
    in_order = streams._all

    async def backwards(publishing):
        answers = [await in_order([each]) for each in reversed(publishing)]
        return [each for (each,) in reversed(answers)]

    monkeypatch.setattr(streams, "_all", backwards)
    log.write(0, snapshot(3, 4000))
    assert found_in(log)[1].about["seed"] == "3"


@pytest.mark.parametrize("durability", ["log", "snapshot"])
def test_a_keeper_brings_its_server_back(address, opening, durability):
    settings, spec = (
        StateSettings(durability=durability, commit_s=0.0),
        TeamSpec("bsp", ServerSettings(), LinkSettings()),
    )
    log = opening(address)
    first = ServerKeeper(log, spec, settings, Journal("server"))
    assert first.recovered is None
    first.server.listen(1.0)
    first.log.flush()
    kill(log)
    second = ServerKeeper(opening(address), spec, settings, Journal("server"))
    assert second.recovered.inputs == (1 if durability == "log" else 0) and second.identity == first.identity
    second.close(2.0)
    third = ServerKeeper(opening(address), spec, settings, Journal("server"))
    assert third.recovered.inputs == 0 and third.starts_at == 2.0
    third.close(3.0)
    with pytest.raises(ConfigError, match="its team has the policy bsp, and this server has ssp:2"):
        ServerKeeper(opening(address), dataclasses.replace(spec, policy="ssp:2"), settings, Journal("server"))
    opening(address, lease_s=3600.0).close()  # it was given back


# -- one owner ---------------------------------------------------------------------------------------------------------


def test_a_second_owner_is_refused_while_the_first_one_lives(address, opening):
    first = opening(address)
    first.write(0, snapshot())
    writer = writer_of(first)
    commit(writer, b"a")
    with pytest.raises(ConfigError, match=f"another process uses it \\(owner {first.ownership.owner}\\)"):
        opening(address)
    commit(writer, b"b")
    assert first.lost is None and found_in(first)[0] == [b"a", b"b"]


def test_who_is_patient_is_not_taken_over_by_who_is_not(address, opening):
    """The owner lets itself be heard each second or so; who comes would give it a tenth of that."""
    opening(address, lease_s=4.0)
    with pytest.raises(ConfigError, match="another process uses it"):
        opening(address, lease_s=0.1)


def test_who_was_taken_over_commits_nothing_more_and_says_why(address, opening):
    """It lived all the time, and could not say so: the log is another one's, and its own next message is refused."""
    first = opening(address)
    first.write(0, snapshot())
    writer = writer_of(first)
    commit(writer, b"a")
    first.nats._loop.call_soon_threadsafe(first.ownership._beating.cancel)  # as a process that is frozen
    second = opening(address)
    assert found_in(second)[0] == [b"a"]
    writer.append(b"never")
    writer.flush()
    assert writer.committed_to == 1 and isinstance(first.lost, SteppedDown)
    assert f"took it over (owner {second.ownership.owner})" in str(first.lost)
    with pytest.raises(SteppedDown):
        first.write(1, snapshot(9))
    after = writer_of(second, 1)
    commit(after, b"b")
    assert found_in(second)[0] == [b"a", b"b"]
    writer.close()
    first.close()
    assert second.lost is None
    commit(after, b"c")


def test_an_owner_with_nothing_to_store_learns_that_it_is_one_no_longer(address, opening):
    first = opening(address)
    told = threading.Event()
    writer_of(first, committed=told.set)

    async def take():
        headers = {"Rowcast-Owner": "another", "Rowcast-Kind": "claimed"}
        async with first.ownership.lock:
            await first.nats.js.publish(f"{first.streams.base}.owner", b"", headers=headers)

    asked(first, take())
    assert told.wait(LIMIT_S) and isinstance(first.lost, SteppedDown) and "owner another" in str(first.lost)


def test_who_has_ended_is_not_waited_for(address, opening):
    opening(address, lease_s=3600.0).close()
    opening(address, lease_s=3600.0).close()


def test_an_owner_that_is_slow_to_hear_of_its_own_message_goes_on(address, opening):
    """The answer to a message was lost: it is found again, and counts once."""
    log = opening(address)
    log.write(0, snapshot())
    writer = writer_of(log)
    commit(writer, b"a")
    log.ownership.last -= 1
    commit(writer, b"b")
    log.ownership.last -= 1
    commit(writer, b"c")
    assert found_in(log)[0] == [b"a", b"b", b"c"]


# -- what else may be there --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ("orders", "expected a stream of Rowcast"),
        ("rowcast log, layout 2, " + "00" * 16, "expected a log of layout 1, got one of layout 2"),
    ],
)
def test_another_stream_of_that_name_is_left_alone(address, opening, about, why):
    helper = opening(JetStreamAddress(address.hosts, f"{address.name}-helper"))
    name, subject = f"rowcast-{address.name}", f"rowcast.log.{address.name}.>"
    settings = {"description": about, "discard": "new", "allow_direct": True}
    asked(helper, helper.nats.js.add_stream(name=name, subjects=[subject], **settings))
    with pytest.raises(StateDamaged, match=why):
        opening(address)
    assert asked(helper, helper.nats.js.stream_info(name)).state.messages == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"discard": "old"},
        {"max_msgs": 5},
        {"max_age": 60.0},
        {"storage": "memory"},
        {"max_msgs_per_subject": 1},
        {"allow_direct": False},
    ],
)
def test_a_stream_that_forgets_is_refused(address, opening, changes):
    helper = opening(JetStreamAddress(address.hosts, f"{address.name}-helper"))
    name, subject = f"rowcast-{address.name}", f"rowcast.log.{address.name}.>"
    about = {"name": name, "subjects": [subject], "discard": "new", "description": "x", "allow_direct": True, **changes}
    asked(helper, helper.nats.js.add_stream(**about))
    with pytest.raises(ConfigError, match="it may forget what counts"):
        opening(address)


def test_replicas_that_are_not_there_are_refused(address, opening):
    with pytest.raises(ConfigError, match="replicas > 1 not supported"):
        opening(JetStreamAddress(address.hosts, address.name, replicas=3))
    opening(address).close()
    with pytest.raises(ConfigError, match=r"expected 3 replicas, got stream rowcast-log-\d+ with 1"):
        opening(JetStreamAddress(address.hosts, address.name, replicas=3))


def test_nobody_there_is_one_line(monkeypatch):
    monkeypatch.setattr(nats_client, "CONNECT_S", 1.5)
    with pytest.raises(
        ConfigError, match=r"expected NATS with JetStream there within 1\.5 s, got .*Connect call failed"
    ):
        state_at(f"nats://127.0.0.1:{free_ports(1)[0]}/team", StateSettings())


def test_nats_without_jetstream_is_one_line(tmp_path):
    with (
        NatsServer(tmp_path, jetstream=None) as server,
        pytest.raises(ConfigError, match="got a server without; start it with nats-server -js"),
    ):
        state_at(f"nats://{server.address}/team", StateSettings())


def test_a_password_comes_from_a_file(tmp_path, monkeypatch):
    (tmp_path / "right").write_text("open sesame\n")
    (tmp_path / "wrong").write_text("abracadabra\n")
    more = 'authorization { user: me, password: "open sesame" }'
    with NatsServer(tmp_path / "nats", more=more) as server:
        place = f"nats://{server.address}/team?user=me&password_file={tmp_path}"
        state_at(f"{place}/right", StateSettings()).close()
        monkeypatch.setattr(nats_client, "CONNECT_S", 1.5)
        with pytest.raises(ConfigError, match="Authorization") as caught:
            state_at(f"{place}/wrong", StateSettings())
        assert "abracadabra" not in str(caught.value)


def refusing_once(listener):
    """A NATS server that refuses its first client, and resets the connections of those after it before they know."""
    said = b'INFO {"server_id": "x", "version": "2.10.0", "max_payload": 1048576, "auth_required": true}\r\n'
    for number in itertools.count():
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(said)
            asked = b""
            while b"PING" not in asked:
                asked += connection.recv(4096)
            if number == 0:
                connection.sendall(b"-ERR 'Authorization Violation'\r\n")
            else:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_refusal_is_said_also_where_the_next_attempts_are_reset(tmp_path, monkeypatch):
    (tmp_path / "wrong").write_text("abracadabra\n")
    monkeypatch.setattr(nats_client, "CONNECT_S", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refusing_once, args=(listener,))
        thread.start()
        place = f"nats://127.0.0.1:{listener.getsockname()[1]}/team?user=me&password_file={tmp_path}/wrong"
        try:
            with pytest.raises(ConfigError, match="Authorization Violation"):
                state_at(place, StateSettings())
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(LIMIT_S)
    assert not thread.is_alive()


def certificate(folder):
    """Of 127.0.0.1, signed by itself: a file of the certificate and one of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nats")])
    begins = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(x509.random_serial_number())
    built = built.not_valid_before(begins).not_valid_after(begins + datetime.timedelta(days=1))
    where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = built.add_extension(where, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    return folder / "cert.pem", folder / "key.pem"


def test_inside_tls_only_a_server_with_a_known_certificate_is_taken(tmp_path, opening, monkeypatch):
    cert, key = certificate(tmp_path)
    with NatsServer(tmp_path / "nats", more=f"tls {{ cert_file: {cert}, key_file: {key} }}") as server:
        log = opening(JetStreamAddress((server.address,), "team", tls=True, ca=cert))
        log.write(0, snapshot())
        commit(writer_of(log), b"a")
        assert found_in(log)[0] == [b"a"]
        monkeypatch.setattr(nats_client, "CONNECT_S", 1.5)
        with pytest.raises(ConfigError, match="certificate verify failed"):
            opening(JetStreamAddress((server.address,), "team", tls=True))


# -- a full one, and one that is away ----------------------------------------------------------------------------------


def limit(log, stream, room):
    """Let a stream hold so many bytes."""

    async def change():
        config = (await log.nats.js.stream_info(stream)).config
        await log.nats.js.update_stream(config, max_bytes=room)

    asked(log, change())


def test_a_full_jetstream_is_a_full_disk(address, opening, monkeypatch):
    monkeypatch.setattr("rowcast.drivers.state.writer.RETRY_S", 0.01)
    log = opening(address)
    log.write(0, snapshot(1))
    writer = writer_of(log)
    commit(writer, b"before")
    limit(log, log.streams.log, 3000)
    writer.append(b"x" * 5000)
    eventually(lambda: "maximum bytes exceeded" in writer.failure)
    assert writer.committed_to == 1 and writer.waiting_bytes == 5000
    limit(log, log.streams.log, -1)
    eventually(lambda: writer.committed_to == 2)
    assert not writer.failure and log.lost is None
    limit(log, log.streams.shelf, 10_000)
    with pytest.raises(OSError, match="refuses to store a snapshot: maximum bytes exceeded"):
        log.write(writer.rotate(), snapshot(2, 100_000))
    kept, found = found_in(log)
    assert kept == [b"before", b"x" * 5000] and found.about["seed"] == "1", "the one before is kept"
    assert asked(log, log.nats.js.stream_info(log.streams.shelf)).state.messages == 1, "and of the new one nothing"


def test_while_jetstream_is_away_nothing_is_committed_and_everything_after(tmp_path, opening, monkeypatch):
    monkeypatch.setattr("rowcast.drivers.state.writer.RETRY_S", 0.01)
    with NatsServer(tmp_path) as server:
        log = opening(JetStreamAddress((server.address,), "team"))
        log.write(0, snapshot())
        changed = threading.Event()
        writer = writer_of(log, committed=changed.set)
        commit(writer, b"a")
        server.kill()
        eventually(lambda: log.trouble)  # also where nothing is to be stored
        changed.clear()
        writer.append(b"b")
        eventually(lambda: "no connection to NATS" in writer.failure)
        assert changed.is_set() and writer.committed_to == 1 and log.lost is None
        with pytest.raises(OSError, match="no connection"):
            log.write(1, snapshot(2))
        server.start()
        eventually(lambda: writer.committed_to == 2 and not writer.failure and not log.trouble)
        assert found_in(log)[0] == [b"a", b"b"]


def test_jetstream_that_hangs_for_too_long_ends_the_server(tmp_path, opening, monkeypatch):
    monkeypatch.setattr(ownership, "ANSWER_S", 0.2)
    with NatsServer(tmp_path) as server:
        log = opening(JetStreamAddress((server.address,), "team"), away_s=0.5)
        writer = writer_of(log)
        commit(writer, b"a")
        server.hang()
        writer.append(b"b")
        eventually(lambda: log.lost is not None)
        assert isinstance(log.lost, LinkLost) and "nothing could be stored for" in str(log.lost)
        assert writer.committed_to == 1
        server.go_on()
        eventually(lambda: writer.committed_to == 2)
        assert log.lost is None


def test_jetstream_with_less_than_it_has_acknowledged_is_not_written_on(address, opening):
    """A disk that has lost what it had synchronised, or a stream that was made anew."""
    log = opening(address)
    writer = writer_of(log)
    commit(writer, b"a")
    log.ownership.last += 5
    writer.append(b"b")
    eventually(lambda: "less than it has acknowledged" in writer.failure)
    assert writer.committed_to == 1


# -- three servers -----------------------------------------------------------------------------------------------------


def test_the_leader_of_a_cluster_is_killed_and_nothing_is_lost(tmp_path, opening, monkeypatch):
    monkeypatch.setattr("rowcast.drivers.state.writer.RETRY_S", 0.05)
    servers = nats_cluster(tmp_path)
    try:
        address = JetStreamAddress(tuple(one.address for one in servers), "team", replicas=3)

        def formed():
            try:
                return opening(address, lease_s=3.0)
            except ConfigError:  # the cluster has no leader yet
                return None

        log = eventually(formed, 3 * LIMIT_S)
        log.write(0, snapshot())
        writer = writer_of(log)
        sent = [f"{number}".encode() for number in range(60)]
        for number, record in enumerate(sent):
            writer.append(record)
            if number == 30:
                writer.flush()
                leader = asked(log, log.nats.js.stream_info(log.streams.log)).cluster.leader
                servers[int(leader[1:])].process.send_signal(signal.SIGKILL)
        eventually(lambda: writer.committed_to == len(sent), 2 * LIMIT_S)
        assert log.lost is None
        assert b",".join(sent).replace(b",", b"") == b"".join(found_in(log)[0])
    finally:
        for server in servers:
            server.kill()
