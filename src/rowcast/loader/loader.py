"""Batches of a stream for a training loop of PyTorch."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, cast

from torch.utils.data import IterableDataset, default_collate, get_worker_info

from rowcast.config import as_number
from rowcast.errors import ConfigError, DataError, LocalProtocolError, RowcastError, visible
from rowcast.loader.puller import Puller
from rowcast.optim import Optimizer
from rowcast.optim.team import StreamTeam
from rowcast.streams import (
    BatchRule,
    BufferRule,
    Feed,
    FeedBatch,
    Positions,
    Rehearsal,
    Sample,
    Source,
    parse_batch,
    parse_buffer,
    parse_rehearsal,
)
from rowcast.streams.buffer import MOST_BYTES

__all__ = ["StreamLoader"]

log = logging.getLogger("rowcast")

#: The server is told of the stream, and looked at for the share, so often while a batch is gathered (s).
_LOOK_S = 0.25
#: A training loop that waits longer for samples is told why (s).
_PATIENCE_S = 10.0


class StreamLoader(IterableDataset[Any]):
    """Batches of a source, as fast as they come, for as long as they come.

    A thread takes samples out of the source all the time, so that their arrival, their rate and their age are as they
    were. When a batch begins, and how many samples it has, is what ``batch`` says; what waits longer than ``buffer``
    allows gives way to what is newer, and is counted.

    How far a source is read is committed only up to what the server has acknowledged as a whole. So after a crash
    nothing is lost; a few batches are trained again, as many as had not arrived. Where every push is whole (``bsp``,
    ``ssp``) the server itself remembers how far the data reaches that is in the parameters, and the loader begins
    there: nothing is trained twice.

    It is an ``IterableDataset``, to be iterated itself or by a ``DataLoader`` with ``batch_size=None`` and without
    worker processes: those would each read the whole stream. Each batch is to be trained on before the next is asked
    for: what fetches ahead makes what is committed reach beyond what was trained.

    Args:
        source: where samples come from, not yet opened; or its text, as :func:`rowcast.sources.make_source` takes it.
        decode: makes an item of a sample. What it raises drops the sample; the first is shown.
        optimizer: whose steps the batches are for: it is told the batch rule, weighs each ``step(samples=...)`` by it,
            and says what has arrived. ``None``: :meth:`commit` is called by hand.
        batch: as :func:`rowcast.streams.parse_batch` takes it.
        buffer: as :func:`rowcast.streams.parse_buffer` takes it; ``None``: ``persist`` with a fixed batch, otherwise
            ``truncate:1s``.
        rehearsal: old samples that come back in later batches, as :func:`rowcast.streams.parse_rehearsal` takes it:
            200 or 'reservoir:200', 'importance:200'; ``None``: none do. With 'reservoir:200@0.5' so many old ones come
            with each new one, otherwise 2. It pays where what was seen comes back, and costs where the world moves.
        collate: makes a batch of a list of items.
        most_bytes: of all waiting samples together, as far as a batch takes no more. Where nothing is truncated, the
            source then keeps what follows.

    Raises:
        ConfigError: an argument cannot be used.

    Example::

        loader = rowcast.StreamLoader("kafka://10.0.0.1:9092/robot-1", decode, optimizer, batch="team:1024")
        for images, labels in loader:
            optimizer.zero_grad()
            loss_of(model(images), labels).backward()
            optimizer.step(samples=loader.samples)
    """

    def __init__(
        self,
        source: Source | str,
        decode: Callable[[Sample], Any],
        optimizer: Optimizer | None = None,
        *,
        batch: str | BatchRule = "team:1024",
        buffer: str | BufferRule | None = None,
        rehearsal: str | int | None = None,
        collate: Callable[[list[Any]], Any] = default_collate,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        super().__init__()
        self.rule = parse_batch(batch) if isinstance(batch, str) else batch
        kept = BufferRule() if self.rule.keeps_all else BufferRule(seconds=1.0)
        if buffer is not None:
            kept = parse_buffer(buffer) if isinstance(buffer, str) else buffer
        if isinstance(source, str):
            from rowcast.sources.registry import make_source

            source = make_source(source)
        self._puller = Puller(source, Feed(self.rule, kept, most_bytes=most_bytes), time.monotonic)
        self._decode, self._collate = decode, collate
        self._rehearsal, self._old_each = _rehearsal_of(rehearsal)
        self._optimizer = optimizer
        if optimizer is not None:
            optimizer.batch = self.rule
        self._team: StreamTeam | None = None if optimizer is None else cast(StreamTeam, optimizer.team)
        self._given: tuple[int, Positions] | None = None  # iterations before the last batch, and how far that reaches
        self._batches = 0
        self._trained: deque[tuple[int, Positions]] = deque()  # iteration, behind its samples
        self._undecodable = 0
        self._dropped_before = 0
        self._samples = self._old = 0
        self._waits_since, self._said_why = 0.0, False
        self._fresh: list[Any] = []
        self._started = self._closed = False
        self._stopped = threading.Event()

    # -- what the training loop sees ---------------------------------------------------------------------------

    @property
    def samples(self) -> int:
        """Samples of the last batch that are new: what ``optimizer.step(samples=...)`` takes."""
        return self._samples

    @property
    def dropped(self) -> Mapping[str, int]:
        """Samples that were not trained on, by reason: ``truncated``, ``memory``, ``undecodable``, and the source's."""
        counts = Counter(self._puller.dropped)
        if self._undecodable:
            counts["undecodable"] = self._undecodable
        return counts

    @property
    def rate(self) -> float | None:
        """Of the stream (samples/s); ``None`` while nobody can know."""
        return self._puller.rate

    def __iter__(self) -> Iterator[Any]:
        """Batches until the source ends; waits for each.

        Raises:
            ConfigError: in a worker process of a ``DataLoader``; or as the source has it.
            StreamGap: samples are gone from the source for good.
        """
        if get_worker_info() is not None:
            raise ConfigError(
                "StreamLoader: expected to be read by the process that trains, got a worker process of a DataLoader; "
                "each of those would read the whole stream: take num_workers=0"
            )
        self._start()
        self._waits_since, self._said_why = time.monotonic(), False
        while (batch := self._next()) is not None:
            items = self._items(batch.samples)
            waited_s = time.monotonic() - self._waits_since
            if not items:
                if waited_s >= _PATIENCE_S and not self._said_why:
                    self._say_why(waited_s, f"none of {self._undecodable} could be decoded")
                continue
            if self._said_why:
                log.warning("%s: samples come again, after %.3g s", self._name, waited_s)
            self._samples = len(items)
            self._announce(batch, len(items))
            self._batches += 1
            self._given = self._finished, batch.positions
            yield self._collate(self._with_old(items))
            self._settle(asked_for_more=True)
            self._waits_since, self._said_why = time.monotonic(), False

    def told(self, losses: Sequence[float]) -> None:
        """The loss of each item of the last batch, for a rehearsal that goes by importance.

        Raises:
            ConfigError: another number of losses than there were items.
        """
        if self._rehearsal is None:
            return
        if len(losses) != self._samples + self._old:
            raise ConfigError(f"losses: expected {self._samples + self._old}, one for each item, got {len(losses)}")
        self._rehearsal.told(losses[self._samples :])
        self._rehearsal.add(self._fresh, losses[: self._samples])
        self._fresh = []

    def commit(self, iteration: int | None = None) -> None:
        """Everything up to ``iteration`` has arrived: the source need not deliver it again.

        With an optimizer this happens by itself before each batch.

        Args:
            iteration: counted as ``optimizer.finished``; without an optimizer: batches from 1. ``None``: all.
        """
        self._settle()
        positions = None
        while self._trained and (iteration is None or self._trained[0][0] <= iteration):
            _, positions = self._trained.popleft()
        if positions is not None:
            self._puller.commit(positions)

    def stop(self) -> None:
        """Let the loop over batches end where it waits for the next one; from any thread."""
        self._stopped.set()

    def close(self) -> None:
        """Commit what has arrived, and let go of the source; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._optimizer is not None:
                self.commit(self._optimizer.delivered)
        finally:
            self._puller.stop()

    def __enter__(self) -> StreamLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- batches -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._closed:
            raise LocalProtocolError("StreamLoader: it is closed; make another one")
        if not self._started:
            positions = Positions() if self._team is None else Positions.unpack(self._team.resumed_positions)
            self._puller.start(positions or None)
            self._started = True

    def _next(self) -> FeedBatch | None:
        """The next batch; ``None`` at the end of the source. Says why it takes long."""
        while True:
            batch = self._puller.next(_LOOK_S, self._prepare)
            waited_s = time.monotonic() - self._waits_since
            if batch is None and waited_s >= _PATIENCE_S and not self._said_why:
                self._say_why(waited_s, self._puller.trouble or "the source delivers too few")
            if batch is not None or self._puller.over or self._stopped.is_set():
                return batch

    def _say_why(self, waited_s: float, why: str) -> None:
        """Tell for what the training loop has been waiting."""
        self._said_why = True
        log.warning("%s: waiting for samples, for %.3g s: %s", self._name, waited_s, visible(why))

    def _prepare(self) -> None:
        """Before a look whether a batch can begin."""
        if self._optimizer is None or self._team is None:
            return
        self.commit(self._optimizer.delivered)
        self._team.supply(self.rule, self._puller.supply)
        self._puller.feed.told(self._team.share, self._team.members, self._team.team_rate)

    def _announce(self, batch: FeedBatch, samples: int) -> None:
        """Tell the team what the next step is computed on."""
        dropped = sum(self.dropped.values())
        new, self._dropped_before = dropped - self._dropped_before, dropped
        if self._team is not None:
            self._team.read_to(batch.positions.pack())
            self._team.fed(samples, batch.starve_s, batch.queued, new, batch.age_s)

    @property
    def _finished(self) -> int:
        """Iterations that the training loop has finished."""
        return self._batches if self._optimizer is None else self._optimizer.finished

    def _settle(self, *, asked_for_more: bool = False) -> None:
        """Note in which iteration the last batch was trained on, once that is known.

        Args:
            asked_for_more: the training loop has done with the batch. If no iteration ended since (a round of local
                steps, gradient accumulation), it is a part of the one that ends next.
        """
        if self._given is None:
            return
        before, positions = self._given
        if self._optimizer is not None and self._finished == before and not asked_for_more:
            return
        self._given = None
        self._trained.append((max(self._finished, before + (self._optimizer is not None)), positions))

    def _with_old(self, items: list[Any]) -> list[Any]:
        """The new items, and behind them old ones."""
        if self._rehearsal is None:
            return items
        self._rehearsal.add(self._fresh)  # those of the batch before whose losses nobody told
        self._fresh = items
        old = self._rehearsal.draw(round(self._old_each * len(items)))
        self._old = len(old)
        return [*items, *old]

    def _items(self, samples: Sequence[Sample]) -> list[Any]:
        items = []
        for sample in samples:
            try:
                items.append(self._decode(sample))
            except Exception as error:
                if isinstance(error, RowcastError) and not isinstance(error, DataError):
                    raise
                if not self._undecodable:
                    log.warning(
                        "%s: sample %s of %s cannot be decoded, and is dropped as all such are: %s: %s",
                        self._name,
                        sample.position,
                        visible(sample.partition, 80),
                        type(error).__name__,
                        visible(str(error), 200),
                    )
                self._undecodable += 1
        return items

    @property
    def _name(self) -> str:
        return "StreamLoader" if self._team is None else str(getattr(self._team, "name", "StreamLoader"))


def _rehearsal_of(text: str | int | None) -> tuple[Rehearsal | None, float]:
    """What is kept, and how many old samples come back for each new one."""
    kept, at, ratio = str(text).partition("@") if isinstance(text, str) else (text, "", "")
    each = as_number(ratio) if at else 2.0
    if each is None or not 0 < each <= 100:
        raise ConfigError(f"rehearsal {text}: expected old samples for each new one behind '@', 0.01 .. 100")
    return parse_rehearsal(kept), each
