"""What one step of a worker costs: collected while it runs, one journal event when it is over."""

from __future__ import annotations

from dataclasses import dataclass

from rowcast.delivery.transfer import Transfer
from rowcast.journal import Journal
from rowcast.rows import Layout
from rowcast.wire import Go, Grant, Rows
from rowcast.wire.frames import frame_bytes

__all__ = ["Fed", "Step", "Thinned"]


@dataclass
class Fed:
    """What a stream gave to a step, and what that was like; see the fields of the event 'step'.

    Attributes:
        waited_s: seconds that its samples have waited, all together.
    """

    samples: int = 0
    starve_s: float = 0.0
    queued: int = 0
    dropped: int = 0
    waited_s: float = 0.0
    exposed: int = 0
    exposed_bytes: int = 0

    def fields(self) -> dict[str, float]:
        """As the journal has them."""
        return {
            "starve_s": round(self.starve_s, 6),
            "samples": self.samples,
            "queued": self.queued,
            "dropped": self.dropped,
            "age_s": round(self.waited_s / max(self.samples, 1), 6),
            "exposed": self.exposed,
            "exposed_bytes": self.exposed_bytes,
        }


@dataclass
class Thinned:
    """What would be sent of the gradients of a step; see the fields of the event 'step'."""

    floats: int = 0
    gradient_floats: int = 0
    compressed: bool = True

    def fields(self) -> dict[str, int | bool]:
        """As the journal has them."""
        return {"floats": self.floats, "gradient_floats": self.gradient_floats, "compressed": self.compressed}


@dataclass
class Step:
    """One step so far; times in seconds.

    Attributes:
        started, proposed: when the computation began, when its update was handed in.
        skipped: it made no contribution.
        own_s: see the field of the event 'step'; ``None``: nobody measures it.
        streamed: rows travel while it computes; whether any did so all the time is not measured.
        fed: what a stream gave; ``None`` where the samples are not those of a stream.
        thinned: what would be sent of its gradients; ``None`` without top-k.
    """

    started: float
    proposed: float = 0.0
    skipped: bool = False
    own_s: float | None = None
    streamed: bool = False
    held_s: float = 0.0
    staleness: int = 0
    mta_time_s: float = 0.0
    quota_s: float | None = None
    push_rows: int = 0
    zero_rows: int = 0
    push_bytes: int = 0
    pull_rows: int = 0
    pull_bytes: int = 0
    fed: Fed | None = None
    thinned: Thinned | None = None

    @property
    def interval_s(self) -> float:
        """From its beginning until its update was handed in: it waited for data, and computed."""
        return self.proposed - self.started

    @property
    def compute_s(self) -> float:
        return self.interval_s if self.fed is None else max(self.interval_s - self.fed.starve_s, 0.0)

    def pushed(self, transfer: Transfer) -> None:
        """A transfer (or what a cut left of it) is over."""
        self.push_rows += transfer.rows
        self.zero_rows += transfer.zero_rows
        self.push_bytes += transfer.size

    def permitted(self, message: Go) -> None:
        """The gate opened."""
        self.held_s += message.held_s
        self.staleness = message.staleness

    def granted(self, message: Grant) -> None:
        """A slot was given."""
        self.held_s += message.held_s

    def passed(self, now: float, staleness: int) -> None:
        """The gate let it pass, after it was held there since the update was handed in."""
        self.held_s = now - self.proposed
        self.staleness = staleness
        self.streamed = True

    def pulled(self, message: Rows) -> None:
        """Rows arrived."""
        self.pull_rows += len(message.rows)
        self.pull_bytes += frame_bytes(message)

    def share(self, layout: Layout) -> float:
        """Share of the layout's rows that were sent or were empty."""
        return (self.push_rows + self.zero_rows) / layout.rows

    def record(self, now: float, journal: Journal, layout: Layout, iteration: int, rate_bps: float) -> None:
        """Write the step into the journal."""
        exchanged_s = now - self.proposed
        journal.record(
            now,
            "step",
            iteration=iteration,
            compute_s=round(self.compute_s, 6),
            overlap_s=round(self.compute_s if self.streamed and self.push_rows + self.pull_rows else 0.0, 6),
            communicate_s=round(max(exchanged_s - self.held_s, 0.0), 6),
            stall_s=round(min(self.held_s, exchanged_s), 6),
            push_rows=self.push_rows,
            push_bytes=self.push_bytes,
            push_share=round(self.share(layout), 6),
            pull_rows=self.pull_rows,
            pull_bytes=self.pull_bytes,
            quota_s=None if self.quota_s is None else round(self.quota_s, 6),
            mta_time_s=round(self.mta_time_s, 6),
            rate_bps=round(rate_bps),
            staleness=self.staleness,
            skipped=self.skipped,
            **({} if self.own_s is None else {"own_s": round(self.own_s, 6)}),
            **({} if self.fed is None else self.fed.fields()),
            **({} if self.thinned is None else self.thinned.fields()),
        )
