"""A synchronisation policy: gate, order, quota, deadline and codec under one name, as one frozen value.

All of them are one class with other settings, so that what is compared is the rule and nothing else (invariant
11): ``ssp:4`` is ``rog:4`` whose unit is the whole model, and ``bsp`` is that with slack 0. Which settings a name
stands for is said in :mod:`rowcast.sync.families`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Above, Codec, Thresholded, Zero, codec_by_name, codec_for
from rowcast.codecs.lowrank import LowRank
from rowcast.errors import ConfigError, near_match
from rowcast.rows import Layout, Selection
from rowcast.sync.order import RowsToSend, choose, choose_drawn, choose_refinement
from rowcast.sync.threshold import Threshold, above, choose_passing

__all__ = ["Policy", "stream_shares"]

#: Settings that are one of a few words.
_WORDS = {
    "mta": ("measured", "artifact"),
    "counts": ("bytes", "groups"),
    "granularity": ("row", "tensor", "model"),
    "order": ("importance", "age", "random"),
    "row_weights": ("members", "contributors"),
    "anticipate": ("off", "own", "team"),
    "pulls": ("own", "common"),
}
_LOWEST_SHARE = 1e-6
#: Part of what a link carries in a step that the quota may take where the code is fitted to it: the rest is for rows
#: beyond the quota, and for a link that becomes slower.
ADAPTED = 0.5


@dataclass(frozen=True)
class Policy:
    """A synchronisation policy.

    Attributes:
        name: as the user wrote it.
        slack: iterations a worker may be ahead of the oldest row of anybody; ``None``: the gate is always open.
        share: share of the encoded bytes of the model that must travel in each push and pull (the quota).
        pull_share: the same for pulls, where it is another; ``None``: ``share``.
        granularity: what travels only as a whole: 'row', 'tensor' or 'model'.
        speculative: rows beyond the quota travel until the MTA time.
        mta: whose rules for order, quota and MTA time: 'measured' (algorithms.md 1.8, 2.1, 2.2), or those of the
            'artifact' (:mod:`rowcast.sync.artifact`).
        counts: what ``share`` is a share of, with the artifact's rules: the model's 'bytes', or its rows, rounded up
            to 'groups' of 1000.
        race: see :class:`rowcast.sync.artifact.ArtifactTime`; only with the artifact's rules.
        codec: name of the codec; with a rank, that of all rows but those of matrices with factors.
        f1, f2: weights of magnitude and staleness in ROG's importance (Alg. 3).
        local_steps: optimizer steps of a worker on parameters of its own for each iteration, >= 1; their sum is
            what the iteration contributes (local SGD: McMahan et al., AISTATS 2017; Stich, ICLR 2019).
        outer_lr: factor on every contribution, > 0 (the outer learning rate of DiLoCo).
        auto_lr: ``outer_lr`` is what the team begins with, and adapts, up to twice as much, while successive movements
            of the parameters agree (:mod:`rowcast.sync.outer_rate`). Only with 'streamed'.
        trust: so many times the median of its last 32 an update of a worker counts at most, 1 or more; 0: there is no
            bound (:mod:`rowcast.training.proposal.trust`). Not with ``outer_momentum``.
        outer_momentum: Nesterov momentum over the contributions, 0 .. below 1 (DiLoCo: Douillard et al., arXiv
            2311.08105). Above 0 a worker holds one more vector of the model's size.
        lag: S of FLOWN, >= 0: who is about so many iterations behind the newest gets a slot first.
        rule: who may go on and when rows travel, by the name under which it is registered
            (:mod:`rowcast.training.rules`): 'phased', push, gate and pull; 'slotted', where a transfer also needs a
            slot that the server gives; 'factored', where matrices travel as two factors, one after the other;
            'threshold', pushes and pulls of elements beyond a threshold (algorithms.md 3.6);
            'streamed', rows in both directions all the time, where the slack bounds the staleness end to end
            (algorithms.md 1.4).
        elastic: nobody waits for a worker in an outage. Only with 'streamed'.
        ahead: so many iterations more than the slack allows are computed by a worker that is in an outage itself.
            Only with 'streamed'.
        adapt: where the link cannot carry the quota in the time of a step, rows travel in the code ``elements``.
        refine: where the link is idle, what the code could not express travels in the code ``half``.
        anticipate: from what a worker computes: 'off', from its replica; 'own', from the replica moved by what it has
            pending, so that it reads its own writes (Ho et al., NIPS 2013); 'team', moved as far as if the others had
            the same pending. Only with 'streamed', and where rows are drawn at 'random'.
        auto: the slack adapts to the stalls and to the progress of the training (:mod:`rowcast.sync.slack`): it is
            ``slack`` at most where nobody stalls. Only with 'streamed'.
        most_slack: what it begins with then, and what stalls may raise it to, where that is more than ``slack``.
        pulls: what workers are sent: 'own', rows of each worker's own, or 'common', one stream of rows for all of
            them (algorithms.md 8.9). Only with 'streamed'.
        order: how speculative rows follow: by ROG's 'importance', or by 'age' as the quota does, and as all rows do
            that are streamed: the oldest first. 'random': no others are pushed than a share that is drawn at random,
            the same at all workers; see :attr:`sampled`.
        row_weights: among whom a row counts: all 'members', or only its 'contributors', those who have sent something
            of it lately (:mod:`rowcast.training.proposal.row_weights`).
        feedback: share of what a worker has pending of the parameters that is kept when the next iteration begins to
            contribute, above 0 .. 1; below 1 the residual of error feedback decays (algorithms.md 5.8).
        pull_codec: name of the codec of what workers are sent; ``None``: that of what they send.
        budget_s: seconds of the link that a push or a pull may take; 0: as long as the worker computes. Only with
            'threshold'.
        smooth: part of a threshold that is kept when the next one is measured, 0 .. below 1. Only with 'threshold'.
        rank: matrices travel as two factors of this rank (algorithms.md 5.11); 0: they do not. Only with 'factored'.
    """

    name: str
    slack: int | None
    share: float
    granularity: str = "row"
    speculative: bool = False
    codec: str = "onebit"
    f1: float = 1.0
    f2: float = 1.0
    local_steps: int = 1
    outer_lr: float = 1.0
    outer_momentum: float = 0.0
    auto_lr: bool = False
    trust: float = 0.0
    lag: int = 0
    pull_share: float | None = None
    mta: str = "measured"
    counts: str = "bytes"
    race: float = 0.0
    rule: str = "phased"
    elastic: bool = False
    ahead: int = 0
    anticipate: str = "off"
    adapt: bool = False
    refine: bool = False
    auto: bool = False
    most_slack: int = 0
    pulls: str = "own"
    order: str = "importance"
    row_weights: str = "members"
    feedback: float = 1.0
    pull_codec: str | None = None
    rank: int = 0
    budget_s: float = 0.0
    smooth: float = 0.0

    def __post_init__(self) -> None:
        for key, words in _WORDS.items():
            value = getattr(self, key)
            if value not in words:
                raise ConfigError(f"policy {self.name!r}: unknown {key} {value!r}; {near_match(str(value), words)}")
        for fault in (*self._numbers(), *self._combinations()):
            raise ConfigError(f"policy {self.name!r}: {fault}")

    def _numbers(self) -> Iterator[str]:
        """What is wrong with the numbers."""
        if not 0 <= self.race <= 1:
            yield f"expected race in 0 .. 1, got {self.race}"
        for share in (self.share, self.share_of_pull):
            if not _LOWEST_SHARE <= share <= 1:
                yield f"expected a share in {_LOWEST_SHARE:g} .. 1, got {share}"
        for key in ("f1", "f2"):
            if not (math.isfinite(value := getattr(self, key)) and value >= 0):
                yield f"expected {key} >= 0, got {value}"
        if self.local_steps < 1:
            yield f"expected 1 local step or more, got {self.local_steps}"
        if not 0 < self.feedback <= 1:
            yield f"expected feedback above 0 .. 1, got {self.feedback}"
        if not (math.isfinite(self.budget_s) and self.budget_s >= 0):
            yield f"expected budget_s >= 0, got {self.budget_s}"
        if not 0 <= self.smooth < 1:
            yield f"expected smooth in 0 .. below 1, got {self.smooth}"
        for key in ("ahead", "most_slack"):
            if (count := getattr(self, key)) < 0:
                yield f"expected {key} >= 0, got {count}"
        yield from self._outer_numbers()

    def _outer_numbers(self) -> Iterator[str]:
        """What is wrong with the numbers that say what becomes of a contribution."""
        if not (math.isfinite(self.outer_lr) and self.outer_lr > 0):
            yield f"expected outer_lr > 0, got {self.outer_lr}"
        if not 0 <= self.outer_momentum < 1:
            yield f"outer_momentum must be in 0 .. below 1, got {self.outer_momentum}"
        if not (self.trust == 0 or 1 <= self.trust < math.inf):
            yield f"expected trust of 1 or more, or 0 for no bound, got {self.trust}"
        if self.trust and self.outer_momentum:
            yield "an update that is shortened (trust) would keep its momentum; take trust=0 or outer_momentum=0"

    def _combinations(self) -> Iterator[str]:
        """What does not go together."""
        if self.mta != "artifact" and (self.counts != "bytes" or self.race):
            yield "counts and race go with compat=artifact only"
        if self.mta == "artifact" and self.order != "importance":
            yield "the order of the artifact is its own; leave order or compat out"
        if self.granularity == "model" and (self.share, self.share_of_pull) != (1, 1):
            # What a cut has left of a transfer would be beyond the quota.
            yield "granularity=model sends all rows together; take share=1 (and pull_share=1)"
        anticipates, common = self.anticipate != "off" and not self.sampled, self.pulls != "own"
        adapts = (self.adapt, self.refine, self.auto, self.most_slack, self.auto_lr)
        own = (self.elastic, self.ahead, anticipates, *adapts, common)
        if self.rule != "streamed" and any(own):
            options = "elastic, ahead, anticipate, adapt, refine, auto, most_slack, auto_lr and pulls"
            yield f"{options} go with rows that are streamed only"
        if (self.rank > 0) != (self.rule == "factored"):
            yield f"expected a rank of 1 or more with the rule 'factored', and 0 with others, got {self.rank}"
        if self.rank and (self.slack, self.share, self.share_of_pull) != (0, 1, 1):
            yield "factors are those of a whole sum; take slack 0 and share=1 (and pull_share=1)"
        averages = self.rule == "phased" and self.slack == 0 and self.anticipate == "team" and self.share_of_pull == 1
        if self.sampled and (self.speculative or not averages):
            yield "order=random goes with slack 0, anticipate=team and pulls of everything only; write 'sparta'"
        if self.sampled and self.feedback < 1:
            yield "feedback goes with what is pending of steps; with order=random own parameters are, leave it out"
        if self.rule not in ("phased", "threshold") and self.pull_codec is not None:
            yield "pull_codec goes with pushes and pulls only, without slots; leave it out, codec is for both ways"
        yield from self._of_thresholds()
        if Zero.wire_id in (codec_by_name(self.codec).wire_id, self.row_codec_of_pull.wire_id):
            yield "the codec 'zero' sends nothing; take another"

    def _of_thresholds(self) -> Iterator[str]:
        """What does not go together with elements beyond a threshold."""
        if self.rule != "threshold":
            if self.budget_s or self.smooth:
                yield "budget_s and smooth go with elements beyond a threshold only; write 'twostep'"
            return
        if not isinstance(codec_by_name(self.codec), Thresholded):
            yield f"expected the codec 'elements', of which parts of rows travel, got {self.codec!r}; leave codec out"
        if self.granularity != "row":
            yield f"expected granularity=row, since rows travel in parts, got {self.granularity!r}; leave it out"

    @property
    def streaming(self) -> bool:
        """Rows travel all the time."""
        return self.rule == "streamed"

    @property
    def reads_own_writes(self) -> bool:
        """A worker computes from parameters that hold all of its own contributions, sent or not."""
        return self.streaming and self.anticipate != "off"

    @property
    def scheduled(self) -> bool:
        """A transfer needs a slot."""
        return self.rule == "slotted"

    @property
    def sampled(self) -> bool:
        """Each worker has parameters of its own; rows drawn at random are averaged in each iteration (5.10).

        They are the same at all workers. The others are not due: the gate does not ask for them.
        """
        return self.order == "random"

    @property
    def selects_pushed(self) -> bool:
        """Only what is beyond a threshold is pushed."""
        return self.rule == "threshold"

    @property
    def selects_pulled(self) -> bool:
        """Only what is beyond a threshold is pulled."""
        return self.rule == "threshold" and isinstance(self.row_codec_of_pull, Thresholded)

    @property
    def row_codec(self) -> Codec:
        """The codec object; with a rank, one that knows sizes only until it has a basis."""
        codec = codec_by_name(self.codec)
        return LowRank(self.rank, codec) if self.rank else codec

    @property
    def row_codec_of_pull(self) -> Codec:
        """The codec object of what workers are sent."""
        return self.row_codec if self.pull_codec is None else codec_by_name(self.pull_codec)

    @property
    def push_bound(self) -> int | None:
        """A row is pushed at most so many iterations after it was computed; ``None``: there is no bound.

        Where rows are streamed the slack is one for both directions: what the pull does not need is left (1.4).
        """
        if self.slack is None or self.sampled:
            return None
        return self.slack + 1 - self.pull_bound if self.streaming else self.slack

    @property
    def largest_slack(self) -> int:
        """What the slack may rise to."""
        return max(self.slack or 0, self.most_slack if self.auto else 0)

    @property
    def pull_bound(self) -> int:
        """A row that is owed is pulled at least once in this many pulls."""
        return math.ceil(1 / self.share_of_pull)

    @property
    def share_of_pull(self) -> float:
        """The quota of a pull, as a share of the model's bytes."""
        return self.share if self.pull_share is None else self.pull_share

    def may_start(self, iteration: int, oldest: int | None) -> bool:
        """The gate (algorithms.md 1.1): may a worker that finished ``iteration`` start the next one?

        Args:
            oldest: min of the versions over all workers and rows; ``None`` when nobody counts.
        """
        return self.slack is None or oldest is None or iteration - oldest <= self.slack

    def at_slack(self, slack: int) -> Policy:
        """This policy with another slack, and the shares that go with it; shares that a user chose stay.

        A larger slack than that of the policy leaves the shares as they are: it is there for a link that fades, and
        smaller shares would use it up beforehand, with rows that are older at all times. So this is asked of the policy
        that a team begins with: what a smaller slack has changed does not come back.
        """
        if slack == self.slack:
            return self
        if self.slack is None or slack > self.slack or (self.share, self.pull_share) != stream_shares(self.slack):
            return dataclasses.replace(self, slack=slack)
        share, pull_share = stream_shares(slack)
        return dataclasses.replace(self, slack=slack, share=share, pull_share=pull_share)

    def at_outer_lr(self, outer_lr: float) -> Policy:
        """This policy with another outer learning rate."""
        return self if outer_lr == self.outer_lr else dataclasses.replace(self, outer_lr=outer_lr)

    def code_for(self, layout: Layout, share: float, rate_bps: float, step_s: float) -> tuple[Codec, float]:
        """The code of the rows that are sent during a step of ``step_s`` seconds over a link of this rate.

        Returns:
            The code, and how many bytes all rows together may take in it; infinite: as many as they take.
        """
        codec = self.row_codec
        if self.adapt and 8 * share * codec_for(layout, codec).row_bytes(layout).sum() > rate_bps * step_s:
            return codec_by_name("elements"), ADAPTED * rate_bps * step_s / (8 * share)
        return codec, math.inf

    @property
    def whole_pushes(self) -> bool:
        """Whether every push holds all rows, so that an iteration is at the server as a whole or not at all."""
        return self.rule != "streamed" and self.share == 1

    def choose_refinement(self, layout: Layout, view: RowsToSend) -> Selection:
        """Order what the code left of rows that were sent: by value, none of it must travel."""
        return choose_refinement(self, layout, view)

    def choose_push(self, layout: Layout, view: RowsToSend) -> Selection:
        """Order the rows of a push. Overdue is what the gate would hold this very worker for (D1)."""
        if self.sampled:
            return choose_drawn(self, layout, view)
        if self.selects_pushed:
            return choose_passing(layout, view)
        return choose(self, layout, view, overdue_before=self._overdue_push(view.iteration), share=self.share)

    def choose_pull(self, layout: Layout, view: RowsToSend) -> Selection:
        """Order the rows of a pull."""
        if self.selects_pulled:
            return choose_passing(layout, view)
        return choose(self, layout, view, overdue_before=self._overdue_pull(view.iteration), share=self.share_of_pull)

    def above_push(
        self,
        eligible: npt.NDArray[np.int64],
        stamps: npt.NDArray[np.int32],
        iteration: int,
        room: float,
        threshold: Threshold | None,
    ) -> Above:
        """How much may travel of the rows that are due in a push; see :func:`rowcast.sync.threshold.above`."""
        overdue = self._overdue_push(iteration)
        return above(eligible, stamps, room=room, threshold=threshold, overdue_before=overdue, share=self.share)

    def above_pull(
        self,
        eligible: npt.NDArray[np.int64],
        stamps: npt.NDArray[np.int32],
        iteration: int,
        room: float,
        threshold: Threshold | None,
    ) -> Above:
        """The same in a pull."""
        overdue, share = self._overdue_pull(iteration), self.share_of_pull
        return above(eligible, stamps, room=room, threshold=threshold, overdue_before=overdue, share=share)

    def _overdue_push(self, iteration: int) -> int:
        """Rows last sent before this iteration must be in a push of ``iteration``; -1: none must."""
        return iteration - self.push_bound if self.push_bound is not None else -1

    def _overdue_pull(self, iteration: int) -> int:
        """The same of a pull."""
        return iteration - self.pull_bound + 1


def stream_shares(slack: int) -> tuple[float, float]:
    """Quotas of push and pull where the slack is one for both directions.

    Both directions cost the same where each worker is sent rows of its own: half of the slack for each (1.4).
    """
    pull = max((slack + 2) // 2, 1)
    push = slack + 1 - pull
    return 1 / (push + 1), 1 / pull
