"""The buffers of a model: which of them travel, what this worker makes of them, and which of the others move.

A forward pass moves buffers. What it moves them by is contributed like the step of an optimizer, and the team's value
moves by the average: that of a running mean is then the average of the running means of all workers.

Between two steps a buffer holds what this worker has made of it since something arrived for it. It is not put back to
the replica at each step: while its rows are on their way, the same way would be gone again and again from the same
place, and further than there is to go. What has been sent and is on its way back is in neither; where rows are
streamed that is several steps, and running statistics, which training does not read, approach the team's only slowly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rowcast.errors import ConfigError, LocalProtocolError, near_match
from rowcast.optim.shared import Shared
from rowcast.optim.tensors import from_host_, rounded
from rowcast.rows import Layout, TensorSpec
from rowcast.rows.half_rows import HalfRows

__all__ = ["RULES", "Buffers"]

#: What may be written for ``buffers=``.
RULES = ("average", "first", "local")

#: Leaf names of the running statistics of normalisation layers: what travels where nothing is asked for.
_STATISTICS = ("running_mean", "running_var")

#: Leaf names of buffers that are never below zero.
_NOT_NEGATIVE = ("running_var",)

#: How far running statistics go towards the team's value that arrived, where rows are streamed. With 1, and steps much
#: faster than a round trip, they overshoot, and the held-out loss is higher than with the mean of the workers'
#: statistics. Who comes new or comes back is one of the others within 1 / this.
_APPROACH = np.float32(0.1)

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Place:
    """Where a buffer is: looked up each time, since code may put another tensor there."""

    name: str
    module: nn.Module
    leaf: str

    def tensor(self) -> Tensor | None:
        return self.module._buffers.get(self.leaf)


class Buffers:
    """The buffers of a model in a team.

    Args:
        model: the model.
        rule: one of :data:`RULES` for all persistent floating-point buffers; ``None`` averages running statistics and
            leaves the others where they are.

    Raises:
        ConfigError: an unknown rule, or a buffer that should travel and cannot.
    """

    def __init__(self, model: nn.Module, rule: str | None) -> None:
        if rule is not None and rule not in RULES:
            raise ConfigError(f"buffers: {rule!r} is unknown; {near_match(str(rule), RULES)}")
        self._first = rule == "first"
        self._travelling: list[_Place] = []
        staying: list[_Place] = []
        for place in _places(model):
            tensor = place.tensor()
            if tensor is None or not (tensor.is_floating_point() or tensor.is_complex()):
                continue  # counters: each worker's own
            lasting = tensor.is_floating_point() and place.leaf not in place.module._non_persistent_buffers_set
            asked = rule in ("average", "first") or (rule is None and place.leaf in _STATISTICS)
            if lasting and asked and (_has_no_shape(tensor) or tensor.numel()):
                _check_kind(place, tensor)
                self._travelling.append(place)
            else:
                staying.append(place)
        self._watch = _Watch(staying)
        self._specs: tuple[TensorSpec, ...] = ()
        self._lengths = np.zeros(0, dtype=np.int64)
        self._bases: list[Vector] = []  # the values of which the team has been told
        self._seen: list[Vector] = []  # the replica's values when they were looked at last
        self._shown: list[Tensor] | None = None  # what is put away while the replica is shown

    def join(self, shared: Shared) -> Layout:
        """The layout of these parameters and of the buffers that travel, behind them."""
        if not self._travelling:
            return shared.layout
        shapes = [(spec.name, spec.shape) for spec in shared.layout.tensors]
        shapes += [(place.name, tuple(_present(place).shape)) for place in self._travelling]
        layout = Layout.from_shapes(
            shapes, buffers=len(self._travelling), buffer_rule="first" if self._first else "average"
        )
        self._specs = layout.tensors[len(shared.layout.tensors) :]
        self._lengths = layout.lengths
        return layout

    def tensors(self) -> list[Tensor]:
        """The buffers that travel, as they are now, in layout order."""
        return [self._current(k) for k in range(len(self._specs))]

    def moving(self) -> list[str]:
        """Names of buffers that do not travel and have been moved by training, each told once."""
        return self._watch.moved()

    # -- what this worker contributes --------------------------------------------------------------------------

    def proposal(self, now: Sequence[Vector], weight: float, *, leads: bool) -> tuple[list[Vector], list[Vector]]:
        """From where each buffer counts, the value of which the team has been told, and what is proposed for it.

        Args:
            now: what they hold, flat float32.
            weight: the averaging weight that it will be multiplied by.
            leads: what the first worker makes of them counts in full, and that of the others not at all.
        """
        share = 1.0 if not self._first else 1.0 / weight if leads else 0.0
        values = []
        for value, base in zip(now, self._bases, strict=True):
            if not share or not np.isfinite(value).all():
                value = base
            elif share != 1.0:
                value = base + np.float32(share) * (value - base)
            values.append(value)
        return list(self._bases), values

    def proposed(self, now: Sequence[Vector]) -> None:
        """The team has been told that they are this."""
        self._bases = [value.copy() for value in now]

    # -- what the model holds ----------------------------------------------------------------------------------

    def fill(
        self,
        now: Sequence[Vector],
        replica: Vector,
        beyond: tuple[Vector | HalfRows, Vector] | None = None,
        *,
        leads: bool = False,
        everything: bool = False,
        whole: bool = False,
    ) -> None:
        """Put what arrived into the model, for the next forward pass.

        Args:
            now: what they hold, flat float32.
            replica: float32 [elements].
            beyond: what this worker has computed and not sent, and how often that counts; as in ``TeamLike``.
            leads: as in :meth:`proposal`.
            everything: whether or not anything arrived.
            whole: running statistics go all the way to what arrived, though something counts beyond the replica.
        """
        everything = everything or not self._bases or (self._first and not leads)
        bases, seen = [], []
        for k, spec in enumerate(self._specs):
            part = slice(spec.start, spec.stop)
            arrived, held = replica[part].copy(), now[k]
            seen.append(arrived)
            finite = bool(np.isfinite(held).all())
            if finite and not everything and np.array_equal(arrived, self._seen[k]):
                bases.append(self._bases[k])
                continue
            value = arrived
            if beyond is not None:
                times = np.repeat(
                    beyond[1][spec.first_row : spec.end_row], self._lengths[spec.first_row : spec.end_row]
                )
                value = value - (np.float32(1.0) if self._first else times) * beyond[0][part]
                if finite and not (everything or whole) and self._travelling[k].leaf in _STATISTICS:
                    value = held + _APPROACH * (value - held)
            bases.append(self._write(k, self._current(k), value))
        self._bases, self._seen = bases, seen

    def show(self, replica: Vector) -> None:
        """Put the replica's values into the model, until :meth:`restore`."""
        if self._shown is None:
            self._shown = [tensor.detach().clone() for tensor in self.tensors()]
        for k, spec in enumerate(self._specs):
            self._write(k, self._current(k), replica[spec.start : spec.stop])

    def restore(self) -> None:
        """Put back what :meth:`show` has put away."""
        shown, self._shown = self._shown, None
        with torch.no_grad():
            for k, value in enumerate(shown or ()):
                self._current(k).copy_(value)

    def _write(self, k: int, tensor: Tensor, value: Vector) -> Vector:
        """Write a value; what a proposal counts from: what is in the tensor now, rounded to its type.

        Contributions from old values can bring a variance below zero for a while. It is written as zero, and the next
        contribution counts from where it really is.
        """
        below = value < 0 if self._travelling[k].leaf in _NOT_NEGATIVE else None
        if below is None or not below.any():
            from_host_(tensor, value, wait=False)
            return rounded(value, tensor.dtype)
        written = np.maximum(value, np.float32(0))
        from_host_(tensor, written, wait=False)
        return np.where(below, value, rounded(written, tensor.dtype))

    def _current(self, k: int) -> Tensor:
        place, spec = self._travelling[k], self._specs[k]
        tensor = _present(place)
        if tuple(tensor.shape) != spec.shape or not tensor.is_floating_point():
            raise LocalProtocolError(
                f"buffer {place.name!r}: the team agreed on floating-point numbers of shape {spec.shape}, the model "
                f"has {tensor.dtype} of {tuple(tensor.shape)}; give it its last shape before the Optimizer is made, or "
                "register it with persistent=False"
            )
        return tensor


class _Watch:
    """Notices buffers that move.

    Counting the writes is cheap, and misses those that go past autograd (``buffer.data.mul_(...)``). So all values are
    looked at as well: at the first step, and then at fewer and fewer.
    """

    def __init__(self, places: Sequence[_Place]) -> None:
        self._places = {place.name: place for place in places}
        self._digests = {name: _digest(place.tensor()) for name, place in self._places.items()}
        self._writes = {name: _writes(place.tensor()) for name, place in self._places.items()}
        self._steps = 0

    def moved(self) -> list[str]:
        if not self._places:
            return []
        self._steps += 1
        look = self._steps & (self._steps - 1) == 0  # 1, 2, 4, 8, ...
        moved = []
        for name, place in self._places.items():
            tensor = place.tensor()
            writes = _writes(tensor)
            counts = place.leaf in _STATISTICS and place.module.training
            if look or counts or writes != self._writes[name]:
                self._writes[name] = writes
                if _digest(tensor) != self._digests[name]:
                    moved.append(name)
        for name in moved:
            del self._places[name], self._digests[name], self._writes[name]
        return moved


def _places(model: nn.Module) -> Iterator[_Place]:
    """Every buffer once, by the name that ``named_buffers`` has for it."""
    known: set[int] = set()
    for prefix, module in model.named_modules():
        for leaf, tensor in module._buffers.items():
            if tensor is not None and id(tensor) not in known:
                known.add(id(tensor))
                name = f"{prefix}.{leaf}" if prefix else leaf
                yield _Place(name.replace("_orig_mod.", ""), module, leaf)


def _present(place: _Place) -> Tensor:
    tensor = place.tensor()
    if tensor is None:
        raise LocalProtocolError(f"buffer {place.name!r}: the team agreed on it, but the model has none there any more")
    return tensor


def _has_no_shape(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.parameter.UninitializedBuffer)


def _check_kind(place: _Place, tensor: Tensor) -> None:
    advice = "or pass buffers='local' to leave all buffers to each worker"
    if _has_no_shape(tensor):
        raise ConfigError(
            f"buffers: {place.name!r} has no shape yet; run the model once before joining the team, {advice}"
        )
    if tensor.device.type == "meta":
        raise ConfigError(f"buffers: {place.name!r} is on the meta device, without values; give it storage, {advice}")
    if tensor.layout is not torch.strided:
        raise ConfigError(f"buffers: {place.name!r} is {tensor.layout}; only dense buffers travel, {advice}")


def _writes(tensor: Tensor | None) -> tuple[int, int]:
    """Changes when another tensor is put in the place of a buffer, or one is written through autograd."""
    if tensor is None or _has_no_shape(tensor) or tensor.is_inference():
        return id(tensor), 0
    return id(tensor), tensor._version


def _digest(tensor: Tensor | None) -> bytes:
    if tensor is None or _has_no_shape(tensor) or tensor.device.type == "meta" or tensor.layout is not torch.strided:
        return b""
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    with torch.no_grad():
        values = plain.detach().to(device="cpu", dtype=torch.float64).contiguous().numpy()
    return hashlib.blake2b(values.data, digest_size=16).digest()
