"""A device as a place for vectors: its memory, a stream of its own, and the way to the host and back."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rowcast.delivery.placed import OutOfRoom
from rowcast.optim.device.chosen import Chosen, table_of
from rowcast.optim.device.plain import Plain
from rowcast.optim.device.vector import DeviceVector
from rowcast.rows import Layout

__all__ = ["DeviceHome", "home_for"]

log = logging.getLogger("rowcast")

IntArray = npt.NDArray[np.int64]


def home_for(tensors: Sequence[Tensor]) -> DeviceHome | None:
    """A home where parameters are, if that is one GPU; ``None``: their vectors lie in host memory.

    So they do where parameters are on several devices, or on a device other than CUDA; the log says it.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1 or next(iter(devices)).type != "cuda":
        found = ", ".join(sorted(map(str, devices)))
        log.warning("vectors = 'device': expected parameters on one CUDA device, got %s; vectors in host memory", found)
        return None
    return DeviceHome(devices.pop())


class DeviceHome:
    """A :class:`rowcast.delivery.placed.Home` on a device of PyTorch.

    On a GPU everything happens in a stream of its own. :meth:`behind` and :meth:`ahead` order that and the stream of
    the training loop, without waiting; the host waits only for what it is given (:meth:`download`).

    Args:
        device: the device; ``cpu`` runs the same kernels on the processor, for tests.
        kernels: which; ``None``: Triton's where they work, else those of PyTorch.
    """

    def __init__(self, device: torch.device, kernels: Plain | None = None) -> None:
        if str(device) == "cuda":  # without a number
            device = torch.device("cuda", torch.cuda.current_device())
        self.device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._all: tuple[Layout, Chosen] | None = None
        self.kernels = kernels or self._best()

    @property
    def name(self) -> str:
        """What to call it, for people."""
        return str(self.device)

    def vector(self, layout: Layout, values: npt.NDArray[np.float32]) -> DeviceVector:
        """A vector with these values.

        Raises:
            OutOfRoom: the device has no memory for it.
        """
        with self.working():
            return DeviceVector(self, layout, self.upload(values))

    # -- streams and memory ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While entered, operations go to the stream of this home, and none is recorded by autograd.

        Raises:
            OutOfRoom: the device ran out of memory.
        """
        stream: Any = contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        try:
            with torch.no_grad(), stream:
                yield
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfRoom(f"out of memory ({str(error).splitlines()[0][:160]})") from error

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """While entered, operations go to the caller's stream on this device, and none is recorded by autograd.

        Raises:
            OutOfRoom: the device ran out of memory.
        """
        device: Any = contextlib.nullcontext() if self._stream is None else torch.cuda.device(self.device)
        try:
            with torch.no_grad(), device:
                yield
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfRoom(f"out of memory ({str(error).splitlines()[0][:160]})") from error

    def behind(self) -> None:
        """What follows here comes behind what the caller's stream was given so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def ahead(self) -> None:
        """What the caller's stream is given from now on comes behind what was done here so far."""
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        """An array on the device; it may change as soon as this returns."""
        staged = torch.empty(array.shape, dtype=_TYPES[array.dtype.str[1:]], pin_memory=self._stream is not None)
        staged.numpy()[...] = array
        return staged.to(self.device, non_blocking=True)

    def download(self, tensor: Tensor) -> npt.NDArray[Any]:
        """A tensor's values in host memory; waits for them."""
        if self._stream is None:
            return np.array(tensor.numpy())
        staged = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        staged.copy_(tensor, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(self._stream)
        done.synchronize()
        return np.array(staged.numpy())

    # -- rows --------------------------------------------------------------------------------------------------

    def choose(self, layout: Layout, rows: IntArray) -> Chosen:
        """Rows as kernels take them."""
        in_a_row = len(rows) > 0 and int(rows[-1] - rows[0]) == len(rows) - 1 and bool((np.diff(rows) == 1).all())
        if in_a_row and len(rows) == layout.rows:
            return self.all_rows(layout)
        span = slice(int(layout.offsets[rows[0]]), int(layout.offsets[rows[-1] + 1])) if in_a_row else None
        return Chosen(layout.lengths[rows], self.upload(table_of(layout, rows)), span)

    def all_rows(self, layout: Layout) -> Chosen:
        """All rows of a layout, worked out once."""
        if self._all is None or self._all[0] is not layout:
            table = self.upload(table_of(layout, np.arange(layout.rows, dtype=np.int64)))
            self._all = layout, Chosen(layout.lengths, table, slice(0, layout.elements))
        return self._all[1]

    # -- kernels -----------------------------------------------------------------------------------------------

    def _best(self) -> Plain:
        """Triton's kernels where they give what PyTorch's give, else PyTorch's; the log says why."""
        if self._stream is None:
            return Plain()
        try:
            from rowcast.optim.device.fused import Fused

            kernels = Fused()
            with torch.cuda.device(self.device), self.working():
                right = _agree(self, kernels, Plain())
        except Exception as error:  # no Triton, no compiler for it, a GPU that it does not know: all are no reason
            log.info("%s: kernels of PyTorch, since those of Triton do not run: %s", self.name, error)
            return Plain()
        if not right:
            log.warning("%s: kernels of PyTorch, since those of Triton gave other bytes in a trial", self.name)
            return Plain()
        return kernels


#: By kind and size of a numpy type.
_TYPES = {"f4": torch.float32, "i8": torch.int64, "u1": torch.uint8, "f8": torch.float64}


def _agree(home: DeviceHome, kernels: Plain, others: Plain) -> bool:
    """Whether both make the same payload and leave the same of a few rows, and add it alike."""
    layout = Layout.from_shapes([("a", (37, 40)), ("b", (5, 300)), ("c", (1001,))])
    values = np.random.default_rng(0).standard_normal(layout.elements).astype(np.float32)
    chosen, outcomes = home.all_rows(layout), []
    for each in (kernels, others):
        data = home.upload(values)
        payload = each.encode(data, chosen, consume=True)
        left = data.clone()
        each.add(data, chosen, payload, -1.0)
        outcomes.append((payload, left, data))
    return all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))
