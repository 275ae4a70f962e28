"""StreamLoader: batches of a source for a training loop, alone and in a team over real sockets."""

from __future__ import annotations

import logging
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from live import IMPATIENT, LiveServer, eventually
from rowcast import StreamLoader
from rowcast.drivers.sockets import Team
from rowcast.errors import ConfigError, DataError, LocalProtocolError, SourceEnded, StreamGap
from rowcast.loader import loader as loader_module
from rowcast.optim import Optimizer
from rowcast.streams import Positions, Sample


class ListSource:
    """Numbers 0 .. count-1, of which so many are there as :attr:`there` says; committed positions are kept."""

    def __init__(self, count, there=None, fails_at=None):
        self.count, self.there, self.fails_at = count, count if there is None else there, fails_at
        self.place = self.committed = 0
        self.opened_at = self.thread = None
        self.closed = 0
        self.most_ahead = 0
        self.changed = threading.Condition()
        self.trouble, self.dropped = "", {}

    def open(self, positions=None):
        self.place = self.committed if positions is None else positions.get("0", 0)
        self.opened_at = self.place
        return Positions({"0": self.place})

    def more(self, count):
        with self.changed:
            self.there += count
            self.changed.notify_all()

    def take(self, at_most, timeout_s):
        with self.changed:
            if self.place >= self.count:
                raise SourceEnded("the list is over")
            if self.fails_at is not None and self.place >= self.fails_at:
                raise StreamGap("samples 7 .. 9 are gone")
            if self.place >= self.there:
                self.changed.wait(timeout_s)
            until = min(self.place + at_most, self.there, self.fails_at or self.there)
            found = [Sample("0", place + 1, float(place), place, 1000) for place in range(self.place, until)]
            self.place = max(until, self.place)
            self.most_ahead = max(self.most_ahead, self.place)
            return found

    def commit(self, positions):
        self.thread = threading.current_thread()
        self.committed = max(self.committed, positions["0"])

    def lag(self):
        return self.there - self.place

    def close(self):
        self.closed += 1


def number(sample):
    return torch.tensor([float(sample.payload)])


def read(loader):
    return [batch[:, 0].tolist() for batch in loader]


# -- alone -------------------------------------------------------------------------------------------------------------


def test_batches_come_in_order_and_the_last_one_is_what_is_left():
    source = ListSource(10)
    with StreamLoader(source, number, batch="fixed:4") as loader:
        assert read(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert loader.samples == 2 and source.committed == 0
        loader.commit(1)
        eventually(lambda: source.committed == 4)
        assert source.thread.name == "rowcast-source"
        loader.commit()
    assert source.committed == 10 and source.closed == 1
    loader.close()
    with pytest.raises(LocalProtocolError, match="closed"):
        next(iter(loader))


def test_a_loop_that_stops_goes_on_with_the_next_batch():
    loader = StreamLoader(ListSource(100), number, batch="fixed:10")
    for batch in loader:
        if batch[0, 0] == 30:
            break
    assert next(iter(loader))[0, 0] == 40
    loader.close()


def test_a_data_loader_without_processes_reads_it():
    loader = StreamLoader(ListSource(8), number, batch="fixed:4")
    assert [len(batch) for batch in DataLoader(loader, batch_size=None)] == [4, 4]
    loader.close()


def test_a_worker_process_of_a_data_loader_is_refused(monkeypatch):
    monkeypatch.setattr(loader_module, "get_worker_info", lambda: object())
    with pytest.raises(ConfigError, match="num_workers=0"):
        next(iter(StreamLoader(ListSource(8), number, batch="fixed:4")))


def test_what_cannot_be_decoded_is_dropped_counted_and_the_first_shown(caplog):
    def odd(sample):
        if sample.payload % 2 == 0:
            raise ValueError(f"no picture: {sample.payload}")
        return number(sample)

    with StreamLoader(ListSource(16), odd, batch="fixed:4") as loader:
        assert read(loader) == [[1, 3], [5, 7], [9, 11], [13, 15]]
        assert loader.samples == 2 and loader.dropped == {"undecodable": 8}
        loader.commit()
    [record] = [one for one in caplog.records if "cannot be decoded" in one.message]
    assert "sample 1 of 0" in record.message and "ValueError: no picture: 0" in record.message


def test_bad_data_is_dropped_and_another_error_of_ours_is_not(caplog):
    """What a task says of a sample that is none is a DataError; that a setting is wrong is no sample's fault."""
    errors = {3: DataError("cut off"), 10: ConfigError("no such column")}

    def odd(sample):
        if sample.payload in errors:
            raise errors[sample.payload]
        return number(sample)

    with StreamLoader(ListSource(16), odd, batch="fixed:4") as loader:
        batches = iter(loader)
        assert [next(batches)[:, 0].tolist() for _ in range(2)] == [[0, 1, 2], [4, 5, 6, 7]]
        assert loader.dropped == {"undecodable": 1}
        with pytest.raises(ConfigError, match="no such column"):
            next(batches)
    assert any("DataError: cut off" in record.message for record in caplog.records)


def test_a_batch_of_which_nothing_can_be_decoded_is_none(caplog):
    def late(sample):
        if sample.payload < 8:
            raise ValueError("no")
        return number(sample)

    with StreamLoader(ListSource(12), late, batch="fixed:4") as loader:
        assert read(loader) == [[8, 9, 10, 11]]
        loader.commit()
    assert loader._puller._committed == {"0": 12}


def test_a_gap_in_the_stream_reaches_the_training_loop():
    loader = StreamLoader(ListSource(100, fails_at=6), number, batch="fixed:4")
    batches = iter(loader)
    assert len(next(batches)) == 4
    with pytest.raises(StreamGap, match=r"7 \.\. 9 are gone"):
        next(batches)
    loader.close()


def test_the_source_keeps_what_the_buffer_has_no_room_for():
    source = ListSource(100_000)
    with StreamLoader(source, number, batch="fixed:4", most_bytes=50_000) as loader:
        batches = iter(loader)
        next(batches)
        eventually(lambda: source.place >= 512)
        assert source.place <= 1024
        for _ in range(200):
            next(batches)
        assert source.most_ahead <= 200 * 4 + 2 * 512 and not loader.dropped


def test_a_batch_beyond_the_memory_is_gathered():
    with StreamLoader(ListSource(4000), number, batch="fixed:2000", most_bytes=50_000) as loader:
        assert [len(batch) for batch in loader] == [2000, 2000] and not loader.dropped


def test_a_source_that_cannot_be_opened_may_be_tried_again():
    source = ListSource(8)
    opens = source.open
    refusals = [ConfigError("no such topic")]

    def later(positions=None):
        if refusals:
            raise refusals.pop()
        return opens(positions)

    source.open = later
    with StreamLoader(source, number, batch="fixed:4") as loader:
        with pytest.raises(ConfigError, match="no such topic"):
            next(iter(loader))
        assert len(read(loader)) == 2


def test_the_feed_is_looked_at_by_one_thread_at_a_time():
    """The rate is a sum over a window that the thread of the source changes, too."""
    with LiveServer("asp?codec=raw") as server:
        _, optimizer = joined(server)
        with StreamLoader(ListSource(4000), number, optimizer, batch="team:4") as loader:
            lock, free = loader._puller._changed, []

            def try_lock():
                free.append(lock.acquire(blocking=False))
                if free[-1]:
                    lock.release()

            real = loader._puller.feed.rate

            def rate(now):
                other = threading.Thread(target=try_lock)
                other.start()
                other.join()
                return real(now)

            batches = iter(loader)
            next(batches)
            loader._puller.feed.rate = rate
            next(batches)
            _ = loader.rate
            assert free and not any(free)
        optimizer.close()


def test_who_waits_for_samples_is_told_why(monkeypatch, caplog):
    monkeypatch.setattr(loader_module, "_LOOK_S", 0.01)
    monkeypatch.setattr(loader_module, "_PATIENCE_S", 0.05)
    caplog.set_level(logging.WARNING)
    source = ListSource(8, there=2)
    source.trouble = "no broker answers at 10.0.0.1:9092"
    said = threading.Event()

    class Told(logging.Handler):
        def emit(self, record):
            if "no broker answers" in record.getMessage():
                said.set()

    handler = Told()
    logging.getLogger("rowcast").addHandler(handler)
    feeder = threading.Thread(target=lambda: (said.wait(10), source.more(6)))
    feeder.start()
    try:
        with StreamLoader(source, number, batch="fixed:4") as loader:
            assert len(read(loader)) == 2
    finally:
        logging.getLogger("rowcast").removeHandler(handler)
        feeder.join()
    texts = [record.message for record in caplog.records]
    assert sum("waiting for samples" in text for text in texts) == sum("come again" in text for text in texts) == 1


def test_who_gets_only_what_cannot_be_decoded_is_told_so(monkeypatch, caplog):
    monkeypatch.setattr(loader_module, "_PATIENCE_S", 0.0)

    def late(sample):
        if sample.payload < 8:
            raise ValueError("no")
        return number(sample)

    with StreamLoader(ListSource(12), late, batch="fixed:4") as loader:
        assert read(loader) == [[8, 9, 10, 11]]
    texts = [record.message for record in caplog.records]
    assert sum("could be decoded" in text for text in texts) == 1


def test_old_samples_come_back_beside_the_new_ones():
    with StreamLoader(ListSource(40), number, batch="fixed:4", rehearsal="reservoir:8@1.5") as loader:
        batches = read(loader)
        assert [len(batch) for batch in batches] == [4, 8, 10, 10, 10, 10, 10, 10, 10, 10]
        assert loader.samples == 4
    for place, batch in enumerate(batches):
        assert batch[:4] == [4 * place, 4 * place + 1, 4 * place + 2, 4 * place + 3]
        assert all(old < 4 * place for old in batch[4:]) and len(set(batch)) == len(batch)


def test_rehearsal_by_importance_is_told_the_losses():
    with StreamLoader(ListSource(400), number, batch="fixed:4", rehearsal="importance:8") as loader:
        seen = Counter()
        for batch in loader:
            values = batch[:, 0].tolist()
            seen.update(int(value) for value in values[loader.samples :])
            with pytest.raises(ConfigError, match=f"expected {len(values)}"):
                loader.told([1.0])
            loader.told([100.0 if value == 3 else 0.01 for value in values])
    assert seen[3] > 50


@pytest.mark.parametrize("rehearsal", ["reservoir:8@", "reservoir:8@0", "reservoir:8@x", "some:8"])
def test_rehearsals_that_are_none(rehearsal):
    with pytest.raises(ConfigError, match="rehearsal"):
        StreamLoader(ListSource(8), number, rehearsal=rehearsal)


# -- in a team ---------------------------------------------------------------------------------------------------------


def joined(server, name="robot", lr=1.0, **options):
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    team = Team(server.endpoint, name=name, settings=IMPATIENT, **options)
    return model, Optimizer(torch.optim.SGD(model.parameters(), lr=lr), model, team)


def add(model, optimizer, loader, batch):
    """A step whose contribution is the mean of the batch, negative."""
    optimizer.zero_grad()
    (model.weight * batch.mean()).sum().backward()
    optimizer.step(samples=loader.samples)


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "rog:2?codec=raw", "rowcast:2"])
def test_only_what_has_arrived_is_committed(policy):
    source = ListSource(40)
    with LiveServer(policy) as server:
        model, optimizer = joined(server, lr=0.01)
        with StreamLoader(source, number, optimizer, batch="fixed:4") as loader:
            for place, batch in enumerate(loader):
                assert source.committed <= 4 * optimizer.delivered
                add(model, optimizer, loader, batch)
                assert optimizer.finished == place + 1 >= optimizer.delivered
            optimizer.close()
            assert optimizer.delivered == optimizer.finished == 10
    assert source.committed == 40
    steps = [record for record in optimizer.team.journal.records if record["event"] == "step"]
    assert [step["samples"] for step in steps] == [4] * 10 and all(step["queued"] >= 4 for step in steps)


def test_a_step_weighs_by_its_samples():
    """Of a batch of 8 for the whole team, 4 samples weigh one half, and the last 2 a quarter."""
    with LiveServer("bsp?codec=raw") as server:
        model, optimizer = joined(server)
        with StreamLoader(ListSource(6), lambda sample: torch.ones(1), optimizer, batch="fixed:4") as loader:
            optimizer.batch = "team:8"
            moved = []
            for batch in loader:
                before = model.weight.item()
                add(model, optimizer, loader, batch)
                moved.append(before - model.weight.item())
            optimizer.close()
    assert moved == [0.5, 0.25]


def test_steps_of_a_round_weigh_by_their_mean():
    with LiveServer("localsgd:2?codec=raw") as server:
        model, optimizer = joined(server)
        with StreamLoader(ListSource(12), lambda sample: torch.ones(1), optimizer, batch="fixed:3") as loader:
            optimizer.batch = "team:6"
            for batch in loader:
                add(model, optimizer, loader, batch)
            assert optimizer.finished == 2
            optimizer.close()
        assert loader._puller._committed == {"0": 12}
    assert model.weight.item() == -2 * 2 * 0.5


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "localsgd:1?codec=raw"])
def test_a_step_that_raised_does_not_weigh(policy):
    """Its closure ran out of memory: the step behind it weighs by its own samples."""
    with LiveServer(policy) as server:
        model, optimizer = joined(server)
        optimizer.batch = "team:8"

        def closure():
            raise MemoryError("a batch too large")

        with pytest.raises(MemoryError):
            optimizer.step(closure, samples=8)
        optimizer.zero_grad()
        model.weight.sum().backward()
        optimizer.step(samples=2)
        optimizer.close()
    assert model.weight.item() == -0.25


def test_samples_without_a_rule_are_refused():
    with LiveServer("bsp?codec=raw") as server:
        _, optimizer = joined(server)
        with pytest.raises(ConfigError, match=r"optimizer\.batch = 'team:1024'"):
            optimizer.step(samples=4)
        optimizer.batch = "team:8"
        with pytest.raises(ConfigError, match="expected 0 or more"):
            optimizer.step(samples=-1)
        optimizer.close()


def test_a_new_life_goes_on_behind_what_is_in_the_model():
    """Three lives of a worker, each gone without a word after some steps: every sample is in the model once."""
    source = ListSource(40)
    with LiveServer("bsp?codec=raw") as server:
        for steps in (3, 4, 3):
            model, optimizer = joined(server)
            loader = StreamLoader(source, number, optimizer, batch="fixed:4")
            batches = iter(loader)
            for _ in range(steps):
                add(model, optimizer, loader, next(batches))
            source.committed = 0  # what the source remembers does not matter here
            loader._optimizer = None  # it is gone: nothing more is committed
            loader.close()
            server.cut("robot")
            optimizer.team.leave()
        weight = server.ask(lambda node: float(node.parameters[0]))
    assert weight == pytest.approx(-sum(np.arange(40).reshape(10, 4).mean(axis=1)))


@pytest.mark.parametrize("policy", ["bsp?codec=raw", "rog:2?codec=onebit", "rowcast:2?trust=0"])
def test_a_life_that_was_kept_goes_on_behind_what_it_has_computed(policy, tmp_path):
    """Whether or not pushes are whole, and whatever has arrived of them: every sample counts once."""
    source = ListSource(40)
    with LiveServer(policy) as server:
        for steps in (3, 4, 3):
            model, optimizer = joined(server, state_dir=tmp_path)
            loader = StreamLoader(source, number, optimizer, batch="fixed:4")
            batches = iter(loader)
            for _ in range(steps):
                add(model, optimizer, loader, next(batches))
            source.committed = 0  # what the source remembers does not matter here
            if optimizer.finished < 10:
                loader._optimizer = None  # it is gone: nothing more is committed
                optimizer.team.leave()
                loader.close()
        optimizer.close()
        loader.close()
        weight = server.ask(lambda node: float(node.parameters[0]))
        assert not server.events("repeated") and not server.events("error"), "no message was out of place"
    assert weight == pytest.approx(-sum(np.arange(40).reshape(10, 4).mean(axis=1)), rel=1e-5)
    assert source.committed == 40


def test_the_team_shares_its_batch_over_sockets():
    with LiveServer("asp?codec=raw") as server:
        teams = {}
        for name, rate in (("a", 100.0), ("b", 300.0)):
            _, teams[name] = joined(server, name)
            teams[name].batch = "team:40"
            teams[name].team.supply(teams[name].batch, rate)
        eventually(lambda: (teams["a"].team.share, teams["b"].team.share) == (10, 30))
        source = ListSource(25)
        teams["a"].batch = None
        with StreamLoader(source, number, teams["a"], batch="team:40") as loader:
            sizes = [len(batch) for batch in loader]
        assert sum(sizes) == 25 and sizes[0] == 10
        for optimizer in teams.values():
            optimizer.close(wait=False)
