"""Samples from Kafka, against librdkafka's mock brokers in another process."""

from __future__ import annotations

import itertools
import json
import logging
import sys
import time

import pytest

from broker_processes import KafkaMock, all_of, free_port, taking_until
from rowcast.errors import ConfigError, DataError, StreamGap
from rowcast.sources import kafka as kafka_module
from rowcast.sources import kafka_health, kafka_settings, kafka_topic
from rowcast.sources.client_options import read_properties
from rowcast.sources.kafka import KafkaSource
from rowcast.sources.kafka_health import BrokerHealth
from rowcast.sources.text import SourceText
from rowcast.streams import Positions
from rowcast.testing import check_source

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")

#: The mock answers a request for what is not there yet only when its time is over.
SOON = {"fetch.wait.max.ms": "20"}
names = map("samples{}".format, itertools.count())


@pytest.fixture(scope="module")
def broker():
    with KafkaMock() as mock:
        yield mock


@pytest.fixture
def own_broker():
    """For a test that makes it hang."""
    with KafkaMock() as mock:
        yield mock


@pytest.fixture
def quick(monkeypatch):
    """Trouble is noticed soon, and open() does not wait long for a broker."""
    monkeypatch.setitem(kafka_settings.FIXED, "statistics.interval.ms", 50)
    monkeypatch.setattr(kafka_health, "SILENT_S", 0.3)
    monkeypatch.setattr(kafka_module, "OPEN_S", 0.2)
    monkeypatch.setattr(kafka_topic, "REQUEST_S", 0.3)


class Topic:
    """A new topic with four partitions, and what puts samples into it."""

    def __init__(self, broker):
        self.address, self.name = broker.address, next(names)
        self.producer = confluent_kafka.Producer({"bootstrap.servers": broker.address, "log_level": 0})
        self.number = 0

    def make(self):
        """Make it, empty."""
        self.producer.list_topics(self.name, timeout=10)
        return self

    def put(self, count, partition=None, fill=0, **more):
        for _ in range(count):
            where = self.number % 4 if partition is None else partition
            self.producer.produce(self.name, str(self.number).encode() + b"." * fill, partition=where, **more)
            self.number += 1
            self.producer.poll(0)
        assert self.producer.flush(10) == 0
        return self

    def source(self, **more):
        options = {**SOON, **more.pop("options", {})}
        return KafkaSource(self.address, self.name, options=options, **more)


@pytest.fixture
def topic(broker):
    return Topic(broker)


def numbers(samples):
    return [int(sample.payload.rstrip(b".")) for sample in samples]


def test_it_keeps_the_promises_of_a_source(topic):
    topic.make()
    check_source(lambda: topic.source(group="robot"), topic.put, keeps_commits=True, clock=time.monotonic)


def test_all_partitions_are_read_each_in_order(topic):
    source = topic.put(40).source()
    assert source.open() == Positions(dict.fromkeys("0123", 0))
    samples = all_of(source, 40)
    source.close()
    assert sorted(numbers(samples)) == list(range(40))
    for partition in range(4):
        mine = [sample for sample in samples if sample.partition == str(partition)]
        assert numbers(mine) == list(range(partition, 40, 4))
        assert [sample.position for sample in mine] == list(range(1, 11))
    assert all(sample.size >= len(sample.payload) for sample in samples)


def test_partitions_can_be_chosen(topic):
    source = topic.put(40).source(partitions="0,2")
    assert source.open() == Positions({"0": 0, "2": 0})
    assert sorted(numbers(all_of(source, 20))) == list(range(0, 40, 2))
    with pytest.raises(ConfigError, match="it does not read a partition '1'"):
        source.commit(Positions({"1": 3}))
    source.close()


@pytest.mark.parametrize(
    ("partitions", "complaint"),
    [
        ("one", "expected a topic with one partition, it has 4; read them all"),
        ("0,7", "no partition 7: the topic has 0 to 3"),
    ],
)
def test_partitions_that_do_not_fit_are_refused(topic, partitions, complaint):
    with pytest.raises(ConfigError, match=complaint):
        topic.put(4).source(partitions=partitions).open()


def test_positions_of_a_partition_that_is_not_read_are_refused(topic):
    with pytest.raises(ConfigError, match=r"positions of the partitions 0, 1, 2, 3, got one of 'drive\.mcap'"):
        topic.put(4).source().open(Positions({"drive.mcap": 1}))


def test_the_time_is_that_of_the_message(topic):
    source = topic.put(1, timestamp=1_700_000_000_125).source()
    source.open()
    assert all_of(source, 1)[0].time_s == 1_700_000_000.125
    source.close()


def test_a_message_without_a_value_is_an_empty_sample(topic):
    topic.producer.produce(topic.name, None, key=b"k", partition=0)
    source = topic.put(1, partition=0).source()
    source.open()
    assert [sample.payload for sample in all_of(source, 2)] == [b"", b"0"]
    source.close()


# -- commits and lag -----------------------------------------------------------------------------------------------


def begins(topic, **more):
    source = topic.source(**more)
    found = source.open()
    source.close()
    return dict(found)


def test_commits_are_there_when_commit_returns_and_never_move_back(topic):
    source = topic.put(40).source(group="a")
    source.open()
    assert begins(topic, group="a") == dict.fromkeys("0123", 0)
    source.commit(Positions({"0": 7, "1": 2}))
    assert begins(topic, group="a") == {"0": 7, "1": 2, "2": 0, "3": 0}
    source.commit(Positions({"0": 3, "1": 5}))
    source.commit(Positions({"0": 7}))
    assert begins(topic, group="a") == {"0": 7, "1": 5, "2": 0, "3": 0}
    source.close()
    again = topic.source(group="a")
    again.open(Positions())
    again.commit(Positions({"0": 4}))
    again.close()
    assert begins(topic, group="a")["0"] == 7
    assert begins(topic, group="b") == dict.fromkeys("0123", 0)


def test_what_comes_while_a_commit_is_waited_for_is_delivered_in_order(topic):
    source = topic.put(400).source(group="a")
    source.open()
    samples = []
    positions = Positions()
    while len(samples) < 400:
        some = source.take(7, 5.0)
        samples += some
        positions = positions.behind(some)
        source.commit(positions)
    source.close()
    for partition in range(4):
        mine = [sample for sample in samples if sample.partition == str(partition)]
        assert numbers(mine) == list(range(partition, 400, 4))
    assert begins(topic, group="a") == dict.fromkeys("0123", 100)


def test_the_lag_counts_what_is_there(topic, monkeypatch):
    monkeypatch.setattr(kafka_module, "LAG_AGE_S", 0.0)
    source = topic.put(40).source()
    source.open()
    assert source.lag() == 40
    all_of(source, 13)
    assert source.lag() == 27
    topic.put(4)
    assert source.lag() == 31
    source.close()


def test_a_commit_that_fails_is_said_and_made_again(topic):
    source = topic.put(8).source(group="a")
    source.open()
    refusal = confluent_kafka.KafkaError(confluent_kafka.KafkaError.GROUP_AUTHORIZATION_FAILED)
    source._on_commit(refusal, [confluent_kafka.TopicPartition(topic.name, 0, 1)])
    assert source.trouble.startswith("commits fail: ")
    source.commit(Positions({"0": 2}))
    assert len(all_of(source, 8)) == 8
    taking_until(source, lambda: not source.trouble)
    assert begins(topic, group="a")["0"] == 2
    source.close()


def test_what_the_broker_refuses_for_good_is_an_error(topic):
    source = topic.put(8).source(group="a")
    source.open()
    refusal = confluent_kafka.KafkaError(confluent_kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED)
    assert source._refused(refusal)
    with pytest.raises(ConfigError, match="the broker refuses: "):
        source.take(1, 0.0)
    source.close()


def test_partitions_at_several_brokers_are_read():
    with KafkaMock(3) as mock:
        assert mock.address.count(":") == 3
        topic = Topic(mock).put(40)
        source = topic.source(group="a")
        source.open()
        samples = all_of(source, 40)
        assert sorted(numbers(samples)) == list(range(40))
        source.commit(Positions().behind(samples))
        source.close()
        assert begins(topic, group="a") == dict.fromkeys("0123", 10)


# -- samples that are gone -----------------------------------------------------------------------------------------


def overfilled(topic):
    """A topic whose first partition has lost the older of its 2,500 samples; the position of the oldest."""
    topic.put(2500, partition=0, fill=3000)
    return topic.producer.list_topics(topic.name, timeout=10) and begins(topic, group="nobody")["0"]


def test_samples_that_are_gone_are_an_error(topic):
    oldest = overfilled(topic)
    assert oldest > 20
    with pytest.raises(StreamGap, match=f"{oldest - 10} samples of partition 0 are gone: it was read up to 10") as info:
        topic.source().open(Positions({"0": 10}))
    assert "gaps=skip" in str(info.value)
    committing = topic.source(group="late")
    committing.open(Positions({"0": oldest}))
    committing.commit(Positions({"0": oldest}))
    committing.close()
    topic.put(1500, partition=0, fill=3000)
    with pytest.raises(StreamGap, match=f"it was read up to {oldest}"):
        topic.source(group="late").open()


def test_samples_that_are_gone_are_skipped_and_counted_where_that_is_wanted(topic, caplog):
    oldest = overfilled(topic)
    source = topic.source(gaps="skip")
    assert source.open(Positions({"0": 10}))["0"] == oldest
    assert source.dropped == {"gone": oldest - 10}
    assert all_of(source, 1)[0].position == oldest + 1
    source.close()
    assert [record.levelno for record in caplog.records if "gone" in record.message] == [logging.WARNING]


def test_a_topic_that_was_made_anew_is_an_error_or_said(topic, caplog):
    topic.put(8)
    with pytest.raises(
        StreamGap, match="partition 0 was read up to 7, and the broker has only 2: the topic was made anew"
    ):
        topic.source().open(Positions({"0": 7}))
    source = topic.source(gaps="skip")
    assert source.open(Positions({"0": 7})) == Positions(dict.fromkeys("0123", 0))
    assert len(all_of(source, 8)) == 8
    assert "partition 0 was read up to 7, and the broker has only 2" in caplog.text
    source.close()


#: Little is fetched ahead, so that what is gone later was not here already.
LITTLE = {"queued.max.messages.kbytes": "64", "fetch.queue.backoff.ms": "10"}


def test_samples_that_go_while_it_reads_are_an_error_each_time(topic):
    topic.put(100, partition=0, fill=3000)
    source = topic.source(options=LITTLE)
    source.open()
    samples = all_of(source, 3)
    topic.put(2500, partition=0, fill=3000)
    with pytest.raises(StreamGap, match="samples of partition 0 are gone"):
        taking_until(source, lambda: False)
    with pytest.raises(StreamGap):
        source.take(1, 0.0)
    assert numbers(samples) == [0, 1, 2]
    source.close()


def test_samples_that_go_while_it_reads_are_counted_where_that_is_wanted(topic):
    topic.put(100, partition=0, fill=3000)
    source = topic.source(options=LITTLE, gaps="skip")
    source.open()
    samples = all_of(source, 3)
    topic.put(2500, partition=0, fill=3000)
    samples += taking_until(source, lambda: source.dropped)
    samples += all_of(source, 2600 - len(samples) - source.dropped["gone"])
    assert numbers(samples) == sorted(numbers(samples))
    assert numbers(samples)[-1] == 2599
    assert len(samples) + source.dropped["gone"] == 2600
    assert source.take(1, 0.0) == []
    source.close()


# -- brokers and topics that are not there -------------------------------------------------------------------------


def test_a_broker_that_is_not_there_is_named_and_waited_for(quick, capfd):
    port = free_port()
    source = KafkaSource(f"127.0.0.1:{port}", "samples")
    assert source.open(Positions({"0": 4})) == Positions({"0": 4})
    taking_until(source, lambda: source.trouble)
    assert source.trouble.startswith(f"no broker answers at 127.0.0.1:{port} since ")
    began = time.monotonic()
    assert source.take(5, 0.1) == []
    assert 0.09 <= time.monotonic() - began < 1.0
    source.commit(Positions({"0": 5}))
    assert source.lag() is None
    source.close()
    assert source.trouble == ""
    assert capfd.readouterr().err == ""


def test_a_broker_that_hangs_from_the_start_is_waited_for(own_broker, quick):
    topic = Topic(own_broker).put(8)
    own_broker.hang()
    source = topic.source()
    source.open()
    taking_until(source, lambda: source.trouble)
    assert "since" in source.trouble
    own_broker.go_on()
    assert sorted(numbers(all_of(source, 8))) == list(range(8))
    taking_until(source, lambda: not source.trouble)
    source.close()


def test_a_broker_that_hangs_for_a_while_is_named_and_nothing_is_lost(own_broker, quick):
    topic = Topic(own_broker).put(8)
    source = topic.source(group="a")
    source.open()
    assert len(all_of(source, 8)) == 8
    source.commit(Positions({"0": 1}))
    own_broker.hang()
    assert taking_until(source, lambda: source.trouble) == []
    assert source.trouble.startswith(f"no broker answers at {own_broker.address} since ")
    began = time.monotonic()
    source.commit(Positions({"0": 2, "1": 2}))
    assert source.take(5, 0.1) == []
    assert time.monotonic() - began < 1.0
    own_broker.go_on()
    topic.put(8)
    assert sorted(numbers(all_of(source, 8))) == list(range(8, 16))
    taking_until(source, lambda: not source.trouble and not source._unkept())
    assert begins(topic, group="a") == {"0": 2, "1": 2, "2": 0, "3": 0}
    source.close()


def test_a_broker_that_is_killed_is_named_and_closing_does_not_wait(own_broker, quick):
    topic = Topic(own_broker).put(8)
    source = topic.source(group="a")
    source.open()
    all_of(source, 8)
    own_broker.kill()
    taking_until(source, lambda: source.trouble)
    assert source.trouble.startswith("no broker answers at 127.0.0.1:")
    source.commit(Positions({"0": 2}))
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 2.0


def test_a_topic_that_does_not_exist_yet_is_waited_for(topic, quick):
    source = topic.source()
    source.open()
    taking_until(source, lambda: source.trouble)
    assert source.trouble == f"topic {topic.name} does not exist yet at {topic.address}"
    assert source.lag() is None
    topic.put(8)
    assert sorted(numbers(all_of(source, 8))) == list(range(8))
    taking_until(source, lambda: not source.trouble)
    source.close()


# -- health, from made statistics ----------------------------------------------------------------------------------


def told(health, *, rx, waiting=1, state="UP", leader=1, partition="0"):
    brokers = {"b": {"nodeid": 1, "nodename": "h:1", "state": state, "rx": rx, "waitresp_cnt": waiting}}
    brokers["GroupCoordinator"] = {"nodeid": -1, "state": "UP", "rx": 99}
    topics = {"t": {"partitions": {partition: {"leader": leader}, "-1": {"leader": -1}}}}
    health.told(json.dumps({"brokers": brokers, "topics": topics}))


@pytest.fixture
def health():
    health = BrokerHealth("h:1", "t", lambda: health.now)
    health.now = 100.0
    health.watch([0])
    return health


def test_a_broker_that_owes_an_answer_too_long_is_in_trouble_until_it_answers(health):
    told(health, rx=1)
    health.now = 102.0
    told(health, rx=1)
    assert health.trouble == ""
    health.now = 112.0
    told(health, rx=1)
    assert health.trouble == "no broker answers at h:1 since 12 s"
    told(health, rx=2)
    assert health.trouble == ""


def test_a_broker_that_owes_nothing_is_well(health):
    for now in (100.0, 110.0, 120.0):
        health.now = now
        told(health, rx=1, waiting=0)
        assert health.trouble == ""


@pytest.mark.parametrize("gone", [{"state": "CONNECT"}, {"leader": 2}], ids=["no connection", "no such broker"])
def test_a_broker_without_a_connection_is_in_trouble(health, gone):
    told(health, rx=1, **gone)
    health.now = 105.0
    told(health, rx=2, **gone)
    assert "since 5 s" in health.trouble


def test_what_is_not_read_does_not_count(health):
    told(health, rx=1, partition="3", state="DOWN")
    health.now = 105.0
    assert health.trouble == ""


def test_a_broker_that_is_down_is_said_at_once_with_the_reason(health):
    health.failed("Connection refused")
    assert health.trouble == ""
    health.down()
    health.now = 101.0
    assert health.trouble == "no broker answers at h:1 since 1 s (Connection refused)"
    told(health, rx=5)
    assert health.trouble == ""


# -- settings ------------------------------------------------------------------------------------------------------


def test_a_text_says_what_to_read(tmp_path):
    file = tmp_path / "kafka.properties"
    file.write_text("# of the fleet\n\nsecurity.protocol = SASL_SSL\nsasl.password=a=b\n")
    text = (
        "kafka://10.0.0.1:9092,10.0.0.2/camera?group=r1&partitions=0,2&gaps=skip"
        f"&options={file}&option.client.id=x&option.security.protocol=PLAINTEXT"
    )
    source = KafkaSource.from_text(SourceText.parse(text))
    settings = source._settings
    assert settings["bootstrap.servers"] == "10.0.0.1:9092,10.0.0.2"
    assert (settings["group.id"], settings["client.id"], settings["sasl.password"]) == ("r1", "x", "a=b")
    assert settings["security.protocol"] == "PLAINTEXT"
    assert (settings["auto.offset.reset"], settings["enable.auto.commit"]) == ("error", False)
    assert repr(source) == "<KafkaSource kafka://10.0.0.1:9092,10.0.0.2/camera>"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kafka://h:9092/t?grup=a", "unknown option 'grup'"),
        ("kafka://h:9092/t?gaps=ignore", "gaps: expected error or skip, got 'ignore'"),
        ("kafka://h:9092/t?partitions=0,0", "partitions: expected all, one, or different numbers"),
        ("kafka://h:9092/t?partitions=first", "got 'first'"),
        ("kafka://h:9092/", "expected the name of a topic"),
        ("kafka:///t", "expected kafka://HOST:PORT/TOPIC"),
        ("kafka://h:99999/t", "port from 1 to 65535"),
        ("kafka://me:secret@h:9092/t", "options"),
        ("kafka://h:9092/t?option.auto.offset.reset=earliest", "'auto.offset.reset' cannot be set"),
        ("kafka://h:9092/t?option.group.id=a", "'group.id' cannot be set: it is group="),
        ("kafka://h:9092/t?options=not-there", "not-there: settings of the client cannot be read"),
    ],
)
def test_bad_settings_are_one_line(text, complaint):
    with pytest.raises(ConfigError, match=complaint) as info:
        KafkaSource.from_text(SourceText.parse(text))
    assert "\n" not in str(info.value) and "secret" not in str(info.value)


def test_a_setting_that_the_client_refuses_is_one_line_without_secrets():
    options = {"sasl.password": "hunter2", "security.protocol": "hunter2"}
    with pytest.raises(ConfigError, match=r"security\.protocol") as info:
        KafkaSource("h:1", "t", options=options).open()
    assert "hunter2" not in str(info.value)
    assert info.value.__cause__ is None
    with pytest.raises(ConfigError, match=r"no\.such"):
        KafkaSource("h:1", "t", options={"no.such": "1"}).open()


def test_a_line_of_a_file_that_is_no_setting_is_named_by_its_number(tmp_path):
    file = tmp_path / "kafka.properties"
    file.write_text("client.id=x\npassword hunter2\n")
    with pytest.raises(DataError, match="line 2: expected name=value") as info:
        read_properties(file)
    assert "hunter2" not in str(info.value)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(ConfigError, match=r"pip install 'rowcast\[kafka\]'"):
        KafkaSource("h:1", "t")
