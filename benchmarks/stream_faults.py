"""Nothing of a stream is lost where its reader is killed: Kafka and MQTT, three ``kill -9`` each.

A process takes batches from a source, trains them and commits; it is killed at random moments and started again. What
it trains is a count per sample, in a file that is replaced in one step with the positions, as a server holds both:
``Trainer`` is all that knows of it. Then the same with a worker of a real team, its ``StreamLoader``, and the team's
parameters at the server (``team_faults.py``). Kafka is librdkafka's mock in another process, MQTT a mosquitto; a broker
that is not installed is left out, and said so.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from brokers import KafkaMock, Mosquitto, mosquitto_program
from common import Figure, arguments, finish
from rowcast.sources.kafka import KafkaSource
from rowcast.sources.mqtt import MqttSource
from rowcast.sources.numbering import number_payload
from rowcast.streams import Positions, Sample, Source
from team_faults import TEAM_CASES, figures_of_team, run_team

#: Own iterations that may be under way when a worker is killed: policy slack, pull bound, and the one that it computes.
SLACK, PULL_BOUND = 2, 1
LIMIT_S = 60.0


@dataclass(frozen=True)
class Case:
    """What is tried.

    Attributes:
        broker: ``kafka`` or ``mqtt``.
        begin: ``state``: where the trained state says; ``commit``: where the last commit was.
        kills: so many.
        idle_s: a reader for which nothing comes any more ends after so long.
        commit: ``behind`` training, by as many batches as may be under way; ``first``: before it, as a control.
    """

    broker: str
    begin: str
    commit: str
    address: str = ""
    state: str = ""
    samples: int = 2000
    batch: int = 64
    payload: int = 200
    compute_s: float = 0.004
    kills: int = 3
    idle_s: float = 3.0

    @property
    def name(self) -> str:
        if self.commit == "first":
            return f"{self.broker}, committed before training (control)"
        where = "positions in the trained state" if self.begin == "state" else "committed behind training"
        return f"{self.broker}, {where}"


class Trained(msgspec.Struct):
    """What outlives a worker: per sample how often it was trained, and the positions that are in it."""

    counts: bytes
    positions: bytes = b""
    doubled: int = 0


class Trainer(Protocol):
    """What trains; a real team has the same: parameters and positions at its server, ``optimizer.delivered``."""

    def begin(self) -> Positions | None:
        """Where to begin; ``None``: where the last commit was."""

    def train(self, samples: list[Sample], positions: Positions, doubled: int) -> None:
        """Train a batch.

        Args:
            samples: the batch.
            positions: behind it.
            doubled: samples that the source did not deliver a second time.
        """

    def delivered(self) -> Positions:
        """What may be committed."""

    def complete(self) -> bool:
        """Every sample was trained."""


class CountingTrainer:
    """Counts each sample; its state is a file."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.state = read_state(case)
        self.counts = np.frombuffer(self.state.counts, np.uint8).copy()
        self.doubled_before = self.state.doubled
        self.under_way: list[Positions] = []

    def begin(self) -> Positions | None:
        return Positions.unpack(self.state.positions) if self.case.begin == "state" else None

    def train(self, samples: list[Sample], positions: Positions, doubled: int) -> None:
        time.sleep(self.case.compute_s)  # the gradient
        np.add.at(self.counts, [int.from_bytes(sample.payload[:4], "big") for sample in samples], 1)
        state = Trained(self.counts.tobytes(), positions.pack(), self.doubled_before + doubled)
        path = Path(self.case.state)
        path.with_suffix(".new").write_bytes(msgspec.msgpack.encode(state))
        path.with_suffix(".new").replace(path)
        self.under_way.append(positions)

    def delivered(self) -> Positions:
        behind = SLACK + PULL_BOUND
        if len(self.under_way) <= behind:
            return Positions()
        del self.under_way[: -behind - 1]
        return self.under_way[0]

    def complete(self) -> bool:
        return bool(self.counts.all())


def read_state(case: Case) -> Trained:
    """The trained state; a new one where nothing was trained."""
    try:
        data = Path(case.state).read_bytes()
    except FileNotFoundError:
        return Trained(bytes(case.samples))
    return msgspec.msgpack.decode(data, type=Trained)


def make_source(case: Case) -> Source:
    """The source of a case."""
    if case.broker == "kafka":
        return KafkaSource(case.address, "samples", group="robot", options={"fetch.wait.max.ms": "50"})
    return MqttSource(case.address, "samples", client="robot")


def read_and_train(case: Case, source: Source, trainer: Trainer) -> None:
    """The loop of a worker: until nothing comes any more."""
    positions = source.open(trainer.begin())
    Path(case.state).with_suffix(".open").touch()
    until = time.monotonic() + case.idle_s
    batch: list[Sample] = []
    while time.monotonic() < until and not trainer.complete():
        some = source.take(case.batch - len(batch), 0.2)
        batch += some
        if some:
            until = time.monotonic() + case.idle_s
        if len(batch) < case.batch and some:
            continue
        if batch:
            positions = positions.behind(batch)
            if case.commit == "first":
                source.commit(positions)
            trainer.train(batch, positions, source.dropped.get("doubled", 0))
            if case.commit == "behind":
                source.commit(trainer.delivered())
            batch = []
    source.close()


def worker(case: Case) -> None:
    """A worker's process."""
    read_and_train(case, make_source(case), CountingTrainer(case))


def payload(case: Case, number: int) -> bytes:
    """A sample: its number, and what fills it."""
    return number.to_bytes(4, "big") + bytes(case.payload - 4)


def publish_kafka(case: Case) -> None:
    """All samples into a topic with four partitions."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": case.address, "log_level": 0})
    for number in range(case.samples):
        producer.produce("samples", payload(case, number), partition=number % 4)
    if producer.flush(LIMIT_S):
        raise RuntimeError("the broker has not taken all samples")


def publish_mqtt(case: Case) -> None:
    """All samples, numbered, with QoS 1."""
    import paho.mqtt.client as mqtt

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    host, _, port = case.address.partition(":")
    client.connect(host, int(port))
    client.loop_start()
    sent = [
        client.publish("samples", number_payload(number, payload(case, number), life=1), qos=1)
        for number in range(case.samples)
    ]
    for each in sent:
        each.wait_for_publish(LIMIT_S)
        if not each.is_published():
            raise RuntimeError("the broker has not taken all samples")
    client.disconnect()
    client.loop_stop()


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        lost: samples that were never trained.
        doubled: trainings of samples that had been trained.
        recognised: samples that came again and were not delivered again, at least.
        killed_at: samples that had been trained at each kill.
    """

    lost: int = 0
    doubled: int = 0
    recognised: int = 0
    killed_at: list[int] = field(default_factory=list)


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Until something is so.

    Raises:
        RuntimeError: it is not after a minute.
    """
    until = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(f"not within {LIMIT_S:g} s: {what}")
        time.sleep(0.002)


def started(case: Case) -> SpawnProcess:
    """A worker that has opened its source."""
    opened = Path(case.state).with_suffix(".open")
    opened.unlink(missing_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=worker, args=(case,), daemon=True)
    process.start()
    try:
        wait_for(f"{case.name}: a worker begins", lambda: opened.exists() or not process.is_alive())
    except BaseException:
        process.kill()
        process.join()
        raise
    return process


def run(case: Case, seed: int) -> Outcome:
    """Workers that are killed, and one that reads to the end."""
    moments = random.Random(seed)
    outcome = Outcome()

    def trained() -> int:
        return int(np.count_nonzero(np.frombuffer(read_state(case).counts, np.uint8)))

    if case.broker == "kafka":
        publish_kafka(case)
    else:
        source = make_source(case)  # with it the broker begins to keep what comes
        source.open()
        source.close()
        publish_mqtt(case)
    process = started(case)
    try:
        for kill in range(case.kills):
            # At a random sample of the kill's part of the stream, and a random time after it.
            wanted = int(case.samples * (kill + moments.uniform(0.2, 0.8)) / (case.kills + 1))
            wait_for(f"{case.name}: {wanted} samples are trained", lambda: trained() >= wanted)  # noqa: B023
            time.sleep(moments.uniform(0.0, 2 * case.compute_s))
            process.kill()
            process.join()
            outcome.killed_at.append(trained())
            process = started(case)
        process.join(LIMIT_S)
        if process.exitcode != 0:
            raise RuntimeError(f"{case.name}: the last worker ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()
    state = read_state(case)
    counts = np.frombuffer(state.counts, np.uint8)
    outcome.lost = int(np.count_nonzero(counts == 0))
    outcome.doubled = int(counts.astype(int).sum() - np.count_nonzero(counts))
    outcome.recognised = state.doubled
    return outcome


def run_alone(case: Case, seed: int) -> Outcome:
    """A case with a broker and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "broker").mkdir()
        with KafkaMock() if case.broker == "kafka" else Mosquitto(path / "broker") as broker:
            return run(replace(case, address=broker.address, state=str(path / "trained")), seed)


def figures_of(case: Case, outcome: Outcome) -> list[Figure]:
    """What is asked of a case."""
    note = f"killed at {', '.join(map(str, outcome.killed_at))} of {case.samples}"
    if case.commit == "first":
        return [Figure(f"{case.name}: lost", outcome.lost, "samples", 1, at_least=True, note=note)]
    found = [Figure(f"{case.name}: lost", outcome.lost, "samples", 0, note=note)]
    if case.begin == "state":
        found.append(Figure(f"{case.name}: doubled", outcome.doubled, "samples", 0))
        if case.broker == "mqtt":
            found.append(
                Figure(f"{case.name}: came again, recognised", outcome.recognised, "samples", 1, at_least=True)
            )
    else:
        bound = case.kills * (SLACK + PULL_BOUND + 1) * case.batch
        asked = bound if case.broker == "kafka" else None
        found.append(
            Figure(
                f"{case.name}: doubled",
                outcome.doubled,
                "samples",
                asked,
                note=f"{case.kills} kills, {SLACK} + {PULL_BOUND} + 1 batches of {case.batch}",
            )
        )
    return found


CASES = (
    Case("kafka", "state", "behind"),
    Case("kafka", "commit", "behind"),
    Case("kafka", "commit", "first"),
    Case("mqtt", "state", "behind"),
    Case("mqtt", "commit", "behind"),
)


def installed(broker: str) -> bool:
    """Whether a case of that broker can run here."""
    if broker == "kafka":
        return importlib.util.find_spec("confluent_kafka") is not None
    return importlib.util.find_spec("paho") is not None and mosquitto_program() is not None


def short(case: Case) -> Case:
    """The same in a second or two, with one kill."""
    return replace(case, samples=160, batch=8, compute_s=0.002, kills=1, idle_s=1.0)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their name")
    options = parser.parse_args()
    figures: list[Figure] = []
    for case in CASES:
        if options.only not in case.name:
            continue
        if not installed(case.broker):
            print(f"left out: {case.name}: its broker or client library is not installed")
            continue
        case = short(case) if options.tiny else case
        figures += figures_of(case, run_alone(case, options.seed))
    for team in TEAM_CASES:
        if options.only in team.name and installed("kafka"):
            team = replace(team, samples=200, kills=1) if options.tiny else team
            figures += figures_of_team(team, run_team(team, options.seed))
    finish("A reader of a stream, killed three times", figures, options)


if __name__ == "__main__":
    main()
