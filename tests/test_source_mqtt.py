"""Samples from MQTT, against a real mosquitto that the tests start."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_processes import Mosquitto, all_of, free_port, needs_mosquitto, taking_until
from rowcast.errors import ConfigError, DataError, StreamGap
from rowcast.sources import make_source, mqtt_settings, mqtt_topics
from rowcast.sources import mqtt as mqtt_module
from rowcast.sources.mqtt import MqttSource
from rowcast.sources.numbering import IN_FLIGHT, LIVES, Arrival, Numbers, number_payload, payload_number
from rowcast.sources.text import SourceText
from rowcast.streams import Positions
from rowcast.testing import check_source

mqtt = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
PacketTypes, ReasonCode = mqtt.PacketTypes, mqtt.ReasonCode
LIMIT_S = 20.0
names = map("robot{}".format, itertools.count())


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as mosquitto:
        yield mosquitto


@pytest.fixture
def own_broker(tmp_path):
    """For a test that stops it."""
    with Mosquitto(tmp_path) as mosquitto:
        yield mosquitto


@pytest.fixture
def quick(monkeypatch):
    """open() does not wait long for a broker; the client connects again soon."""
    monkeypatch.setattr(mqtt_module, "OPEN_S", 0.2)
    monkeypatch.setattr(mqtt_settings, "AGAIN_S", (0.05, 0.05))


@pytest.fixture
def impatient(monkeypatch):
    """Missing numbers are soon given up."""
    monkeypatch.setattr(mqtt_topics, "HOLD_S", 0.05)


class Producer:
    """A client that publishes with QoS 1, and waits until the broker has it."""

    def __init__(self, broker):
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()

    def publish(self, topic, *payloads, **more):
        sent = [self.client.publish(topic, payload, **{"qos": 1, **more}) for payload in payloads]
        for each in sent:
            each.wait_for_publish(LIMIT_S)
            assert each.is_published()

    def numbered(self, topic, counts, life=0, text="{}"):
        self.publish(topic, *(number_payload(count, text.format(count).encode(), life) for count in counts))

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def producer(broker):
    producer = Producer(broker)
    yield producer
    producer.close()


@pytest.fixture
def name():
    """Of a topic and of a client that nobody had."""
    return next(names)


@pytest.fixture
def make(broker, name):
    """Makes sources of that client; closes them."""
    made = []

    def source(topic=name, **more):
        made.append(MqttSource(broker.address, topic, **{"client": name, **more}))
        return made[-1]

    yield source
    for each in made:
        each.close()


@pytest.fixture
def source(make):
    """One that is open."""
    source = make()
    source.open()
    return source


def counts(samples):
    return [int(sample.payload) for sample in samples]


pytestmark = needs_mosquitto


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_it_keeps_the_promises_of_a_source(producer, name, make, version):
    topics = [f"{name}/left", f"{name}/right"]
    more = {"window": 64} if version == "5" else {}
    numbers = itertools.count()

    def produce(count):
        # mosquitto sends at most 20 messages of a client of 3.1.1 that are not acknowledged, and the suite holds 24.
        for k in itertools.islice(numbers, count):
            producer.numbered(topics[k % 2], [k // 2])

    if version == "5":
        check_source(
            lambda: make(f"{name}/#", options={"version": version}, **more),
            produce,
            seekable=False,
            clock=time.monotonic,
        )
        return
    source = make(f"{name}/#", options={"version": version})
    source.open()
    produce(24)
    samples = all_of(source, 20)
    assert source.take(5, 0.1) == []
    source.commit(Positions().behind(samples))
    assert len(all_of(source, 4)) == 4


def test_samples_have_topic_number_payload_and_time(producer, name, make):
    source = make(f"{name}/+")
    source.open()
    before = time.time()
    producer.numbered(f"{name}/a", range(3), life=5)
    producer.numbered(f"{name}/b", [0])
    samples = all_of(source, 4)
    found = {(sample.partition, sample.position, sample.payload) for sample in samples}
    assert found == {
        (f"{name}/a", 5 * LIVES + 1, b"0"),
        (f"{name}/a", 5 * LIVES + 2, b"1"),
        (f"{name}/a", 5 * LIVES + 3, b"2"),
        (f"{name}/b", 1, b"0"),
    }
    assert all(before <= sample.time_s <= time.time() for sample in samples)
    assert all(sample.size > len(sample.payload) for sample in samples)
    assert source.dropped == {}
    assert source.lag() is None
    assert source.trouble == ""


def test_what_is_behind_the_positions_is_dropped_when_it_comes_again(producer, name, make):
    source = make()
    source.open()
    producer.numbered(name, range(10))
    samples = all_of(source, 10)
    source.commit(Positions().behind(samples[:4]))
    source.close()
    # Seven are in the trained state, of which three were not acknowledged.
    again = make()
    assert again.open(Positions({name: 7})) == Positions({name: 7})
    assert counts(all_of(again, 3)) == [7, 8, 9]
    assert again.dropped == {"doubled": 3}
    again.close()
    # And those are acknowledged with that: they do not come a third time.
    third = make()
    third.open()
    assert counts(all_of(third, 3)) == [7, 8, 9]
    assert third.take(1, 0.1) == []
    assert third.dropped == {}


def test_a_number_that_never_came_is_counted(producer, name, source, caplog, impatient):
    producer.numbered(name, [3, 4, 7, 8])
    assert counts(all_of(source, 4)) == [3, 4, 7, 8]
    assert source.dropped == {"missing": 2}
    assert f"{name}: 2 numbers from 5 on" in caplog.text


def test_a_number_that_never_came_is_an_error_where_that_is_wanted(producer, name, make, impatient):
    source = make(gaps="error")
    source.open()
    producer.numbered(name, [0, 1, 5, 6])
    assert counts(all_of(source, 2)) == [0, 1]
    for _ in range(2):
        with pytest.raises(
            StreamGap, match="3 numbers from 2 on have not come; to go on and count them, set gaps=count"
        ):
            source.take(5, LIMIT_S)
    source.close()
    # Nothing behind the gap was acknowledged.
    again = make()
    again.open(Positions({name: 2}))
    assert counts(all_of(again, 2)) == [5, 6]
    assert again.dropped == {"doubled": 2, "missing": 3}


def test_numbers_that_come_late_are_waited_for_and_delivered_in_order(producer, name, source):
    """A client that connects again may send what is new before what it still has."""
    producer.numbered(name, [0, 5, 6, 3])
    assert counts(all_of(source, 1)) == [0]
    assert source.take(1, 0.1) == []
    producer.numbered(name, [1, 5, 2, 4, 7])
    assert counts(all_of(source, 7)) == [1, 2, 3, 4, 5, 6, 7]
    assert source.dropped == {"doubled": 1}


def test_numbers_that_come_after_they_were_given_up_are_not_taken_for_doubles(
    producer, name, source, impatient, caplog
):
    producer.numbered(name, [3, 5])
    assert counts(all_of(source, 2)) == [3, 5]
    producer.numbered(name, [4, 2, 3, 6])
    assert counts(all_of(source, 1)) == [6]
    assert source.dropped == {"missing": 1, "late": 2, "doubled": 1}
    assert f"{name}: number 4 came behind those that follow it" in caplog.text


def test_what_is_held_comes_while_other_topics_go_on(producer, name, make, impatient):
    source = make(f"{name}/#")
    source.open()
    producer.numbered(f"{name}/a", [0, 2])
    producer.numbered(f"{name}/b", range(50))
    found = []
    until = time.monotonic() + LIMIT_S
    while len(found) < 52 and time.monotonic() < until:
        found += source.take(1, 0.1)
    assert counts(sample for sample in found if sample.partition.endswith("a")) == [0, 2]
    assert source.dropped == {"missing": 1}


def test_a_producer_that_starts_anew_with_a_larger_life_goes_on(producer, name, source, impatient):
    producer.numbered(name, range(3), life=1)
    producer.numbered(name, range(3), life=2)
    assert counts(all_of(source, 6)) == [0, 1, 2, 0, 1, 2]
    producer.numbered(name, [2, 3], life=3)
    assert counts(all_of(source, 2)) == [2, 3]
    assert source.dropped == {"missing": 2}


def test_a_producer_that_starts_anew_with_the_same_life_is_not_taken_for_doubles(producer, name, source):
    producer.numbered(name, range(3))
    producer.numbered(name, range(1), text="other {}")
    assert counts(all_of(source, 3)) == [0, 1, 2]
    with pytest.raises(StreamGap, match="number 0 comes again with other samples: its producer has started anew"):
        source.take(1, LIMIT_S)


def test_a_producer_that_starts_anew_with_a_smaller_life_is_skipped_where_that_is_wanted(producer, name, make):
    source = make(gaps="skip")
    source.open()
    producer.numbered(name, range(3), life=9)
    producer.numbered(name, range(4), life=8)
    producer.numbered(name, [3], life=9)
    assert counts(all_of(source, 4)) == [0, 1, 2, 3]
    assert source.dropped == {"restarted": 4}


def test_messages_that_the_producer_sends_twice_are_dropped(producer, name, source):
    producer.numbered(name, [0, 1, 0, 1, 2])
    assert counts(all_of(source, 3)) == [0, 1, 2]
    assert source.dropped == {"doubled": 2}


def test_messages_without_a_number(producer, name, make):
    source = make()
    source.open()
    producer.publish(name, b"short", b"", number_payload(0, b"0"), b"\xff" * 30)
    assert counts(all_of(source, 1)) == [0]
    taking_until(source, lambda: source.dropped == {"unnumbered": 3})
    source.commit(Positions({name: 1}))
    source.close()
    plain = make(sequence="none")
    plain.open()
    producer.publish(name, b"7", b"7", b"9")
    samples = all_of(plain, 3)
    assert counts(samples) == [7, 7, 9]
    assert [sample.position for sample in samples] == [1, 2, 3]
    plain.commit(Positions().behind(samples))
    plain.close()
    again = make(sequence="none")
    again.open(Positions({name: 3}))
    producer.publish(name, b"1")
    assert [sample.position for sample in all_of(again, 1)] == [4]


def test_retained_messages_are_no_samples(producer, name, make):
    producer.publish(name, number_payload(5, b"5"), retain=True)
    for version, dropped in (("5", {}), ("3.1.1", {"retained": 1})):
        source = make(client=f"{name} {version}", options={"version": version})
        source.open()
        assert source.take(1, 0.1) == []
        assert source.dropped == dropped
    producer.publish(name, b"", retain=True)


def test_a_topic_that_is_no_text_is_dropped_and_acknowledged(source, monkeypatch):
    sent = []
    monkeypatch.setattr(source._client, "ack", lambda mid, qos: sent.append(mid))
    message = mqtt.MQTTMessage(mid=7, topic=b"\xff")
    message.qos, message.payload = 1, number_payload(0, b"0")
    source._on_message(source._client, None, message)
    assert source.dropped == {"unnamed": 1}
    assert sent == [7]


def test_the_window_bounds_what_is_not_committed(producer, name, make):
    source = make(window=20)
    source.open()
    producer.numbered(name, range(50))
    samples = all_of(source, 20)
    assert source.take(1, 0.1) == []
    assert source.trouble == "20 samples are not committed, and more than the window of 20 never are"
    source.commit(Positions().behind(samples[:5]))
    assert counts(all_of(source, 5)) == [20, 21, 22, 23, 24]
    source.commit(Positions({name: 25}))
    assert counts(all_of(source, 20)) == list(range(25, 45))


def test_qos_0_beyond_the_window_is_dropped_and_counted(producer, name, make, impatient):
    source = make(window=5)
    source.open()
    producer.publish(name, *(number_payload(count, str(count).encode()) for count in range(8)), qos=0)
    producer.numbered(name, [8])
    until = time.monotonic() + LIMIT_S
    with source._changed:
        while not source._unacknowledged:  # the last has come; nothing was taken before
            assert time.monotonic() < until
            source._changed.wait(0.01)
    assert counts(source.take(10, 0.0)) == [0, 1, 2, 3, 4]
    assert counts(all_of(source, 1)) == [8]
    assert source.dropped == {"overrun": 3, "missing": 3}


def test_more_topics_than_partitions_are_refused(producer, name, make):
    source = make(f"{name}/#")
    source.open()
    for k in range(257):
        producer.client.publish(f"{name}/{k}", number_payload(0, b"0"), qos=1)
    assert len(all_of(source, 256)) == 256
    with pytest.raises(ConfigError, match="more than 256 topics"):
        source.take(1, LIMIT_S)


# -- connections that end ------------------------------------------------------------------------------------------


def test_a_broker_that_is_not_there_is_named_and_waited_for(quick, capfd):
    port = free_port()
    source = MqttSource(f"127.0.0.1:{port}", "samples")
    assert source.open(Positions({"samples": 4})) == Positions({"samples": 4})
    assert source.trouble.startswith(f"no broker answers at 127.0.0.1:{port} since 0 s (")
    assert "Connection refused" in source.trouble
    began = time.monotonic()
    assert source.take(5, 0.1) == []
    assert 0.09 <= time.monotonic() - began < 1.0
    source.commit(Positions({"samples": 5}))
    source.close()
    assert source.trouble == ""
    assert capfd.readouterr().err == ""


def test_a_broker_that_is_stopped_and_started_again(own_broker, quick):
    producer = Producer(own_broker)
    source = MqttSource(own_broker.address, "samples", client="robot")
    source.open()
    producer.numbered("samples", range(10))
    samples = all_of(source, 10)
    source.commit(Positions().behind(samples[:4]))
    own_broker.stop()
    assert taking_until(source, lambda: source.trouble) == []
    assert source.trouble.startswith(f"no broker answers at {own_broker.address} since ")
    source.commit(Positions().behind(samples[:6]))  # cannot be said to the broker
    own_broker.start()
    taking_until(source, lambda: not source.trouble)
    producer.close()
    producer = Producer(own_broker)
    producer.numbered("samples", range(10, 13))
    assert counts(all_of(source, 3)) == [10, 11, 12]
    assert 6 <= source.dropped["doubled"] <= 10  # the broker may have been stopped before it heard of the first four
    # What was committed meanwhile is acknowledged now; what was not, is not.
    source.close()
    again = MqttSource(own_broker.address, "samples", client="robot")
    again.open()
    assert counts(all_of(again, 7)) == list(range(6, 13))
    again.close()
    producer.close()


def test_a_broker_that_has_lost_its_sessions_is_said_and_what_is_missing_is_counted(
    own_broker, quick, caplog, impatient
):
    producer = Producer(own_broker)
    source = MqttSource(own_broker.address, "samples", client="robot")
    source.open()
    producer.numbered("samples", range(3))
    assert len(all_of(source, 3)) == 3
    own_broker.kill()  # it had not saved them
    taking_until(source, lambda: source.trouble)
    own_broker.start()
    taking_until(source, lambda: not source.trouble)
    producer.close()
    producer = Producer(own_broker)
    producer.numbered("samples", [5])
    assert counts(all_of(source, 1)) == [5]
    assert source.dropped == {"missing": 2}
    assert "kept no session for robot" in caplog.text
    source.close()
    producer.close()


def test_acknowledgements_of_a_connection_that_is_gone_are_not_sent_over_the_next(producer, name, source, monkeypatch):
    """Identifiers of messages are those of a connection: over another one they are those of other messages."""
    producer.numbered(name, range(4))
    all_of(source, 4)
    sent = []
    monkeypatch.setattr(source._client, "ack", lambda mid, qos: sent.append(mid))
    source._on_socket_close(source._client, None, None)
    source.commit(Positions({name: 4}))
    assert sent == []


def test_acknowledgements_are_in_the_order_of_arrival(producer, name, make, monkeypatch):
    source = make(f"{name}/#")
    source.open()
    for k in range(3):
        producer.numbered(f"{name}/a", [k])
        producer.numbered(f"{name}/b", [k])
    all_of(source, 6)
    sent = []
    monkeypatch.setattr(source._client, "ack", lambda mid, qos: sent.append((mid, qos)))
    source.commit(Positions({f"{name}/b": 3}))
    assert sent == []
    source.commit(Positions({f"{name}/a": 2}))
    assert sent == [(mid, 1) for mid in range(1, 5)]
    source.commit(Positions({f"{name}/a": 1}))
    source.commit(Positions({f"{name}/a": 3}))
    source.commit(Positions({f"{name}/a": 3}))
    assert sent == [(mid, 1) for mid in range(1, 7)]


def test_a_second_client_of_the_same_name_is_named(make, name, quick):
    first, second = make(), make()
    first.open()
    second.open()
    taking_until(first, lambda: f"another client may have the name {name}" in first.trouble + second.trouble)


def test_a_subscription_that_is_refused_is_an_error(source):
    """Said by hand: mosquitto takes any subscription, and only delivers nothing where that is not allowed."""
    refused = ReasonCode(PacketTypes.SUBACK, identifier=0x87)
    source._on_subscribe(source._client, None, 1, [refused], None)
    with pytest.raises(ConfigError, match="the broker refuses the subscription: Not authorized"):
        source.take(1, 0.0)


def test_a_client_that_may_not_connect_is_refused(tmp_path):
    with Mosquitto(tmp_path, "allow_anonymous false\n") as closed:
        options = {"username": "me", "password": "hunter2"}
        source = MqttSource(closed.address, "samples", options=options)
        with pytest.raises(ConfigError, match="the broker refuses the client: Not authorized") as info:
            source.open()
        assert "hunter2" not in str(info.value) + repr(source) + repr(source._link)
        source.close()


@pytest.mark.skipif(
    not (shutil.which("openssl") and shutil.which("mosquitto_passwd")), reason="openssl or mosquitto_passwd is missing"
)
def test_a_broker_with_tls_and_passwords(tmp_path):
    certificate, key, users = tmp_path / "certificate", tmp_path / "key", tmp_path / "users"
    request = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -keyout {key} -out {certificate}"
    subprocess.run(
        [*request.split(), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True, timeout=60
    )
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "me", "hunter2"], check=True, timeout=60)
    for file in (users, key, certificate):
        file.chmod(0o644)
    settings = tmp_path / "settings"
    settings.write_text(f"username=me\npassword=hunter2\nca={certificate}\n")
    lines = f"certfile {certificate}\nkeyfile {key}\npassword_file {users}\nallow_anonymous false\n"
    with Mosquitto(tmp_path, lines) as closed:
        text = f"mqtt://{closed.address}/samples?options={settings}"
        source = MqttSource.from_text(SourceText.parse(text))
        source.open()
        assert source.trouble == ""
        client = source._client
        for count in range(3):
            client.publish("samples", number_payload(count, str(count).encode()), qos=1)
        assert counts(all_of(source, 3)) == [0, 1, 2]
        source.close()
        wrong = MqttSource.from_text(SourceText.parse(f"{text}&option.password=hunter3"))
        with pytest.raises(ConfigError, match="the broker refuses the client"):
            wrong.open()


# -- numbers -------------------------------------------------------------------------------------------------------


def arrived(numbers, number, data=None):
    """What a message is, and what is delivered with it."""
    arrival = numbers.arrived(0.0, number, b"%d" % number if data is None else data, number)
    return arrival, numbers.ready()


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(0, 3))
def test_each_number_is_delivered_once_and_in_order(found, life):
    """In whatever order numbers come, and however often."""
    numbers, delivered, doubled = Numbers(life * LIVES), [], 0
    for number in found:
        arrival, ready = arrived(numbers, life * LIVES + number)
        delivered += ready
        doubled += arrival is Arrival.DOUBLED
        assert arrival in (Arrival.NEW, Arrival.DOUBLED)
    assert len(found) == len(set(found)) + doubled
    missing = 0
    while numbers.holds:
        missing += numbers.give_up()
        delivered += numbers.ready()
    assert [number - life * LIVES for number in delivered] == sorted(set(found))
    assert missing == max(found, default=-1) + 1 - len(set(found))
    assert numbers.position == life * LIVES + max(found, default=-1) + 1


def test_lives_follow_each_other_and_what_is_before_a_new_one_is_waited_for():
    numbers = Numbers(3)
    assert arrived(numbers, LIVES) == (Arrival.NEW, [LIVES])
    assert arrived(numbers, 2 * LIVES + 1) == (Arrival.NEW, [])
    assert arrived(numbers, 2 * LIVES) == (Arrival.NEW, [2 * LIVES, 2 * LIVES + 1])
    assert arrived(numbers, 3 * LIVES + 2) == (Arrival.NEW, [])
    assert (numbers.give_up(), numbers.ready()) == (2, [3 * LIVES + 2])
    assert (numbers.give_up(), numbers.ready(), numbers.holds) == (0, [], False)


def test_what_lies_further_back_than_anything_in_flight_is_of_a_new_start():
    numbers = Numbers(IN_FLIGHT + 10)
    assert arrived(numbers, 10) == (Arrival.DOUBLED, [])
    assert arrived(numbers, 9) == (Arrival.RESTARTED, [])
    assert arrived(numbers, IN_FLIGHT + 10) == (Arrival.NEW, [IN_FLIGHT + 10])
    assert arrived(numbers, IN_FLIGHT + 10, b"other") == (Arrival.RESTARTED, [])
    assert arrived(numbers, IN_FLIGHT + 12) == (Arrival.NEW, [])
    assert arrived(numbers, IN_FLIGHT + 12, b"other") == (Arrival.RESTARTED, [])


def test_numbers_and_payloads_there_and_back():
    assert payload_number(number_payload(3, b"abc", life=2)) == (2 * LIVES + 3, b"abc")
    assert number_payload(1, b"") == bytes(7) + b"\x01"
    for count, life in ((-1, 0), (LIVES, 0), (0, -1), (0, LIVES - 1)):
        with pytest.raises(ConfigError, match="expected a count and a life"):
            number_payload(count, b"", life)
    for data in (b"", b"1234567", b"\xff" * 8):
        with pytest.raises(DataError, match="8 bytes of a number"):
            payload_number(data)


# -- settings ------------------------------------------------------------------------------------------------------


def test_a_text_says_what_to_read(tmp_path):
    file = tmp_path / "mqtt.settings"
    file.write_text("username=me\npassword=a=b\ntls=1\n")
    text = f"mqtt://h/robots/+/camera?client=r1&gaps=error&sequence=none&window=7&options={file}&option.keepalive_s=5"
    source = MqttSource.from_text(SourceText.parse(text))
    assert (source._host, source._port, source._topic, source._id) == ("h", 8883, "robots/+/camera", "r1")
    assert (source._gaps, source._numbered, source._window) == ("error", False, 7)
    assert (source._link.username, source._link.password, source._link.keepalive_s) == ("me", "a=b", 5)
    assert repr(source) == "<MqttSource mqtt://h/robots/+/camera>"
    assert MqttSource.from_text(SourceText.parse("mqtt://h/t"))._port == 1883


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mqtt://h/t?clint=a", "unknown option 'clint'"),
        ("mqtt://h/t?gaps=ignore", "gaps: expected count, error, skip, got 'ignore'"),
        ("mqtt://h/t?sequence=time", "sequence: expected payload, none, got 'time'"),
        ("mqtt://h/t?window=70000", "from 1 to 65535"),
        ("mqtt://h/", "expected a topic"),
        ("mqtt://h/robots/#/camera", "expected a topic, with"),
        ("mqtt://h/robots/a+", "expected a topic, with"),
        ("mqtt://h/" + "t" * 65536, "expected a topic, with"),
        ("mqtt://h/t?client=", "expected NAME=VALUE|name of a client"),
        ("mqtt:///t", "expected HOST:PORT"),
        ("mqtt://me:secret@h/t", "expected HOST:PORT"),
        ("mqtt://h/t?option.user=a", "unknown setting 'user'"),
        ("mqtt://h/t?option.version=4", "version: expected 5 or 3.1.1"),
        ("mqtt://h/t?option.keepalive_s=0", "keepalive_s: expected whole seconds from 1 to 65535"),
        ("mqtt://h/t?option.tls=maybe", "tls: expected 1 or 0"),
        ("mqtt://h/t?option.key=a", "expected certificate and key together"),
    ],
)
def test_bad_settings_are_one_line(text, complaint):
    with pytest.raises(ConfigError, match=complaint) as info:
        MqttSource.from_text(SourceText.parse(text))
    assert "\n" not in str(info.value) and "secret" not in str(info.value)


def test_certificates_that_are_not_there_are_one_line():
    with pytest.raises(ConfigError, match="certificates cannot be used"):
        MqttSource("h", "t", options={"ca": "not-there.pem"}).open()


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(ConfigError, match=r"pip install 'rowcast\[mqtt\]'"):
        MqttSource("h", "t")


def test_who_only_looks_takes_nothing_from_the_device(broker, producer, name, source):
    watched = f"mqtt://{broker.address}/{name}?client={name}"
    look = make_source(watched, look=True)
    look.open()
    producer.numbered(name, range(10))
    assert [sample.position for sample in all_of(look, 10)] == list(range(1, 11))
    look.close()
    assert [sample.position for sample in all_of(source, 10)] == list(range(1, 11))
    assert source.trouble == ""  # its session was not taken over
