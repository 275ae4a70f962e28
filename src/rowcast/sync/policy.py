"""Policies: gate, order, quota, deadline and codec under one name.

All of them are one class with other settings, so that what is compared is the rule and nothing else (invariant
11): ``ssp:4`` is ``rog:4`` whose unit is the whole model, and ``bsp`` is that with slack 0.

A name is written ``family``, ``family:number`` or with settings behind a question mark. The number is the slack;
for the families that compute several steps between two exchanges, the number of local steps; for ``flown`` the lag::

    bsp      ssp:4      asp      flown:4      rog:20      rog:4?codec=raw&f2=0.5      localsgd:8
    diloco:30?outer_lr=0.5
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rowcast.codecs import Codec, Zero, codec_by_name, codec_for
from rowcast.errors import ConfigError, near_match
from rowcast.rows import Layout, Selection, select
from rowcast.rows.select import descending, value_per_byte
from rowcast.sync.artifact import artifact_share, select_groups
from rowcast.sync.mta import minimum_share

__all__ = ["REGISTRY", "Policy", "RowsToSend", "parse_policy", "policy_forms"]

GRANULARITIES = ("row", "tensor", "model")
MTA_RULES = ("measured", "artifact")
COUNTS = ("bytes", "groups")
PULLS = ("own", "common")
ANTICIPATIONS = ("off", "own", "team")
ORDERS = ("value", "age")
ROW_WEIGHTS = ("members", "contributors")
LOWEST_SHARE = 1e-6

#: Iterations of staleness, end to end, that the policy ``rowcast`` allows at most where no number is written.
DEFAULT_SLACK = 16
#: Iterations beyond it that a robot in an outage computes.
DEFAULT_AHEAD = 32
#: Outer momentum of ``rowcast``: in the long run a contribution moves the parameters by twice its size.
DEFAULT_MOMENTUM = 0.5


@dataclass(frozen=True)
class RowsToSend:
    """What a policy sees when it chooses rows: one direction of one worker.

    Attributes:
        eligible: rows with something to send that did not travel in this iteration, ascending int64 [k].
        stamps: iteration at which each row was last sent, int32 [rows].
        abs_sums: sum |pending or owed| of each row, float32 [rows].
        row_bytes: encoded bytes of each row, int64 [rows].
        iteration: the iteration that is being pushed or pulled.
        travelled_bytes: encoded bytes of the rows that already travelled in this iteration (before a cut).
    """

    eligible: npt.NDArray[np.int64]
    stamps: npt.NDArray[np.int32]
    abs_sums: npt.NDArray[np.float32]
    row_bytes: npt.NDArray[np.int64]
    iteration: int
    travelled_bytes: int


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
        codec: name of the codec.
        f1, f2: weights of magnitude and staleness in ROG's importance (Alg. 3).
        local_steps: optimizer steps of a worker on parameters of its own for each iteration, >= 1; their sum is
            what the iteration contributes (local SGD: McMahan et al., AISTATS 2017; Stich, ICLR 2019).
        outer_lr: factor on every contribution, > 0 (the outer learning rate of DiLoCo).
        outer_momentum: Nesterov momentum over the contributions, 0 .. below 1 (DiLoCo: Douillard et al., arXiv
            2311.08105). Above 0 a worker holds one more vector of the model's size.
        scheduled: a transfer needs a slot, which the server gives (:mod:`rowcast.sync.flown`).
        lag: S of FLOWN, >= 0: who is about so many iterations behind the newest gets a slot first.
        streaming: rows flow in both directions all the time; there is no push phase and no pull phase, and the slack
            bounds the staleness end to end (algorithms.md 1.4).
        elastic: nobody waits for a worker in an outage. Only with ``streaming``.
        ahead: so many iterations more than the slack allows are computed by a worker that is in an outage itself.
            Only with ``streaming``.
        adapt: where the link cannot carry the quota in the time of a step, rows travel in the code ``sparse``.
        refine: where the link is idle, what the code could not express travels in the code ``half``.
        anticipate: from what a worker computes: 'off', from its replica; 'own', from the replica moved by what it has
            pending, so that it reads its own writes (Ho et al., NIPS 2013); 'team', moved as far as if the others had
            the same pending. Only with ``streaming``.
        fade: a row of a contribution counts the less, the older the parameters of that row are from which it was
            computed, beyond half of the slack.
        auto: the slack adapts to the stalls and to the progress of the training, and is at most ``slack``
            (:mod:`rowcast.sync.slack`). Only with ``streaming``.
        pulls: what workers are sent: 'own', rows of each worker's own, or 'common', one stream of rows for all of
            them (algorithms.md 8.9). Only with ``streaming``.
        order: how rows beyond the quota follow: by 'value', or by 'age' as the quota does, the oldest first.
        row_weights: among whom a row counts: all 'members', or only its 'contributors', those who have sent something
            of it lately (:mod:`rowcast.training.proposal.row_weights`).
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
    scheduled: bool = False
    lag: int = 0
    pull_share: float | None = None
    mta: str = "measured"
    counts: str = "bytes"
    race: float = 0.0
    streaming: bool = False
    elastic: bool = False
    ahead: int = 0
    anticipate: str = "off"
    fade: bool = False
    adapt: bool = False
    refine: bool = False
    auto: bool = False
    pulls: str = "own"
    order: str = "value"
    row_weights: str = "members"

    def __post_init__(self) -> None:
        if self.mta not in MTA_RULES:
            raise ConfigError(f"policy {self.name!r}: unknown mta {self.mta!r}; {near_match(self.mta, MTA_RULES)}")
        if self.counts not in COUNTS:
            raise ConfigError(
                f"policy {self.name!r}: unknown counts {self.counts!r}; {near_match(self.counts, COUNTS)}"
            )
        if not 0 <= self.race <= 1:
            raise ConfigError(f"policy {self.name!r}: expected race in 0 .. 1, got {self.race}")
        if self.mta != "artifact" and (self.counts != "bytes" or self.race):
            raise ConfigError(f"policy {self.name!r}: counts and race go with compat=artifact only")
        if self.granularity not in GRANULARITIES:
            raise ConfigError(
                f"policy {self.name!r}: unknown granularity {self.granularity!r}; "
                f"{near_match(self.granularity, GRANULARITIES)}"
            )
        for share in (self.share, self.share_of_pull):
            if not LOWEST_SHARE <= share <= 1:
                raise ConfigError(f"policy {self.name!r}: expected a share in {LOWEST_SHARE:g} .. 1, got {share}")
        if self.order not in ORDERS:
            raise ConfigError(f"policy {self.name!r}: unknown order {self.order!r}; {near_match(self.order, ORDERS)}")
        if self.row_weights not in ROW_WEIGHTS:
            raise ConfigError(
                f"policy {self.name!r}: unknown row_weights {self.row_weights!r}; "
                f"{near_match(self.row_weights, ROW_WEIGHTS)}"
            )
        if self.order != "value" and self.mta == "artifact":
            raise ConfigError(f"policy {self.name!r}: the order of the artifact is its own; leave order or compat out")
        for key in ("f1", "f2"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) >= 0):
                raise ConfigError(f"policy {self.name!r}: expected {key} >= 0, got {getattr(self, key)}")
        if self.local_steps < 1:
            raise ConfigError(f"policy {self.name!r}: expected 1 local step or more, got {self.local_steps}")
        if not (math.isfinite(self.outer_lr) and self.outer_lr > 0):
            raise ConfigError(f"policy {self.name!r}: expected outer_lr > 0, got {self.outer_lr}")
        if self.ahead < 0:
            raise ConfigError(f"policy {self.name!r}: expected ahead >= 0, got {self.ahead}")
        if self.anticipate not in ANTICIPATIONS:
            raise ConfigError(
                f"policy {self.name!r}: unknown anticipate {self.anticipate!r}; "
                f"{near_match(self.anticipate, ANTICIPATIONS)}"
            )
        anticipates = self.anticipate != "off"
        own = (self.elastic, self.ahead, anticipates, self.fade, self.adapt, self.refine, self.auto)
        if not self.streaming and any(own):
            raise ConfigError(
                f"policy {self.name!r}: elastic, ahead, anticipate, fade, adapt, refine and auto go with 'rowcast' only"
            )
        if self.pulls not in PULLS:
            raise ConfigError(f"policy {self.name!r}: unknown pulls {self.pulls!r}; {near_match(self.pulls, PULLS)}")
        if not self.streaming and self.pulls != "own":
            raise ConfigError(f"policy {self.name!r}: pulls=common goes with 'rowcast' only")
        if not 0 <= self.outer_momentum < 1:
            raise ConfigError(
                f"policy {self.name!r}: outer_momentum must be in 0 .. below 1, got {self.outer_momentum}"
            )
        if codec_by_name(self.codec).wire_id == Zero.wire_id:
            raise ConfigError(f"policy {self.name!r}: the codec 'zero' sends nothing; take another")

    @property
    def row_codec(self) -> Codec:
        """The codec object."""
        return codec_by_name(self.codec)

    @property
    def push_bound(self) -> int | None:
        """A row is pushed at most so many iterations after it was computed; ``None``: there is no bound.

        Where rows are streamed the slack is one for both directions: what the pull does not need is left (1.4).
        """
        return self.slack if self.slack is None or not self.streaming else self.slack + 1 - self.pull_bound

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
        """This policy with another slack, and the shares that go with it; shares that a user chose stay."""
        if slack == self.slack:
            return self
        if self.slack is None or (self.share, self.pull_share) != _stream_shares(self.slack):
            return dataclasses.replace(self, slack=slack)
        share, pull_share = _stream_shares(slack)
        return dataclasses.replace(self, slack=slack, share=share, pull_share=pull_share)

    def weights_of(self, lags: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Factor on each row of a contribution (algorithms.md 8.4), float32 [rows].

        1 up to half of the slack, then inversely proportional to the lag (Zhang et al., IJCAI 2016).

        Args:
            lags: int32 [rows], so many of the last iterations the parameters lack from which it was computed.
        """
        if not self.fade:
            return np.ones(len(lags), dtype=np.float32)
        usual = np.float32(max((self.slack or 0) / 2, 1.0))
        return np.divide(usual, np.maximum(lags, usual), dtype=np.float32)

    def code_for(self, layout: Layout, share: float, rate_bps: float, step_s: float) -> Codec:
        """The code of the rows that are sent during a step of ``step_s`` seconds over a link of this rate."""
        codec = self.row_codec
        if self.adapt and 8 * share * codec_for(layout, codec).row_bytes(layout).sum() > rate_bps * step_s:
            return codec_by_name("sparse")
        return codec

    def choose_refinement(self, layout: Layout, view: RowsToSend) -> Selection:
        """Order what the code left of rows that were sent: by value, none of it must travel."""
        return Selection(descending(view.eligible, self._values(layout, view)), 0)

    def choose_push(self, layout: Layout, view: RowsToSend) -> Selection:
        """Order the rows of a push. Overdue is what the gate would hold this very worker for (D1)."""
        overdue = view.iteration - self.push_bound if self.push_bound is not None else -1
        return self._choose(layout, view, overdue, self.share)

    def choose_pull(self, layout: Layout, view: RowsToSend) -> Selection:
        """Order the rows of a pull."""
        return self._choose(layout, view, view.iteration - self.pull_bound + 1, self.share_of_pull)

    def _choose(self, layout: Layout, view: RowsToSend, overdue_before: int, share: float) -> Selection:
        total = int(view.row_bytes.sum())
        if self.mta == "artifact":
            means = view.abs_sums / layout.lengths
            return select_groups(
                view.eligible,
                view.stamps,
                means,
                view.row_bytes,
                quota_bytes=share * total,
                quota_rows=share * layout.rows if self.counts == "groups" else None,
            )
        quota = share * total + (int(view.row_bytes.max()) if share < 1 else 0)
        return select(
            view.eligible,
            view.stamps,
            self._importance(layout, view),
            view.row_bytes,
            quota_bytes=min(quota, total) - view.travelled_bytes,
            overdue_before=overdue_before,
            units=self._units(layout),
        )

    def _importance(self, layout: Layout, view: RowsToSend) -> npt.NDArray[np.float32] | None:
        """ROG Alg. 3: f1 * magnitude + f2 * staleness; ``None`` where the rest stays oldest-first.

        The magnitude of a row is its mean |.|, in units of the mean over the rows that may travel: the largest
        row would flatten all others.
        """
        if self.order == "age":
            return None
        if self.streaming:
            return self._values(layout, view)
        if not self.speculative or len(view.eligible) == 0:
            return None
        means = view.abs_sums / layout.float_lengths
        chosen = means if len(view.eligible) == len(means) else means[view.eligible]
        typical = float(chosen.sum() / np.float32(len(chosen)))
        scale = self.f1 / typical if typical > 0 and math.isfinite(typical) else 0.0
        ages = (view.iteration - view.stamps).astype(np.float32)
        importance = means * np.float32(scale) + np.maximum(ages, 0) * np.float32(self.f2)
        return importance.astype(np.float32, copy=False)

    def _values(self, layout: Layout, view: RowsToSend) -> npt.NDArray[np.float32]:
        """The value of a byte of each row, more with age (algorithms.md 2.1)."""
        ages = view.iteration - view.stamps
        return value_per_byte(layout.lengths, view.abs_sums, view.row_bytes, ages, self.slack or 1)

    def _units(self, layout: Layout) -> npt.NDArray[np.int64] | None:
        if self.granularity == "row":
            return None
        if self.granularity == "tensor":
            return layout.tensor_rows
        return np.array([0, layout.rows], dtype=np.int64)


def _compat(policy: Policy, value: object) -> Policy:
    """The policy with the rules of the software that ``value`` names."""
    if value != "artifact":
        raise ConfigError(f"policy {policy.name!r}: unknown compat {value!r}; {near_match(str(value), ('artifact',))}")
    if not policy.speculative or policy.slack is None:
        raise ConfigError(f"policy {policy.name!r}: compat=artifact goes with 'rog:S' only")
    share = artifact_share(policy.slack)
    return dataclasses.replace(policy, share=share, mta="artifact", counts="groups")


def _bsp(name: str, slack: int | None) -> Policy:
    if slack not in (None, 0):
        raise ConfigError(f"policy {name!r}: bsp takes no number; write 'bsp', or 'ssp:{slack}' for slack {slack}")
    return Policy(name, 0, 1.0, granularity="model")


def _ssp(name: str, slack: int | None) -> Policy:
    return Policy(name, _needed(name, slack), 1.0, granularity="model")


def _asp(name: str, slack: int | None) -> Policy:
    if slack is not None:
        raise ConfigError(f"policy {name!r}: asp takes no number; write 'asp'")
    return Policy(name, None, 1.0, granularity="model")


def _rog(name: str, slack: int | None) -> Policy:
    threshold = _needed(name, slack)
    return Policy(name, threshold, minimum_share(threshold), speculative=True)


def _rowcast(name: str, slack: int | None) -> Policy:
    bound = DEFAULT_SLACK if slack is None else slack
    if not bound:
        raise ConfigError(f"policy {name!r}: expected a slack of 1 or more; with 0 nothing can overlap, write 'bsp'")
    share, pull_share = _stream_shares(bound)
    return Policy(
        name,
        bound,
        share,
        pull_share=pull_share,
        streaming=True,
        elastic=True,
        ahead=DEFAULT_AHEAD,
        anticipate="team",
        fade=True,
        adapt=True,
        refine=True,
        auto=slack is None,
        outer_momentum=DEFAULT_MOMENTUM,
    )


def _stream_shares(slack: int) -> tuple[float, float]:
    """Quotas of push and pull where the slack is one for both directions.

    Both directions cost the same where each worker is sent rows of its own: half of the slack for each (1.4).
    """
    pull = max((slack + 2) // 2, 1)
    push = slack + 1 - pull
    return 1 / (push + 1), 1 / pull


def _flown(name: str, lag: int | None) -> Policy:
    # The gate is open: FLOWN bounds no staleness (algorithms.md 4).
    return Policy(name, None, 1.0, granularity="model", scheduled=True, lag=_needed(name, lag))


def _localsgd(name: str, steps: int | None) -> Policy:
    return Policy(name, 0, 1.0, granularity="model", local_steps=_steps(name, steps))


def _diloco(name: str, steps: int | None) -> Policy:
    # The outer learning rate and momentum are those that the paper recommends.
    policy = _localsgd(name, steps)
    return dataclasses.replace(policy, outer_lr=0.7, outer_momentum=0.9)


def _steps(name: str, steps: int | None) -> int:
    if not steps:
        raise ConfigError(
            f"policy {name!r}: expected a number of local steps, 1 or more, behind a colon, for example "
            f"'{name.partition(':')[0]}:8'"
        )
    return steps


def _needed(name: str, slack: int | None) -> int:
    if slack is None:
        raise ConfigError(f"policy {name!r}: expected a slack behind a colon, for example '{name}:4'")
    return slack


#: Every policy family: takes the whole name and the number behind the colon, if one was written.
REGISTRY: dict[str, Callable[[str, int | None], Policy]] = {
    "bsp": _bsp,
    "ssp": _ssp,
    "asp": _asp,
    "flown": _flown,
    "localsgd": _localsgd,
    "diloco": _diloco,
    "rog": _rog,
    "rowcast": _rowcast,
}


def _switch(text: str) -> bool:
    """'on' or 'off'."""
    if text not in ("on", "off"):
        raise ValueError(text)
    return text == "on"


_EXAMPLES = ("bsp", "ssp:4", "asp", "flown:4", "localsgd:8", "diloco:8", "rog:4")
_OPTIONS: dict[str, Callable[[str], object]] = {
    "codec": str,
    "granularity": str,
    "order": str,
    "share": float,
    "pull_share": float,
    "f1": float,
    "f2": float,
    "outer_lr": float,
    "outer_momentum": float,
    "mta": str,
    "counts": str,
    "race": float,
    "compat": str,
    "elastic": _switch,
    "ahead": int,
    "anticipate": str,
    "fade": _switch,
    "adapt": _switch,
    "refine": _switch,
    "auto": _switch,
    "pulls": str,
    "row_weights": str,
}


def policy_forms() -> str:
    """How each registered family is written, on one line: ``bsp, ssp:S, ..., rowcast or rowcast:S``.

    S stands for a slack, H for local steps.
    """
    forms = []
    for family, build in REGISTRY.items():
        for text, number in ((family, None), (f"{family}:4", 4)):
            with contextlib.suppress(ConfigError):
                policy = build(text, number)
                letter = "H" if policy.local_steps > 1 else "S"
                forms.append(family if number is None else f"{family}:{letter}")
    return f"{', '.join(forms[:-1])} or {forms[-1]}"


def parse_policy(text: str) -> Policy:
    """The policy that a name stands for.

    Raises:
        ConfigError: unknown family or option (with a near match), or a value out of range.
    """
    head, _, options = text.strip().partition("?")
    family, colon, number = head.partition(":")
    if family not in REGISTRY:
        raise ConfigError(f"unknown policy {text!r}; {near_match(head, _EXAMPLES)}")
    if colon and not (number.isascii() and number.isdigit() and int(number) <= 10_000):
        raise ConfigError(f"policy {text!r}: expected a whole number in 0 .. 10000 behind the colon, got {number!r}")
    policy = REGISTRY[family](head, int(number) if colon else None)
    changes: dict[str, object] = {"name": text.strip()}
    for option in filter(None, options.split("&")):
        key, equals, value = option.partition("=")
        if key not in _OPTIONS or not equals:
            raise ConfigError(f"policy {text!r}: unknown option {option!r}; {near_match(key, _OPTIONS)}")
        try:
            changes[key] = _OPTIONS[key](value)
        except ValueError as error:
            wanted = "'on' or 'off'" if _OPTIONS[key] is _switch else "a number"
            raise ConfigError(f"policy {text!r}: {key}: expected {wanted}, got {value!r}") from error
    if "compat" in changes:
        policy = _compat(policy, changes.pop("compat"))
    return dataclasses.replace(policy, **changes)  # type: ignore[arg-type]
