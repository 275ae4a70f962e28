"""What a worker holds of the model in memory, and with what it does where that is more than it may take.

Counted is what Rowcast itself holds: vectors of the model's size, and some numbers for each row. Python, PyTorch, the
model, its gradients, the inner optimizer and the frames on their way come on top.

With a limit, a worker that would exceed it does first without one vector, where the policy has one that can be spared
(algorithms.md 8.13); what it contributes has the same bits:

- Where gradients are computed from the expected parameters, these are not kept: they are made anew for each gradient,
  from the frames that were sent (:class:`~rowcast.training.proposal.sent_writes.SentWrites`).
- Where the replica stands still while a gradient is computed, the training loop counts its step from the replica and
  keeps no copy of what was written into the model.

Where that does not suffice, what is pending is held in half precision as well, which rounds (algorithms.md 8.14;
:class:`~rowcast.delivery.half_residual.HalfResidual`). Some policies need more of it than rows that are expanded, a
group at a time, and are not offered that: those with an outer momentum, with factors (``rank``), with rows that are
drawn at random (``sampled``), with a threshold over all elements, and with a code that is fitted to a vector in one
piece only. Nor are layouts without content, and workers below a relay.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rowcast.codecs import codec_by_name
from rowcast.codecs.base import Pieced, fitting
from rowcast.delivery.half_residual import expanded_elements
from rowcast.errors import ConfigError
from rowcast.rows import Layout
from rowcast.rows.half_rows import half_bytes
from rowcast.sync import Policy
from rowcast.training.rules.factored import Forms

__all__ = ["KEPT_SHARE", "ROW_BYTES", "Loop", "Part", "Plan", "can_be_half", "plan", "stands_still"]

#: Numbers that a worker keeps for each row: offsets and lengths (24), sums, stamps and the audit (21), sizes in a code
#: and the order in which rows travel (24), and what the kernels know of its place in a tensor, three times (48).
ROW_BYTES = 117
#: Frames that were sent are kept up to this part of a vector, where the expected parameters are made from them.
KEPT_SHARE = 8
#: Rules with which rows arrive in an exchange, and at no other time unless the worker joins anew.
_STILL = ("phased", "slotted", "factored")
#: Rules that take rows of what is pending, one group after the other.
_EXPANDED = ("phased", "slotted", "streamed")


@dataclass(frozen=True)
class Loop:
    """What the training loop holds beside its worker.

    Attributes:
        copies: vectors of the model's size, such as what was written into the model.
        spares: one of them is what was written into the model, and the replica will do where that is the same.
    """

    copies: int = 0
    spares: bool = False


@dataclass(frozen=True)
class Part:
    """Something that is held, and its bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Plan:
    """What a worker holds.

    Attributes:
        layout: of the model.
        parts: what is held.
        small: it does without a vector.
        half: what is pending is held in half precision.
    """

    layout: Layout
    parts: tuple[Part, ...]
    small: bool = False
    half: bool = False

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    def __str__(self) -> str:
        parts = ", ".join(f"{part.name} {_megabytes(part.size)}" for part in self.parts)
        return f"{_megabytes(self.size)} MB for rows of {_count(self.layout)} parameters: {parts}"


def plan(
    layout: Layout,
    policy: Policy,
    loop: Loop,
    *,
    limit_mb: float | None,
    keeps_state: bool,
    relayed: bool = False,
) -> Plan:
    """What a worker is to hold: as much as is useful.

    Where that exceeds its limit, one vector less, and where that does as well, what is pending in half precision.

    Args:
        layout: of the model.
        policy: the team's policy.
        loop: what the training loop holds.
        limit_mb: most that all parts may take together (MB, millions of bytes); ``None``: no limit.
        keeps_state: pictures of the worker are written into a folder. They are float32 in any case.
        relayed: it is below a relay.

    Raises:
        ConfigError: it exceeds the limit in any of these ways.
    """
    least = Plan(layout, tuple(_parts(layout, policy, loop, keeps_state)))
    if limit_mb is None or least.size <= 1e6 * limit_mb:
        return least
    ways = [(True, False)]
    if not relayed and can_be_half(layout, policy):
        ways += [(False, True), (True, True)]
    for small, half in ways:
        parts = tuple(_parts(layout, policy, loop, keeps_state, small=small, half=half))
        if sum(part.size for part in parts) < least.size:
            least = Plan(layout, parts, small, half)
        if least.size <= 1e6 * limit_mb:
            return least
    raise ConfigError(
        f"memory_mb: expected at least {_megabytes(least.size)} with the policy {policy.name!r}, got {limit_mb:g} "
        f"({least}); allow more, take a smaller model, or let the team take a policy with which a worker holds less"
    )


def can_be_half(layout: Layout, policy: Policy) -> bool:
    """Whether what is pending can be held in half precision."""
    needs_more = policy.outer_momentum > 0 or policy.rank > 0 or policy.sampled or policy.rule not in _EXPANDED
    codec = codec_by_name(policy.codec)
    fitted_whole = fitting(codec) is not None and not isinstance(codec, Pieced)
    return not (needs_more or fitted_whole or layout.is_timing_only)


def stands_still(policy: Policy) -> bool:
    """Whether the replica is what a gradient is computed from, and stays so until the next exchange."""
    return policy.rule in _STILL and policy.anticipate == "off"


def _parts(
    layout: Layout, policy: Policy, loop: Loop, keeps_state: bool, *, small: bool = False, half: bool = False
) -> Iterator[Part]:
    vector = 4 * layout.elements
    yield Part("replica", vector)
    if half:
        # Beside it, when rows travel, how many elements they have together.
        yield Part("pending in half precision", half_bytes(layout) + 8 * layout.rows)
        yield Part("rows of it expanded", 4 * expanded_elements(layout))
    else:
        yield Part("pending", vector)
    if policy.outer_momentum > 0:
        yield Part("outer momentum", vector)
    if policy.reads_own_writes and not layout.is_timing_only:
        if small:
            yield Part("own frames at most", vector // KEPT_SHARE)
        else:
            yield Part("expected parameters", vector)
    copies = loop.copies - (1 if small and loop.spares and stands_still(policy) else 0)
    if copies > 0:
        yield Part("copies in the training loop", copies * vector)
    if policy.rank:
        yield Part("factors", _factor_bytes(layout, policy))
    if keeps_state:
        yield Part("a picture for state_dir", (3 if policy.outer_momentum > 0 else 2) * vector)
    yield Part(f"numbers for {layout.rows:,} rows", ROW_BYTES * layout.rows)


def _factor_bytes(layout: Layout, policy: Policy) -> int:
    """Left factors of this iteration and the next, the sketch and the basis, and where each row is in them."""
    forms = Forms(layout, policy)
    basis = 0 if forms.basis_layout is None else forms.basis_layout.elements
    return 4 * 2 * (forms.factors.left_elements + basis) + 32 * layout.rows


def _megabytes(size: int) -> str:
    """Millions of bytes to three digits, rounded up, so that what is asked for suffices."""
    megabytes = size / 1e6
    digits = max(0, 3 - len(str(int(megabytes))))
    steps = 10**digits
    return f"{-(-size * steps // 10**6) / steps:.{digits}f}"


def _count(layout: Layout) -> str:
    """Parameters (and buffers), in millions from one million on."""
    elements = int(layout.lengths.sum())
    return f"{elements / 1e6:.1f} M" if elements >= 10**6 else f"{elements:,}"
