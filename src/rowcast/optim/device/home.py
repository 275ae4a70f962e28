"""A device as a place for vectors: its memory, a stream of its own, and the way to the host and back."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rowcast.errors import ConfigError
from rowcast.optim.device.chosen import Chosen, chosen_of
from rowcast.optim.device.vector import DeviceVector
from rowcast.optim.tensors import fetched, to_device
from rowcast.rows import Layout

__all__ = ["DeviceHome", "home_for"]

IntArray = npt.NDArray[np.int64]
T = TypeVar("T")


def home_for(tensors: Sequence[Tensor]) -> DeviceHome:
    """A home where parameters are.

    Raises:
        ConfigError: they are not all on one CUDA device.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1 or next(iter(devices)).type != "cuda":
        raise ConfigError(
            "vectors = 'device': expected all parameters that travel on one CUDA device, got "
            f"{', '.join(sorted(map(str, devices)))}; move the model before the optimizer is made, or set "
            "vectors = 'host'"
        )
    return DeviceHome(devices.pop())


class DeviceHome:
    """A :class:`rowcast.delivery.placed.Home` on a device of PyTorch.

    On a GPU everything happens in a stream of its own. :meth:`behind` and :meth:`ahead` order that and the stream of
    the training loop, without waiting; the host waits only for what it is given (:meth:`download`).

    Memory that one stream has given back may be written by that stream at once, whatever others still read. So whoever
    reads a tensor of the other stream orders the two before and behind it, or waits until the reading is done:
    :meth:`DeviceView.fill <rowcast.optim.device.view.DeviceView.fill>` the one, an update the other.

    When the device has no memory left, all vectors go to host memory, what was being done is done there, and the same
    operations of PyTorch go on there until the worker takes the vectors back (:attr:`full`).

    Args:
        device: the device; ``cpu`` does the same on the processor, for tests.

    Attributes:
        name: what to call it, for people.
        device: where the vectors are now.
        full: why they are in host memory; empty: they are where they were made.
    """

    def __init__(self, device: torch.device) -> None:
        if str(device) == "cuda":  # without a number
            device = torch.device("cuda", torch.cuda.current_device())
        self.name = str(device)
        self.device = device
        self.full = ""
        self._stream = None if device.type != "cuda" else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._vectors: weakref.WeakSet[DeviceVector] = weakref.WeakSet()
        self._all: tuple[Layout, Chosen] | None = None

    def vector(self, layout: Layout, values: npt.NDArray[np.float32]) -> DeviceVector:
        """A vector with these values; see :class:`rowcast.delivery.placed.Home`."""
        vector = DeviceVector(self, layout, self.do(lambda: self.upload(values)))
        self._vectors.add(vector)
        return vector

    # -- streams and memory ------------------------------------------------------------------------------------

    def do(self, work: Callable[[], T]) -> T:
        """Do something in the stream of this home; once more, in host memory, where the device has no memory for it.

        That moves all vectors: call it where nobody else works on one, on the worker's thread or in ``still()``. What
        changes a vector does so at its end, with memory that it has by then.
        """
        try:
            with self.working():
                return work()
        except torch.cuda.OutOfMemoryError as error:
            if self.full:
                raise
            self._leave(error)
        with self.working():
            return work()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While entered, operations go to the stream of this home, and none is recorded by autograd."""
        stream: Any = contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with torch.no_grad(), stream:
            yield

    def _leave(self, error: torch.cuda.OutOfMemoryError) -> None:
        with self.working():
            for vector in self._vectors:
                vector.data = torch.from_numpy(self.download(vector.data))
        self.full = f"out of memory ({str(error).splitlines()[0][:160]})"
        self.device, self._stream, self._all = torch.device("cpu"), None, None

    def behind(self) -> None:
        """What follows here comes behind what the caller's stream was given so far."""
        stream = self._stream  # once: another thread may take the vectors to host memory
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(stream.device))

    def ahead(self) -> None:
        """What the caller's stream is given from now on comes behind what was done here so far."""
        stream = self._stream
        if stream is not None:
            torch.cuda.current_stream(stream.device).wait_stream(stream)

    def upload(self, array: npt.NDArray[Any]) -> Tensor:
        """An array on the device; see :func:`rowcast.optim.tensors.to_device`."""
        return to_device(array, self.device)

    def download(self, tensor: Tensor) -> npt.NDArray[Any]:
        """A tensor's values in host memory, as an array of its own; waits for them."""
        self._finish(tensor)
        return fetched([tensor])[0]

    def here(self, tensor: Tensor) -> Tensor:
        """The tensor where the vectors are now."""
        if tensor.device == self.device:
            return tensor
        self._finish(tensor)
        return tensor.to(self.device)

    def _finish(self, tensor: Tensor) -> None:
        if tensor.is_cuda and self._stream is None:  # made before the memory was full, in whatever stream
            torch.cuda.synchronize(tensor.device)

    # -- rows --------------------------------------------------------------------------------------------------

    def choose(self, layout: Layout, rows: IntArray, only: npt.NDArray[np.bool_] | None = None) -> Chosen:
        """Rows as kernels take them; all of a layout are worked out once."""
        everything = only is None and len(rows) == layout.rows and bool((rows[1:] > rows[:-1]).all())
        if everything and self._all is not None and self._all[0] is layout:
            return self._all[1]
        chosen = chosen_of(layout, rows, only, lambda table: self.do(lambda: self.upload(table)))
        if everything:
            self._all = layout, chosen
        return chosen
