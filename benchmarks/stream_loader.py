"""What StreamLoader costs a training loop, beside a loop that has its samples in memory.

A source of 600 samples a second of 3 kB each, batches of 64, a model whose step takes a good part of the time between
two batches. Both loops decode, collate and compute the same at the same pace; what the one with the loader takes of the
processor beyond that, its thread included, is compared with the time of a step. The limit is the source itself: what a
sample costs there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import default_collate

from common import Figure, arguments, finish
from rowcast import StreamLoader
from rowcast.streams import Positions, Sample

RATE, BYTES, BATCH = 600.0, 3072, 64


class Ready:
    """Samples of random bytes; as many are there as the rate has brought since it was opened."""

    def __init__(self, rate: float) -> None:
        self.trouble, self.dropped = "", {}
        self._rate, self._place, self._began = rate, 0, 0.0
        rng = np.random.default_rng(0)
        self._payloads = [rng.bytes(BYTES) for _ in range(1024)]

    def open(self, positions: Positions | None = None) -> Positions:
        self._began = time.monotonic()
        return Positions()

    def take(self, at_most: int, timeout_s: float) -> list[Sample]:
        now = time.monotonic()
        there = int((now - self._began) * self._rate)
        if there == self._place:  # as a client does: asleep until the next message is there
            time.sleep(min(timeout_s, (there + 1) / self._rate - (now - self._began)))
            there = int((time.monotonic() - self._began) * self._rate)
        until = min(there, self._place + at_most)
        found = [
            Sample("0", place + 1, place / self._rate, self._payloads[place % 1024], BYTES)
            for place in range(self._place, until)
        ]
        self._place = until
        return found

    def commit(self, positions: Positions) -> None:
        """Nothing is kept."""

    def lag(self) -> int | None:
        return None

    def close(self) -> None:
        """There is nothing to let go of."""


def decode(sample: Sample) -> torch.Tensor:
    return torch.frombuffer(bytearray(sample.payload), dtype=torch.uint8).float()


def compute(model: torch.nn.Module) -> Callable[[torch.Tensor], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)

    def step(batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        (model(batch / 255) ** 2).mean().backward()
        optimizer.step()

    return step


def from_memory(batches: int) -> Iterator[torch.Tensor]:
    """The same batches without a stream, at the same pace: a processor that has slept is slower for a moment."""
    source = Ready(RATE)
    began = time.monotonic()
    for first in range(0, batches * BATCH, BATCH):
        time.sleep(max(began + (first + BATCH) / RATE - time.monotonic(), 0.0))
        places = range(first, first + BATCH)
        samples = [Sample("0", place + 1, 0.0, source._payloads[place % 1024], BYTES) for place in places]
        yield default_collate([decode(sample) for sample in samples])


def run(batches: Iterator[torch.Tensor], count: int, step: Callable[[torch.Tensor], None]) -> float:
    """Processor seconds of ``count`` steps, the first two left out."""
    for _ in range(2):
        step(next(batches))
    began = time.process_time()
    for _ in range(count):
        step(next(batches))
    return time.process_time() - began


def pairs(count: int, repeats: int) -> tuple[list[float], float, float]:
    """Overhead of each pair of loops, a share of a step; and processor seconds of a step with and without (medians)."""
    torch.set_num_threads(1)
    step = compute(torch.nn.Sequential(torch.nn.Linear(BYTES, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)))
    shares, with_loader, without = [], [], []
    for _ in range(repeats):
        plain_s = run(from_memory(count + 2), count, step)
        with StreamLoader(Ready(RATE), decode, batch=f"fixed:{BATCH}") as loader:
            loader_s = run(iter(loader), count, step)
        shares.append((loader_s - plain_s) / count / (BATCH / RATE))
        with_loader.append(loader_s / count)
        without.append(plain_s / count)
    return shares, statistics.median(with_loader), statistics.median(without)


def main() -> None:
    args = arguments(__doc__.splitlines()[0]).parse_args()
    count, repeats = (3, 1) if args.tiny else (90, 5)
    shares, loader_s, plain_s = pairs(count, repeats)
    figures = [
        Figure("overhead of StreamLoader", 100 * statistics.median(shares), "% of a step", bound=2.0),
        Figure("  smallest and largest pair", 100 * (max(shares) - min(shares)), "points apart"),
        Figure("a step from a stream", 1000 * loader_s, "ms of processor"),
        Figure("the same from memory", 1000 * plain_s, "ms of processor"),
        Figure("time between two batches", 1000 * BATCH / RATE, "ms"),
    ]
    finish("StreamLoader", figures, args)


if __name__ == "__main__":
    main()
