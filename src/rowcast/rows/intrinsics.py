"""What kernels need beyond Python's arithmetic: single instructions with numba, numpy without it."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from rowcast.rows.compiling import HAS_NUMBA

__all__ = ["array_at", "dot_lanes", "float_of_bits", "pointer", "prefetch", "sign_bits", "size_lanes"]


def _array_at(address: int, length: int) -> npt.NDArray[np.float32]:
    """The float32 at an address, as an array that shares this memory."""
    memory: Any = (ctypes.c_float * int(length)).from_address(int(address))
    array: npt.NDArray[np.float32] = np.frombuffer(memory, dtype=np.float32)
    return array


def _float_of_bits(pattern: Any) -> Any:
    """The float32 with these bits, of a uint32 or an array of them."""
    return np.asarray(pattern, dtype=np.uint32).view(np.float32)[()]


array_at: Any
dot_lanes: Any
float_of_bits: Any
pointer: Any
prefetch: Any
sign_bits: Any
size_lanes: Any

if HAS_NUMBA:
    from rowcast.rows import llvm

    array_at, float_of_bits, pointer = llvm.array_at, llvm.float_of_bits, llvm.pointer
    prefetch, sign_bits = llvm.prefetch, llvm.sign_bits
    size_lanes, dot_lanes = llvm.size_lanes, llvm.dot_lanes
else:
    # The others appear only in kernels that have a plain version, or help with the speed of the memory alone.
    array_at, float_of_bits, pointer = _array_at, _float_of_bits, int
    prefetch = sign_bits = size_lanes = dot_lanes = None
